"""Jacobian-vector products of whole networks by forward-mode differentiation, with its guards.

One forward-mode pass carries K tangents beside one primal. Three engines compute the same exact
derivative and are tried in this order:

1. ``vmap``: `torch.func.jvp` under `torch.func.vmap`, all tangents of a chunk in one pass;
2. ``loop``: one `torch.func.jvp` per tangent, for models that vmap cannot trace (data-dependent
   control flow);
3. ``double-backward``: two reverse passes, for models with an operator that has no forward-mode
   formula. J v is the derivative of uᵀ J v in u, which is linear in u.
"""

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
from torch.func import jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from liederiv.errors import LieDerivError, NotDifferentiableError
from liederiv.tangent_rules import tangent_rules

__all__ = [
    "ENGINES",
    "ForwardModeWarning",
    "double_backward_jvp",
    "forward_mode",
    "pushforward",
]

ENGINES = ("vmap", "loop", "double-backward")
_LANE_FACTOR = 32  # largest activations of usual networks, in units of the input's size


class ForwardModeWarning(UserWarning):
    """A slower, equally exact engine had to be used; the message names the module and why."""


@contextmanager
def forward_mode() -> Iterator[None]:
    """Switch off what has no forward-mode formula, and switch it back on every exit.

    Fused attention (`scaled_dot_product_attention` runs its math backend), the fast path of
    `nn.MultiheadAttention`, autocast, reentrant checkpointing (it saves memory for a backward pass
    that never comes), and, on glibc, returning freed memory to the system between
    layers: mapping the K-fold activations afresh costs more than computing them.
    """
    fastpath = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        torch.backends.mha.set_fastpath_enabled(False)
        stack.callback(torch.backends.mha.set_fastpath_enabled, fastpath)
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        for device_type in ("cpu", "cuda"):
            stack.enter_context(torch.autocast(device_type, enabled=False))
        stack.enter_context(_plain_checkpointing())
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


@contextmanager
def _plain_checkpointing() -> Iterator[None]:
    module, name = torch.utils.checkpoint, "CheckpointFunction"
    original = getattr(module, name)
    setattr(module, name, _PlainCheckpoint)
    try:
        yield
    finally:
        setattr(module, name, original)


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


