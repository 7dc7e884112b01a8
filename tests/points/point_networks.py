"""Clouds and small networks on points, each named for how it transforms."""

import torch
from torch import nn

from liederiv import PointCloud


def clouds(sizes=(5, 3, 1), dim=3, seed=0, dtype=torch.float64, velocity=True) -> PointCloud:
    """Random clouds with a charge and, if wanted, a velocity per point; sorted by cloud."""
    random = torch.Generator().manual_seed(seed)
    N = sum(sizes)

    def draw(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=random).to(dtype)

    return PointCloud(
        draw(N, dim),
        torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes)),
        scalars={"charge": draw(N, 1)},
        vectors={"velocity": draw(N, 1, dim)} if velocity else {},
    )


def cloud_sum(v, cloud):
    return v.new_zeros(len(cloud), *v.shape[1:]).index_add(0, cloud.batch, v)


def cloud_mean(v, cloud):
    sizes = cloud.sizes.to(v).reshape(-1, *[1] * (v.ndim - 1))
    return cloud_sum(v, cloud) / sizes


class Pairs(nn.Module):
    """Sums a network of squared distances over all other points of the cloud: E(d)-equivariant.

    ``kind`` says what it returns: ``energy`` [B, 2], ``charges`` [N, 2], ``forces`` [N, d],
    ``positions`` [N, d], ``dipole`` [B, 1, d].
    """

    def __init__(self, kind="energy"):
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        self.net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2))
        declared = {"forces": "vectors", "dipole": "vectors", "positions": "positions"}
        self.output_representation = declared.get(kind, "scalars")

    def forward(self, c):
        same = c.batch[:, None] == c.batch[None]
        i, j = (same & ~torch.eye(len(c.batch), dtype=torch.bool)).nonzero().T
        offset = c.pos[i] - c.pos[j]
        features = torch.cat(
            [offset.square().sum(1, keepdim=True), c.scalars["charge"][i] * c.scalars["charge"][j]],
            1,
        )
        message = self.net(features)
        charges = message.new_zeros(len(c.pos), 2).index_add(0, i, message)
        if self.kind == "charges":
            return charges
        if self.kind == "energy":
            return cloud_sum(charges, c)
        pull = torch.zeros_like(c.pos).index_add(0, i, offset * message[:, :1])
        if self.kind == "dipole":
            return cloud_sum(pull * c.scalars["charge"] + c.vectors["velocity"][:, 0], c)[:, None]
        return pull + (c.pos if self.kind == "positions" else 0)


class LinearForms(nn.Module):
    """y_i = Σ_points w_i · pos: not invariant, and its Lie derivatives are known exactly."""

    output_representation = "scalars"

    def __init__(self, w):
        super().__init__()
        self.w = nn.Parameter(w)

    def forward(self, c):
        return cloud_sum(c.pos @ self.w.T, c)
