"""Networks on point clouds: neighbours, voxels, pooled batches, frames."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from liederiv.points import PointCloud

from ..awkward import EVERYWHERE, MEASURING
from .forces import _OnPoints, pairs, per_cloud, points


class InvariantEnergy(_OnPoints):
    """Exactly invariant: zero to rounding, not to be refused."""

    needed = EVERYWHERE

    def forward(self, c: PointCloud) -> Tensor:
        i, j = pairs(c)
        d2 = (c.pos[i] - c.pos[j]).square().sum(1, keepdim=True)
        return per_cloud(c.pos.new_zeros(len(c.pos), 1).index_add(0, i, self.mix((-d2).exp())), c)


class EquivariantVectors(_OnPoints):
    needed = EVERYWHERE
    output = "vectors"

    def forward(self, c: PointCloud) -> Tensor:
        i, j = pairs(c)
        gap = c.pos[i] - c.pos[j]
        pull = gap * self.mix((-gap.square().sum(1, keepdim=True)).exp())
        return torch.zeros_like(c.pos).index_add(0, i, pull) + c.vectors["velocity"][:, 0]


class EquivariantPositions(EquivariantVectors):
    output = "positions"

    def forward(self, c: PointCloud) -> Tensor:
        return c.pos + super().forward(c)


class LabFrameVectors(EquivariantVectors):
    """A field along z: gravity."""

    def forward(self, c: PointCloud) -> Tensor:
        down = torch.tensor([0.0, 0.0, 1.0], dtype=c.pos.dtype)
        return super().forward(c) + 0.5 * c.pos[:, 2:].tanh() * down


class NearestNeighbours(_OnPoints):
    """Indices of the two nearest, chosen without a derivative, as they should be."""

    needed = MEASURING
    output = "vectors"

    def forward(self, c: PointCloud) -> Tensor:
        far = (c.batch[:, None] != c.batch).to(c.pos) * 1e6 + 1e6 * torch.eye(len(c.pos)).to(c.pos)
        near = (torch.cdist(c.pos.detach(), c.pos.detach()) + far).topk(2, largest=False).indices
        gap = c.pos[near] - c.pos[:, None]
        return (gap * self.mix((-gap.square().sum(-1, keepdim=True)).exp())).sum(1) + c.pos.sin()


class RadiusGraphWithAHardCutoff(_OnPoints):
    """Smooth between two cutoffs' jumps."""

    needed = MEASURING

    def forward(self, c: PointCloud) -> Tensor:
        i, j = pairs(c)
        d2 = (c.pos[i] - c.pos[j]).square().sum(1, keepdim=True)
        w = (d2 < 4).to(d2) * self.mix(d2 + c.pos[i, 2:])
        return per_cloud(c.pos.new_zeros(len(c.pos), 1).index_add(0, i, w), c)


class DetachedDistances(_OnPoints):
    """Weights of the messages are found without a graph."""

    output = "vectors"

    def forward(self, c: PointCloud) -> Tensor:
        i, j = pairs(c)
        with torch.no_grad():
            w = self.mix((-(c.pos[i] - c.pos[j]).square().sum(1, keepdim=True)).exp())
        return torch.zeros_like(c.pos).index_add(0, i, w * (c.pos[i] - c.pos[j])) + c.pos**3


class DetachedCentre(_OnPoints):
    """Translation looks broken, or whole, where the mean has no derivative."""

    output = "vectors"

    def forward(self, c: PointCloud) -> Tensor:
        centre = per_cloud(c.pos, c) / c.sizes[:, None].to(c.pos)
        return (c.pos - centre.detach()[c.batch]).sin()


class VoxelRounding(_OnPoints):
    """Positions snapped to a grid: derivative zero, and jumps."""

    right = "refusal"

    def forward(self, c: PointCloud) -> Tensor:
        voxel = (c.pos / 0.25).round() * 0.25
        return per_cloud(self.mix(voxel.sum(1, keepdim=True).sin()), c)


