r"""How motions of space act on what a network computes from point clouds.

An output has one row per cloud or one per point (its *level*), and transforms as scalars (not at
all), vectors (A v), positions (A p + b) or a function of orientation (see
`liederiv.points.orientations`). Which of these it is cannot be seen: [B, 3] may be a dipole moment
or three energies. So it is declared, by the model (an attribute ``output_representation``) or by
the caller, and never guessed.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from liederiv.actions import Action
from liederiv.errors import UnknownLayoutError
from liederiv.points.action import PointAction
from liederiv.points.orientations import FiberGrid
from liederiv.representations import (
    Custom,
    Hints,
    Invariant,
    OutputSpec,
    Representation,
    Resolved,
)

__all__ = [
    "NAMED",
    "Fiber",
    "Joined",
    "PointRepresentation",
    "Positions",
    "Scalars",
    "Vectors",
    "resolve_points",
]

Level = Literal["graph", "node"]


@dataclass(frozen=True)
class PointRepresentation(Representation):
    """How a tensor with one row per cloud or per point transforms.

    Attributes:
        level: ``graph`` for one row per cloud, ``node`` for one per point; None leaves it to the
            number of rows.
    """

    level: Level | None = None

    def check(self, action: Action, y: Tensor) -> PointAction:
        """The action, if it is one on points and y can have this representation.

        Raises:
            UnknownLayoutError: if not.
        """
        if not isinstance(action, PointAction):
            raise UnknownLayoutError(
                f"output={self} is one of point clouds, but the input is none; pass a PointCloud."
            )
        rows = len(y) if y.ndim else 0
        action.level(rows, self.level, self)
        return action

    @abstractmethod
    def act_on_rows(self, action: PointAction, y: Tensor) -> Tensor:
        """X y for rows that may be neither clouds nor points (edges, coarser points)."""

    def act(self, action: Action, y: Tensor) -> Tensor:
        """See `Representation.act`."""
        return self.act_on_rows(self.check(action, y), y)

    def _check_axis(self, y: Tensor, axis: int, size: int, what: str) -> None:
        if y.ndim < 2 or y.shape[axis] != size:
            where = "last" if axis == -1 else "second"
            raise UnknownLayoutError(
                f"output={self} needs {what}: {size} on the {where} axis; found {list(y.shape)}."
            )


@dataclass(frozen=True)
class Scalars(PointRepresentation):
    """Invariants: energies, class scores, labels per point; [rows, …]. X_out = 0."""

    def act_on_rows(self, action: PointAction, y: Tensor) -> Tensor:
        """See `PointRepresentation.act_on_rows`."""
        return y.new_zeros(()).expand(len(action), *y.shape)


@dataclass(frozen=True)
class Vectors(PointRepresentation):
    """Vectors [rows, d] or [rows, c, d]: velocities, forces, displacements. X_out y = A y."""

    may_be_classes: ClassVar[bool] = False

    def check(self, action: Action, y: Tensor) -> PointAction:
        """See `PointRepresentation.check`."""
        points = super().check(action, y)
        self._check_axis(y, -1, points.dim, "vectors")
        return points

    def act_on_rows(self, action: PointAction, y: Tensor) -> Tensor:
        """See `PointRepresentation.act_on_rows`."""
        return action.on_vectors(y)


@dataclass(frozen=True)
class Positions(PointRepresentation):
    """Places in space [rows, d] or [rows, c, d], which translations move too. X_out y = A y + b."""

    may_be_classes: ClassVar[bool] = False

    def check(self, action: Action, y: Tensor) -> PointAction:
        """See `PointRepresentation.check`."""
        points = super().check(action, y)
        self._check_axis(y, -1, points.dim, "positions")
        return points

    def act_on_rows(self, action: PointAction, y: Tensor) -> Tensor:
        """See `PointRepresentation.act_on_rows`."""
        return action.on_positions(y)


@dataclass(frozen=True)
class Fiber(PointRepresentation):
    """Functions of orientation [rows, O, …], as on R³ × S²: X_out y = D y (rotations only).

    Attributes:
        grid: the O orientations; `Fiber.on` makes one from a tensor.
        level: see `PointRepresentation`.
    """

    grid: FiberGrid = field(kw_only=True)

    @classmethod
    def on(cls, grid: Tensor | FiberGrid, level: Level | None = None) -> Fiber:
        """On unit vectors [O, d]."""
        return cls(level, grid=grid if isinstance(grid, FiberGrid) else FiberGrid.of(grid))

    def check(self, action: Action, y: Tensor) -> PointAction:
        """See `PointRepresentation.check`."""
        points = super().check(action, y)
        self._check_axis(y, 1, len(self.grid), "orientations")
        if self.grid.dim != points.dim:
            raise UnknownLayoutError(
                f"output={self} has orientations in {self.grid.dim}-D for points in "
                f"{points.dim}-D; give orientations of the same dimension."
            )
        return points

    def act_on_rows(self, action: PointAction, y: Tensor) -> Tensor:
        """See `PointRepresentation.act_on_rows`."""
        D = self.grid.generators(action.affine[..., : action.dim]).to(y)
        return torch.einsum("kpo,bo...->kbp...", D, y)


@dataclass(frozen=True)
class Joined(PointRepresentation):
    """Channels of several kinds beside each other on the last axis.

    Attributes:
        parts: (number of channels, representation), in order. ``(d, Vectors())`` is one vector on
            d channels; of `Fiber`, the channels behind the axis of orientations.
        level: see `PointRepresentation`.

    Example:
        >>> Joined.of((1, Scalars()), (3, Vectors())).parts[1][0]  # an energy and a force
        3
    """

    parts: tuple[tuple[int, PointRepresentation], ...] = field(kw_only=True)

    @classmethod
    def of(cls, *parts: tuple[int, PointRepresentation], level: Level | None = None) -> Joined:
        """From pairs of channels and representation."""
        return cls(level, parts=parts)

    def split(self, y: Tensor) -> list[Tensor]:
        """The tensor's parts."""
        return list(y.split([n for n, _ in self.parts], -1))

    def check(self, action: Action, y: Tensor) -> PointAction:
        """See `PointRepresentation.check`."""
        points = super().check(action, y)
        self._check_axis(y, -1, sum(n for n, _ in self.parts), "channels")
        for part, (_, representation) in zip(self.split(y), self.parts, strict=True):
            representation.check(action, part)
        return points

    def act_on_rows(self, action: PointAction, y: Tensor) -> Tensor:
        """See `PointRepresentation.act_on_rows`."""
        moved = [
            r.act_on_rows(action, part)
            for part, (_, r) in zip(self.split(y), self.parts, strict=True)
        ]
        return torch.cat([m.expand(len(action), *m.shape[1:]) for m in moved], -1)


