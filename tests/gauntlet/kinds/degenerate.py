"""Where a derivative is zero, does not exist, or is not finite; kinks; networks very deep."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..awkward import EVERYWHERE, MEASURING, Awkward, Small, photographs, pooled

_NO_DETACH = ("detach",)


def _black() -> Tensor:
    return torch.zeros(2, 3, 10, 10)


def _flat() -> Tensor:
    return torch.tensor([0.3, -0.7])[:, None, None, None].expand(2, 3, 10, 10).contiguous()


class FlatImages(Small):
    """Nothing moves: zero, whatever the network."""

    zero = 1e-9

    images = staticmethod(_flat)
    forbidden = _NO_DETACH

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(x).tanh())


class BlackImages(FlatImages):
    images = staticmethod(_black)


class OneBlackImageFirst(FlatImages):
    """The first image says nothing about the second."""

    images = staticmethod(lambda: torch.cat([_black()[:1], photographs()[1:]]))


class BlackFirstAndDetached(Small):
    """Nothing to see on the first image; cut on the second."""

    images = staticmethod(lambda: torch.cat([_black()[:1], photographs()[1:]]))

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        return self.head(h.tanh() + h.square().detach())


class ZeroWeights(Small):
    """A classifier as timm initialises some: zero on everything."""

    forbidden = _NO_DETACH

    def __init__(self) -> None:
        super().__init__()
        nn.init.zeros_(self.fc.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(x).tanh())


class DeadUnits(Small):
    """All units below their kink: constant around x."""

    forbidden = _NO_DETACH

    def __init__(self) -> None:
        super().__init__()
        nn.init.constant_(self.c.bias, -50.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.c(x)))


class SaturatedSigmoid(Small):
    """Derivatives of 1e-13 beside outputs of order one."""

    zero = 1e-20
    skip = frozenset({"assert_equivariant"})  # which divides 1e-13 by 1e-13

    forbidden = _NO_DETACH

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(30 + self.head(self.c(x).tanh()))


class ExactlyInvariant(Awkward):
    """Circular, pooled, linear: zero to rounding, and to be measured as that."""

    needed = EVERYWHERE
    generators = "translation"

    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Conv2d(3, 6, 3, padding=1, padding_mode="circular")

    def forward(self, x: Tensor) -> Tensor:
        return self.c(x).mean((2, 3))


class ExactlyInvariantThroughANonlinearity(ExactlyInvariant):
    """Of a linear invariant."""

    def forward(self, x: Tensor) -> Tensor:
        return self.c(x).mean((2, 3)).exp()


class ExactlyEquivariant(ExactlyInvariant):
    output = "NCHW"
    output_type = "output"

    def forward(self, x: Tensor) -> Tensor:
        return self.c(x)


class SumOfSquaresInvariant(ExactlyInvariant):
    """Parseval: periodic translations keep the energy."""

    def forward(self, x: Tensor) -> Tensor:
        return self.c(x).square().mean((2, 3))


class AlmostInvariantButCut(ExactlyInvariant):
    """A detach in what is invariant anyway: nothing is lost, and zero is right."""

    def forward(self, x: Tensor) -> Tensor:
        m = self.c(x).mean((2, 3))
        return m + m.square().detach()


class InvariantOnlyBecauseCut(ExactlyInvariant):
    """Looks invariant through autograd; the truth is not zero."""

    needed = frozenset()

    def forward(self, x: Tensor) -> Tensor:
        return self.c(x).mean((2, 3)) + pooled(self.c(x)).detach()


class Relu6Kinks(Small):
    """Many kinks, close to many of them."""

    needed = EVERYWHERE

    def __init__(self) -> None:
        super().__init__()
        self.b = nn.Sequential(
            nn.Conv2d(6, 16, 3, padding=1), nn.ReLU6(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU6(),
            nn.Conv2d(16, 6, 1), nn.Hardtanh(-0.1, 0.1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.c(3 * x)))


class ManyKinksPerStep(Small):
    """A saw of ten thousand teeth: the derivative is right between kinks a millionth apart."""

    right = "number"

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        return self.head(h + 1e-4 * (h * 3e3).sin())


class HighFrequency(Small):
    """Smooth and fast: float32 differences see noise only."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head((300 * self.c(x)).sin())


class MaximaWithTies(Small):
    """Every maximum is taken twice, by entries that move alike."""

    needed = MEASURING

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        h = torch.stack([h, h.clone()]).amax(0).tanh() + torch.maximum(h, h.clone())
        return self.head(h.clamp(min=h.clone()))


def _one_pixel_black() -> Tensor:
    x = photographs()
    x[:, :, 4, 4] = 0
    return x


