"""Networks that differentiate inside: forces on points, gradients of images, saliency."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from liederiv.points import PointCloud, PointModel

from ..awkward import MEASURING, Awkward, pooled


def points(sizes: tuple[int, ...] = (5, 4)) -> PointCloud:
    """Random clouds with a velocity and a charge for each point."""
    random = torch.Generator().manual_seed(9)
    n = sum(sizes)
    return PointCloud(
        torch.randn(n, 3, generator=random),
        torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes)),
        scalars={"charge": torch.rand(n, 1, generator=random)},
        vectors={"velocity": torch.randn(n, 1, 3, generator=random)},
    )


class _OnPoints(Awkward):
    """A network on clouds, wrapped as users wrap it."""

    output = "scalars"
    images = staticmethod(points)

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Sequential(nn.Linear(1, 6), nn.Tanh(), nn.Linear(6, 1))

    def subject(self) -> Any:
        return PointModel(self, lambda net, c: net(c), output=self.output).eval()


def pairs(c: PointCloud) -> tuple[Tensor, Tensor]:
    """All ordered pairs of points of one cloud."""
    i, j = (c.batch[:, None] == c.batch).nonzero().T
    return i[i != j], j[i != j]


def per_cloud(v: Tensor, c: PointCloud) -> Tensor:
    """Sum of rows over the points of each cloud."""
    return v.new_zeros(len(c), *v.shape[1:]).index_add(0, c.batch, v)


class _Field(_OnPoints):
    """−∂E/∂pos of an energy of squared distances and, to break symmetry, of a slope in z."""

    output = "vectors"
    slope = 0.3

    def energy(self, pos: Tensor, c: PointCloud) -> Tensor:
        i, j = pairs(c)
        d2 = (pos[i] - pos[j]).square().sum(1, keepdim=True)
        return self.mix((-d2).exp()).sum() + self.slope * pos[:, 2].pow(3).sum()


class ForcesWithGraph(_Field):
    needed = MEASURING

    def forward(self, c: PointCloud) -> Tensor:
        pos = c.pos
        if not pos.requires_grad:
            pos = pos.requires_grad_(True)
        return -torch.autograd.grad(self.energy(pos, c), pos, create_graph=True)[0]


class EquivariantForcesWithGraph(ForcesWithGraph):
    slope = 0.0
    generators = "rotation,translation"


class ForcesWithoutGraph(_Field):
    """create_graph=False: the forces are constants to whoever differentiates them."""

    def forward(self, c: PointCloud) -> Tensor:
        pos = c.pos.requires_grad_(True)
        return -torch.autograd.grad(self.energy(pos, c), pos)[0]


class EquivariantForcesWithoutGraph(ForcesWithoutGraph):
    slope = 0.0


class ForcesWithGraphInTrainingOnly(_Field):
    def forward(self, c: PointCloud) -> Tensor:
        pos = c.pos.requires_grad_(True)
        return -torch.autograd.grad(self.energy(pos, c), pos, create_graph=self.training)[0]


class ForcesOfDetachedPositions(_Field):
    def forward(self, c: PointCloud) -> Tensor:
        pos = c.pos.detach().clone().requires_grad_()
        return -torch.autograd.grad(self.energy(pos, c), pos, create_graph=True)[0]


class EquivariantForcesOfDetachedPositions(ForcesOfDetachedPositions):
    slope = 0.0


class ForcesUnderTheirOwnEnableGrad(_Field):
    def forward(self, c: PointCloud) -> Tensor:
        with torch.enable_grad():
            pos = c.pos.detach().requires_grad_()
            return -torch.autograd.grad(self.energy(pos, c), pos)[0].detach()


class ForcesByBackward(_Field):
    """`energy.backward()` and ``pos.grad``: leaves gradients on the weights as well."""

    def forward(self, c: PointCloud) -> Tensor:
        with torch.enable_grad():
            pos = c.pos.detach().clone().requires_grad_()
            self.energy(pos, c).backward()
        self.zero_grad(set_to_none=True)
        return -pos.grad


class ForcesByFuncGrad(_Field):
    needed = MEASURING

    def forward(self, c: PointCloud) -> Tensor:
        return -torch.func.grad(self.energy)(c.pos, c)


class ForcesByFuncVjp(_Field):
    def forward(self, c: PointCloud) -> Tensor:
        energy, pull = torch.func.vjp(lambda p: self.energy(p, c), c.pos)
        return -pull(torch.ones_like(energy))[0]


class ForcesByFuncJacrev(_Field):
    def forward(self, c: PointCloud) -> Tensor:
        return -torch.func.jacrev(lambda p: self.energy(p, c))(c.pos)


class ForcesByFuncJacfwd(_Field):
    def forward(self, c: PointCloud) -> Tensor:
        return -torch.func.jacfwd(lambda p: self.energy(p, c))(c.pos)


class ForcesByFiniteDifferences(_Field):
    """Differences inside, with a step of its own; float64 throughout."""

    images = staticmethod(lambda: points((3,)).double())

    def forward(self, c: PointCloud) -> Tensor:
        rows = []
        for k in range(c.pos.numel()):
            step = torch.zeros(c.pos.numel(), dtype=c.pos.dtype).index_fill(
                0, torch.tensor(k), 1e-3
            )
            step = step.view_as(c.pos)
            rows.append(self.energy(c.pos + step, c) - self.energy(c.pos - step, c))
        return -torch.stack(rows).view_as(c.pos) / 2e-3


class EnergyAndForcesJoined(_Field):
    """[points, 4]: charges that keep their graph beside forces that lost it."""

    output = "scalars"

    def forward(self, c: PointCloud) -> Tensor:
        pos = c.pos.requires_grad_(True)
        forces = torch.autograd.grad(self.energy(pos, c), pos, retain_graph=True)[0]
        return torch.cat([pos.square().sum(1, keepdim=True), forces], 1)


class EnergyAndForcesAsADict(_Field):
    output = {"energy": "scalars", "forces": "vectors"}  # noqa: RUF012

    def forward(self, c: PointCloud) -> dict[str, Tensor]:
        pos = c.pos.requires_grad_(True)
        energy = per_cloud(pos[:, 2:] ** 3, c) + 100 * per_cloud(pos.square(), c)[:, :1]
        forces = torch.autograd.grad(energy.sum(), pos, retain_graph=True)[0]
        return {"energy": energy, "forces": -0.01 * forces}


class ForcesFromDetachedNeighbours(_Field):
    """Half of the action and reaction is cut."""

    def forward(self, c: PointCloud) -> Tensor:
        i, j = pairs(c)
        gap = c.pos[i] - c.pos[j].detach()
        pull = gap * self.mix((-gap.square().sum(1, keepdim=True)).exp())
        return torch.zeros_like(c.pos).index_add(0, i, pull + self.slope * gap.abs())


class StressFromAStrain(_Field):
    """A symmetric strain is applied and differentiated by, as for a stress."""

    output = "scalars"

    def forward(self, c: PointCloud) -> Tensor:
        strain = torch.zeros(3, 3, dtype=c.pos.dtype, requires_grad=True)
        with torch.enable_grad():
            pos = c.pos @ (torch.eye(3, dtype=c.pos.dtype) + (strain + strain.T) / 2)
            i, j = pairs(c)
            d2 = (pos[i] - pos[j]).square().sum(1, keepdim=True)
            charges = pos.new_zeros(len(pos), 1).index_add(0, i, self.mix((-d2).exp()))
            energies = per_cloud(charges, c)
            rows = [torch.autograd.grad(e, strain, retain_graph=True)[0] for e in energies[:, 0]]
        return torch.stack([r.diagonal().prod() for r in rows])[:, None] + energies.detach()


class SaliencyAsFeature(Awkward):
    """Multiplies the image by the gradient of its own score, each image for itself."""

    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Conv2d(3, 6, 3, padding=1)
        self.fc = nn.Linear(6, 5)

    def score(self, x: Tensor) -> Tensor:
        return self.fc(pooled(self.c(x).tanh()))

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            z = x if x.requires_grad else x.detach().requires_grad_()
            g = torch.autograd.grad(self.score(z).square().sum(), z, create_graph=True)[0]
        return self.score(x * g)


class SaliencyDetached(SaliencyAsFeature):
    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            z = x.detach().requires_grad_()
            g = torch.autograd.grad(self.score(z).square().sum(), z)[0]
        return self.score(x + 3 * g)


class EnergyDescentInside(SaliencyAsFeature):
    """Three steps of descent on a latent, as in energy-based models."""

    def forward(self, x: Tensor) -> Tensor:
        target = self.score(x)
        with torch.enable_grad():
            z = torch.zeros_like(target).requires_grad_()
            for _ in range(3):
                e = ((z - target) ** 2).sum() + (z**4).sum()
                z = z - 0.2 * torch.autograd.grad(e, z, create_graph=True)[0]
        return z


class EnergyDescentDetached(SaliencyAsFeature):
    def forward(self, x: Tensor) -> Tensor:
        target = self.score(x)
        z = torch.zeros_like(target)
        for _ in range(3):
            with torch.enable_grad():
                z = z.detach().requires_grad_()
                e = ((z - target) ** 2).sum() + (z**4).sum()
                z = z - 0.2 * torch.autograd.grad(e, z)[0]
        return z.detach() + 0.1 * target
