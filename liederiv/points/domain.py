"""Point clouds as a kind of input: see `liederiv.domains`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from liederiv.derivatives import Scheme
from liederiv.domains import Comparisons, Domain, Names, register_domain
from liederiv.draws import canonical_bytes, seeded_coordinates, seeded_normal
from liederiv.errors import LieDerivError, PointCloudError
from liederiv.generators import Catalogue, Generator
from liederiv.metrics.values import DiscreteCheck
from liederiv.points.action import PointAction
from liederiv.points.cloud import PointCloud
from liederiv.points.discrete import discrete_point_checks
from liederiv.points.generators import POINTS
from liederiv.points.reference import CentredDistances
from liederiv.points.representations import resolve_points
from liederiv.points.transforms import PointTransform, rms_radius, seeded_rotations
from liederiv.representations import OutputSpec, Resolved

__all__ = ["PointDomain", "canonical_rows"]

_POINTS_PER_PASS = 1024  # neighbourhoods cost memory: some 100 edges each in common networks
_LANES = 2**14  # points × tangents per pass
_VIEWS = 4  # finite motions of each cloud


class PointDomain(Domain):
    """`PointCloud`s."""

    item = "cloud"
    catalogues = tuple(POINTS.values())
    probabilities = False
    uncompared = "point clouds have no spectrum and no blur; compare relative_norm"
    reference_transform = "rigid"
    sampled = ("translation", "rotation", "scale")
    viewed = "rotation, uniform"

    def accepts(self, x: Any) -> bool:
        """See `Domain.accepts`."""
        return isinstance(x, PointCloud)

    def check(self, x: Any, argument: str = "x") -> None:
        """See `Domain.check`. Clouds are checked when they are made."""
        if not isinstance(x, PointCloud):
            raise PointCloudError(f"{argument} must be a PointCloud, not a {type(x).__name__}.")

    def catalogue(self, x: PointCloud) -> Catalogue:
        """See `Domain.catalogue`."""
        return POINTS[x.dim]

    def bind(self, generators: Sequence[Generator], x: PointCloud, scheme: object) -> PointAction:
        """See `Domain.bind`; there is nothing to interpolate, so the scheme does not matter."""
        return PointAction(generators, x)

    def action(
        self,
        generators: Names,
        x: PointCloud,
        scheme: str | Scheme = "bspline",
        unit: Literal["pixel", "grid"] = "pixel",
    ) -> PointAction:
        """See `Domain.action`."""
        if unit == "grid":
            raise LieDerivError(
                "unit='grid' counts half-widths of an image; translations of point clouds are in "
                "the input's unit of length: leave unit out."
            )
        action = super().action(generators, x, scheme, unit)
        assert isinstance(action, PointAction)
        return action

    def resolve(self, output: OutputSpec, y: Tensor, action: PointAction) -> Resolved:
        """See `Domain.resolve`."""
        return resolve_points(output, y, action)

    def rows(self, x: PointCloud) -> tuple[int, ...]:
        """See `Domain.rows`."""
        return len(x), len(x.pos)

    def separable(self, x: PointCloud) -> bool:
        """See `Domain.separable`: clouds of one point each, in mixed order, have two readings."""
        mixed = not torch.equal(x.batch, x.batch.sort().values)
        return not (len(x) == len(x.pos) and mixed)

    def rows_of(self, x: PointCloud, count: int, number: int) -> Tensor:
        """See `Domain.rows_of`: the row of a cloud, or those of its points."""
        if count == len(x):
            return torch.tensor([number])
        return (x.batch == number).nonzero().flatten().cpu()

    def sums(self, values: Tensor, action: PointAction, representation: Any) -> Tensor:
        """See `Domain.sums`: an output per point counts for the point's cloud."""
        level = getattr(representation, "level", None)
        level = action.level(values.shape[1], level, representation)
        per_row = values.reshape(len(values), values.shape[1], -1).double().sum(-1)
        if level == "graph":
            return per_row
        zero = per_row.new_zeros(len(values), action.num_clouds)
        return zero.index_add(1, action.batch, per_row)

    def contents(self, x: PointCloud) -> Iterator[bytes]:
        """See `Domain.contents`; the order of the points does not matter, nor do edges."""
        fields = [v for group in (x.scalars, x.vectors) for _, v in sorted(group.items())]
        for b, rows in enumerate(canonical_rows(x)):
            parts = [canonical_bytes(v.detach().cpu()[rows]) for v in (x.pos, *fields)]
            parts += [canonical_bytes(v[b]) for _, v in sorted(x.graph.items())]
            yield b"".join(parts)

    def fields(self, x: PointCloud) -> Iterator[tuple[str, Tensor]]:
        """See `Domain.fields`: points in their order, and edges too."""
        for b in range(len(x)):
            one = x[b : b + 1]
            for field in fields(one):
                value = getattr(one, field.name)
                for name, part in value.items() if isinstance(value, dict) else [("", value)]:
                    if isinstance(part, Tensor):
                        yield f"{field.name}.{name}", part

    def comparisons(
        self,
        x: PointCloud,
        tangents: PointCloud,
        action: PointAction,
        directions: int,
        seeds: Sequence[int],
    ) -> Comparisons:
        """See `Domain.comparisons`.

        Gaussian noise takes the norm of each tangent cloud by cloud and field by field (positions,
        each of the vectors), so that a motion is compared with noise in what it moves.
        """
        K, R = len(action), directions
        noises = _noise(x, seeds, R)

        def like(tangent: Tensor, *noise: Tensor) -> Tensor:
            if not tangent.any():  # fields that do not move
                return tangent.new_zeros(K * R, *tangent.shape[1:])
            sizes = _cloud_norms(tangent, x)
            blocks = [n * (sizes / _cloud_norms(n[None], x))[:, x.batch] for n in noise]
            return torch.stack(blocks, 1).flatten(0, 1)

        fields = tree_flatten(tangents)[0]
        moves = torch.stack([_cloud_norms(v, x).flatten(2)[..., 0] > 0 for v in fields]).any(0)

        def read(responses: Tensor) -> dict[str, Tensor]:
            return {"moves": moves, "noise": responses.unflatten(0, (K, R)).mean(1)}

        return Comparisons(tree_map(like, tangents, *noises), read)

    def step_noise(
        self, x: PointCloud, moved: PointCloud, action: PointAction, seeds: Sequence[int]
    ) -> dict[str, PointCloud]:
        """See `Domain.step_noise`: the norm cloud by cloud and field by field."""
        drawn = self.comparisons(x, tree_map(lambda v: v[None], moved), action, 1, seeds)
        return {"noise": tree_map(lambda v: v[0], drawn.tangents)}

    def transform(self, action: PointAction, t: Tensor) -> PointTransform:
        """See `Domain.transform`."""
        return PointTransform.exp(action, t)

    def sample(
        self,
        action: PointAction,
        x: PointCloud,
        half_range: float | None,
        *,
        num_samples: int,
        seed: int,
    ) -> tuple[Iterator[PointTransform], str]:
        """See `Domain.sample`; the generators of one group, or one of them.

        Where no range is given, translations reach as far as the root mean square radius of each
        cloud, all rotations together are uniform over SO(d), and scalings reach a factor of 1.5.
        """
        groups = {g.group for g in action.generators}
        names = [g.name for g in action.generators]
        if len(groups) > 1:
            raise LieDerivError(
                f"transforms of {', '.join(sorted(groups))} are sampled one group at a time; ask "
                "for one of them."
            )
        (group,) = groups
        name = names[0] if len(names) == 1 else group
        limits: Tensor | list[float]
        seeds = self.seeds(x, seed, name)
        if half_range is not None:
            limits = [half_range] * len(names)
            label = f"{name}, ±{half_range:.4g} {action.generators[0].unit}"
        elif group == "translation":
            limits = rms_radius(x)[:, None].expand(-1, len(names))
            label = f"{name}, ±1 rms radius of the cloud"
        elif group == "rotation" and len(names) == 3:
            turns = seeded_rotations(seeds, 3, num_samples)
            moves = (PointTransform(action, turns[:, s]) for s in range(num_samples))
            return moves, f"{name}, uniform over SO(3)"
        elif group == "rotation":
            limits, label = [math.pi], f"{name}, 0° to 360°"
        else:
            limits, label = [math.log(1.5)] * len(names), f"{name}, ×1/1.5 to ×1.5"
        drawn = seeded_coordinates(seeds, limits, num_samples=num_samples)
        return (PointTransform.exp(action, t) for t in drawn), label

    def orbit_range(self, g: Generator, x: PointCloud) -> float | None:
        """See `Domain.orbit_range`: mean rms radius, half a turn, a factor of 1.5."""
        usual = {
            "translation": float(rms_radius(x).mean()),
            "rotation": math.pi,
            "scale": math.log(1.5),
        }
        return usual.get(g.group)

    def discrete(
        self, f: Callable[[Any], Tensor], x: PointCloud, output: OutputSpec
    ) -> Sequence[DiscreteCheck]:
        """See `Domain.discrete`."""
        return discrete_point_checks(f, x, output=output)

    def views(
        self, x: PointCloud, seed: int, scheme: object
    ) -> Iterator[tuple[str, Iterable[PointCloud]]]:
        """See `Domain.views`."""
        action = PointAction((), x)
        turns = seeded_rotations(self.seeds(x, seed, "effective_invariance"), x.dim, _VIEWS)
        views = (PointTransform(action, turns[:, v]).on_input(x) for v in range(_VIEWS))
        yield self.viewed, views

    def reference(self, x: PointCloud) -> CentredDistances:
        """See `Domain.reference`."""
        return CentredDistances().eval().to(device=x.device, dtype=x.dtype)

    def batch_size(self, x: PointCloud) -> int:
        """See `Domain.batch_size`."""
        return max(1, _POINTS_PER_PASS * len(x) // len(x.pos))

    def chunk_size(self, x: PointCloud) -> int | None:
        """See `Domain.chunk_size`."""
        return max(1, _LANES // len(x.pos))


def canonical_rows(x: PointCloud) -> list[Tensor]:
    """The points of each cloud, sorted by what they hold: the same whatever order they come in."""
    point_fields = [x.pos, *(v for group in (x.scalars, x.vectors) for v in group.values())]
    columns = torch.cat([_comparable(v).flatten(1) for v in point_fields], 1).numpy()
    batch = x.batch.cpu().numpy()
    order = torch.from_numpy(np.lexsort((*columns.T[::-1], batch)))
    return list(order.split(np.bincount(batch, minlength=len(x)).tolist()))


def _comparable(v: Tensor) -> Tensor:
    """Float64 on the CPU, equal for equal numbers in float32 and in float64."""
    v = v.detach().cpu()
    return (v.float() if v.is_floating_point() else v).double()


def _noise(x: PointCloud, seeds: Sequence[int], count: int) -> list[PointCloud]:
    """Standard normal noise like x, each cloud's from its own seed, each point's its own."""
    rows = canonical_rows(x)
    leaves, structure = tree_flatten(x)
    widths = [v[0].numel() for v in leaves]
    values = torch.empty(count, len(x.pos), sum(widths), dtype=torch.float64)
    for seed, points in zip(seeds, rows, strict=True):
        values[:, points] = seeded_normal([seed], (count, len(points), sum(widths)))[0]
    return [
        tree_unflatten(
            [p.view(v.shape).to(v) for p, v in zip(one.split(widths, 1), leaves, strict=True)],
            structure,
        )
        for one in values
    ]


def _cloud_norms(v: Tensor, x: PointCloud) -> Tensor:
    """Norms of fields [K, N, …] over each cloud, [K, B, …] with trailing axes of 1."""
    square = v.flatten(2).square().sum(2)
    total = square.new_zeros(len(v), len(x)).index_add(1, x.batch, square).sqrt()
    return total.reshape(len(v), len(x), *[1] * (v.ndim - 2))


register_domain(PointDomain())
