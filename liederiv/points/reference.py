"""An exactly invariant network on point clouds: what the pipeline reports for error zero."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from liederiv.generators import resolve_generators
from liederiv.metrics.local import LocalBatch, local_batch
from liederiv.metrics.reference import reference_batch, reference_transform
from liederiv.points.action import PointAction
from liederiv.points.cloud import PointCloud
from liederiv.points.generators import POINTS

__all__ = ["CentredDistances"]


class CentredDistances(nn.Module):
    """Per cloud, the mean of a network of the squared distances to the centre: E(d)-invariant."""

    def __init__(self, *, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = nn.Sequential(nn.Linear(1, 16), nn.GELU(), nn.Linear(16, 10))

    def forward(self, x: PointCloud) -> Tensor:
        """[B, 10]."""

        def mean(v: Tensor) -> Tensor:
            total = v.new_zeros(len(x), v.shape[1]).index_add(0, x.batch, v)
            return total / x.sizes.to(v)[:, None]

        offset = x.pos - mean(x.pos)[x.batch]
        return mean(self.net(offset.square().sum(1, keepdim=True)))


@reference_transform.register
def _(x: PointCloud) -> str:
    return "rigid"


@reference_batch.register
def _(x: PointCloud, seeds: Sequence[int]) -> LocalBatch:
    """LEE under rigid motions, and the response to noise of equal norm.

    The network is blind to clouds of one point: 0 over 0.
    """
    model = CentredDistances().eval().to(device=x.device, dtype=x.dtype)
    action = PointAction(resolve_generators("rigid", catalogue=POINTS[x.dim]), x)
    batch, _ = local_batch(
        model, x, action, output="scalars", directions=2, seeds=seeds, verify=False
    )
    return batch["output"]
