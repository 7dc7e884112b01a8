"""The finite metrics of `measure` on point clouds: motions of any size, mirrors, permutations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from liederiv.metrics.agreement import effective_invariance, top1_accuracy
from liederiv.metrics.finite import act_finite, evaluate, relative_error
from liederiv.metrics.sampled import SampledMetric, equivariance_error
from liederiv.metrics.suite import (
    RUNNERS,
    FiniteContext,
    NotApplicable,
    Piece,
    Runner,
    runners,
)
from liederiv.points.action import PointAction
from liederiv.points.cloud import PointCloud
from liederiv.points.domain import PointDomain
from liederiv.points.representations import resolve_points
from liederiv.points.transforms import PointTransform, seeded_rotations

__all__ = ["POINT_RUNNERS", "discrete_point_checks", "permute_within_clouds"]

_VIEWS = 4
_DISCRETE = "‖f(g x) − ρ_g f(x)‖² / ‖f(x)‖²"


def permute_within_clouds(x: PointCloud, seed: int = 0) -> tuple[PointCloud, Tensor]:
    """The same clouds with their points in another order, and that order [N].

    The order is one random cycle of all points, so that none stays where it is. The clouds keep
    their places in the batch; edges follow their points.
    """
    order = torch.arange(len(x.pos))
    for b, own in enumerate(PointDomain().seeds(x, seed, "permutation")):
        random = torch.Generator().manual_seed(own)
        rows = (x.batch.cpu() == b).nonzero().flatten()
        cycle = rows[torch.randperm(len(rows), generator=random)]
        order[cycle] = cycle.roll(1)
    order = order.to(x.device)
    index = x.edge_index
    if index is not None:
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order), device=x.device)
        index = place[index]
    moved = x.with_fields(
        pos=x.pos[order],
        scalars={k: v[order] for k, v in x.scalars.items()},
        vectors={k: v[order] for k, v in x.vectors.items()},
        edge_index=index,
    )
    return moved, order


def discrete_point_checks(c: FiniteContext, x: PointCloud) -> list[SampledMetric]:
    """Mirror images, points in another order, each cloud on its own: relative errors per cloud.

    No path of motions leads to these, so no derivative sees them.
    """
    y = evaluate(c.f, x)
    action, domain = PointAction((), x), PointDomain()
    rho = resolve_points(c.output, y, action).representation
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for i, axis in enumerate("xyz"[: x.dim]):
        mirror = torch.eye(x.dim, dtype=torch.float64)
        mirror[i, i] = -1
        g = PointTransform(action, mirror[None])
        found[f"mirror_{axis}"] = (evaluate(c.f, g.on_input(x)), act_finite(rho, g, y))
    shuffled, order = permute_within_clouds(x)
    per_point = action.level(len(y), getattr(rho, "level", None), rho) == "node"
    found["permutation"] = (evaluate(c.f, shuffled), y[order] if per_point else y)
    alone = torch.empty_like(y)
    for b in range(len(x)):
        rows = (x.batch == b).nonzero().flatten() if per_point else torch.tensor([b])
        alone[rows] = evaluate(c.f, x[b])
    found["alone"] = (alone, y)

    def size(v: Tensor) -> Tensor:
        return domain.sums(v.double().square()[None], action, rho)[0]

    scale = size(y)
    return [
        SampledMetric("discrete", name, relative_error(size(a - b), scale).cpu(), "1", _DISCRETE)
        for name, (a, b) in found.items()
    ]


def _sampled_error(c: FiniteContext, x: PointCloud) -> Sequence[Piece]:
    return [
        equivariance_error(c.f, x, g, seed=c.seed, output=c.output)
        for g in ("translation", "rotation", "scale")
    ]


def _effective_invariance(c: FiniteContext, x: PointCloud) -> Sequence[Piece]:
    what = "rotation, uniform"
    if not c.classifier:
        reason = "the output is no class score [B, classes]"
        return [NotApplicable("effective_invariance", what, reason)]
    action = PointAction((), x)
    seeds = PointDomain().seeds(x, c.seed, "effective_invariance")
    turns = seeded_rotations(seeds, x.dim, _VIEWS)
    views = (PointTransform(action, turns[:, v]).on_input(x) for v in range(_VIEWS))
    return [effective_invariance(c.f, x, views, what)]


def _accuracy(c: FiniteContext, x: PointCloud) -> Sequence[Piece]:
    if not c.classifier or c.labels is None:
        reason = "no labels" if c.classifier else "the output is no class score [B, classes]"
        return [NotApplicable("accuracy", "none", reason)]
    return [top1_accuracy(c.f, x, c.labels)]


def _of_images(name: str) -> Runner:
    def run(c: FiniteContext, x: PointCloud) -> Sequence[Piece]:
        return [NotApplicable(name, "any", "a metric of images; see sampled_error")]

    return run


POINT_RUNNERS: dict[str, Runner] = {name: _of_images(name) for name in RUNNERS} | {
    "sampled_error": _sampled_error,
    "discrete": discrete_point_checks,
    "effective_invariance": _effective_invariance,
    "accuracy": _accuracy,
}
"""The finite metrics of `liederiv.metrics.registry.METRICS` on point clouds, by name."""


@runners.register
def _(x: PointCloud) -> Mapping[str, Runner]:
    return POINT_RUNNERS
