"""The second pass: tensors inside the network as outputs, so that they have tangents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from .calls import Plan, Walk
from .hooks import module_hooks

__all__ = ["TangentReader"]


class TangentReader(nn.Module):
    """The model with the tensors at chosen slots as further outputs.

    Args:
        model: from `measured_copy`.
        readout: turns the model's output into one tensor [D].
        plan: from `scout`.
        slots: slots to return.
    """

    def __init__(
        self,
        model: nn.Module,
        readout: Callable[[Any], Tensor],
        plan: Plan,
        slots: Sequence[int],
    ) -> None:
        super().__init__()
        self.model = model
        self.readout = readout
        self._plan = plan
        self._slots = list(slots)
        wanted = set(slots)
        self._inputs: dict[int, list[tuple[int, int]]] = {}
        self._outputs: dict[int, list[tuple[int, int]]] = {}
        for number, call in enumerate(plan.calls):
            for store, places in ((self._inputs, call.inputs), (self._outputs, call.outputs)):
                here = [(p, s) for p, s in places if s in wanted]
                wanted -= {s for _, s in here}
                if here:
                    store[number] = here

    def forward(self, x: Any) -> tuple[Tensor, list[Tensor]]:
        """The readout [D] and the tensors at the slots, in their order."""
        found: dict[int, Tensor] = {}
        walk = Walk(self._plan)

        def read(tree: Any, places: Sequence[tuple[int, int]]) -> None:
            leaves = tree_flatten(tree)[0]
            for position, slot in places:
                z = leaves[position]
                found[slot] = z.clone() if slot in self._plan.rewritten else z

        def before(path: str, m: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            number = walk.enter(path)
            if number in self._inputs:
                read((args, kwargs), self._inputs[number])

        def after(path: str, m: nn.Module, out: Any) -> None:
            number = walk.leave()
            if number in self._outputs:
                read(out, self._outputs[number])

        with module_hooks(self.model, before, after):
            y = self.readout(self.model(x))
        return y, [found[s] for s in self._slots]
