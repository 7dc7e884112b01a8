"""The first pass: which modules are called with what, and how their tensors are laid out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from liederiv.points import PointCloud

from ..kinds import commutes, takes_maps
from ..layouts import Grid, Layout, LayoutRecogniser
from ..point_layouts import PointRecogniser, input_layouts
from .calls import Call, Plan
from .hooks import as_leaf, module_hooks, plain_checkpointing
from .looking import looks_there

__all__ = ["scout"]

_HARMLESS = (type(None), bool, int, float, str, torch.dtype, torch.device)


def scout(model: nn.Module, x: Any) -> Plan:
    """Run one image or cloud through the copy and find out what can be measured.

    Args:
        model: from `measured_copy`.
        x: one image [1, C, H, W], or a `PointCloud` of one cloud.
    """
    scouting = _Scout(_recogniser(model, x))
    with torch.enable_grad():
        leaf = tree_map(torch.clone, as_leaf(x))  # which a first operation in place may write to
    if isinstance(leaf, PointCloud):
        for z, layout in input_layouts(leaf):
            scouting.know(z, layout)
    hooks = module_hooks(model, scouting.before, scouting.after)
    with torch.enable_grad(), plain_checkpointing(), hooks:
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


class _Scout:
    """Collects calls and slots during a pass under autograd."""

    def __init__(self, recogniser: LayoutRecogniser | PointRecogniser) -> None:
        self.calls: list[Call] = []
        self.layouts: list[Layout | None] = []
        self.recogniser = recogniser
        self._latest: int | None = None  # slot of the last map or tokens that were recognised
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
        call.outputs, hidden = self._find(out, m, returned=True)
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

    def _find(
        self, tree: Any, m: nn.Module, *, returned: bool = False
    ) -> tuple[list[tuple[int, int]], str]:
        found, reason = [], ""
        for position, leaf in enumerate(tree_flatten(tree)[0]):
            if isinstance(leaf, Tensor):
                if leaf.is_floating_point() and leaf.requires_grad:
                    found.append((position, self._slot(leaf, m, returned=returned)))
            elif _hides_tensors(leaf):
                reason = f"tensors inside a {type(leaf).__name__}"
        return found, reason

    def _slot(self, z: Tensor, m: nn.Module | None, *, returned: bool = False) -> int:
        is_map = takes_maps(m) if m is not None else False
        key = (id(z), z._version)
        if key not in self._slots:
            self._slots[key] = len(self._tensors)
            self._tensors.append((z, z._version))
            self.layouts.append(None)
            fresh = True
        else:
            fresh = False
        slot = self._slots[key]
        again = fresh or is_map or (returned and bool(_declared_grids(m, self._image)))
        if m is not None and self.layouts[slot] is None and again:
            self.layouts[slot] = self._recognise(z, m, is_map, returned)
            found = self.layouts[slot]
            if found is not None and found.spatial and not found.flat:
                self._latest = slot
        return slot

    def _recognise(self, z: Tensor, m: nn.Module, is_map: bool, returned: bool) -> Layout | None:
        number, near = self._enclosing()
        own = returned and bool(self._stack) and number == self._stack[-1]
        if not is_map and z.shape in self._unknown(number):
            return None

        def confirm(layout: Layout) -> bool:
            if own and is_map:  # what the layer makes of a map that is known
                return True
            sources = [*([self._latest] if self._latest is not None else []), *near]
            return any(self._looks(z, layout, source) for source in sources)

        if returned and isinstance(self.recogniser, LayoutRecogniser):
            for grid in _declared_grids(m, self._image):
                self.recogniser.declare(grid)
        known = [(layout, self._tensors[s][0].shape) for s in near if (layout := self.layouts[s])]
        return self.recogniser(
            z,
            known or [(self.recogniser.root, torch.Size())],
            is_map=is_map,
            module=m,
            returned=returned,
            confirm=confirm,
        )

    def _looks(self, z: Tensor, layout: Layout, source: int) -> bool:
        known, (s, version) = self.layouts[source], self._tensors[source]
        usable = known is not None and known.spatial and not known.flat and s._version == version
        if known is None or not usable or s is z:
            return False
        return looks_there(z, layout, s, known, self._image)

    @property
    def _image(self) -> Grid:
        return self.recogniser.root.grid

    def _enclosing(self) -> tuple[int | None, list[int]]:
        """The innermost call around the present place that took known layouts, and their slots."""
        number: int | None = self._stack[-1] if self._stack else None
        while number is not None:
            call = self.calls[number]
            known = [s for _, s in call.inputs if self.layouts[s] is not None]
            if known:
                return number, known
            number = call.parent
        return None, []

    def _unknown(self, until: int | None) -> set[torch.Size]:
        """Shapes of unknown layout that entered the calls around the present place."""
        found: set[torch.Size] = set()
        number: int | None = self._stack[-1] if self._stack else None
        while number is not None:
            call = self.calls[number]
            found |= {self._tensors[s][0].shape for _, s in call.inputs if self.layouts[s] is None}
            number = None if number == until else call.parent
        return found


def _declared_grids(m: nn.Module | None, image: Grid) -> list[Grid]:
    """What a patch embedding says that it makes of the image: its grid, or the size of a patch."""
    found = [grid for grid in [_pair(getattr(m, "grid_size", None))] if grid is not None]
    patch = _pair(getattr(m, "patch_size", None))
    if patch is not None and min(patch) > 0:
        found.append((image[0] // patch[0], image[1] // patch[1]))
    return found


def _pair(value: Any) -> Grid | None:
    if isinstance(value, int):
        return value, value
    two = isinstance(value, tuple | list) and len(value) == 2
    return (value[0], value[1]) if two and all(isinstance(n, int) for n in value) else None


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
