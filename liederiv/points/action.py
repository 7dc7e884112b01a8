"""Generators bound to a point cloud: how they act on it and on what is computed from it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from liederiv.actions import Action
from liederiv.errors import UnknownLayoutError
from liederiv.generators import Generator
from liederiv.points.cloud import PointCloud
from liederiv.points.generators import check_generators

__all__ = ["PointAction"]


class PointAction(Action):
    """K generators acting on the points of one batch of clouds.

    Args:
        generators: resolved generators, of the dimension of the cloud.
        cloud: the input; the action is bound to its number of points and clouds.

    Raises:
        LieDerivError: if a generator acts on something else.
    """

    def __init__(self, generators: Sequence[Generator], cloud: PointCloud) -> None:
        self._generators = check_generators(tuple(generators), cloud.dim)
        self.generators = self._generators
        self.dim = cloud.dim
        self.batch, self.num_clouds = cloud.batch, len(cloud)

    @property
    def scheme_name(self) -> str:
        """See `Action.scheme_name`."""
        return "exact"

    def take(self, which: slice) -> PointAction:
        """See `Action.take`."""
        part = object.__new__(PointAction)
        part.__dict__.update(self.__dict__)
        part._generators = part.generators = self._generators[which]
        return part

    @property
    def affine(self) -> Tensor:
        """The vector fields as [A | b], float64 [K, d, d + 1]."""
        return torch.stack([g.affine for g in self._generators])

    def on_vectors(self, v: Tensor) -> Tensor:
        """A v for vectors [..., d]: [K, ..., d]."""
        A = self.affine[..., : self.dim].to(v)
        return torch.einsum("kij,...j->k...i", A, v)

    def on_positions(self, p: Tensor) -> Tensor:
        """A p + b for positions [..., d]: [K, ..., d]."""
        b = self.affine[..., self.dim].to(p)
        return self.on_vectors(p) + b.reshape(len(self), *[1] * (p.ndim - 1), self.dim)

    def tangents(self, x: PointCloud) -> PointCloud:
        """X x: a cloud whose leaves have a leading axis of K."""
        if x.pos.shape != (len(self.batch), self.dim):
            raise UnknownLayoutError(
                f"x has positions {list(x.pos.shape)}, but the generators were bound to "
                f"{[len(self.batch), self.dim]}; make a new PointAction."
            )
        K = len(self)
        return x.replace_leaves(
            self.on_positions(x.pos),
            {k: v.new_zeros(K, *v.shape) for k, v in x.scalars.items() if v.is_floating_point()},
            {k: self.on_vectors(v) for k, v in x.vectors.items()},
        )

    def level(self, rows: int, declared: str | None, what: object) -> str:
        """Whether a tensor has one row per cloud (``graph``) or per point (``node``).

        Args:
            rows: length of its first axis.
            declared: ``graph`` or ``node`` if somebody knows it, else None.
            what: the representation, for messages.

        Raises:
            UnknownLayoutError: if the rows are neither, or not what is declared.
        """
        N, B = len(self.batch), self.num_clouds
        fits = [name for name, n in (("graph", B), ("node", N)) if n == rows]
        if declared in fits:
            return declared
        if not fits or declared is not None:
            expected = {"graph": f"{B} rows", "node": f"{N} rows"}.get(
                declared or "", f"{B} rows (one per cloud) or {N} (one per point)"
            )
            raise UnknownLayoutError(
                f"output={what} needs {expected} for {B} clouds of {N} points in all, but the "
                f"tensor has {rows}; give the axis of clouds or points first."
            )
        # As many points as clouds: every cloud is one point, and only their order can differ.
        if len(fits) > 1 and not torch.equal(self.batch, self.batch.sort().values):
            raise UnknownLayoutError(
                f"output={what} is ambiguous for {B} clouds of one point each in mixed order; "
                "declare level='graph' or level='node', or sort the points by cloud."
            )
        return fits[0]
