"""Is a model, its input and the process as they were before a call?"""

from __future__ import annotations

import copy
import pickle
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .fields import leaves_of


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a.nan_to_num(), b.nan_to_num())


def _attributes(net: nn.Module) -> dict[str, Tensor]:
    """Tensors that modules hold as plain attributes."""
    return {
        f"{name}.{key}": value
        for name, module in net.named_modules()
        for key, value in vars(module).items()
        if isinstance(value, Tensor)
    }


def _copies(net: nn.Module) -> bool:
    try:
        copy.deepcopy(net)
    except Exception:  # locks, generators, weight norm: anything
        return False
    return True


def _process() -> dict[str, Any]:
    return {
        "torch's random state": torch.get_rng_state().tolist(),
        "NumPy's random state": np.random.get_state()[1].tolist(),
        "Python's random state": random.getstate(),
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "default dtype": torch.get_default_dtype(),
        "fast path": torch.backends.mha.get_fastpath_enabled(),
        "math attention": torch.backends.cuda.math_sdp_enabled(),
        "flash attention": torch.backends.cuda.flash_sdp_enabled(),
        "mkldnn": torch.backends.mkldnn.enabled,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


@dataclass(frozen=True)
class Snapshot:
    """Everything that a measurement must leave alone."""

    state: dict[str, Tensor]
    attributes: dict[str, Tensor]
    modes: dict[str, bool]
    wants: dict[str, bool]
    hooks: dict[str, int]
    copies: bool
    leaves: list[Tensor]
    grads: list[bool]
    process: dict[str, Any]

    @classmethod
    def of(cls, net: nn.Module, x: Any) -> Snapshot:
        """Look at a network and its input."""
        return cls(
            {k: v.detach().clone() for k, v in net.state_dict().items()},
            {k: v.detach().clone() for k, v in _attributes(net).items()},
            {k: m.training for k, m in net.named_modules()},
            {k: p.requires_grad for k, p in net.named_parameters()},
            {k: _hooks(m) for k, m in net.named_modules()},
            _copies(net),
            [v.detach().clone() for v in leaves_of(x)],
            [v.requires_grad for v in leaves_of(x)],
            _process(),
        )

    def changes(self, net: nn.Module, x: Any, *, grows: bool = False) -> list[str]:
        """What is different now, in words; new tensors are none where the network ``grows``."""
        found = self._tensors("state", self.state, dict(net.state_dict()))
        found += self._tensors("attribute", self.attributes, _attributes(net))
        # A tensor that the network's own call leaves behind is no harm if it can be copied.
        found = [f for f in found if not f.endswith("is new") or (f[:5] == "state" and not grows)]
        for what, before, now in (
            ("mode", self.modes, {k: m.training for k, m in net.named_modules()}),
            ("requires_grad", self.wants, {k: p.requires_grad for k, p in net.named_parameters()}),
            ("hooks", self.hooks, {k: _hooks(m) for k, m in net.named_modules()}),
            ("process", self.process, _process()),
        ):
            found += [f"{what} {k}" for k in before if before[k] != now.get(k)]
        found += [f"gradient of {k}" for k, p in net.named_parameters() if p.grad is not None]
        if self.copies and not _copies(net):
            found.append("deepcopy fails")
        for value in _attributes(net).values():
            try:
                pickle.dumps(value)
            except Exception as error:  # whatever pickle stumbles over
                found.append(f"pickle fails: {type(error).__name__}")
        for before, wants, now in zip(self.leaves, self.grads, leaves_of(x), strict=True):
            if (
                not _same(before, now.detach())
                or now.requires_grad != wants
                or now.grad is not None
            ):
                found.append("the input")
        return found

    @staticmethod
    def _tensors(what: str, before: dict[str, Tensor], now: dict[str, Tensor]) -> list[str]:
        found = [f"{what} {k} is new" for k in now if k not in before]
        found += [f"{what} {k} is gone" for k in before if k not in now]
        return found + [f"{what} {k}" for k in before if k in now and not _same(before[k], now[k])]


def _hooks(module: nn.Module) -> int:
    return len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks)
