"""Something is switched on around the call: autocast, no_grad, another default dtype."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..awkward import EVERYWHERE, MEASURING, Awkward, Small
from .forces import _Field


class _Around(Small):
    needed = EVERYWHERE

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(x).tanh())


class UnderAutocast(_Around):
    def ambient(self) -> AbstractContextManager[Any]:
        return torch.autocast("cpu", dtype=torch.bfloat16)


class EquivariantUnderAutocast(Awkward):
    """Zero to rounding; not to that of bfloat16."""

    needed = MEASURING
    generators = "translation"

    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Conv2d(3, 6, 3, padding=1, padding_mode="circular")

    def forward(self, x: Tensor) -> Tensor:
        return self.c(x).mean((2, 3))

    def ambient(self) -> AbstractContextManager[Any]:
        return torch.autocast("cpu", dtype=torch.bfloat16)


class UnderNoGrad(_Around):
    needed = MEASURING

    def ambient(self) -> AbstractContextManager[Any]:
        return torch.no_grad()


class UnderInferenceMode(_Around):
    needed = MEASURING

    def ambient(self) -> AbstractContextManager[Any]:
        return torch.inference_mode()


class BlindUnderNoGrad(Small):
    """Something to find, with gradients off around it."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        return self.head(h + h.square().detach())

    def ambient(self) -> AbstractContextManager[Any]:
        return torch.no_grad()


class ForcesUnderNoGrad(_Field):
    """A force field asked by a validation loop: needs gradients itself."""

    def forward(self, c: Any) -> Tensor:
        with torch.enable_grad():
            pos = c.pos if c.pos.requires_grad else c.pos.requires_grad_(True)
            return -torch.autograd.grad(self.energy(pos, c), pos, create_graph=True)[0]

    def ambient(self) -> AbstractContextManager[Any]:
        return torch.no_grad()


class ForcesUnderInferenceMode(ForcesUnderNoGrad):
    def ambient(self) -> AbstractContextManager[Any]:
        return torch.inference_mode()


class UnderDefaultDtypeFloat64(_Around):
    @contextmanager
    def ambient(self) -> Iterator[None]:
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(torch.float32)


class MakesTensorsUnderDefaultDtypeFloat64(Small):
    """Zeros of the default dtype: float64 there, which promotes everything."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x).tanh() + torch.zeros(1)
        return self.head(h.to(self.fc.weight.dtype))

    @contextmanager
    def ambient(self) -> Iterator[None]:
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(torch.float32)


class WarningsAreErrors(_Around):
    """As in a test suite: a warning must be a message, not an accident."""

    @contextmanager
    def ambient(self) -> Iterator[None]:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield


class DeterministicAlgorithms(_Around):
    @contextmanager
    def ambient(self) -> Iterator[None]:
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(False)


class UnderAnomalyDetection(_Around):
    def ambient(self) -> AbstractContextManager[Any]:
        return torch.autograd.set_detect_anomaly(True)


class UnderChosenAttentionKernel(Small):
    """The user asked for flash attention."""

    def __init__(self) -> None:
        super().__init__(8)
        self.qkv = nn.Linear(8, 24)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.c(x).flatten(2).mT).unflatten(2, (3, 1, 8)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v)[:, 0]
        return self.head(y.mT.unflatten(2, x.shape[2:]))

    def ambient(self) -> AbstractContextManager[Any]:
        return sdpa_kernel(SDPBackend.FLASH_ATTENTION)


class ChoosesItsAttentionKernel(UnderChosenAttentionKernel):
    """The same inside the network: flash attention has no forward mode."""

    def forward(self, x: Tensor) -> Tensor:
        with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]):
            return super().forward(x)

    def ambient(self) -> AbstractContextManager[Any]:
        return torch.enable_grad()


class InsideTheUsersOwnJvp(_Around):
    """A dual level is open around the call."""

    needed = frozenset()

    def ambient(self) -> AbstractContextManager[Any]:
        return torch.autograd.forward_ad.dual_level()


class WithSavedTensorsHooks(_Around):
    needed = MEASURING

    def ambient(self) -> AbstractContextManager[Any]:
        return torch.autograd.graph.save_on_cpu()


class UnderAFunctionMode(_Around):
    """A `TorchFunctionMode` of the user's, that looks on."""

    needed = MEASURING

    def ambient(self) -> AbstractContextManager[Any]:
        return _LooksOn()


class _LooksOn(torch.overrides.TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))
