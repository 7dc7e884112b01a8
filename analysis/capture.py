"""Reading a network from inside: its calls, its tensors' layouts, tangents and gradient edges.

The same image runs three times through a copy of the model that shares its weights:

1. `scout` lists the calls of all modules, which tensors depend on the image and their layouts;
2. `TangentReader` returns the tensors at the chosen places as further outputs, so that any engine
   of `liederiv.forward_mode` gives their tangents;
3. `record_edges` builds the backward graph. Every tensor that enters a measured module is cloned,
   so that the gradient at the clone is the gradient *through that module alone*, without parallel
   branches.

All hooks live in context managers on the copy.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from liederiv.analysis.kinds import commutes, takes_maps
from liederiv.analysis.layouts import Layout, LayoutRecogniser
from liederiv.analysis.point_layouts import PointRecogniser, input_layouts
from liederiv.errors import ModelError
from liederiv.gradient_rules import gradient_rules
from liederiv.points import PointCloud

__all__ = [
    "Call",
    "Edge",
    "Plan",
    "TangentReader",
    "as_leaf",
    "measured_copy",
    "module_hooks",
    "record_edges",
    "scout",
]

_HARMLESS = (type(None), bool, int, float, str, torch.dtype, torch.device)


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


class _Scout:
    """Collects calls and slots during a pass under autograd."""

    def __init__(self, recogniser: LayoutRecogniser | PointRecogniser) -> None:
        self.calls: list[Call] = []
        self.layouts: list[Layout | None] = []
        self.recogniser = recogniser
        self._stack: list[int] = []
        self._count: dict[str, int] = {}
        self._slots: dict[tuple[int, int], int] = {}
        self._tensors: list[tuple[Tensor, int]] = []  # kept alive, so that ids stay unique

    def rewritten(self) -> set[int]:
        return {s for s, (z, version) in enumerate(self._tensors) if z._version != version}

    def before(
        self, path: str, m: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        parent = self._stack[-1] if self._stack else None
        index = self._count.get(path, 0)
        self._count[path] = index + 1
        call = Call(path, m, index, parent, len(self._stack))
        call.inputs, call.reason = self._find((args, kwargs), m)
        self._declare(call.inputs, getattr(m, "input_representation", None))
        call.in_layouts = [self.layouts[s] for _, s in call.inputs]
        self._stack.append(len(self.calls))
        self.calls.append(call)

    def after(self, path: str, m: nn.Module, out: Any) -> None:
        number = self._stack.pop()
        call = self.calls[number]
        self._stack.append(number)  # the module's own inputs are what encloses its output
        call.outputs, hidden = self._find(out, m)
        self._declare(call.outputs, getattr(m, "output_representation", None))
        self._stack.pop()
        call.reason = call.reason or hidden
        call.out_layouts = [self.layouts[s] for _, s in call.outputs]
        childless = not any(True for _ in m.children()) and not any(True for _ in m.parameters())
        if childless and len(call.inputs) == len(call.outputs) == 1:
            self._look_for_reordering(call)
        for part, layouts in (("input", call.in_layouts), ("output", call.out_layouts)):
            if not call.reason and not layouts:
                call.reason = f"no {part} tensor depends on the input"
            if not call.reason and None in layouts:
                call.reason = f"{part} layout unknown"

    def know(self, z: Tensor, layout: Layout) -> None:
        """Take the layout of a tensor as given."""
        self.layouts[self._slot(z, None)] = layout

    def _declare(self, places: Sequence[tuple[int, int]], spec: Any) -> None:
        """Take over what a module says about the tensors that it takes or returns."""
        if spec is None or not isinstance(self.recogniser, PointRecogniser):
            return
        layouts = self.recogniser.declared(spec, len(places))
        for (_, slot), layout in zip(places, layouts, strict=True):
            if layout is not None:
                self.layouts[slot] = layout

    def _look_for_reordering(self, call: Call) -> None:
        z, y = (self._tensors[s][0] for s in (call.inputs[0][1], call.outputs[0][1]))
        before = call.in_layouts[0]
        if before is None:
            return
        self.recogniser.note_reordering(z, before, y, call.out_layouts[0])
        if self.recogniser.reordered and z is not y:
            slot = call.outputs[0][1]
            self.layouts[slot] = None
            call.out_layouts = [None]

    def _find(self, tree: Any, m: nn.Module) -> tuple[list[tuple[int, int]], str]:
        found, reason = [], ""
        for position, leaf in enumerate(tree_flatten(tree)[0]):
            if isinstance(leaf, Tensor):
                if leaf.is_floating_point() and leaf.requires_grad:
                    found.append((position, self._slot(leaf, m)))
            elif _hides_tensors(leaf):
                reason = f"tensors inside a {type(leaf).__name__}"
        return found, reason

    def _slot(self, z: Tensor, m: nn.Module | None) -> int:
        is_map = m is not None and takes_maps(m)
        key = (id(z), z._version)
        if key not in self._slots:
            self._slots[key] = len(self._tensors)
            self._tensors.append((z, z._version))
            self.layouts.append(None)
            fresh = True
        else:
            fresh = False
        slot = self._slots[key]
        if self.layouts[slot] is None and (fresh or is_map):
            near = self._enclosing()
            self.layouts[slot] = self.recogniser(z, near, is_map=is_map, module=m)
        return slot

    def _enclosing(self) -> list[tuple[Layout, torch.Size]]:
        """What entered the innermost module around the present place whose layouts are known."""
        number: int | None = self._stack[-1] if self._stack else None
        while number is not None:
            call = self.calls[number]
            known = [
                (layout, self._tensors[s][0].shape)
                for (_, s), layout in zip(call.inputs, call.in_layouts, strict=True)
                if layout is not None
            ]
            if known:
                return known
            number = call.parent
        return [(self.recogniser.root, torch.Size())]


def _hides_tensors(leaf: Any) -> bool:
    if isinstance(leaf, _HARMLESS):
        return False
    inside = (
        [*leaf.values()] if isinstance(leaf, Mapping) else [*getattr(leaf, "__dict__", {}).values()]
    )
    return any(isinstance(v, Tensor) for v in inside)


def _recogniser(model: nn.Module, x: Any) -> LayoutRecogniser | PointRecogniser:
    if isinstance(x, PointCloud):
        return PointRecogniser.of(model, x)
    declared = getattr(model, "num_prefix_tokens", None)
    prefixes = (0, declared) if isinstance(declared, int) else (0, 1, 2)
    return LayoutRecogniser((x.shape[-2], x.shape[-1]), prefixes)


def as_leaf(x: Any) -> Any:
    """A copy of an input whose tensors require gradients."""
    return tree_map(lambda v: v.detach().clone().requires_grad_(True), x)


def scout(model: nn.Module, x: Any) -> Plan:
    """Run one image or cloud through the copy and find out what can be measured.

    Args:
        model: from `measured_copy`.
        x: one image [1, C, H, W], or a `PointCloud` of one cloud.
    """
    scouting, leaf = _Scout(_recogniser(model, x)), as_leaf(x)
    if isinstance(leaf, PointCloud):
        for z, layout in input_layouts(leaf):
            scouting.know(z, layout)
    with torch.enable_grad(), module_hooks(model, scouting.before, scouting.after):
        out = model(leaf)
    for call in scouting.calls:
        if not call.reason:
            call.zero = commutes(call.module, call.in_layouts, call.out_layouts)
    called = {id(call.module) for call in scouting.calls}
    never = [path for path, m in model.named_modules() if id(m) not in called]
    leaves, spec = tree_flatten(out)
    detached = [v.detach() if isinstance(v, Tensor) else v for v in leaves]
    output = tree_unflatten(detached, spec)
    sizes = [z.numel() for z, _ in scouting._tensors]
    return Plan(scouting.calls, scouting.layouts, sizes, scouting.rewritten(), never, output)


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
        walk = _Walk(self._plan)

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


@dataclass(frozen=True)
class Edge:
    """A place in the backward graph where a measured call begins or ends.

    Attributes:
        call: number of the call.
        slot: the tensor there.
        sign: −1 where the call begins, +1 where it ends.
        edge: where autograd delivers the gradient.
    """

    call: int
    slot: int
    sign: int
    edge: GradientEdge


def record_edges(
    model: nn.Module,
    readout: Callable[[Any], Tensor],
    plan: Plan,
    measured: Sequence[int],
    x: Any,
) -> tuple[Tensor, list[Edge]]:
    """Forward pass of one image that keeps the graph, with an edge at every measured tensor.

    Args:
        model: from `measured_copy`.
        readout: turns the model's output into one tensor [D].
        plan: from `scout`.
        measured: numbers of the calls to record.
        x: one image or cloud, from `as_leaf`.

    Returns:
        the readout [D], with its graph, and the edges.
    """
    walk, wanted, edges = _Walk(plan), set(measured), []

    def before(path: str, m: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        number = walk.enter(path)
        if number not in wanted:
            return None
        leaves, spec = tree_flatten((args, kwargs))
        clones: dict[int, Tensor] = {}
        for position, slot in plan.calls[number].inputs:
            z = leaves[position]
            if id(z) not in clones:
                clones[id(z)] = z.clone()
                edges.append(Edge(number, slot, -1, get_gradient_edge(clones[id(z)])))
            leaves[position] = clones[id(z)]
        return tree_unflatten(leaves, spec)

    def after(path: str, m: nn.Module, out: Any) -> Any:
        number = walk.leave()
        if number not in wanted:
            return None
        leaves, spec = tree_flatten(out)
        places = plan.calls[number].outputs
        for position, slot in places:
            y = leaves[position]
            if len(places) > 1 or y._is_view():
                y = leaves[position] = y.clone()
            edges.append(Edge(number, slot, 1, get_gradient_edge(y)))
        return tree_unflatten(leaves, spec)

    with torch.enable_grad(), gradient_rules(), module_hooks(model, before, after):
        y = readout(model(x))
    return y, edges


class _Walk:
    """Numbers the calls of a pass as the scouting pass did."""

    def __init__(self, plan: Plan) -> None:
        self._calls = plan.calls
        self._next = 0
        self._stack: list[int] = []

    def enter(self, path: str) -> int:
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
        return self._stack.pop()
