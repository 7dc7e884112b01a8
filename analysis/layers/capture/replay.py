"""Single calls, to be run again alone on what entered them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map, tree_unflatten

from .calls import Call, Plan, Walk
from .hooks import module_hooks

__all__ = ["Replay", "replays"]


@dataclass
class Replay:
    """One call, as a function of the tensors that depend on the input.

    Attributes:
        call: which one.
        module: of the copy that was run.
        leaves: copies of its flattened arguments.
        spec: their structure.
        results: copies of the tensors at the call's outputs.
    """

    call: Call
    module: nn.Module
    leaves: list[Any]
    spec: TreeSpec
    results: list[Tensor]

    @property
    def slots(self) -> list[int]:
        """Of the arguments, each once."""
        return list(dict.fromkeys(slot for _, slot in self.call.inputs))

    @property
    def inputs(self) -> list[Tensor]:
        """The tensors at `slots`."""
        at = {slot: self.leaves[position] for position, slot in self.call.inputs}
        return [at[slot] for slot in self.slots]

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Run the module again.

        Args:
            inputs: in place of `inputs`.

        Returns:
            the tensors at the call's outputs.
        """
        at = dict(zip(self.slots, inputs, strict=True))
        leaves = [_copy(v) for v in self.leaves]
        for position, slot in self.call.inputs:
            leaves[position] = at[slot]
        args, kwargs = tree_unflatten(leaves, self.spec)
        out = tree_flatten(self.module(*args, **kwargs))[0]
        return [out[position] for position, _ in self.call.outputs]


@torch.no_grad()
def replays(model: nn.Module, plan: Plan, numbers: Sequence[int], x: Any) -> dict[int, Replay]:
    """Run one image or cloud and keep what enters and leaves some calls.

    Args:
        model: from `measured_copy`.
        plan: from `scout`.
        numbers: of the calls.
        x: one image or cloud.
    """
    walk, wanted = Walk(plan), set(numbers)
    found: dict[int, Replay] = {}

    def before(path: str, m: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        number = walk.enter(path)
        if number in wanted:
            leaves, spec = tree_flatten((args, kwargs))
            found[number] = Replay(plan.calls[number], m, [_copy(v) for v in leaves], spec, [])

    def after(path: str, m: nn.Module, out: Any) -> None:
        number = walk.leave()
        if number in wanted:
            leaves = tree_flatten(out)[0]
            places = plan.calls[number].outputs
            found[number].results = [leaves[position].clone() for position, _ in places]

    with module_hooks(model, before, after):
        model(tree_map(torch.clone, x))
    return found


def _copy(v: Any) -> Any:
    return v.detach().clone() if isinstance(v, Tensor) else v