class VoxelRoundingBesideOffsets(_OnPoints):
    """Features of the offset within the voxel, as sparse convolutions take them."""

    def forward(self, c: PointCloud) -> Tensor:
        voxel = (c.pos / 0.25).round() * 0.25
        offset = (c.pos - voxel).prod(1, keepdim=True)
        return per_cloud(self.mix(40 * offset + voxel.sum(1, keepdim=True)), c)


class NumpyNeighbours(_OnPoints):
    """Distances by NumPy, used as features."""

    def forward(self, c: PointCloud) -> Tensor:
        p = c.pos.detach().cpu().numpy()
        d = torch.from_numpy(((p[:, None] - p) ** 2).sum(-1)).to(c.pos)
        i, j = pairs(c)
        w = self.mix((-d[i, j][:, None]).exp() + c.pos[i, 2:])
        return per_cloud(c.pos.new_zeros(len(c.pos), 1).index_add(0, i, w), c)


class SquareRootAtSelfLoops(_OnPoints):
    """A distance of zero to itself, masked afterwards: NaN in the derivative alone."""

    def forward(self, c: PointCloud) -> Tensor:
        gap = c.pos[:, None] - c.pos
        d = gap.square().sum(-1).sqrt()
        other = (c.batch[:, None] == c.batch) & ~torch.eye(len(c.pos), dtype=torch.bool)
        e = torch.where(other, (-d).exp() * (2 + c.pos[:, 2:]), torch.zeros_like(d))
        return per_cloud(self.mix(e.sum(1, keepdim=True)), c)


class NormAtSelfLoops(SquareRootAtSelfLoops):
    """`torch.norm` has a subgradient there."""

    def forward(self, c: PointCloud) -> Tensor:
        d = torch.linalg.vector_norm(c.pos[:, None] - c.pos, dim=-1)
        other = (c.batch[:, None] == c.batch) & ~torch.eye(len(c.pos), dtype=torch.bool)
        e = torch.where(other, (-d).exp() * (2 + c.pos[:, 2:]), torch.zeros_like(d))
        return per_cloud(self.mix(e.sum(1, keepdim=True)), c)


class ScatterReduce(_OnPoints):
    """Maximum over the points of each cloud, as torch_geometric does."""

    needed = MEASURING

    def forward(self, c: PointCloud) -> Tensor:
        v = self.mix(c.pos[:, 2:] + c.scalars["charge"])
        where = c.batch[:, None]
        top = v.new_zeros(len(c), 1).scatter_reduce(0, where, v, "amax", include_self=False)
        mean = v.new_zeros(len(c), 1).scatter_reduce(0, where, c.pos[:, :1] ** 2, "mean")
        return top + mean


class IgnoresTheBatchIndex(_OnPoints):
    """All points see each other, across clouds."""

    right = "refusal"
    one_by_one = True

    def forward(self, c: PointCloud) -> Tensor:
        gap = c.pos[:, None] - c.pos
        e = (-gap.square().sum(-1, keepdim=True)).exp().sum(1) + c.pos[:, 2:]
        return per_cloud(self.mix(e), c)


class CentresOverAllClouds(_OnPoints):
    right = "refusal"
    one_by_one = True
    output = "vectors"

    def forward(self, c: PointCloud) -> Tensor:
        return (c.pos - c.pos.mean(0)).sin()


class CloudsInReverse(_OnPoints):
    right = "refusal"
    one_by_one = True

    def forward(self, c: PointCloud) -> Tensor:
        return per_cloud(self.mix(c.pos[:, 2:]), c).flip(0)


class PointsSortedByHeight(_OnPoints):
    """Rows come back in another order than the points, across clouds."""

    right = "refusal"
    one_by_one = True
    output = "vectors"

    def forward(self, c: PointCloud) -> Tensor:
        return c.pos[c.pos[:, 2].argsort()].sin()


