r"""Generators of one-parameter groups: the Lie algebra, with names and units. Here those of images.

A `Catalogue` holds the generators of one kind of input by name. This one is of images; point clouds
have theirs in `liederiv.points.generators`.

A generator X acts on an image x of shape [B, C, H, W] through the group T_t = exp(tX).

* *Spatial* generators are affine velocity fields ξ(q) = A q + b on the plane:
  (T_t x)(q) = x(exp(tξ)(q)), so X x = ξ · ∇x. Here q counts *pixels of the input* from the centre
  of the image (x to the right, y downwards), so a rotation is a rotation on a non-square image
  too.
* *Intensity* generators act on values, and trivially on whatever the network makes of them.

Every generator has a unit, the unit of t: a translation's Lie derivative is per pixel of the
input, a rotation's per radian, a scaling's per unit of log-scale.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from liederiv.errors import LieDerivError

__all__ = [
    "GENERATORS",
    "GROUPS",
    "IMAGES",
    "Catalogue",
    "Generator",
    "IntensityGenerator",
    "SpatialGenerator",
    "by_generator",
    "generator",
    "resolve_generators",
    "siblings",
]


@dataclass(frozen=True)
class Generator(ABC):
    """An element of a Lie algebra acting on inputs of a network.

    Attributes:
        name: as in the registry, e.g. ``translation_x``.
        group: the name that stands for this generator and its siblings, e.g. ``translation``.
        unit: unit of the parameter t, e.g. ``px`` (pixels of the input).
    """

    name: str
    group: str
    unit: str


@dataclass(frozen=True)
class SpatialGenerator(Generator):
    """A velocity field ξ(q) = A q + b, q in pixels of the input from the image centre.

    Attributes:
        linear: the 2 × 2 matrix A, rows (x, y), per unit of t.
        shift: the vector b = (x, y), in `shift_unit`.
        shift_unit: ``pixel`` of the input, or ``grid``: half-widths of the image.
    """

    linear: tuple[tuple[float, float], tuple[float, float]] = ((0.0, 0.0), (0.0, 0.0))
    shift: tuple[float, float] = (0.0, 0.0)
    shift_unit: Literal["pixel", "grid"] = "pixel"

    def affine(self, half_width: float, half_height: float) -> Tensor:
        """The field as a 2 × 3 matrix [A | b] in pixels of an image of that size, float64.

        Args:
            half_width: pixels per half-width of the image (`Scheme.half_width`).
            half_height: the same for the height.
        """
        per_axis = (half_width, half_height) if self.shift_unit == "grid" else (1.0, 1.0)
        shift = [b * s for b, s in zip(self.shift, per_axis, strict=True)]
        rows = [[*row, b] for row, b in zip(self.linear, shift, strict=True)]
        return torch.tensor(rows, dtype=torch.float64)

    def in_pixels(self, half_width: float, half_height: float) -> SpatialGenerator:
        """The same field with its shift in pixels; arguments as for `affine`."""
        x, y = self.affine(half_width, half_height)[:, 2].tolist()
        return replace(self, shift=(x, y), shift_unit="pixel")

    def seen_from(self, x: float, y: float) -> SpatialGenerator:
        """The same field, its shift in pixels, with q counted from the point (x, y)."""
        (xx, xy), (yx, yy) = self.linear
        shift = (self.shift[0] + xx * x + xy * y, self.shift[1] + yx * x + yy * y)
        return replace(self, shift=shift)


@dataclass(frozen=True)
class IntensityGenerator(Generator):
    """Acts on pixel values, as they enter the network (normalised)."""

    @abstractmethod
    def tangent(self, x: Tensor) -> Tensor:
        """X x for x of shape [B, C, H, W]."""

    @abstractmethod
    def transform(self, x: Tensor, t: float) -> Tensor:
        """T_t x for x of shape [B, C, H, W]."""


class Saturation(IntensityGenerator):
    """x ↦ eᵗ x. The paper's code has (1 + t) x, which has the same derivative at t = 0."""

    def tangent(self, x: Tensor) -> Tensor:
        return x

    def transform(self, x: Tensor, t: float) -> Tensor:
        return x * float(torch.tensor(t, dtype=torch.float64).exp())


class Brightness(IntensityGenerator):
    """x ↦ x + t, in units of the normalised input (one standard deviation of the data set)."""

    def tangent(self, x: Tensor) -> Tensor:
        return torch.ones_like(x)

    def transform(self, x: Tensor, t: float) -> Tensor:
        return x + t


class Contrast(IntensityGenerator):
    """x ↦ mean + eᵗ (x − mean), the mean taken over each image."""

    def tangent(self, x: Tensor) -> Tensor:
        offset = x - x[..., :1, :1, :1]  # exactly zero for an image of one value
        return offset - offset.mean((-3, -2, -1), keepdim=True)

    def transform(self, x: Tensor, t: float) -> Tensor:
        return x + self.tangent(x) * float(torch.tensor(t, dtype=torch.float64).expm1())


def _linear(
    name: str, group: str, unit: str, xx: float, xy: float, yx: float, yy: float
) -> Generator:
    return SpatialGenerator(name, group, unit, linear=((xx, xy), (yx, yy)))


