"""A copy of the model that may be hooked, and hooks that are gone afterwards."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from liederiv.errors import ModelError

__all__ = ["as_leaf", "measured_copy", "module_hooks"]


def measured_copy(model: nn.Module) -> nn.Module:
    """A copy that shares the model's weights, needs no weight gradients and does nothing in place.

    Raises:
        ModelError: if the model cannot be copied.
    """
    memo: dict[int, Any] = {}
    for p in model.parameters():
        memo[id(p)] = nn.Parameter(p.detach(), requires_grad=False)
    for module in model.modules():
        for value in (*module._buffers.values(), *vars(module).values()):
            if isinstance(value, Tensor):
                memo.setdefault(id(value), value.detach())
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


def as_leaf(x: Any) -> Any:
    """A copy of an input whose tensors require gradients."""
    return tree_map(lambda v: v.detach().clone().requires_grad_(True), x)


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
