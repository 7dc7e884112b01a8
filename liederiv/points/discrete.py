"""Symmetries of point clouds that no path of motions leads to: mirrors, permutations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from liederiv.domains import domain_of
from liederiv.metrics.finite import act_finite, evaluate, relative_error
from liederiv.metrics.values import DiscreteCheck
from liederiv.points.action import PointAction
from liederiv.points.cloud import PointCloud
from liederiv.points.transforms import PointTransform
from liederiv.representations import OutputSpec, declared

__all__ = ["discrete_point_checks", "permute_within_clouds"]


def permute_within_clouds(x: PointCloud, seed: int = 0) -> tuple[PointCloud, Tensor]:
    """The same clouds with their points in another order, and that order [N].

    The order is one random cycle of all points, so that none stays where it is. The clouds keep
    their places in the batch; edges follow their points.
    """
    order = torch.arange(len(x.pos))
    for b, own in enumerate(domain_of(x).seeds(x, seed, "permutation")):
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


def discrete_point_checks(
    f: Callable[[Any], Tensor], x: PointCloud, *, output: OutputSpec = "auto"
) -> tuple[DiscreteCheck, ...]:
    """Mirror images, points in another order, each cloud on its own: errors per cloud.

    No path of motions leads to these, so no derivative sees them.

    Args:
        f: model; one output tensor.
        x: the clouds.
        output: representation of the output, see `liederiv.lie_derivative`.
    """
    y = evaluate(f, x)
    action, domain = PointAction((), x), domain_of(x)
    rho = domain.resolve(declared(f, output), y, action).representation
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for i, axis in enumerate("xyz"[: x.dim]):
        mirror = torch.eye(x.dim, dtype=torch.float64)
        mirror[i, i] = -1
        g = PointTransform(action, mirror[None])
        found[f"mirror_{axis}"] = (evaluate(f, g.on_input(x)), act_finite(rho, g, y))
    shuffled, order = permute_within_clouds(x)
    per_point = action.level(len(y), getattr(rho, "level", None), rho) == "node"
    found["permutation"] = (evaluate(f, shuffled), y[order] if per_point else y)
    alone = torch.empty_like(y)
    for b in range(len(x)):
        rows = (x.batch == b).nonzero().flatten() if per_point else torch.tensor([b])
        alone[rows] = evaluate(f, x[b])
    found["alone"] = (alone, y)

    def check(name: str, a: Tensor, b: Tensor) -> DiscreteCheck:
        square = (a - b).double().square()[None]
        error, size = (domain.sums(v, action, rho)[0] for v in (square, y.double().square()[None]))
        absolute = domain.means(square, action, rho)[0].cpu()
        return DiscreteCheck(
            name, "measured", relative=relative_error(error, size).cpu(), absolute=absolute
        )

    return tuple(check(name, *pair) for name, pair in found.items())
