r"""Discrete metrics: symmetries of the pixel lattice, which need no interpolation.

Quarter turns, flips and rolls permute the pixels, so f(g x) = ρ_g f(x) holds exactly or not at all,
up to rounding. A Lie derivative cannot see flips (no path of transforms leads there), nor that a
strided network may be equivariant under rolls by its stride only.

A check that makes no sense (a quarter turn of a non-square image, a roll by a fraction of the
output's pixel) says *not applicable* and why.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from liederiv.actions import ImageAction
from liederiv.channels import ChannelAction
from liederiv.domains import domain_of
from liederiv.errors import LieDerivError
from liederiv.grids.outputs import Placed, divides
from liederiv.metrics.base import Context, FiniteMetric
from liederiv.metrics.finite import act_finite, evaluate
from liederiv.metrics.values import DiscreteCheck, NotApplicable, Piece, SampledMetric
from liederiv.representations import OutputSpec, Representation
from liederiv.resolution import resolve_output
from liederiv.transforms import flip, roll, rot90

__all__ = [
    "Discrete",
    "DiscreteCheck",
    "Flip",
    "LatticeTransform",
    "NotApplicableError",
    "QuarterTurn",
    "Roll",
    "discrete_checks",
    "lattice_transforms",
]


class NotApplicableError(LieDerivError):
    """A lattice symmetry does not exist on this image or output."""


@dataclass(frozen=True)
class LatticeTransform(ABC):
    """A symmetry g of the pixel lattice, bound to an image size.

    Attributes:
        height: pixels of the input.
        width: pixels of the input.
    """

    height: float
    width: float

    @property
    @abstractmethod
    def name(self) -> str:
        """E.g. ``rot90``, ``flip_x``, ``roll(1, 0)``."""

    @abstractmethod
    def on_map(self, z: Tensor) -> Tensor:
        """Move maps of scalars [B, C, h, w] that cover the image.

        Raises:
            NotApplicableError: if g does not permute the pixels of such a map.
        """

    @abstractmethod
    def keeps(self, height: float, width: float, offset: tuple[float, float]) -> bool:
        """Whether a window of the image, as of `within`, lies in itself after the transform."""

    def within(
        self, height: float, width: float, offset: tuple[float, float] = (0.0, 0.0)
    ) -> LatticeTransform:
        """The same symmetry of a window, see `liederiv.actions.ImageAction.within`.

        Raises:
            NotApplicableError: if g moves the window.
        """
        if not self.keeps(height, width, offset):
            raise NotApplicableError(
                f"{self.name} moves the window of {height:g} × {width:g} pixels, {offset} off the "
                "middle, that the output covers."
            )
        return replace(self, height=height, width=width)

    @property
    @abstractmethod
    def points(self) -> Tensor:
        """Where what is at a point goes, as [A | b] in pixels from the middle: float64 [1, 2, 3].

        Raises:
            NotApplicableError: if that is not one place.
        """

    @abstractmethod
    def on_channels(self, channels: ChannelAction, count: int) -> Tensor:
        """The matrix that multiplies the channels, float64 [1, C, C]."""

    def on_input(self, x: Tensor) -> Tensor:
        """Move images [B, C, H, W]."""
        return self.on_map(x)

    def valid(self, h: int, w: int, margin: float = 0.0) -> Tensor:
        """All pixels: a permutation brings nothing in from outside. Bool [1, 1, h, w]."""
        return torch.ones(1, 1, h, w, dtype=torch.bool)


@dataclass(frozen=True)
class QuarterTurn(LatticeTransform):
    """Rotation by ``turns`` · 90°, counterclockwise on the screen."""

    turns: int = 1

    @property
    def name(self) -> str:
        """See `LatticeTransform.name`."""
        return f"rot{90 * self.turns}"

    def keeps(self, height: float, width: float, offset: tuple[float, float]) -> bool:
        """See `LatticeTransform.keeps`."""
        return not any(offset) and (self.turns % 2 == 0 or height == width)

    def on_map(self, z: Tensor) -> Tensor:
        """See `LatticeTransform.on_map`."""
        h, w = z.shape[-2:]
        if self.turns % 2 and (self.height != self.width or h != w):
            raise NotApplicableError(
                f"{self.name} needs square images and maps, not {self.height} × {self.width} "
                f"and {h} × {w}."
            )
        return rot90(z, self.turns)

    @property
    def points(self) -> Tensor:
        """See `LatticeTransform.points`."""
        if self.turns % 2 and self.height != self.width:
            raise NotApplicableError(
                f"{self.name} needs square images, not {self.height} × {self.width}."
            )
        x, y = [(1, 0), (0, -1), (-1, 0), (0, 1)][self.turns % 4]  # where the axis x points then
        return torch.tensor([[[x, -y, 0], [y, x, 0]]], dtype=torch.float64)

    def on_channels(self, channels: ChannelAction, count: int) -> Tensor:
        """See `LatticeTransform.on_channels`."""
        rotation = torch.tensor([[[0.0, -1.0], [1.0, 0.0]]], dtype=torch.float64)
        return torch.linalg.matrix_exp(
            self.turns * math.pi / 2 * channels.matrices(rotation, count)
        )


@dataclass(frozen=True)
class Flip(LatticeTransform):
    """Mirror image; ``axis`` is the coordinate that changes sign (x: left and right swap)."""

    axis: Literal["x", "y"] = "x"

    @property
    def name(self) -> str:
        """See `LatticeTransform.name`."""
        return f"flip_{self.axis}"

    def keeps(self, height: float, width: float, offset: tuple[float, float]) -> bool:
        """See `LatticeTransform.keeps`."""
        return offset["yx".index(self.axis)] == 0

    def on_map(self, z: Tensor) -> Tensor:
        """See `LatticeTransform.on_map`."""
        return flip(z, self.axis)

    @property
    def points(self) -> Tensor:
        """See `LatticeTransform.points`."""
        x, y = (-1, 1) if self.axis == "x" else (1, -1)
        return torch.tensor([[[x, 0, 0], [0, y, 0]]], dtype=torch.float64)

    def on_channels(self, channels: ChannelAction, count: int) -> Tensor:
        """See `LatticeTransform.on_channels`."""
        matrix = channels.reflection(self.axis, count)
        if matrix is None:
            raise NotApplicableError(f"{channels} does not say how mirror images act.")
        return matrix[None]


@dataclass(frozen=True)
class Roll(LatticeTransform):
    """Shift by (dx, dy) whole pixels of the input, with wrap-around."""

    dx: int = 0
    dy: int = 0

    @property
    def name(self) -> str:
        """See `LatticeTransform.name`."""
        return f"roll({self.dx}, {self.dy})"

    def keeps(self, height: float, width: float, offset: tuple[float, float]) -> bool:
        """See `LatticeTransform.keeps`; what leaves a part of the image does not come back."""
        return (height, width) == (self.height, self.width)

    def on_map(self, z: Tensor) -> Tensor:
        """See `LatticeTransform.on_map`."""
        h, w = z.shape[-2:]
        if self.dx * w % self.width or self.dy * h % self.height:
            raise NotApplicableError(
                f"{self.name} moves the {h} × {w} output by "
                f"({self.dx * w / self.width:g}, {self.dy * h / self.height:g}) of its pixels, "
                "which are not whole numbers."
            )
        return roll(z, round(self.dx * w / self.width), round(self.dy * h / self.height))

    @property
    def points(self) -> Tensor:
        """See `LatticeTransform.points`."""
        raise NotApplicableError(
            f"{self.name} brings back at one side what leaves at the other; coordinates do not say "
            "what is there."
        )

    def on_channels(self, channels: ChannelAction, count: int) -> Tensor:
        """See `LatticeTransform.on_channels`."""
        return torch.eye(count, dtype=torch.float64)[None]


def lattice_transforms(
    height: int, width: int, shifts: Sequence[int] = (1,)
) -> tuple[LatticeTransform, ...]:
    """All quarter turns, both flips, and rolls by each of ``shifts`` along x and y.

    Args:
        height: pixels of the input.
        width: pixels of the input.
        shifts: pixels of the input; multiples of the height or width are left out, they move
            nothing.
    """
    turns = [QuarterTurn(height, width, k) for k in (1, 2, 3)]
    flips = [Flip(height, width, "x"), Flip(height, width, "y")]
    rolls = [Roll(height, width, s, 0) for s in shifts if s % width]
    rolls += [Roll(height, width, 0, s) for s in shifts if s % height]
    return (*turns, *flips, *rolls)


def discrete_checks(
    f: Callable[[Tensor], Tensor],
    x: Tensor,
    transforms: Sequence[LatticeTransform] | None = None,
    *,
    output: OutputSpec = "auto",
) -> tuple[DiscreteCheck, ...]:
    """Compare f(g x) with ρ_g f(x) for symmetries g of the lattice.

    Args:
        f: model; one output tensor, invariant or equivariant.
        x: images [B, C, H, W].
        transforms: see `lattice_transforms`; None stands for all quarter turns and flips, rolls by
            one pixel, and rolls by one pixel of the output where it is a coarser map.
        output: representation of the output, see `liederiv.lie_derivative`.

    Returns:
        one result per transform, in order.

    Raises:
        UnknownLayoutError: if the representation of the output is not known.
    """
    domain_of(x).check(x)
    H, W = x.shape[-2:]
    y = evaluate(f, x)
    action = ImageAction((), H, W)
    representation = resolve_output(f, x, output, y, action).representation
    if transforms is None:
        transforms = lattice_transforms(H, W, sorted({1, _stride(representation, y, H, W)}))
    norms = y.reshape(len(x), -1).double().square().sum(1)
    results = []
    for g in transforms:
        try:
            expected = act_finite(representation, g, y)
            moved = g.on_input(x)
        except NotApplicableError as obstacle:
            results.append(DiscreteCheck(g.name, "not applicable", str(obstacle)))
            continue
        error = (evaluate(f, moved) - expected).reshape(len(x), -1).double().square()
        results.append(
            DiscreteCheck(
                g.name,
                "measured",
                relative=(error.sum(1) / norms).cpu(),
                absolute=error.mean(1).cpu(),
            )
        )
    return tuple(results)


def _stride(representation: Representation, y: Tensor, height: int, width: int) -> int:
    """Pixels of the input per pixel of the output; 1 where that is no whole number, or no map."""
    if not isinstance(representation, Placed):
        return 1
    return divides(representation.places(y), representation.extent or (height, width)) or 1


class Discrete(FiniteMetric):
    """The relative error under symmetries that no path of transforms leads to, each on its own."""

    name, family = "discrete", "discrete"
    summary = "exact 90° turns, flips and whole-pixel rolls"
    sees_rows = True

    def pieces(self, c: Context, x: Any) -> Sequence[Piece]:
        """See `FiniteMetric.pieces`."""
        return [self._piece(check) for check in domain_of(x).discrete(c.f, x, c.output)]

    def _piece(self, check: DiscreteCheck) -> Piece:
        if check.relative is None or check.absolute is None:
            return NotApplicable(self.name, check.transform, check.reason)
        nothing = check.relative.isnan() & (check.absolute == 0)
        return SampledMetric(
            self.name,
            check.transform,
            check.relative.masked_fill(nothing, 0),
            "1",
            "‖f(g x) − ρ_g f(x)‖² / ‖f(x)‖²",
            weight=(~nothing).double(),
            excluded="the output is 0 there, so there is nothing to compare with",
        )