GENERATORS: dict[str, Generator] = {
    g.name: g
    for g in (
        SpatialGenerator("translation_x", "translation", "px", shift=(1.0, 0.0)),
        SpatialGenerator("translation_y", "translation", "px", shift=(0.0, 1.0)),
        _linear("rotation", "rotation", "rad", 0, -1, 1, 0),
        _linear("scale", "scale", "log-scale", 1, 0, 0, 1),
        _linear("stretch_x", "stretch", "log-stretch", 1, 0, 0, 0),
        _linear("stretch_y", "stretch", "log-stretch", 0, 0, 0, 1),
        _linear("shear_x", "shear", "shear", 0, 1, 0, 0),
        _linear("shear_y", "shear", "shear", 0, 0, 1, 0),
        _linear("hyperbolic_rotation", "hyperbolic_rotation", "rapidity", 0, 1, 1, 0),
        Saturation("saturation", "saturation", "log-gain"),
        Brightness("brightness", "brightness", "input std"),
        Contrast("contrast", "contrast", "log-contrast"),
    )
}
"""All generators by name."""


@dataclass(frozen=True)
class Catalogue:
    """The generators of one kind of input.

    Attributes:
        inputs: what they act on, for messages, e.g. ``images``.
        generators: by name.
        groups: names that stand for several, with theirs.
    """

    inputs: str
    generators: Mapping[str, Generator]
    groups: Mapping[str, tuple[str, ...]]

    @property
    def names(self) -> list[str]:
        """Everything that can be asked for."""
        return list(dict.fromkeys([*self.generators, *self.groups]))


def siblings(generators: Mapping[str, Generator]) -> dict[str, tuple[str, ...]]:
    """Names of the groups, with the names of their generators."""
    groups: dict[str, tuple[str, ...]] = {}
    for g in generators.values():
        groups[g.group] = (*groups.get(g.group, ()), g.name)
    return groups


def _groups() -> dict[str, tuple[str, ...]]:
    groups = siblings(GENERATORS)
    spatial = tuple(n for n, g in GENERATORS.items() if isinstance(g, SpatialGenerator))
    intensity = tuple(n for n, g in GENERATORS.items() if isinstance(g, IntensityGenerator))
    return groups | {"spatial": spatial, "intensity": intensity, "all": spatial + intensity}


GROUPS: dict[str, tuple[str, ...]] = _groups()
"""Names that stand for several generators, ``translation`` for its x and y among them."""

IMAGES = Catalogue("images", GENERATORS, GROUPS)
"""The generators that act on images."""


def generator(
    name: str, *, unit: Literal["pixel", "grid"] = "pixel", catalogue: Catalogue = IMAGES
) -> Generator:
    """Look a generator up by name.

    Args:
        name: one of `GENERATORS`, or of another catalogue's.
        unit: for translations, whether t counts pixels of the input or half-widths of the image
            (``grid``, as in the code of arXiv 2210.02984). Other generators have one unit only.
        catalogue: of which kind of input.

    Raises:
        LieDerivError: for an unknown name, or a name that stands for several generators.

    Example:
        >>> generator("translation_x").unit
        'px'
        >>> generator("translation_x", unit="grid").unit
        'half-width'
    """
    if unit not in ("pixel", "grid"):
        raise LieDerivError(f"unit={unit!r} is unknown; choose 'pixel' or 'grid'.")
    if name not in catalogue.generators:
        members = catalogue.groups.get(name)
        if members:
            raise LieDerivError(
                f"generator {name!r} stands for several ({', '.join(members)}); "
                "use resolve_generators() to get them all."
            )
        what = "" if catalogue is IMAGES else f" for {catalogue.inputs}"
        raise LieDerivError(
            f"transform {name!r} is unknown{what}; choose from {', '.join(catalogue.names)}."
        )
    found = catalogue.generators[name]
    if unit == "grid" and isinstance(found, SpatialGenerator) and found.group == "translation":
        return replace(found, unit="half-width", shift_unit="grid")
    return found


def resolve_generators(
    names: str | Generator | Iterable[str | Generator],
    *,
    unit: Literal["pixel", "grid"] = "pixel",
    catalogue: Catalogue = IMAGES,
) -> tuple[Generator, ...]:
    """Resolve names, group names and generators, in order and without repetition.

    Args:
        names: e.g. ``"translation"``, ``"rotation,scale"``, ``["translation", "shear_x"]``.
        unit: see `generator`.
        catalogue: see `generator`.

    Raises:
        LieDerivError: for an unknown name or an empty list.

    Example:
        >>> [g.name for g in resolve_generators("translation,rotation")]
        ['translation_x', 'translation_y', 'rotation']
    """
    if isinstance(names, Generator):
        return (names,)
    if isinstance(names, str):
        names = [name.strip() for name in names.split(",") if name.strip()]
    found: dict[str, Generator] = {}
    for name in names:
        if isinstance(name, Generator):
            found.setdefault(name.name, name)
            continue
        for member in catalogue.groups.get(name, (name,)):
            found.setdefault(member, generator(member, unit=unit, catalogue=catalogue))
    if not found:
        raise LieDerivError(f"transforms is empty; choose from {', '.join(catalogue.names)}.")
    return tuple(found.values())


def by_generator(
    values: float | Mapping[str, float],
    generators: Iterable[Generator],
    default: float | None = None,
) -> list[float | None]:
    """A value for each generator, given one for all, or by their names or those of their groups.

    Args:
        values: one number, or numbers by name; a generator's own name goes before its group's.
        generators: which.
        default: for those that have neither.

    Example:
        >>> moves = resolve_generators("translation,scale")
        >>> by_generator({"translation": 1.0, "translation_y": 2.0}, moves)
        [1.0, 2.0, None]
    """
    if not isinstance(values, Mapping):
        return [values for _ in generators]
    return [values.get(g.name, values.get(g.group, default)) for g in generators]
