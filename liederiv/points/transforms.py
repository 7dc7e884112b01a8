r"""Finite motions of point clouds, and of what a network computes from them.

T_t = exp(Σ_k t_k X_k) is an affine map p ↦ R p + s, the matrix exponential of [A | b]: positions
move to R p + s, vectors to R v, exactly and for any t. The mirror images that no generator leads to
are affine maps as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from liederiv.draws import seeded_normal
from liederiv.errors import LieDerivError, PointCloudError, UnknownLayoutError
from liederiv.metrics.finite import act_finite
from liederiv.points.action import PointAction
from liederiv.points.cloud import PointCloud
from liederiv.points.representations import (
    Fiber,
    Joined,
    PointRepresentation,
    Positions,
    Scalars,
    Vectors,
)

__all__ = ["PointTransform", "random_rotations", "rms_radius", "seeded_rotations"]


class PointTransform:
    """p ↦ R p + s, one for each cloud or one for all.

    Args:
        action: any action on the clouds; says which point belongs to which.
        linear: R, float64 [B, d, d], or [1, d, d] for all clouds alike.
        shift: s, float64 [B, d] or [1, d]; None for 0.
    """

    def __init__(self, action: PointAction, linear: Tensor, shift: Tensor | None = None) -> None:
        self.action = action
        self.linear = linear.detach().double()
        self.shift = self.linear.new_zeros(linear.shape[:2]) if shift is None else shift.double()
        if len(linear) not in (1, action.num_clouds):
            raise PointCloudError(
                f"t has {len(linear)} entries for {action.num_clouds} clouds; give one, or one per "
                "cloud."
            )

    @classmethod
    def exp(cls, action: PointAction, t: Tensor) -> PointTransform:
        """The motions with coordinates t [B, K] in the generators' units; [1, K] for all alike."""
        if t.ndim != 2 or t.shape[1] != len(action):
            raise LieDerivError(
                f"t has shape {list(t.shape)}; it needs one column for each of the "
                f"{len(action)} generators, [B, {len(action)}]."
            )
        d = action.dim
        algebra = torch.zeros(len(t), d + 1, d + 1, dtype=torch.float64)
        algebra[:, :d] = torch.einsum("bk,kij->bij", t.detach().double().cpu(), action.affine)
        group = torch.linalg.matrix_exp(algebra)
        return cls(action, group[:, :d, :d], group[:, :d, d])

    def on_input(self, x: PointCloud) -> PointCloud:
        """T x; scalars, the graph and fields per cloud stay."""
        rows = self._rows(x.pos, "node")
        return x.replace_leaves(
            self._turn(x.pos, rows) + self.shift.to(x.pos)[rows],
            x.scalars,
            {k: self._turn(v, rows) for k, v in x.vectors.items()},
        )

    def on_vectors(self, v: Tensor, level: str) -> Tensor:
        """R v for vectors [rows, …, d]."""
        return self._turn(v, self._rows(v, level))

    def on_positions(self, p: Tensor, level: str) -> Tensor:
        """R p + s for positions [rows, …, d]."""
        rows = self._rows(p, level)
        shift = self.shift.to(p)[rows]
        return self._turn(p, rows) + shift.reshape(len(rows), *[1] * (p.ndim - 2), -1)

    def on_fiber(self, f: Tensor, fiber: Fiber, level: str) -> Tensor:
        """R f for functions of orientation [rows, O, …]."""
        determinant = torch.linalg.det(self.linear).abs() ** (1 / self.action.dim)
        moved = fiber.grid.moved(self.linear / determinant[:, None, None]).to(f)
        return torch.einsum("bpo,bo...->bp...", moved[self._rows(f, level)], f)

    def _rows(self, v: Tensor, level: str) -> Tensor:
        """Which of the transforms acts on each row."""
        if len(self.linear) == 1:
            return torch.zeros(len(v), dtype=torch.long, device=v.device)
        each = torch.arange(len(v), device=v.device)
        return self.action.batch if level == "node" else each

    def _turn(self, v: Tensor, rows: Tensor) -> Tensor:
        return torch.einsum("bij,b...j->b...i", self.linear.to(v)[rows], v)


def random_rotations(n: int, dim: int, rng: torch.Generator) -> Tensor:
    """N rotations, uniform over SO(dim): float64 [n, dim, dim]."""
    gauss = torch.randn(n, dim, dim, dtype=torch.float64, generator=rng, device=rng.device).cpu()
    return _rotations(gauss)


def seeded_rotations(seeds: Sequence[int], dim: int, num_samples: int) -> Tensor:
    """The same for each item from its own seed: float64 [B, num_samples, dim, dim]."""
    return _rotations(seeded_normal(seeds, (num_samples, dim, dim)))


def _rotations(gauss: Tensor) -> Tensor:
    """Rotations [..., d, d], uniform for standard normal matrices.

    From the QR decomposition of Gaussian matrices with the signs of R's diagonal moved to Q
    (Mezzadri 2007, "How to generate random matrices from the classical compact groups").
    """
    q, r = torch.linalg.qr(gauss)
    q = q * r.diagonal(dim1=-2, dim2=-1).sign()[..., None, :]
    flip = torch.linalg.det(q).sign()[..., None, None]
    return torch.cat([q[..., :1] * flip, q[..., 1:]], -1)


def rms_radius(x: PointCloud) -> Tensor:
    """Root mean square distance of each cloud's points from their mean, float64 [B]; 1 for 0."""
    pos = x.pos.double()
    sizes = x.sizes.double()[:, None]
    mean = pos.new_zeros(len(x), x.dim).index_add(0, x.batch, pos) / sizes
    square = (pos - mean[x.batch]).square().sum(1)
    radius = (pos.new_zeros(len(x)).index_add(0, x.batch, square) / sizes[:, 0]).sqrt()
    return torch.where(radius > 0, radius, torch.ones_like(radius)).cpu()


def _level(representation: PointRepresentation, element: Any, y: Tensor) -> str:
    if not isinstance(element, PointTransform):
        raise UnknownLayoutError(
            f"output={representation} is one of point clouds, but the input is none."
        )
    representation.check(element.action, y)
    return element.action.level(len(y), representation.level, representation)


@act_finite.register
def _(representation: Scalars, element: PointTransform, y: Tensor) -> Tensor:
    _level(representation, element, y)
    return y


@act_finite.register
def _(representation: Vectors, element: PointTransform, y: Tensor) -> Tensor:
    return element.on_vectors(y, _level(representation, element, y))


@act_finite.register
def _(representation: Positions, element: PointTransform, y: Tensor) -> Tensor:
    return element.on_positions(y, _level(representation, element, y))


@act_finite.register
def _(representation: Joined, element: PointTransform, y: Tensor) -> Tensor:
    _level(representation, element, y)
    parts = zip(representation.split(y), representation.parts, strict=True)
    return torch.cat([act_finite(r, element, part) for part, (_, r) in parts], -1)


@act_finite.register
def _(representation: Fiber, element: PointTransform, y: Tensor) -> Tensor:
    return element.on_fiber(y, representation, _level(representation, element, y))