def pushforward(
    f: Callable[[Any], Any],
    x: Any,
    tangents: Any,
    *,
    chunk_size: int | None = None,
    engine: str | None = None,
) -> tuple[Any, Any, str]:
    """J_f(x) · v for K tangents v.

    Args:
        f: function of x; x and f(x) are tensors or nested dicts, lists and tuples of tensors.
        x: primal; never written to.
        tangents: like x, every tensor with a leading axis of K tangents.
        chunk_size: tangents per pass; None lets memory decide.
        engine: one of `ENGINES` to insist on it; None takes the first that works.

    Returns:
        f(x), the products (like f(x), with a leading axis of K), both detached, and the engine
        that computed them.

    Raises:
        NotDifferentiableError: if f(x) is not floating or no derivative reaches it.
        LieDerivError: if no engine can differentiate f.
    """
    if engine is not None and engine not in ENGINES:
        raise LieDerivError(f"engine={engine!r} is unknown; choose one of {', '.join(ENGINES)}.")
    leaves = tree_flatten(tangents)[0]
    K = leaves[0].shape[0]
    chunk = chunk_size or _auto_chunk(x, K)
    if chunk < 1:
        raise LieDerivError(f"chunk_size={chunk_size} must be at least 1.")
    candidates = ENGINES if engine is None else (engine,)
    why = ""
    with forward_mode():
        for candidate in candidates:
            try:
                y, out = _in_chunks(candidate, f, x, tangents, K, chunk)
            except torch.OutOfMemoryError:
                if chunk == 1:
                    raise
                return pushforward(f, x, tangents, chunk_size=chunk // 2, engine=engine)
            except LieDerivError:
                raise
            except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
                _primal_must_work(f, x)
                why = why or f"{_failing_module(f, x, tangents, candidate)}: {_first_line(error)}"
                if candidate == candidates[-1]:
                    raise LieDerivError(f"no derivative of the model: {why}") from error
            else:
                break
    if why:
        message = f"{why} Using the {candidate} engine, which is slower and equally exact."
        warnings.warn(message, ForwardModeWarning, stacklevel=3)
    return y, out, candidate


def _in_chunks(
    engine: str, f: Callable[[Any], Any], x: Any, tangents: Any, K: int, chunk: int
) -> tuple[Any, Any]:
    """Run one engine over chunks of tangents and join the results."""
    run = {"vmap": _vmap_jvp, "loop": _loop_jvp, "double-backward": double_backward_jvp}[engine]
    parts = []
    for start in range(0, K, chunk):
        part = tree_map(lambda v, s=start: v[s : s + chunk], tangents)
        y, jv = run(f, x, part)
        parts.append(jv)
    joined = parts[0] if len(parts) == 1 else tree_map(lambda *p: torch.cat(p), *parts)
    return y, joined


def _vmap_jvp(f: Callable[[Any], Any], x: Any, tangents: Any) -> tuple[Any, Any]:
    def one(tangent: Any) -> Any:
        return jvp(_clean(f, x), (x,), (tangent,))

    batched = vmap(one, out_dims=(None, 0))  # type: ignore[arg-type]

    with torch.no_grad():
        try:
            with tangent_rules():
                y, jv = batched(tangents)
        except (torch.OutOfMemoryError, LieDerivError):
            raise
        except (NotImplementedError, RuntimeError, TypeError, ValueError):
            y, jv = batched(tangents)  # torch's own formulas
    return tree_map(Tensor.detach, y), tree_map(Tensor.detach, jv)


def _loop_jvp(f: Callable[[Any], Any], x: Any, tangents: Any) -> tuple[Any, Any]:
    leaves, spec = tree_flatten(tangents)
    parts = []
    with torch.no_grad():
        for k in range(leaves[0].shape[0]):
            tangent = tree_unflatten([v[k] for v in leaves], spec)
            y, jv = jvp(_clean(f, x), (x,), (tangent,))[:2]
            parts.append(jv)
    stacked = tree_map(lambda *p: torch.stack(p), *parts)
    return tree_map(Tensor.detach, y), tree_map(Tensor.detach, stacked)


def double_backward_jvp(f: Callable[[Any], Any], x: Any, tangents: Any) -> tuple[Any, Any]:
    """J v by two reverse passes per tangent: the published method's engine, here the fallback."""
    with torch.enable_grad():
        leaves, spec = tree_flatten(x)
        primal = [v.detach().clone().requires_grad_(True) for v in leaves]
        y = _clean(f, x)(tree_unflatten(primal, spec))
        y_leaves, y_spec = tree_flatten(y)
        u = [torch.zeros_like(v, requires_grad=True) for v in y_leaves]
        reached = [(v, w) for v, w in zip(y_leaves, u, strict=True) if v.requires_grad]
        if not reached:
            raise NotDifferentiableError(_DETACHED)
        pulled = torch.autograd.grad(
            [v for v, _ in reached], primal, [w for _, w in reached],
            create_graph=True, allow_unused=True, materialize_grads=True,
        )  # fmt: skip
        tangent_leaves = tree_flatten(tangents)[0]
        rows = []
        for k in range(tangent_leaves[0].shape[0]):
            v = [t[k] for t in tangent_leaves]
            rows.append(
                torch.autograd.grad(
                    pulled, u, v, retain_graph=True, allow_unused=True, materialize_grads=True
                )
            )
    jv = [torch.stack(column).detach() for column in zip(*rows, strict=True)]
    return tree_map(Tensor.detach, y), tree_unflatten(jv, y_spec)


_DETACHED = (
    "no derivative reaches the model's output; the model detaches it, rounds it or computes it "
    "under no_grad: remove the detach, or measure a finite-difference metric instead"
)


def _clean(f: Callable[[Any], Any], x: Any) -> Callable[[Any], Any]:
    """Call f on a copy (a first in-place operation must not write to x) and check its output."""

    def g(z: Any) -> Any:
        out = f(tree_map(torch.clone, z))
        for leaf in tree_flatten(out)[0]:
            if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
                kind = leaf.dtype if isinstance(leaf, Tensor) else type(leaf).__name__
                raise NotDifferentiableError(
                    f"the model's output has type {kind}, which has no derivative; measure its "
                    "floating-point scores (before argmax, round or NMS)."
                )
        return out

    return g


def _auto_chunk(x: Any, K: int) -> int:
    """How many tangents fit beside the primal in a share of the free memory."""
    leaves = tree_flatten(x)[0]
    lane = _LANE_FACTOR * 4 * sum(v.numel() * v.element_size() for v in leaves)
    if leaves[0].is_cuda:
        budget = torch.cuda.mem_get_info(leaves[0].device)[0] // 2
    else:
        budget = _free_memory() // 4
    return max(1, min(K, budget // max(lane, 1) - 1))


def _free_memory() -> int:
    """Bytes of memory available on this machine; 4 GiB where it cannot be known."""
    try:
        with open("/proc/meminfo") as meminfo:
            for line in meminfo:
                if line.startswith("MemAvailable"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 4 * 2**30


def _primal_must_work(f: Callable[[Any], Any], x: Any) -> None:
    """Let an error of the model itself surface as such, before blaming differentiation."""
    with torch.no_grad():
        f(tree_map(torch.clone, x))


def _failing_module(f: Callable[[Any], Any], x: Any, tangents: Any, engine: str) -> str:
    """Name the innermost module in whose forward differentiation fails."""
    root = f if isinstance(f, nn.Module) else getattr(f, "__self__", None)
    root = root if isinstance(root, nn.Module) else getattr(f, "model", None)
    if not isinstance(root, nn.Module):
        return "the function"
    stack: list[str] = []
    handles = []
    try:
        for name, module in root.named_modules():
            label = f"module {name or '(the whole model)'} ({type(module).__name__})"
            handles.append(
                module.register_forward_pre_hook(lambda *_, label=label: stack.append(label))
            )
            handles.append(module.register_forward_hook(lambda *_: stack.pop() and None))
        try:
            one = tree_map(lambda v: v[:1], tangents)
            _in_chunks(engine, f, x, one, 1, 1)
        except Exception:
            return stack[-1] if stack else "the function"
    finally:
        for handle in handles:
            handle.remove()
    return "the backward pass"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]