class InfiniteSlope(Small):
    """√ with a sign, of a pixel that is zero."""

    images = staticmethod(_one_pixel_black)
    right = "refusal"
    forbidden = _NO_DETACH

    def forward(self, x: Tensor) -> Tensor:
        p = x[:, :1, 4, 4]
        return self.head(self.c(x).tanh()) + p.sign() * p.abs().sqrt()


class SquareRootAtZero(Small):
    """√ of a difference that is zero for all images: constant, but 0 · ∞ to the chain rule."""

    forbidden = _NO_DETACH

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.c(x)).mean((2, 3)) + (x[:, :1, 0, 0] - x[:, :1, 0, 0]).sqrt())


class NormOfAZeroVector(Small):
    """|v| at v = 0 for the black image, which does not move: 0/0 to the chain rule."""

    images = staticmethod(lambda: torch.cat([_black()[:1], photographs()[1:]]))
    zero = 1e-9
    forbidden = _NO_DETACH

    def forward(self, x: Tensor) -> Tensor:
        n = x.square().sum((1, 2, 3)).sqrt()
        return self.head(self.c(x).tanh()) * (1 + n[:, None])


class LogOfZero(Small):
    """Minus infinity in one logit."""

    right = "refusal"
    forbidden = _NO_DETACH

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(self.c(x).tanh())
        return torch.cat([y[:, :4], (0 * y[:, 4:]).log()], 1)


class NaNForTheSecondImage(Small):
    """The first image says nothing about the second."""

    right = "refusal"
    forbidden = _NO_DETACH

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(x).tanh()) * (x.mean((1, 2, 3)) + 0.1).sqrt()[:, None]


class WhereTrap(Small):
    """A square root on both sides of a `where`: right values, NaN derivatives."""

    forbidden = _NO_DETACH

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.c(x))
        return self.head(torch.where(h > 0, h.sqrt(), torch.zeros_like(h)) * (h > 0.05))


class VeryDeep(Small):
    """Sixty layers, residual."""

    needed = MEASURING

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Conv2d(6, 6, 3, padding=1, groups=3) for _ in range(60))

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        for block in self.blocks:
            h = h + 0.3 * block(F.gelu(h))
        return self.head(h)


class Vanishing(Small):
    """Fourteen layers without residuals: derivatives of 1e-7, and they are meant."""

    step = 1e-3
    skip = frozenset({"penalty"})  # differences of it drown
    forbidden = _NO_DETACH

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Conv2d(6, 6, 3, padding=1) for _ in range(14))

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        for block in self.blocks:
            h = 0.5 * block(h.tanh())
        return self.head(h)


class Exploding(Small):
    """A chaotic recursion: derivatives of 1e6, float32 and float64 part ways."""

    tolerance = 0.05

    def forward(self, x: Tensor) -> Tensor:
        h = self.head(self.c(x)).sigmoid()
        for _ in range(18):
            h = 3.9 * h * (1 - h)
        return h


class AbsoluteValueOfACentredFeature(Small):
    """A kink that the first image sits on exactly."""

    images = staticmethod(lambda: torch.cat([_black()[:1], photographs()[1:]]))
    forbidden = _NO_DETACH

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(pooled(F.conv2d(x, self.c.weight, padding=1).abs()))


class RaisesOnTheSecondCall(Small):
    """Any error of the network's own."""

    right = "refusal"
    skip = frozenset({"reversed"})

    def forward(self, x: Tensor) -> Tensor:
        raise LookupError("no such table")


class RefusesVmap(Small):
    """Data-dependent control flow: one tangent at a time."""

    needed = MEASURING

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        rows = [r.tanh() if float(r.detach().sum()) > 0 else r.sin() for r in h]
        return self.head(torch.stack(rows))


class RefusesBatchesOfOne(Small):
    """As batch norm in training does."""

    def forward(self, x: Tensor) -> Tensor:
        if len(x) < 2:
            raise ValueError("expected more than one value per channel")
        return self.head(self.c(x).tanh())

    def smooth(self, x: Tensor) -> Tensor:
        return self.head(self.c(x).tanh())


class RefusesOtherBatchesThanTwo(RefusesBatchesOfOne):
    """A fixed batch, as exported graphs have."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if len(x) == 2 else x.new_zeros(()).view(3)


class RefusesTensorsWithTangents(Small):
    """Looks whether somebody differentiates, and takes the fast path if not."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        if not x.requires_grad:
            h = h.detach()
        return self.head(h.tanh())


class OtherValuesWhenDifferentiated(Small):
    """Another approximation when gradients are asked for, as fused kernels have."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        return self.head(h.tanh() if x.requires_grad else h / (1 + h.abs()))


class OtherValuesUnderNoGrad(Small):
    """A fast path that is another function; which is meant depends on who asks."""

    right = "number"

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        return self.head(h.tanh() if torch.is_grad_enabled() else h.tanh() * (1 + 1e-7))
