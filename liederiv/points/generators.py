r"""Generators that act on point clouds in two and three dimensions.

A generator is an affine vector field ξ(p) = A p + b on space, and acts by its flow φ_t = exp(tξ):
positions move along it, pos ↦ φ_t(pos), vectors turn with its linear part, v ↦ e^{tA} v, scalars
stay. So X pos = A pos + b and X v = A v, exactly. Rotations and scalings have their centre at the
origin of the coordinates that the network sees. (Points move *along* the flow, while an image is
looked up along it, (T_t x)(q) = x(φ_t(q)): on images the same name moves the picture the other way.
No error norm depends on that.)

Units of t: a translation's is the input's unit of length (``length``), a rotation's the radian, a
scaling's the unit of log-scale. ``rotation_x`` turns about the x axis, from y to z.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from liederiv.errors import LieDerivError
from liederiv.generators import Catalogue, Generator, siblings

__all__ = ["POINTS", "PointGenerator", "check_generators"]


@dataclass(frozen=True)
class PointGenerator(Generator):
    """A vector field ξ(p) = A p + b on space.

    Attributes:
        linear: the d × d matrix A, per unit of t.
        shift: the vector b, in the input's unit of length per unit of t.
    """

    linear: tuple[tuple[float, ...], ...]
    shift: tuple[float, ...]

    @property
    def dim(self) -> int:
        """Dimension d of space."""
        return len(self.shift)

    @property
    def affine(self) -> Tensor:
        """The field as a d × (d + 1) matrix [A | b], float64."""
        rows = [[*row, b] for row, b in zip(self.linear, self.shift, strict=True)]
        return torch.tensor(rows, dtype=torch.float64)


def _field(
    name: str, group: str, unit: str, dim: int, entries: dict[tuple[int, int], float]
) -> PointGenerator:
    """A generator from the entries (row, column) of [A | b] that are not zero."""
    rows = [[entries.get((i, j), 0.0) for j in range(dim + 1)] for i in range(dim)]
    linear = tuple(tuple(row[:dim]) for row in rows)
    return PointGenerator(name, group, unit, linear, tuple(row[dim] for row in rows))


def _catalogue(dim: int) -> Catalogue:
    axes = "xyz"[:dim]
    fields = [
        _field(f"translation_{a}", "translation", "length", dim, {(i, dim): 1.0})
        for i, a in enumerate(axes)
    ]
    if dim == 2:
        fields.append(_field("rotation", "rotation", "rad", 2, {(0, 1): -1.0, (1, 0): 1.0}))
    else:
        for k, a in enumerate(axes):
            i, j = (k + 1) % 3, (k + 2) % 3
            turn = {(i, j): -1.0, (j, i): 1.0}
            fields.append(_field(f"rotation_{a}", "rotation", "rad", 3, turn))
    grow = {(i, i): 1.0 for i in range(dim)}
    fields.append(_field("scale", "scale", "log-scale", dim, grow))
    generators: dict[str, Generator] = {g.name: g for g in fields}
    groups = siblings(generators) | {
        "rigid": tuple(g.name for g in fields if g.group != "scale"),
        "all": tuple(generators),
    }
    return Catalogue(f"point clouds in {dim}-D", generators, groups)


POINTS: dict[int, Catalogue] = {dim: _catalogue(dim) for dim in (2, 3)}
"""The generators that act on point clouds, by the dimension of space."""


def check_generators(generators: tuple[Generator, ...], dim: int) -> tuple[PointGenerator, ...]:
    """The generators, if all act on points of that dimension.

    Raises:
        LieDerivError: if one does not.
    """
    found = []
    for g in generators:
        if not isinstance(g, PointGenerator) or g.dim != dim:
            raise LieDerivError(
                f"generator {g.name!r} does not act on point clouds in {dim}-D; give its name, or "
                f"take it from liederiv.points.POINTS[{dim}].generators."
            )
        found.append(g)
    return tuple(found)
