"""How a derivative was verified, and what is remembered of it from call to call."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_flatten

from liederiv.actions import Action

__all__ = ["Known", "Verification", "forget", "recall", "remember"]


@dataclass(frozen=True)
class Verification:
    """How a derivative was verified, on one item of the input.

    See `liederiv.differentiation.witness`.

    Attributes:
        engine: which engine differentiated.
        primal: ‖f(x) inside the engine − f(x)‖ / ‖f(x)‖; None if not checked.
        derivative: ‖J v − central difference‖ relative to the larger, along a random combination of
            all tangents; None if not checked.
        resolution: how well the difference itself is known, likewise relative.
        precision: of the differences, ``float64`` or ``float32``; empty without.
        rows: how many items were run alone and compared with their rows in the batch.
        glances: at how many more items of the batch J v was compared with one step, which shows
            whether much of it is missing there.
        items: how many items were examined in full.
        cuts: where the model itself decides about its derivative (`liederiv.differentiation.cuts`).
        unchecked: what was not checked, and why.
        passed_over: why engines in front of this one were not used, the first reason; else empty.
    """

    engine: str
    primal: float | None = None
    derivative: float | None = None
    resolution: float | None = None
    precision: str = ""
    rows: int = 0
    glances: int = 0
    items: int = 1
    cuts: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()
    passed_over: str = ""

    @classmethod
    def skipped(cls, engine: str) -> Verification:
        """What stands where nobody wanted a verification."""
        return cls(engine, unchecked=("anything (verify=False)",))

    def __str__(self) -> str:
        parts = []
        if self.derivative is not None and self.resolution is not None:
            parts.append(
                f"derivative within {self.derivative:.0e} of central differences in "
                f"{self.precision} (known to {self.resolution:.0e})"
            )
        if self.cuts:
            parts.append(
                f"on each of {self.items} item{'s' * (self.items > 1)}, since the model decides "
                f"about its derivative itself ({', '.join(self.cuts)})"
            )
        if self.glances:
            parts.append(f"looked at on {self.glances} more item{'s' * (self.glances > 1)}")
        if self.primal is not None:
            parts.append(f"output inside the engine within {self.primal:.0e}")
        if self.rows:
            parts.append(f"rows of {self.rows} item{'s' * (self.rows > 1)} as alone")
        if self.unchecked:
            parts.append(f"not checked: {'; '.join(self.unchecked)}")
        return ", ".join(parts)


@dataclass(frozen=True)
class Known:
    """A verification and the modules behind the function, without keeping them alive."""

    verification: Verification
    references: tuple[weakref.ref[nn.Module], ...]
    generators: frozenset[Hashable] = frozenset()

    @classmethod
    def of(cls, verification: Verification, roots: Sequence[nn.Module]) -> Known:
        """From the modules themselves."""
        return cls(verification, tuple(weakref.ref(m) for m in roots))

    @property
    def roots(self) -> tuple[nn.Module, ...]:
        """The modules that are still there."""
        return tuple(m for r in self.references if (m := r()) is not None)


_Key = tuple[Hashable, ...]
_KNOWN: weakref.WeakKeyDictionary[Any, dict[_Key, tuple[Known, _Key]]] = weakref.WeakKeyDictionary()


def recall(f: Callable[..., Any], x: Any, action: Action, engine: str | None) -> Known | None:
    """What was found for this function and such an input, if the modules are as they were.

    Args:
        f: the function.
        x: the input: the size of an item, dtype and device count.
        action: the generators; those of an earlier call must include them.
        engine: which was insisted on.
    """
    try:
        found = _KNOWN.get(f, {}).get((*_of_input(x), engine))
    except TypeError:  # no hash, or no weak reference
        return None
    if found is None:
        return None
    known, state = found
    alive = len(known.roots) == len(known.references)
    same = alive and _of_modules(f, known.roots) == state
    return known if same and known.generators >= set(action.generators) else None


def remember(
    f: Callable[..., Any], x: Any, action: Action, engine: str | None, known: Known
) -> None:
    """Keep what was found as long as the function lives; see `recall`."""
    generators: frozenset[Hashable] = frozenset(action.generators)
    state = _of_modules(f, known.roots)
    key = (*_of_input(x), engine)
    try:
        before = _KNOWN.setdefault(f, {}).get(key)
        if before is not None and before[1] == state:
            same = before[0].verification.engine == known.verification.engine
            generators |= before[0].generators if same else frozenset()
        _KNOWN[f][key] = replace(known, generators=generators), state
    except TypeError:
        return


def forget(f: Callable[..., Any]) -> None:
    """Verify this function anew at its next call, e.g. after its code was changed."""
    try:
        _KNOWN.pop(f, None)
    except TypeError:
        return


def _of_input(x: Any) -> _Key:
    """Size of one item, dtype and device."""
    leaves = tree_flatten(x)[0]
    shapes: Hashable = tuple(tuple(v.shape[1:]) for v in leaves)
    return str(type(x)), shapes, leaves[0].dtype, str(leaves[0].device)


def _of_modules(f: Callable[..., Any], roots: Sequence[nn.Module]) -> _Key:
    """What decides how a function computes, but for the values of its weights.

    Modules, their code, mode, hooks and switches (attributes that are flags, names or functions);
    what a function holds in its closure; and which weights are all zero: a branch behind such a
    gate could not be seen when it was.
    """
    modules = tuple(
        (
            id(m),
            id(vars(m).get("forward", type(m).forward)),
            len(m._forward_hooks),
            len(m._forward_pre_hooks),
            _switches(vars(m)),
        )
        for root in roots
        for m in root.modules()
        if not isinstance(m, torch.jit.ScriptModule)
    )
    cells = tuple(id(c.cell_contents) for c in getattr(f, "__closure__", None) or () if _full(c))
    own = () if isinstance(f, nn.Module) else _switches(getattr(f, "__dict__", {}))
    return modules, cells, own, _closed_gates(roots)


def _full(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # not filled yet
        return False


def _switches(attributes: Mapping[str, Any]) -> _Key:
    """Attributes that change what code does; numbers may be counters."""
    return tuple(
        (k, v if isinstance(v, bool | str) else id(v))
        for k, v in attributes.items()
        if isinstance(v, bool | str | FunctionType | MethodType | nn.Module)
    )


def _closed_gates(roots: Sequence[nn.Module]) -> _Key:
    """Names of weights that are all zero; biases open and close nothing."""
    return tuple(
        name
        for root in roots
        for name, p in root.named_parameters()
        if not name.endswith("bias") and p.numel() <= _GATE and not p.is_meta and not p.any()
    )


_GATE = 2**16  # weights of more entries are no gates
