"""Tangents that torch drops without a word: all of them, or those of one branch beside a skip."""

from __future__ import annotations

import copy
import io
import math

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from ..awkward import Small, pooled

_LIB = torch.library.Library("liederiv_gauntlet", "DEF")
_LIB.define("swish(Tensor x) -> Tensor")
_LIB.impl("swish", lambda x: x * x.sigmoid(), "CPU")


@torch.library.custom_op("liederiv_gauntlet::cube", mutates_args=())
def cube(x: Tensor) -> Tensor:
    """A custom operator with a backward formula only."""
    return x**3


cube.register_autograd(
    lambda ctx, g: g * 3 * ctx.saved_tensors[0] ** 2,
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(inputs[0]),
)


class CustomOperatorWithoutAutograd(Small):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.ops.liederiv_gauntlet.swish(self.c(x)))


class CustomOperatorBesideASkip(Small):
    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        return self.head(h.tanh() + torch.ops.liederiv_gauntlet.swish(h))


class CustomOperatorWithBackwardOnly(Small):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(cube(self.c(x)))


class _Deformable(Small):
    def __init__(self) -> None:
        super().__init__()
        self.o = nn.Conv2d(6, 18, 3, padding=1)
        self.m = nn.Conv2d(6, 9, 3, padding=1)
        self.w = nn.Parameter(torch.randn(6, 6, 3, 3) * 0.2)

    def deform(self, h: Tensor, mask: bool = False) -> Tensor:
        m = self.m(h).sigmoid() if mask else None
        return torchvision.ops.deform_conv2d(h, self.o(h), self.w, padding=1, mask=m)


class DeformableConvolution(_Deformable):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.deform(self.c(x).tanh()))


class DeformableConvolutionBesideASkip(_Deformable):
    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x).tanh()
        return self.head(h + self.deform(h, mask=True))


class RoiAlignOfFixedBoxes(Small):
    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x).tanh()
        boxes = [torch.tensor([[1.3, 0.7, 6.1, 7.9]], dtype=x.dtype)] * len(x)
        return self.head(torchvision.ops.roi_align(h, boxes, 4, sampling_ratio=2))


class RoiAlignBesideASkip(Small):
    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x).tanh()
        boxes = [torch.tensor([[1.3, 0.7, 6.1, 7.9]], dtype=x.dtype)] * len(x)
        crop = torchvision.ops.roi_align(h, boxes, 4, sampling_ratio=2)
        return self.head(crop) + self.head(h)


class RoiAlignOfBoxesThatMove(Small):
    """No derivative reaches the boxes."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x).tanh()
        at = 3 + pooled(h)[:, :2]
        boxes = list(torch.cat([at, at + 3.1], 1)[:, None])
        return self.head(torchvision.ops.roi_align(h, boxes, 4, sampling_ratio=2))


class PositionSensitiveRoiAlign(Small):
    def __init__(self) -> None:
        super().__init__(24)
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x).tanh()
        boxes = [torch.tensor([[1.3, 0.7, 6.1, 7.9]], dtype=x.dtype)] * len(x)
        crop = torchvision.ops.ps_roi_align(h, boxes, 2, sampling_ratio=2)
        return self.head(crop) + self.head(h[:, :6]) * 0.5


class RoiPoolBesideASkip(Small):
    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x).tanh()
        boxes = [torch.tensor([[1.0, 0.0, 6.0, 7.0]], dtype=x.dtype)] * len(x)
        return self.head(torchvision.ops.roi_pool(h, boxes, 3)) + self.head(h)


class NonMaximumSuppression(Small):
    """Indices are piecewise constant, the scores behind them are not."""

    def forward(self, x: Tensor) -> Tensor:
        rows = []
        for h in self.c(x).sigmoid():
            scores = h[0, ::3, ::3].flatten()
            corner = torch.arange(16, dtype=x.dtype)[:, None] * torch.tensor([0.6, 0.4]).to(x)
            boxes = torch.cat([corner, corner + 2], 1)
            kept = torchvision.ops.nms(boxes, scores, 0.3)
            rows.append(scores[kept[:3]].sum() * h.mean((1, 2)))
        return self.fc(torch.stack(rows))


class DetachOfEverything(Small):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(x).detach().tanh())


class DetachOfOneBranch(Small):
    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        return self.head(h + (h**2).detach())


class DetachOfAGate(Small):
    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        return self.head(h * h.mean((2, 3), keepdim=True).detach().sigmoid())


class DetachOfTheStatistics(Small):
    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        std, mean = torch.std_mean(h.detach(), (1, 2, 3), keepdim=True)
        return self.head((h - mean) / std)


class DetachOfTheSoftmaxMaximum(Small):
    """Harmless: the maximum cancels."""

    needed = frozenset({"lie_derivative", "measure", "metric", "assert_equivariant"})

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(self.c(x))
        e = (y - y.detach().amax(1, keepdim=True)).exp()
        return e / e.sum(1, keepdim=True)


class DetachUnderscore(Small):
    def forward(self, x: Tensor) -> Tensor:
        g = self.c(x) * 1
        gate = g.sigmoid()
        gate.detach_()
        return self.head(g * gate)


class DetachOnlyOfDarkImages(Small):
    """The first image is differentiated, the second is not."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        bright = x.mean((1, 2, 3), keepdim=True) > 0
        return self.head(torch.where(bright, h, h.detach()).tanh())


