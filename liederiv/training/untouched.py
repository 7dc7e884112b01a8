"""Measure a model in the middle of its training and leave no trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

__all__ = ["plain_model", "untouched"]


def plain_model(model: Any) -> Any:
    """The user's own module inside wrappers that must not take part in a measurement.

    The wrapper for distributed training broadcasts buffers in each forward pass and would wait for
    processes that hold no more images; compiled forward-mode derivatives can be wrong.
    """
    while True:
        if isinstance(model, DistributedDataParallel | DataParallel):
            model = model.module
        elif isinstance(model, nn.Module) and isinstance(
            getattr(model, "_orig_mod", None), nn.Module
        ):
            model = model._orig_mod
        else:
            return model


@contextmanager
def untouched(model: Any, device: torch.device) -> Iterator[None]:
    """Run in eval mode, outside inference mode; put everything back on every exit.

    What comes back: ``.training`` of every submodule (set directly, so that no ``train()`` of the
    user's own runs), the values and identities of all buffers, and torch's random states on the CPU
    and on ``device``. Parameters and gradients are not written to by a measurement.

    Args:
        model: a module, or any callable, of which only the random states are kept.
        device: where the images are.
    """
    devices = [device] if device.type == "cuda" else []
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.random.fork_rng(devices=devices))
        if isinstance(model, nn.Module):
            stack.enter_context(_eval_mode(model))
            stack.enter_context(_kept_buffers(model))
        yield


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    switched = [m for m in model.modules() if m.training]
    for module in switched:
        module.training = False
    try:
        yield
    finally:
        for module in switched:
            module.training = True


@contextmanager
def _kept_buffers(model: nn.Module) -> Iterator[None]:
    """Restore buffers; only those that were written to, so that a pending backward pass works."""
    kept: list[tuple[dict[str, Tensor | None], str, Tensor, int, Tensor]] = []
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None:
                copy = buffer.detach().clone()
                kept.append((module._buffers, name, buffer, buffer._version, copy))
    try:
        yield
    finally:
        for owner, name, buffer, version, copy in kept:
            if buffer._version != version:
                with torch.no_grad():
                    buffer.copy_(copy)
            owner[name] = buffer
