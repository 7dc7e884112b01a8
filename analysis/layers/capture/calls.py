"""The calls of a forward pass: what there is to be measured, and where one is in a later pass."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from liederiv.errors import ModelError

from ..layouts import Layout

__all__ = ["Call", "Plan", "Walk"]


@dataclass
class Call:
    """One call of one module in a forward pass.

    Attributes:
        path: name in ``named_modules()``; empty for the model itself.
        module: of the copy.
        index: how many times the module had been called before.
        parent: number of the call whose forward contains this one; None for the model.
        depth: number of enclosing calls.
        inputs: (position among the flattened arguments, slot) of tensors that depend on the image.
        outputs: the same for what the call returns.
        in_layouts: layouts of the inputs.
        out_layouts: layouts of the outputs.
        reason: why it cannot be measured, empty if it can.
        zero: why its violation is exactly zero, empty if it may not be.
    """

    path: str
    module: nn.Module
    index: int
    parent: int | None
    depth: int
    inputs: list[tuple[int, int]] = field(default_factory=list)
    outputs: list[tuple[int, int]] = field(default_factory=list)
    in_layouts: list[Layout | None] = field(default_factory=list)
    out_layouts: list[Layout | None] = field(default_factory=list)
    reason: str = ""
    zero: str = ""


@dataclass
class Plan:
    """What a scouting pass found.

    Attributes:
        calls: in the order in which they begin; the model itself first.
        layouts: per slot; a slot is a distinct tensor at a distinct moment.
        sizes: number of elements per slot.
        rewritten: slots whose tensor is overwritten in place later in the pass.
        never_called: paths of modules that are not called.
        output: what the model returned, detached.
    """

    calls: list[Call]
    layouts: list[Layout | None]
    sizes: list[int]
    rewritten: set[int]
    never_called: list[str]
    output: Any


class Walk:
    """Numbers the calls of a pass as the scouting pass did."""

    def __init__(self, plan: Plan) -> None:
        self._calls = plan.calls
        self._next = 0
        self._stack: list[int] = []

    def enter(self, path: str) -> int:
        """The number of the call that begins.

        Raises:
            ModelError: if the scouting pass saw another one here.
        """
        number = self._next
        if number >= len(self._calls) or self._calls[number].path != path:
            raise ModelError(
                f"module {path or '(the whole model)'} is called for some images and not for "
                "others; attribution needs the same sequence of calls: measure images one by one."
            )
        self._next += 1
        self._stack.append(number)
        return number

    def leave(self) -> int:
        """The number of the call that ends."""
        return self._stack.pop()
