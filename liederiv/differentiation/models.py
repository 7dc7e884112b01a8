"""The modules behind a function: found by watching it run, kept as they were, run in float64.

A model comes as a module, or hidden in a lambda, a bound method, a partial, an adapter. Whoever it
is, the modules that it calls are seen by a hook that torch offers for all modules at once, before
any of their code runs; so their mode, their weights and what they keep can be looked at without
asking the function how it was written.
"""

from __future__ import annotations

import copy
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import FunctionType, ModuleType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.utils._pytree import tree_flatten, tree_map

from liederiv.errors import ModelError

__all__ = [
    "ModePolicy",
    "as_it_was",
    "evaluated",
    "in_double",
    "in_training",
    "kept_randomness",
    "kept_weights",
    "own_buffers",
    "plain_model",
    "random_states",
    "refuse_training",
    "root_modules",
    "watched",
]

ModePolicy = Literal["refuse", "compare", "eval", "keep"]
"""What to do about training mode: ``refuse`` it in the module that f is; ``compare`` (and both of
these for modules behind f) accepts it where it changes nothing; ``eval`` switches it off for the
duration; ``keep`` leaves it."""

_INTERNAL = {
    *("_parameters", "_buffers", "_modules", "_backward_hooks", "_backward_pre_hooks"),
    *("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    *("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_state_dict_hooks"),
    *("_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"),
    *("_non_persistent_buffers_set", "_is_full_backward_hook", "training"),
}


def plain_model(model: Any) -> Any:
    """The user's own module inside wrappers that must not take part in a measurement.

    The wrapper for distributed training broadcasts buffers in each forward pass and would wait for
    processes that hold no more images; compiled forward-mode derivatives can be wrong.
    """
    while True:
        if isinstance(model, DistributedDataParallel | DataParallel):
            model = model.module
        elif isinstance(model, nn.Module) and isinstance(
            getattr(model, "_orig_mod", None), nn.Module
        ):
            model = model._orig_mod
        else:
            return model


def root_modules(f: Any) -> tuple[nn.Module, ...]:
    """The module that a function is, or is a bound method or a partial of; none otherwise."""
    for candidate in (f, getattr(f, "__self__", None), getattr(f, "func", None)):
        if isinstance(candidate, nn.Module):
            return (candidate,)
        owner = getattr(candidate, "__self__", None)
        if isinstance(owner, nn.Module):
            return (owner,)
    return ()


def _every(roots: Sequence[nn.Module]) -> list[nn.Module]:
    """The modules and all inside them, each once; scripted ones keep their state to themselves."""
    every = {id(m): m for root in roots for m in root.modules()}
    return [m for m in every.values() if not isinstance(m, torch.jit.ScriptModule)]


def in_training(roots: Sequence[nn.Module]) -> list[nn.Module]:
    """The modules in training mode."""
    return [m for root in roots for m in root.modules() if getattr(m, "training", False)]


class Watched(list[nn.Module]):
    """The outermost modules that were called, and what the call would have left in them."""

    def __init__(self) -> None:
        super().__init__()
        self.states: list[_State] = []

    @contextmanager
    def left_behind(self) -> Iterator[bool]:
        """With the tensor attributes that a call adds to the modules, detached; whether any are."""
        added = [(s.module, k, v) for s in self.states for k, v in s.new.items()]
        for module, name, value in added:
            vars(module)[name] = tree_map(_detached, value)
        try:
            yield bool(added)
        finally:
            for module, name, _ in added:
                vars(module).pop(name, None)

    def leave(self) -> None:
        """Leave these attributes there, as a call of the model does."""
        for state in self.states:
            for name, value in state.new.items():
                vars(state.module)[name] = tree_map(_detached, value)


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


@contextmanager
def watched(f: Callable[..., Any], mode: ModePolicy = "keep") -> Iterator[Watched]:
    """Collect the outermost modules that are called inside, and put them back on exit.

    Args:
        f: what will be called; the module that it is counts as called.
        mode: what to do about modules in training mode, before their code runs.

    Yields:
        the list that fills up: modules that no other module has called.

    Raises:
        ModelError: for f in training mode, if ``mode`` refuses that.
    """
    found = Watched()
    inside: set[int] = set()
    with ExitStack() as stack:

        def meet(module: nn.Module, _: Any) -> None:
            if id(module) in inside:
                return
            below = _every([module])
            inside.update(id(m) for m in below)
            found.append(module)
            found.states += stack.enter_context(as_it_was([module]))
            if mode == "eval":
                stack.enter_context(_in_mode(below, training=False))

        for root in root_modules(f):
            if mode == "refuse":
                refuse_training(root)
            meet(root, None)
        handle = register_module_forward_pre_hook(meet)
        try:
            yield found
        finally:
            handle.remove()


def refuse_training(model: nn.Module) -> None:
    """Raise `ModelError` if a module or one inside it is in training mode."""
    named = model.named_modules()
    training = [name or "the model" for name, m in named if getattr(m, "training", False)]
    if training:
        raise ModelError(
            f"the model is in training mode ({len(training)} modules, first: {training[0]}); "
            "call model.eval() first, since batch norm and dropout differ in training."
        )


@contextmanager
def _in_mode(modules: Sequence[nn.Module], *, training: bool) -> Iterator[None]:
    """Modes set directly, so that no ``train()`` of the user's own runs."""
    switched = [m for m in modules if m.training != training]
    for module in switched:
        module.training = training
    try:
        yield
    finally:
        for module in switched:
            module.training = not training


@contextmanager
def evaluated(roots: Sequence[nn.Module]) -> Iterator[None]:
    """All modules in eval mode, and back."""
    with _in_mode(_every(roots), training=False):
        yield


@contextmanager
def as_it_was(roots: Sequence[nn.Module]) -> Iterator[list[_State]]:
    """Put back what a forward pass leaves behind in modules, on every exit.

    What is put back: buffers, tensors kept as attributes or in lists and dictionaries that are
    attributes (identity and, where they were written to, values), gradients of parameters. Under
    forward mode such tensors are wrappers that are dead afterwards: nothing could copy or save the
    model any more. Numbers and strings (a counter of calls) are the user's to keep.
    """
    states = [_State(m) for m in _every(roots)]
    try:
        yield states
    finally:
        for state in states:
            state.restore()


class _State:
    """What one module holds, at the moment."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.gradients = [(p, p.grad) for p in module._parameters.values() if p is not None]
        for p, _ in self.gradients:  # a backward pass inside the model would add to them
            p.grad = None
        stores: list[dict[str, Any]] = [module._parameters, module._buffers]
        self.stores = [(store, dict(store)) for store in stores]
        self.attributes = {k: v for k, v in vars(module).items() if k not in _INTERNAL}
        self.contents = list(_containers(list(self.attributes.values())))
        kept: list[Tensor] = [t for t in module._buffers.values() if t is not None]
        kept += _tensors(self.attributes)
        self.values = [(t, t._version, t.detach().clone()) for t in kept if _is_plain(t)]
        self.new: dict[str, Any] = {}

    def restore(self) -> None:
        for tensor, version, values in self.values:
            # Batch norm's kernel updates its statistics without counting a version.
            if tensor._version != version or not torch.equal(tensor, values):
                with torch.no_grad():
                    tensor.copy_(values)
        for store, old in self.stores:
            if any(store.get(k, _ABSENT) is not v for k, v in old.items()) or len(store) > len(old):
                store.clear()
                store.update(old)
        for p, gradient in self.gradients:
            p.grad = gradient
        own = vars(self.module)
        for name in [*own, *self.attributes]:
            now, before = own.get(name, _ABSENT), self.attributes.get(name, _ABSENT)
            if name in _INTERNAL or now is before or not (_holds(now) or _holds(before)):
                continue
            if before is _ABSENT:
                self.new[name] = own.pop(name)
            else:
                own[name] = before
        for container, kept in self.contents:
            _refill(container, kept)


_ABSENT = object()
_DEPTH = 3  # of containers in containers that are looked into


def _insides(value: Any) -> list[Any] | None:
    """What a container holds; None for what is none."""
    # Subclasses may forbid what their base allows.
    if isinstance(value, dict):
        return [*dict.values(value)]
    kinds: tuple[Any, ...] = (tuple, list, set, frozenset, deque)
    for kind in kinds:
        if isinstance(value, kind):
            return [*kind.__iter__(value)]
    own = getattr(value, "__dict__", None)
    opaque = isinstance(value, nn.Module | Tensor | type | ModuleType | FunctionType)
    return list(own.values()) if isinstance(own, dict) and not opaque else None


def _holds(value: Any, depth: int = _DEPTH) -> bool:
    """Whether a tensor is in it."""
    if isinstance(value, Tensor):
        return True
    inside = _insides(value) if depth else None
    return inside is not None and any(_holds(v, depth - 1) for v in inside)


def _tensors(value: Any, depth: int = _DEPTH) -> list[Tensor]:
    """The tensors in it."""
    if isinstance(value, Tensor):
        return [value]
    inside = (_insides(value) or []) if depth else []
    return [t for v in inside for t in _tensors(v, depth - 1)]


def _is_plain(value: Any) -> bool:
    """Whether a tensor's values can be kept and compared."""
    return (
        isinstance(value, Tensor)
        and not isinstance(value, nn.Parameter)
        and value.layout == torch.strided
        and not value.is_inference()
        and not value.is_meta
        and not value.is_quantized
    )


def _containers(values: Iterable[Any], depth: int = _DEPTH) -> Iterator[tuple[Any, Any]]:
    """The containers among values that can be written to, with shallow copies of their contents."""
    for value in values:
        inside = _insides(value) if depth else None
        if inside is None:
            continue
        if isinstance(value, dict | list | set | deque):
            yield value, copy.copy(value)
        elif not isinstance(value, tuple | frozenset):
            yield vars(value), dict(vars(value))
        yield from _containers(inside, depth - 1)


def _refill(container: Any, kept: Any) -> None:
    """Put back what a container held, if tensors came or went."""
    now, old = _insides(container) or [], _insides(kept) or []
    if len(now) == len(old) and all(a is b for a, b in zip(now, old, strict=True)):
        return
    if not (_holds(container) or _holds(kept)):
        return
    contents = copy.copy(kept)
    container.clear()
    extend = container.extend if isinstance(container, list | deque) else container.update
    extend(contents)


@contextmanager
def in_double(
    roots: Sequence[nn.Module], twins: dict[int, tuple[Tensor, Tensor]] | None = None
) -> Iterator[None]:
    """Run modules in float64, in place and without copying them; back on every exit.

    Parameters, buffers and tensors kept as attributes are replaced by converted ones for the
    duration, complex ones by complex128. Nothing of the originals is written to.

    Args:
        roots: the modules.
        twins: originals and conversions by id of the original, to be kept for the next time.

    Raises:
        ModelError: for modules that hold their weights where they cannot be replaced.
    """
    twins = {} if twins is None else twins

    def twin(value: Any, depth: int = 2) -> Any:
        if isinstance(value, Tensor):
            if id(value) not in twins:
                twins[id(value)] = (value, _widened(value))
            return twins[id(value)][1]
        if depth and type(value) in (list, tuple):
            new = [twin(v, depth - 1) for v in value]
            changed = any(a is not b for a, b in zip(new, value, strict=True))
            return type(value)(new) if changed else value
        if depth and type(value) is dict:
            items = {k: twin(v, depth - 1) for k, v in value.items()}
            return items if any(items[k] is not value[k] for k in value) else value
        return value

    with ExitStack() as stack:
        for module in _every(roots):
            if isinstance(module, torch.jit.ScriptModule):
                raise ModelError("a scripted module cannot be run in float64 in place.")
            stores: list[dict[str, Any]] = [module._parameters, module._buffers, vars(module)]
            for store in stores:
                keys = [k for k in store if k not in _INTERNAL]
                changed = {k: new for k in keys if (new := twin(store[k])) is not store[k]}
                if changed:
                    kept = {k: store[k] for k in changed}
                    stack.callback(store.update, kept)
                    store.update(changed)
        yield


def own_buffers(f: Callable[[Any], Any], roots: Sequence[nn.Module]) -> Callable[[Any], Any]:
    """F with copies of buffers made inside each call: transforms allow writing to these only."""

    def g(x: Any) -> Any:
        with ExitStack() as stack:
            for module in _every(roots):
                store = module._buffers
                stack.callback(store.update, dict(store))
                store.update({k: None if b is None else b.clone() for k, b in store.items()})
            return f(x)

    return g


def _widened(value: Tensor) -> Tensor:
    """A tensor in double precision; a parameter stays one, since modules may be moved inside."""
    if not (value.is_complex() or value.is_floating_point()):
        return value
    wide = value.detach().to(torch.complex128 if value.is_complex() else torch.float64)
    if isinstance(value, nn.Parameter):
        return nn.Parameter(wide, requires_grad=value.requires_grad)
    return wide


@contextmanager
def kept_randomness(x: Any = None) -> Iterator[None]:
    """The random states of torch, NumPy and Python as they were, on every exit.

    Args:
        x: an input: its device's state is kept too.
    """
    cuda = {v.device for v in tree_flatten(x)[0] if isinstance(v, Tensor) and v.is_cuda}
    devices = sorted(cuda, key=str)
    with torch.random.fork_rng(devices=devices):
        of_numpy, of_python = np.random.get_state(), random.getstate()
        try:
            yield
        finally:
            np.random.set_state(of_numpy)
            random.setstate(of_python)


def random_states(x: Any) -> tuple[Any, ...]:
    """The random states of torch (on the CPU and where x is), NumPy and Python, comparable."""
    cuda = {v.device for v in tree_flatten(x)[0] if isinstance(v, Tensor) and v.is_cuda}
    states = [torch.get_rng_state(), *(torch.cuda.get_rng_state(d) for d in cuda)]
    of_numpy: Any = np.random.get_state()
    return (
        *(bytes(s.numpy().tobytes()) for s in states),
        np.asarray(of_numpy[1]).tobytes(),
        of_numpy[2],
        random.getstate(),
    )


@contextmanager
def kept_weights(f: Any) -> Iterator[None]:
    """Put back parameters that a call changes, and say that it does.

    Raises:
        ModelError: on exit, if one was changed.
    """
    kept = [(p, p.detach().clone()) for root in root_modules(f) for p in root.parameters()]
    yield
    changed = [p for p, value in kept if _is_plain(p.data) and not _equal(p.detach(), value)]
    if changed:
        with torch.no_grad():
            for p, value in kept:
                p.data.copy_(value)
        raise ModelError(
            f"the model changes its own weights when it is called ({len(changed)} parameters), so "
            "it is another function each time; measure it where it only computes."
        )


def _equal(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a, b) or bool(((a == b) | (a.isnan() & b.isnan())).all())
