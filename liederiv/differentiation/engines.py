"""Engines: the ways to compute J_f(x)·v for K tangents v at once, each on its own.

=================== ==================================================================== =========
engine              how                                                                  error
=================== ==================================================================== =========
vmap                `torch.func.jvp` under `torch.func.vmap`, all tangents of a chunk in  rounding
                    one pass, with the lean formulas of `tangent_rules`
plain               the same with torch's own formulas only                              rounding
loop                one `torch.func.jvp` per tangent, for models that vmap cannot trace   rounding
                    (data-dependent control flow)
double-backward     two reverse passes: J v is the derivative of uᵀ J v in u             rounding
finite-differences  central differences along the tangents, see `differences`            estimated
=================== ==================================================================== =========

All but the last differentiate what torch recorded of the model. Where torch records something else
than what the model computes, only the last is right: which one is used is for `witness` to decide.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import jvp, vmap
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from liederiv.differentiation.tangent_rules import tangent_rules
from liederiv.errors import LieDerivError, NotDifferentiableError

__all__ = [
    "ENGINES",
    "RECOVERABLE",
    "UnreachedError",
    "auto_chunk",
    "checked_output",
    "double_backward_jvp",
    "in_chunks",
    "untangled",
]

ENGINES = ("vmap", "plain", "loop", "double-backward", "finite-differences")
"""Names of the engines, in the order in which they are tried."""

RECOVERABLE = (NotImplementedError, RuntimeError, TypeError, ValueError, AttributeError, IndexError)
"""Errors with which an engine may fail on a model that works."""

_LANE_FACTOR = 32  # largest activations of usual networks, in units of the input's size


class UnreachedError(NotDifferentiableError):
    """No derivative that torch records reaches the output."""


def in_chunks(
    engine: str, f: Callable[[Any], Any], x: Any, tangents: Any, chunk: int
) -> tuple[Any, Any]:
    """Run one engine that differentiates over chunks of tangents and join the results.

    Args:
        engine: one of `ENGINES` but the last.
        f: function of x.
        x: primal.
        tangents: like x, every tensor with a leading axis of K.
        chunk: tangents per pass.

    Returns:
        f(x) and J v, like f(x) with a leading axis of K; detached.
    """
    run = {
        "vmap": _lean_jvp,
        "plain": _vmap_jvp,
        "loop": _loop_jvp,
        "double-backward": double_backward_jvp,
    }[engine]
    parts = []
    for start in range(0, len(tree_flatten(tangents)[0][0]), chunk):
        part = tree_map(lambda v, s=start: v[s : s + chunk], tangents)
        y, jv = run(f, x, part)
        parts.append(jv)
    joined = parts[0] if len(parts) == 1 else tree_map(lambda *p: torch.cat(p), *parts)
    return y, joined


def _lean_jvp(f: Callable[[Any], Any], x: Any, tangents: Any) -> tuple[Any, Any]:
    with tangent_rules():
        return _vmap_jvp(f, x, tangents)


def _vmap_jvp(f: Callable[[Any], Any], x: Any, tangents: Any) -> tuple[Any, Any]:
    def one(tangent: Any) -> Any:
        return jvp(checked_output(f), (x,), (tangent,))

    with torch.no_grad():
        y, jv = vmap(one, out_dims=(None, 0))(tangents)  # type: ignore[arg-type]
    return tree_map(Tensor.detach, y), tree_map(Tensor.detach, jv)


def _loop_jvp(f: Callable[[Any], Any], x: Any, tangents: Any) -> tuple[Any, Any]:
    leaves, spec = tree_flatten(tangents)
    parts = []
    with torch.no_grad():
        for k in range(leaves[0].shape[0]):
            tangent = tree_unflatten([v[k] for v in leaves], spec)
            y, jv = jvp(checked_output(f), (x,), (tangent,))[:2]
            parts.append(jv)
    stacked = tree_map(lambda *p: torch.stack(p), *parts)
    return tree_map(Tensor.detach, y), tree_map(Tensor.detach, stacked)


def double_backward_jvp(f: Callable[[Any], Any], x: Any, tangents: Any) -> tuple[Any, Any]:
    """J v by two reverse passes per tangent: the published method's engine, here a fallback.

    Raises:
        UnreachedError: if no gradient reaches the output.
    """
    with torch.enable_grad():
        leaves, spec = tree_flatten(x)
        primal = [v.detach().clone().requires_grad_(True) for v in leaves]
        y = checked_output(f)(tree_unflatten(primal, spec))
        y_leaves, y_spec = tree_flatten(y)
        u = [torch.zeros_like(v, requires_grad=True) for v in y_leaves]
        reached = [(v, w) for v, w in zip(y_leaves, u, strict=True) if v.requires_grad]
        if not reached:
            raise UnreachedError("no derivative reaches the model's output")
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


def checked_output(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """F on a copy of its input (it may work in place), refusing outputs without a derivative.

    Raises:
        NotDifferentiableError: when called, if the output is not made of floating tensors.
    """

    def g(z: Any) -> Any:
        out = f(tree_map(torch.clone, z))
        for leaf in tree_flatten(out)[0]:
            if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
                kind = leaf.dtype if isinstance(leaf, Tensor) else type(leaf).__name__
                raise NotDifferentiableError(
                    f"the model's output has type {kind}, which has no derivative; measure its "
                    "floating-point scores (before argmax, round or NMS)."
                )
            if leaf.layout != torch.strided:
                raise NotDifferentiableError(
                    f"the model's output is a {leaf.layout} tensor; return out.to_dense()."
                )
        return out

    return g


def untangled(x: Any) -> Any:
    """The input without entries that share memory (expand), beside which no tangent can stand."""

    def apart(v: Tensor) -> Tensor:
        shares = any(s == 0 and n > 1 for s, n in zip(v.stride(), v.shape, strict=True))
        return v.clone(memory_format=torch.contiguous_format) if shares else v

    return tree_map(apart, x)


def auto_chunk(x: Any, K: int, chunk_size: int | None) -> int:
    """Tangents per pass: as told, or as many as fit beside the primal in a share of free memory.

    Raises:
        LieDerivError: for less than one.
    """
    if chunk_size is not None:
        if chunk_size < 1:
            raise LieDerivError(f"chunk_size={chunk_size} must be at least 1.")
        return chunk_size
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
