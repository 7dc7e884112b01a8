"""Which modules a report on aliasing is about: functions from one map to one map."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from liederiv.errors import LieDerivError

from ..layers.capture import Call, Plan, replays, same, separable
from ..layers.layouts import Layout
from ..layers.pointwise import is_elementwise
from ..layers.sites import read_inputs, simple_calls

__all__ = ["choose_units"]


def choose_units(
    model: nn.Module,
    reader: Callable[[Any], Tensor],
    plan: Plan,
    x: Tensor,
    wanted: set[str] | None,
) -> tuple[list[int], list[tuple[str, str]]]:
    """Numbers of the calls to report, and the leaves that cannot be: path and why.

    Args:
        model: from `measured_copy`.
        reader: turns its output into one tensor [D].
        plan: from `scout`.
        x: one image.
        wanted: paths; None takes all that have no modules inside, and elementwise ones as a whole.

    Raises:
        LieDerivError: for paths that are not called.
    """
    if wanted is not None and (unknown := wanted - {c.path for c in plan.calls}):
        raise LieDerivError(f"modules={sorted(unknown)} are not called by the model.")
    parents = {c.parent for c in plan.calls}
    simple = {id(c) for c in simple_calls(plan)}
    maps = [
        i
        for i, c in enumerate(plan.calls)
        if id(c) in simple and _on_grid(c.in_layouts[0]) and _on_grid(c.out_layouts[0])
    ]
    slots = sorted({plan.calls[i].inputs[0][1] for i in maps})
    values = dict(zip(slots, read_inputs(model, plan, slots, x), strict=True))
    units: list[int] = []
    skipped: list[tuple[str, str]] = []
    for i, call in enumerate(plan.calls[1:], 1):
        if wanted is not None:
            chosen = call.path in wanted
        elif _inside(plan, i, units) or call.zero:
            continue
        else:
            leaf = i not in parents
            chosen = leaf or (i in maps and _elementwise(call, values))
        if chosen and i in maps:
            units.append(i)
        elif chosen:
            skipped.append((call.path, call.reason or "it is no map from one tensor to one"))
    kept = _functions(model, plan, separable(model, reader, plan, units, x), x)
    left = [(plan.calls[i].path, plan.calls[i].reason) for i in units if i not in kept]
    return kept, [*skipped, *left]


def _functions(model: nn.Module, plan: Plan, units: Sequence[int], x: Tensor) -> list[int]:
    """Of the units, those that are functions of one tensor."""
    kept = list(units)
    alone = replays(model, plan, kept, x)
    for i in units:
        z, call = alone[i].inputs[0], plan.calls[i]
        if not _is_function_of(call.module, z, alone[i].results[0]):
            call.reason = "it takes further arguments"
            kept.remove(i)
    return kept


@torch.no_grad()
def _is_function_of(module: nn.Module, z: Tensor, y: Tensor) -> bool:
    """Whether the module makes y of z and nothing else: so will its counterparts be run."""
    try:
        found = module(z.clone())
    except (RuntimeError, TypeError, ValueError, AttributeError, LookupError, AssertionError):
        return False
    return isinstance(found, Tensor) and found.shape == y.shape and same(y, found)


def _on_grid(layout: Layout | None) -> bool:
    return layout is not None and layout.spatial and not layout.flat


def _inside(plan: Plan, i: int, units: Sequence[int]) -> bool:
    parent = plan.calls[i].parent
    while parent is not None and parent not in units:
        parent = plan.calls[parent].parent
    return parent is not None


def _elementwise(call: Call, values: dict[int, Tensor]) -> bool:
    layout = call.in_layouts[0]
    if layout is None or layout != call.out_layouts[0]:
        return False
    return is_elementwise(call.module, values[call.inputs[0][1]], layout)