class DetachOfOneLogit(Small):
    """One class of five stands still."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(self.c(x).tanh())
        return torch.cat([y[:, :4], y[:, 4:].detach()], 1)


class DetachOfLargeValuesOnly(Small):
    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        return self.head(torch.where(h.abs() > 0.6, h.detach(), h))


class DetachedSamplingPositions(Small):
    def __init__(self) -> None:
        super().__init__()
        self.o = nn.Conv2d(6, 2, 3, padding=1)

    def grid(self, h: Tensor) -> Tensor:
        eye = torch.eye(2, 3, dtype=h.dtype).expand(len(h), 2, 3)
        base = F.affine_grid(eye, list(h.shape), align_corners=False)
        return base + 0.4 * self.o(h).tanh().permute(0, 2, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x).tanh()
        return self.head(F.grid_sample(h, self.grid(h).detach(), align_corners=False))


class DetachedSpatialTransformer(Small):
    """The pose is found from a detached map, then the image is turned by it."""

    def forward(self, x: Tensor) -> Tensor:
        a = 0.5 * pooled(self.c(x).detach())[:, 0].tanh()
        theta = torch.stack([a.cos(), -a.sin(), 0 * a, a.sin(), a.cos(), 0 * a], 1)
        grid = F.affine_grid(theta.reshape(-1, 2, 3), list(x.shape), align_corners=False)
        return self.head(self.c(F.grid_sample(x, grid, align_corners=False)).tanh())


class NumpyRoundTrip(Small):
    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        return self.head(torch.from_numpy(h.detach().cpu().numpy() ** 2))


class NumpyRoundTripBesideASkip(Small):
    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        return self.head(h + torch.from_numpy(h.detach().cpu().numpy() ** 2))


class NumpyScaleFactor(Small):
    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        scale = torch.as_tensor([float(v.detach().numpy().std()) for v in h], dtype=h.dtype)
        return self.head(h.tanh() / scale[:, None, None, None])


class InferenceModeInside(Small):
    def forward(self, x: Tensor) -> Tensor:
        with torch.inference_mode():
            h = self.c(x).tanh()
        return self.head(h.clone())


class InferenceModeInABranch(Small):
    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        with torch.inference_mode():
            gate = h.mean((2, 3), keepdim=True).sigmoid()
        return self.head(h * gate.clone())


class NoGradInside(Small):
    """Forward mode passes through it, reverse mode does not."""

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        return self.c(x).tanh()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class NoGradInABranch(Small):
    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        with torch.no_grad():
            gate = h.mean((2, 3), keepdim=True).sigmoid()
        return self.head(h * gate)


class NoGradAroundEverything(Small):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(x).tanh())


class DataAttribute(Small):
    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        return self.head(h + h.data.square())


class TensorOfAList(Small):
    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        return self.head(h + torch.tensor((h**2).tolist(), dtype=h.dtype))


class ItemAsScaleFactor(Small):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.head(h[None] / h.abs().mean().item())[0] for h in self.c(x)])


class SavedAndLoaded(Small):
    def forward(self, x: Tensor) -> Tensor:
        h, file = self.c(x), io.BytesIO()
        torch.save((h**2).detach(), file)
        file.seek(0)
        return self.head(h + torch.load(file))


class DeepCopyOfAnActivation(Small):
    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        return self.head(h + copy.deepcopy(h.detach()) ** 2)


class ThroughDlpack(Small):
    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        return self.head(h + torch.from_dlpack((h**2).detach()))


class ThroughPythonMath(Small):
    def forward(self, x: Tensor) -> Tensor:
        y = self.head(self.c(x))
        rows = [[math.tanh(v) for v in row] for row in y.tolist()]
        return torch.tensor(rows, dtype=y.dtype)


class Rounding(Small):
    """Derivative zero almost everywhere, and steps: no number says that."""

    right = "refusal"

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.c(x) * 8).round() / 8)


class StraightThroughRounding(Small):
    """Autograd says the identity, the function is a staircase."""

    right = "refusal"

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        return self.head(h + ((h * 8).round() / 8 - h).detach())


class FakeQuantised(Small):
    right = "refusal"

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.fake_quantize_per_tensor_affine(self.c(x), 0.1, 0, -128, 127))


class FinelyQuantisedInput(Small):
    """Eight-bit images: tiny steps see nothing, larger ones see the staircase."""

    right = "refusal"

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c((x * 64).round() / 64).tanh())


class StraightThroughBesideASkip(Small):
    """The derivative of the skip is right, that of the staircase is not there."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        return self.head(h.tanh() + h + (h.round() - h).detach())


class HardThreshold(Small):
    right = "refusal"

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.c(x) > 0).to(x.dtype))


class SignOfEverything(Small):
    right = "refusal"

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(x).sign())


class OneHotOfTheArgmax(Small):
    """The bias decides: the same class for all images, and for noise; zero is right."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(self.c(x))
        return F.one_hot(y.argmax(1), 5).to(y.dtype)


class OneHotOfAnUndecidedArgmax(Small):
    """Other images, other classes: constant between jumps."""

    right = "refusal"

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(self.c(x)) - self.fc.bias
        return F.one_hot(y.argmax(1), 5).to(y.dtype)


class HistogramOfBrightness(Small):
    right = "refusal"

    def forward(self, x: Tensor) -> Tensor:
        rows = [torch.histc(v.detach(), 5, -3, 3) for v in self.c(x)]
        return torch.stack(rows) / x[0].numel() + 0 * self.fc.bias


class ArgmaxDecidesTheBranch(Small):
    """Almost everywhere the derivative of the chosen branch."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        first = h.mean((2, 3)).argmax(1) % 2 == 0
        return self.head(torch.where(first[:, None, None, None], h.tanh(), 2 * h.sin()))