class OnePointMissing(_OnPoints):
    right = "refusal"
    output = "vectors"

    def forward(self, c: PointCloud) -> Tensor:
        return c.pos[1:].sin()


class WritesOnItsPositions(_OnPoints):
    """Centres the caller's cloud in place."""

    output = "vectors"

    def forward(self, c: PointCloud) -> Tensor:
        c.pos.sub_((per_cloud(c.pos, c) / c.sizes[:, None].to(c.pos))[c.batch])
        return c.pos.sin()


class PrincipalFrame(_OnPoints):
    """Invariant by turning into its own principal axes, signs fixed by a skewness."""

    images = staticmethod(lambda: points((7, 6)))

    def forward(self, c: PointCloud) -> Tensor:
        rows = []
        for b in range(len(c)):
            p = c.pos[c.batch == b]
            p = p - p.mean(0)
            axes = torch.linalg.eigh(p.T @ p)[1]
            q = p @ axes
            q = q * q.pow(3).sum(0).sign()
            rows.append(self.mix(q.sin().sum()[None])[None])
        return torch.cat(rows)


class LocalFrameFromCrossProducts(_OnPoints):
    output = "vectors"
    needed = MEASURING

    def forward(self, c: PointCloud) -> Tensor:
        v = c.vectors["velocity"][:, 0]
        return torch.linalg.cross(v, c.pos) + v * v.norm(dim=1, keepdim=True)


class StoredNeighbourList(_OnPoints):
    """A list of the first positions seen, kept while nothing has moved far (a Verlet list)."""

    def __init__(self) -> None:
        super().__init__()
        self.reference: Tensor | None = None
        self.list: tuple[Tensor, Tensor] | None = None

    def forward(self, c: PointCloud) -> Tensor:
        known = self.reference is not None and self.reference.shape == c.pos.shape
        if not known or float((c.pos.detach() - self.reference).abs().max()) > 0.1:
            self.reference, self.list = c.pos.detach().clone(), pairs(c)
        i, j = self.list  # type: ignore[misc]
        d2 = (c.pos[i] - c.pos[j]).square().sum(1, keepdim=True)
        w = self.mix((-d2).exp() + c.pos[i, 2:])
        return per_cloud(c.pos.new_zeros(len(c.pos), 1).index_add(0, i, w), c)

    def smooth(self, c: PointCloud) -> Tensor:
        self.reference = None
        return self(c)


class Float32Coordinates(_OnPoints):
    """Casts positions to float32, as many graph codes do."""

    def energies(self, pos: Tensor, c: PointCloud) -> Tensor:
        i, j = pairs(c)
        d2 = (pos[i] - pos[j]).square().sum(1, keepdim=True)
        w = self.mix((-d2).exp() + pos[i, 2:])
        return per_cloud(pos.new_zeros(len(pos), 1).index_add(0, i, w), c)

    def smooth(self, c: PointCloud) -> Tensor:
        return self.energies(c.pos, c)

    def forward(self, c: PointCloud) -> Tensor:
        return self.energies(c.pos.float().to(self.mix[0].weight.dtype), c)


class SinglePointClouds(_OnPoints):
    images = staticmethod(lambda: points((1, 1)))
    needed = MEASURING

    def forward(self, c: PointCloud) -> Tensor:
        return per_cloud(self.mix(c.pos[:, 2:]), c)


class SetTransformer(_OnPoints):
    """Attention over the points of each cloud, masked by the batch index."""

    needed = MEASURING

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(4, 12)
        self.out = nn.Linear(4, 1)

    def forward(self, c: PointCloud) -> Tensor:
        q, k, v = self.up(torch.cat([c.pos, c.scalars["charge"]], 1)).chunk(3, -1)
        same = c.batch[:, None] == c.batch
        y = nn.functional.scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=same)[0]
        return per_cloud(self.out(y), c)
