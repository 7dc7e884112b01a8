"""Cuts that hide: behind kinks, jumps, noise, offsets, another image, a larger response."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..awkward import Awkward, Small, photographs, pooled


class StaircaseHidesADetach(Small):
    """A fine staircase makes the response to noise look huge, beside which nothing is missed."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x).detach().tanh()
        return self.head(h) + 1e-3 * pooled((x * 512).round())[:, :1]


class StaircaseHidesAPartialDetach(Small):
    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        return self.head(h.tanh() + h.square().detach()) + 1e-4 * pooled((x * 512).round())[:, :1]


class StaircaseWithAStraightThroughEstimate(Small):
    """Sixteen bits, as fine as half precision: the smooth function is what is meant."""

    def smooth(self, x: Tensor) -> Tensor:
        return self.head(self.c(x).tanh())

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x).tanh()
        q = (h * 32768).round() / 32768
        return self.head(h + (q - h).detach())


def _zeros_between() -> Tensor:
    x = photographs()
    x[..., ::2, ::2] = 0
    return x


class KinkHidesADetach(Small):
    """|x| at pixels that are zero and move: both derivatives are zero there, the slopes are not."""

    images = staticmethod(_zeros_between)
    kink, cut = 0.03, 0.03

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        y = self.head(h.tanh() + self.cut * h.square().detach())
        return y + self.kink * pooled(x.abs())[:, :1]


class LargerKinkHidesADetach(KinkHidesADetach):
    kink, cut = 0.06, 0.06


class SmallKinkHidesASmallDetach(KinkHidesADetach):
    kink, cut = 0.015, 0.02


class NearlyInvariantAndCut(Awkward):
    """What breaks the symmetry is a thousandth of the response to noise, and it is cut."""

    generators = "translation"
    share = 1e-3

    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Conv2d(3, 6, 3, padding=1, padding_mode="circular")

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        return h.mean((2, 3)) + self.share * pooled(h.tanh()).detach()


class NearlyInvariantAndPartlyCut(NearlyInvariantAndCut):
    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        y = pooled(h.tanh())
        return h.mean((2, 3)) + self.share * (y + y.square().detach())


class NearlyInvariantByAMiddlingShare(NearlyInvariantAndCut):
    share = 5e-3


class _Float32(Small):
    """Float32 inside, a cut, and an offset in which differences drown."""

    tolerance = 0.05
    offset = 0.0

    def smooth(self, x: Tensor) -> Tensor:
        h = self.c(x)
        return self.head(h.tanh() + 0.3 * h.square()) + self.offset

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x.to(self.c.weight.dtype)).float()
        y = self.head((h.tanh() + 0.3 * h.square().detach()).to(self.fc.weight.dtype))
        return y.float() + self.offset


class Float32AndADetach(_Float32):
    """Without an offset."""


class Float32AndADetachBehindAnOffset(_Float32):
    offset = 100.0


class Float32AndADetachBehindALargeOffset(_Float32):
    offset = 3000.0
    tolerance = 0.1  # rounding of the output alone is some per cent of a difference


class CutFarFromTheFirstImage(Small):
    """Only images of large contrast are cut; the first one has little."""

    images = staticmethod(
        lambda: photographs(3) * torch.tensor([0.2, 0.3, 3.0])[:, None, None, None]
    )

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        strong = x.std((1, 2, 3), keepdim=True) > 1
        return self.head(torch.where(strong, h.detach(), h).tanh())


MIDDLE = float(photographs(9, (6, 6))[4].mean())


class CutInTheLastOfManyImages(Small):
    """The ninth of nine."""

    images = staticmethod(lambda: photographs(9, (6, 6)))

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        dark = x.mean((1, 2, 3), keepdim=True) < -0.35
        return self.head(torch.where(dark, h.detach(), h).tanh())


class CutInTheMiddleOfManyImages(Small):
    """Five of nine are looked at, and this is none of them."""

    images = staticmethod(lambda: photographs(9, (6, 6)))

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        mean = x.mean((1, 2, 3), keepdim=True)
        return self.head(torch.where((mean - MIDDLE).abs() < 1e-3, h.detach(), h).tanh())


class CutWhereUnitsAreActive(Small):
    """ReLU by hand, whose backward is forgotten for large values; none is large at first.

    At the second image too little is missing for a glance.
    """

    images = staticmethod(lambda: photographs() * torch.tensor([0.3, 1.5])[:, None, None, None])

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        return self.head(torch.where(h > 1, 1 + (h - 1).detach() * 0.5, F.relu(h)))


class OppositeErrorsCancelInTheSum(Small):
    """One logit has too much, another too little, along every direction alike."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(self.c(x).tanh())
        wrong = y[:, :1] - y[:, :1].detach()  # zero in value, y's derivative in the tangent
        return torch.cat([y[:, :1] + wrong, y[:, 1:2] - wrong, y[:, 2:]], 1)


class TangentWithoutAValue(Small):
    """x − x.detach() scaled: changes no output, changes every derivative."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        return self.head(h.tanh() + 2 * (h - h.detach()))


class OnlyRotationIsCut(Small):
    """The radius-weighted energy is detached: translations in a periodic world hardly move it."""

    generators = "translation,rotation"

    def forward(self, x: Tensor) -> Tensor:
        energy = x.square().mean((1, 2, 3))[:, None].detach()
        return self.head(self.c(x).tanh()) * (1 + 3 * energy)
