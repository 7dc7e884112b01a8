"""Contexts under which derivatives are taken: what they switch off, and back on every exit."""

from __future__ import annotations

import ctypes
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = ["forward_mode", "sound_numerics"]


@contextmanager
def sound_numerics() -> Iterator[None]:
    """Full precision for everything inside, tangents included, whatever surrounds the call.

    Ambient autocast would round the tangents X x to half precision before any derivative is taken,
    and reduced matmul precision their products with D; tensors made under an ambient
    ``inference_mode`` take part in no derivative. A model that switches such things itself keeps
    them: they are part of its function.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        for device_type in _AUTOCAST_DEVICES:
            stack.enter_context(torch.autocast(device_type, enabled=False))
        precision = torch.get_float32_matmul_precision()
        if precision != "highest":
            stack.callback(torch.set_float32_matmul_precision, precision)
            torch.set_float32_matmul_precision("highest")
        yield


_AUTOCAST_DEVICES = ("cpu", "cuda")


@contextmanager
def forward_mode() -> Iterator[None]:
    """Switch off what has no forward-mode formula, and switch it back on every exit.

    Fused attention (`scaled_dot_product_attention` runs its math backend), the fast path of
    `nn.MultiheadAttention`, autocast, checkpointing (it saves memory for a backward pass that
    rarely comes), and, on glibc, returning freed memory to the system between layers: mapping the
    K-fold activations afresh costs more than computing them.
    """
    fastpath = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        torch.backends.mha.set_fastpath_enabled(False)
        stack.callback(torch.backends.mha.set_fastpath_enabled, fastpath)
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(sound_numerics())
        stack.enter_context(_plain_checkpointing())
        stack.enter_context(_modules_stay())
        stack.enter_context(_keep_freed_memory())
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
        # torch scripts its own formulas when the first jvp loads them.
        warnings.filterwarnings("ignore", r".*torch\.jit", FutureWarning)
        warnings.filterwarnings("ignore", r".*torch\.jit", DeprecationWarning)
        yield


class _PlainCheckpoint:
    """Stands in for torch's reentrant `CheckpointFunction`: just calls the function."""

    @staticmethod
    def apply(function: Callable[..., Any], preserve_rng_state: bool, *args: Any) -> Any:
        return function(*args)


def _no_checkpoint(*_: Any, **__: Any) -> Iterator[None]:
    """Stands in for what surrounds the function in torch's non-reentrant checkpointing."""
    yield


@contextmanager
def _plain_checkpointing() -> Iterator[None]:
    """Checkpoints of both kinds just call their function.

    Reentrant ones have no forward-mode formula; the others save tensors through hooks, which the
    transforms of ``torch.func`` refuse.
    """
    module = torch.utils.checkpoint
    stand_ins = {
        "CheckpointFunction": _PlainCheckpoint,
        "_checkpoint_without_reentrant_generator": _no_checkpoint,
        "_checkpoint_without_reentrant_generator_impl": _no_checkpoint,  # torch ≥ 2.14
    }
    originals = {name: getattr(module, name) for name in stand_ins if hasattr(module, name)}
    for name in originals:
        setattr(module, name, stand_ins[name])
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(module, name, original)


@contextmanager
def _modules_stay() -> Iterator[None]:
    """Moving a module to where it is already does nothing; torch crashes on it in forward mode."""
    original = nn.Module._apply

    def apply(self: nn.Module, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        tensors = [*self.parameters(), *self.buffers()]
        moved = [fn(t.detach()) for t in tensors]
        if all(_alike(a, b) for a, b in zip(tensors, moved, strict=True)):
            return self
        raise RuntimeError("the model moves or converts its modules while it computes")

    nn.Module._apply = apply  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module._apply = original  # type: ignore[method-assign]


def _alike(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.device == b.device and a.shape == b.shape


@contextmanager
def _keep_freed_memory() -> Iterator[None]:
    """Let glibc's malloc reuse large freed blocks; a no-op with other allocators."""
    mallopt = _mallopt()
    if mallopt is None:
        yield
        return
    trim_threshold, mmap_threshold, megabyte = -1, -3, 2**20
    mallopt(mmap_threshold, 2**31 - 1)
    mallopt(trim_threshold, 2**31 - 1)
    try:
        yield
    finally:  # the largest values that glibc's own dynamic adjustment arrives at
        mallopt(mmap_threshold, 32 * megabyte)
        mallopt(trim_threshold, 64 * megabyte)


def _mallopt() -> Callable[[int, int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        function = ctypes.CDLL(None).mallopt
        ctypes.CDLL(None).gnu_get_libc_version  # noqa: B018  musl has mallopt-less headers
    except (OSError, AttributeError):
        return None
    return function
