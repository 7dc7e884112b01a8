"""An exactly invariant network on point clouds: what the pipeline reports for error zero."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from liederiv.points.cloud import PointCloud

__all__ = ["CentredDistances"]


class CentredDistances(nn.Module):
    """Per cloud, the mean of a network of the squared distances to the centre: E(d)-invariant.

    It is blind to clouds of one point: 0 over 0.
    """

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