NAMED: Mapping[str, PointRepresentation] = {
    "invariant": Scalars(),
    "scalars": Scalars(),
    "vectors": Vectors(),
    "positions": Positions(),
}
"""Representations by name; the level is left to the number of rows."""


def resolve_points(output: OutputSpec, y: Tensor, action: PointAction) -> Resolved:
    """What was declared about an output tensor; see `liederiv.representations.OutputSpec`.

    Args:
        output: for one tensor.
        y: the output, clouds or points first.
        action: any action on the input.

    Raises:
        UnknownLayoutError: if nothing is declared, or the tensor cannot be what is declared.
    """
    if isinstance(output, Resolved):
        return output
    if isinstance(output, Hints):
        output = "auto"  # what timm's models say of themselves says nothing about points
    if isinstance(output, str) and output in NAMED:
        output = NAMED[output]
    if isinstance(output, Invariant):
        output = Scalars()
    if isinstance(output, PointRepresentation):
        output.check(action, y)
        return Resolved(output, "declared")
    if isinstance(output, Custom):
        return Resolved(output, "declared")
    found = "unknown" if output == "auto" else f"declared as {output!r}, which points do not have"
    raise UnknownLayoutError(
        f"how the output of shape {list(y.shape)} transforms is {found}; declare it: "
        f"output='scalars', 'vectors' or 'positions', a representation of liederiv.points, or an "
        "attribute output_representation of the model."
    )
