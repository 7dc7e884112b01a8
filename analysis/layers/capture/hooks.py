"""A copy of the model that may be hooked, and hooks that are gone afterwards."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from liederiv.errors import ModelError

__all__ = ["as_leaf", "check_same", "measured_copy", "module_hooks", "plain_checkpointing", "same"]

_SAME = {torch.float32: 1e-3, torch.float64: 1e-8}  # of two passes, in units of the output


def measured_copy(model: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
    """A copy that shares the model's weights, needs no weight gradients and does nothing in place.

    Buffers and whatever other tensors its modules hold are copied: a forward pass may write to
    them, or may have left results of the caller's there, with their graph.

    Args:
        model: not touched.
        dtype: of the copy's floating tensors; None leaves them, and shares the weights.

    Raises:
        ModelError: if the model cannot be copied.
    """
    memo: dict[int, Any] = {}
    for p in model.parameters():
        memo[id(p)] = nn.Parameter(_to(p.detach(), dtype), requires_grad=False)
    for held in _held_tensors(model):
        memo.setdefault(id(held), _to(held.detach().clone(), dtype))
    try:
        twin = copy.deepcopy(model, memo)
    except Exception as error:
        raise ModelError(
            f"the model cannot be copied ({type(error).__name__}: {error}); attribution works on a "
            "copy so that yours stays untouched: remove what copy.deepcopy refuses."
        ) from error
    for module in twin.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]
    return twin


def _to(v: Tensor, dtype: torch.dtype | None) -> Tensor:
    return v if dtype is None or not v.is_floating_point() else v.to(dtype)


def _held_tensors(model: nn.Module) -> Iterator[Tensor]:
    """Buffers and tensors in attributes of modules, also inside containers and plain objects."""
    seen: set[int] = set()
    left: list[Any] = [vars(m) for m in model.modules()]
    while left:
        value = left.pop()
        if id(value) in seen or isinstance(value, _BARE):
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, Mapping):
            left += value.values()
        elif isinstance(value, list | tuple | set | frozenset):
            left.extend(v for v in value)  # some subclasses refuse to tell their length
        elif isinstance(value, nn.Module) or not callable(value):
            left += getattr(value, "__dict__", {}).values()


_BARE = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device)


def as_leaf(x: Any) -> Any:
    """A copy of an input whose tensors require gradients."""
    return tree_map(lambda v: v.detach().clone().requires_grad_(True), x)


def same(expected: Any, found: Any) -> bool:
    """Whether two outputs are equal, beyond what rounding in two kinds of pass may explain."""
    pairs = zip(tree_flatten(expected)[0], tree_flatten(found)[0], strict=True)
    for a, b in pairs:
        if isinstance(a, Tensor) and a.is_floating_point():
            gap, scale = (a - b).norm(), a.norm().clamp_min(1e-30)
            if not gap <= _SAME.get(a.dtype, 1e-3) * scale:
                return False
    return True


def check_same(expected: Any, found: Any) -> None:
    """The copy that does nothing in place must compute what the model computes.

    Raises:
        ModelError: if it does not.
    """
    if not same(expected, found):
        raise ModelError(
            "the model's output changes when its modules' inplace=True is switched off "
            "(or it is not finite); let its forward use what the modules return."
        )


@contextmanager
def plain_checkpointing() -> Iterator[None]:
    """Call checkpointed functions once: calling them again in the backward pass runs all hooks.

    Without reentrance, `torch.utils.checkpoint.checkpoint` advances a generator before and after
    the function; an empty one leaves a plain call. With it, `forward_mode` does the same.
    """
    module, names = torch.utils.checkpoint, _CHECKPOINTS
    before = {name: getattr(module, name) for name in names if hasattr(module, name)}
    for name in before:
        setattr(module, name, _once)
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(module, name, function)


def _once(*_: Any, **__: Any) -> Iterator[None]:
    yield


_CHECKPOINTS = (
    "_checkpoint_without_reentrant_generator",  # torch 2.1 and later
    "_checkpoint_without_reentrant_generator_impl",  # torch 2.14
)


@contextmanager
def module_hooks(
    model: nn.Module,
    before: Callable[[str, nn.Module, tuple[Any, ...], dict[str, Any]], Any],
    after: Callable[[str, nn.Module, Any], Any],
) -> Iterator[None]:
    """Call ``before(path, module, args, kwargs)`` and ``after(path, module, out)`` around forwards.

    What they return replaces the arguments and the output. All hooks are gone on exit.
    """
    handles = []
    try:
        for path, module in model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue
            handles.append(
                module.register_forward_pre_hook(
                    lambda m, args, kwargs, path=path: before(path, m, args, kwargs),
                    with_kwargs=True,
                )
            )
            handles.append(
                module.register_forward_hook(lambda m, args, out, path=path: after(path, m, out))
            )
        yield
    finally:
        for handle in handles:
            handle.remove()
