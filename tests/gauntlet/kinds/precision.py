"""Float32 hard-coded, half inside, complex weights: what a cast to float64 does not reach."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..awkward import MEASURING, Awkward, Small


class _Float32(Small):
    """Float32 somewhere inside whatever the input is; the truth is computed without."""

    def inner(self, x: Tensor) -> Tensor:
        return self.head(self.c(x).tanh())

    def smooth(self, x: Tensor) -> Tensor:
        return self.inner(x)


class FloatMethodInside(_Float32):
    needed = MEASURING

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x.to(self.c.weight.dtype)).float().tanh()
        return self.head(h.to(self.fc.weight.dtype))


class CastToFloat32AtTheDoor(_Float32):
    """Runs in float32 only; a float64 copy of it fails or is none."""

    needed = MEASURING

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.to(torch.float32))


class ZerosOfTheDefaultDtype(_Float32):
    """`torch.zeros` without a dtype, written into."""

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(len(x), 6, 10, 10)
        h[:] = self.c(x).tanh()
        return self.head(h.to(self.fc.weight.dtype))


class Float32WithADetach(_Float32):
    """Something to find, where float64 finds nothing."""

    def smooth(self, x: Tensor) -> Tensor:
        h = self.c(x)
        return self.head(h + h.square())

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x.to(self.c.weight.dtype)).float()
        return self.head((h + h.square().detach()).to(self.fc.weight.dtype))


class Float32WithAQuietDetach(_Float32):
    """A tenth of the derivative is cut, in float32 alone."""

    def smooth(self, x: Tensor) -> Tensor:
        h = self.c(x)
        return self.head(h + 0.15 * h.square())

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x.to(self.c.weight.dtype)).float()
        return self.head((h + 0.15 * h.square().detach()).to(self.fc.weight.dtype))


class HalfInside(_Float32):
    """Half precision in the middle: a derivative good to some per mille, or refused."""

    tolerance = 0.05

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x).half().tanh()
        return self.head(h.to(x.dtype))


class BfloatInside(_Float32):
    tolerance = 0.08

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(x).bfloat16().tanh().to(x.dtype))


class BfloatAutocastInside(_Float32):
    tolerance = 0.08

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            h = self.c(x).tanh()
        return self.head(h.to(self.fc.weight.dtype))


class BfloatAutocastWithADetach(_Float32):
    tolerance = 0.08

    def smooth(self, x: Tensor) -> Tensor:
        h = self.c(x)
        return self.head(h + h.square())

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            h = self.c(x)
        return self.head((h + h.square().detach()).to(self.fc.weight.dtype))


class HalfWeights(_Float32):
    """Stored in half, computed in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("w", torch.randn(6, 6, 1, 1).half())

    def inner(self, x: Tensor) -> Tensor:
        return self.head(F.conv2d(self.c(x), self.w.to(x.dtype)).tanh())

    def smooth(self, x: Tensor) -> Tensor:
        w = type(self).build().w.double()
        return self.head(F.conv2d(self.c(x), w).tanh())

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


class Float64Inside(Small):
    """Statistics in double, the rest in float."""

    needed = MEASURING

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        d = h.double()
        z = (d - d.mean((2, 3), keepdim=True)) / d.std((2, 3), keepdim=True)
        return self.head(z.to(h.dtype).tanh())


class Float64Output(Small):
    """Float32 images, float64 logits."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(x).tanh()).double().softmax(1)


class HalfOutput(_Float32):
    """The logits are rounded to half at the end."""

    tolerance = 0.05

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).half()


class PythonFloatThatPromotes(Small):
    """A zero-dimensional float64 tensor beside a float32 one."""

    needed = MEASURING

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        return self.head(torch.tensor(0.7, dtype=torch.float64) * h.tanh())


class LargeConstantsCancel(Small):
    """Float32 loses three digits of four where a large number is added and taken off."""

    tolerance = 0.05

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x).tanh()
        return self.head((h + 3000) - 3000)


class TinyOutputs(Small):
    """Logits of 1e-20: nothing must be compared with an absolute tolerance."""

    needed = MEASURING

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(x).tanh()) * 1e-20


class TinyOutputsWithADetach(Small):
    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        return self.head(h + h.square().detach()) * 1e-20


class HugeOutputs(Small):
    needed = MEASURING

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(x).tanh()) * 1e12


class LargeOffsetOnTheOutput(Small):
    """A thousand added to each logit: differences in float32 drown, derivatives do not."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(x).tanh()) + 1000


class TinyInputs(Small):
    """Pixels of 1e-6: a step that is no relative one is a leap."""

    needed = MEASURING
    images = staticmethod(lambda: 1e-6 * Small.images())

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(x * 1e6).tanh())


class HugeInputs(Small):
    """Pixels up to a million."""

    needed = MEASURING
    images = staticmethod(lambda: 1e6 * Small.images())

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(x / 1e6).tanh())


class DynamicallyQuantisedLinear(Small):
    """A staircase whose height moves with the image: almost everywhere the slope of that."""

    def forward(self, x: Tensor) -> Tensor:
        s = self.c(x).tanh().mean((2, 3))
        scale = s.detach().abs().amax(1, keepdim=True) / 7
        q = (s / scale).round() * scale
        return self.fc(q.detach())


class Float64Model(Awkward):
    """Everything in float64, input included."""

    needed = MEASURING
    images = staticmethod(lambda: Small.images().double())

    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Conv2d(3, 4, 3).double()
        self.fc = nn.Linear(4 * 64, 5).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.c(x).sin().flatten(1))
