"""Side effects: what an operation writes is read through another name than what it returns."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.functional import elu as imported_by_name

from ..awkward import EVERYWHERE, Awkward, Small


class ReluReadThroughItsArgument(Small):
    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        F.relu(h, inplace=True)
        return self.head(h)


class ReluWithPositionalInplace(Small):
    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        F.relu(h, True)
        return self.head(h)


class ReluOnAViewReadThroughTheBase(Small):
    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        F.relu(h.flatten(2), inplace=True)
        return self.head(h)


class ReluOnTheBaseReadThroughAView(Small):
    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        v = h.flatten(2)
        F.relu(h, inplace=True)
        return self.head(v.unflatten(2, h.shape[2:]))


class ReluOnHalfOfTheChannels(Small):
    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        F.relu(h[:, ::2], inplace=True)
        return self.head(h)


class ReluOnAnElementOfAList(Small):
    def forward(self, x: Tensor) -> Tensor:
        acts = [self.c(x), x]
        F.relu(acts[0], inplace=True)
        return self.head(acts[0])


class ReluUnderscoreMethod(Small):
    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        h.relu_()
        return self.head(h)


class TorchReluUnderscore(Small):
    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        torch.relu_(h)
        return self.head(h)


class FunctionalReluUnderscore(Small):
    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        F.relu_(h)
        return self.head(h)


class InplaceModuleWithUnusedResult(Small):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        self.act(h)
        return self.head(h)


class InplaceSiluModuleUnderAResidual(Small):
    """The residual reads what the activation has overwritten."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        return self.head(h * 0.5 + self.act(h))


class OrdinaryInplaceSequential(Awkward):
    """What thousands of published networks look like."""

    needed = EVERYWHERE

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.ReLU6(inplace=True),
            nn.Conv2d(6, 6, 3, stride=2, padding=1), nn.Hardswish(inplace=True),
            nn.Dropout(0.3, inplace=True),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class EveryActivationInPlace(Small):
    """Positional and keyword spellings, each read through the argument."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        acts = [h * k for k in (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 1.1, 1.2, 1.3, 1.4)]
        F.hardtanh(acts[0], -0.2, 0.3, True)
        F.elu(acts[1], 1.0, True)
        F.leaky_relu(acts[2], 0.1, True)
        F.silu(acts[3], True)
        F.selu(acts[4], inplace=True)
        F.celu(acts[5], 1.0, True)
        F.threshold(acts[6], 0.1, -0.2, True)
        F.relu6(acts[7], True)
        F.hardswish(acts[8], True)
        F.mish(acts[9], True)
        return self.head(sum(acts))


class EluImportedByName(Small):
    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        imported_by_name(h, 1.0, True)
        return self.head(h)


class PartialOfAnInplaceFunction(Small):
    def __init__(self) -> None:
        super().__init__()
        self.act = partial(F.leaky_relu, negative_slope=0.3, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        self.act(h)
        return self.head(h)


class _Frozen(Small):
    """Without trainable weights, so that ``out=`` is allowed."""

    def __init__(self) -> None:
        super().__init__()
        self.requires_grad_(False)


class OutArgumentOnItself(_Frozen):
    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        torch.tanh(h, out=h)
        return self.head(h)


class OutArgumentIntoNewMemory(_Frozen):
    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        y = torch.empty_like(h)
        torch.mul(h, h, out=y)
        return self.head(h + y)


class ScratchBufferKept(_Frozen):
    """A preallocated buffer that is written on every call, by one image after another."""

    def __init__(self) -> None:
        super().__init__()
        self.scratch = torch.zeros(6, 10, 10)

    def forward(self, x: Tensor) -> Tensor:
        scratch = self.scratch.to(x)
        rows = []
        for h in self.c(x):
            torch.tanh(h, out=scratch)
            rows.append(scratch * h)
        return self.head(torch.stack(rows))


class InplaceAddOfASkip(Small):
    needed = EVERYWHERE

    def __init__(self) -> None:
        super().__init__()
        self.d = nn.Conv2d(6, 6, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        y = self.d(F.gelu(h))
        y += h
        return self.head(y.tanh())


class MulUnderscoreByAGate(Small):
    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        gate = h.mean((2, 3), keepdim=True).sigmoid()
        h.mul_(gate)
        return self.head(h)


class ClampUnderscore(Small):
    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        v = h[:, 1:4]
        v.clamp_(-0.2, 0.3)
        return self.head(h)


class CopyUnderscoreIntoZeros(Small):
    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        y = torch.zeros(h.shape, dtype=h.dtype)
        y[:, :3].copy_(h[:, 3:].tanh())
        y[:, 3:] += h[:, :3]
        return self.head(y)


class IndexPutUnderscore(Small):
    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x) + 0
        h.index_put_((torch.arange(len(h))[:, None], torch.tensor([0, 2])), h[:, :2] ** 2)
        return self.head(h)


class MaskedFillUnderscore(Small):
    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        h.masked_fill_(h < 0.1, 0.1)
        return self.head(h)


class BooleanMaskAssignment(Small):
    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        h[h < 0] *= 0.2
        return self.head(h)


class SlicesAssigned(Small):
    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        h[..., ::2, :] = 0.0
        h[:, 0] = h[:, 1] * h[:, 2]
        return self.head(h)


class ScatterAddUnderscore(Small):
    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x).flatten(2)
        where = (torch.arange(h.shape[2]) // 7).expand_as(h)
        y = h.new_zeros(*h.shape[:2], 16).scatter_add_(2, where, h.tanh())
        return self.fc((y * torch.arange(16)).mean(2))


class WritesOnItsInput(Small):
    """What the caller passes in is changed; a measurement must not show it."""

    def forward(self, x: Tensor) -> Tensor:
        x.mul_(0.7)
        F.leaky_relu(x, 0.2, inplace=True)
        return self.head(self.c(x))


class StandardisesItsInputInPlace(Small):
    def forward(self, x: Tensor) -> Tensor:
        x -= x.mean((1, 2, 3), keepdim=True)
        x /= x.std((1, 2, 3), keepdim=True)
        return self.head(self.c(x))


class WritesThroughADetachedAlias(Small):
    """The value is doubled where no derivative looks."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        h.detach().mul_(2)
        return self.head(h)


class WritesThroughData(Small):
    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        h.data.clamp_(min=0)
        return self.head(h)


class WritesThroughNumpy(Small):
    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        array = h.detach().numpy()
        array[:] = array * abs(array)
        return self.head(h)


class WritesUnderNoGrad(Small):
    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        with torch.no_grad():
            h.mul_(h.sigmoid())
        return self.head(h)


class HookThatWritesOnTheOutput(Small):
    def __init__(self) -> None:
        super().__init__()
        self.c.register_forward_hook(_sharpen)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(x))


def _sharpen(module: nn.Module, inputs: Any, output: Tensor) -> None:
    output.mul_(output.detach().sigmoid())


class AddcmulAndLerpUnderscore(Small):
    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        y = h.clone()
        y.addcmul_(h, h, value=0.5)
        y.lerp_(h.sin(), 0.3)
        return self.head(y)


class SwapsStorageWithSet(_Frozen):
    """`set_` makes a tensor look at another one's memory."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        y = h.tanh()
        z = torch.empty(0, dtype=h.dtype).set_(y.untyped_storage(), 0, y.shape, y.stride())
        return self.head(z + 0.3 * h)
