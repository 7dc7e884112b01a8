"""How far an orbit is followed, in the units that people use: pixels, degrees, per cent."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from liederiv.actions import Action
from liederiv.domains import domain_of
from liederiv.errors import LieDerivError
from liederiv.foreign import described
from liederiv.generators import Generator

__all__ = ["LARGEST", "Readable", "beyond_the_border", "ranges_of", "readable", "usual_range"]


LARGEST = 1e4
"""Of a range in the units of people, as of a step (`liederiv.steps`)."""

_PHOTOGRAPHED = 0.5  # of the image, below which it is said what the ends of an orbit are made of


@dataclass(frozen=True)
class Readable:
    """A unit for people beside a generator's own unit of t.

    Attributes:
        unit: its name.
        to_t: a size in it as t.
        of_t: t in it.
        usual: how far an orbit is followed where neither the user nor the kind of input says; None
            if the unit says nothing about that.
    """

    unit: str
    to_t: Callable[[float], float]
    of_t: Callable[[float], float]
    usual: float | None


def _same(value: float) -> float:
    return value


def _factor(per_cent: float) -> float:
    return math.log1p(per_cent / 100)


def _growth(t: float) -> float:
    return 100 * math.expm1(t)


_PERCENT = Readable("%", lambda v: v / 100, lambda t: 100 * t, 10.0)
_FACTOR = Readable("%", _factor, _growth, 10.0)
_READABLE = {
    "px": Readable("px", _same, _same, 8.0),
    "half-width": Readable("half-widths", _same, _same, 1 / 16),
    "rad": Readable("°", math.radians, math.degrees, 15.0),
    "shear": _PERCENT,
    "rapidity": _PERCENT,
    "input std": Readable("std", _same, _same, 0.5),
    **dict.fromkeys(("log-scale", "log-stretch", "log-gain", "log-contrast"), _FACTOR),
}


def readable(g: Generator) -> Readable:
    """The unit in which people give a generator's t.

    Of scalings (unit log-…) it is the per cent by which the factor e^t exceeds 1: +10 % is t = log
    1.1, and the same way back is −9.1 %. Units that nobody knows stay as they are.

    Example:
        >>> from liederiv.generators import generator
        >>> round(readable(generator("rotation")).to_t(180.0), 4)
        3.1416
        >>> round(readable(generator("scale")).of_t(-readable(generator("scale")).to_t(10.0)), 2)
        -9.09
    """
    return _READABLE.get(g.unit, Readable(g.unit, _same, _same, None))


def ranges_of(
    generators: Sequence[Generator], x: Any, given: Mapping[str, float] | None = None
) -> list[float]:
    """Largest |t| of each orbit, in the generator's own unit.

    Args:
        generators: resolved.
        x: the input, whose kind may say what is usual (`Domain.orbit_range`).
        given: by the name of a generator or of its group, in the unit of `readable`. A generator's
            own name goes before its group's.

    Raises:
        LieDerivError: for a name that is not followed, or a range that is none.
    """
    given = given or {}
    known = {name for g in generators for name in (g.name, g.group)}
    for name, value in given.items():
        if name not in known:
            raise LieDerivError(
                f"ranges: {name!r} is not followed; choose from "
                f"{', '.join(dict.fromkeys(n for g in generators for n in (g.group, g.name)))}."
            )
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 < value <= LARGEST:
            raise LieDerivError(
                f"ranges: {name}={described(value)} must be a positive number up to {LARGEST:g}, "
                "the largest motion either way."
            )
    return [_range(g, x, given) for g in generators]


def _range(g: Generator, x: Any, given: Mapping[str, float]) -> float:
    for name in (g.name, g.group):
        if name in given:
            return readable(g).to_t(float(given[name]))
    usual = usual_range(g, x)
    if usual is None:
        raise LieDerivError(
            f"ranges has no entry for {g.name!r}; say how far to follow it, in {g.unit}."
        )
    return usual


def usual_range(g: Generator, x: Any) -> float | None:
    """How far an orbit is followed where the user does not say, in t; None if nobody knows."""
    domain, shown = domain_of(x), readable(g)
    usual = domain.orbit_range(g, x)
    if usual is None and shown.usual is not None:
        usual = shown.to_t(shown.usual)
        if domain.is_images and g.unit == "px":  # most of a small image would be gone
            usual = min(usual, min(x.shape[-2:]) / 4)
    return usual


def beyond_the_border(action: Action, limits: Sequence[float], x: Any) -> list[str]:
    """What to say of ranges so large that little of an image is left at their ends.

    Args:
        action: K generators, bound to x.
        limits: K largest |t|.
        x: the input; of what is no image, nothing is to be said.

    Raises:
        LieDerivError: if nothing of the image is left.
    """
    said: list[str] = []
    domain = domain_of(x)
    if not domain.is_images or getattr(action, "scheme", None) is None:
        return said
    periodic = action.scheme.boundary == "periodic"  # type: ignore[attr-defined]
    for k, (g, limit) in enumerate(zip(action.generators, limits, strict=True)):
        ends = (
            domain.transform(action.take(slice(k, k + 1)), torch.tensor([[t]]).double())
            for t in (-limit, limit)
        )
        size = x.shape[-2:]
        share = min(float(end.valid(*size).double().mean()) for end in ends)
        shown = readable(g)
        how = f"{g.name} by {shown.of_t(limit):.4g} {shown.unit}"
        if share == 0 and not periodic:
            raise LieDerivError(
                f"ranges: {how} leaves nothing of an image of {size[0]} × {size[1]} pixels but "
                "what is made up beyond its border; give a smaller range."
            )
        if share < _PHOTOGRAPHED and not periodic:
            said.append(
                f"at the ends of the orbit, {how} either way, only {share:.0%} of the image was "
                "photographed; the rest is what is made up beyond its border."
            )
    return said
