"""Where a model itself decides what its derivative is: those places are looked for in every pass.

`detach`, values read into Python or NumPy, ``out=``, rules of an `autograd.Function`: what torch
records there is what somebody wrote, for all inputs or for some. A verification on one image then
says nothing about the next. `Cuts` notes such places as the function runs, so that whoever meets
one can look at every image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload, OpOverloadPacket
from torch.autograd import forward_ad
from torch.autograd.function import BackwardCFunction
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten

__all__ = ["Cuts"]

# Their results depend on no values of their arguments.
_CONSTANT = {
    *("zeros_like", "ones_like", "empty_like", "full_like"),
    *("rand_like", "randn_like", "randint_like"),
    *("new_zeros", "new_ones", "new_empty", "new_full", "new_tensor", "new_empty_strided"),
}
# They hand values to somebody who records nothing.
_READING = {
    *("item", "tolist", "numpy", "data_ptr", "untyped_storage", "storage"),
    *("__array__", "__dlpack__", "__float__", "__complex__"),
}
_BUILT_IN = ("aten", "prims")
_SCRIPTED = ("aten::detach", "aten::item", "prim::data")
_OWN = ("torch.", "liederiv.")  # whose autograd functions are not a user's


class Cuts(TorchFunctionMode):
    """Notes what drops derivatives, or brings its own; changes nothing.

    Attributes:
        seen: names of the places, each once, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, None] = {}

    def watching(self, f: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """F, whose calls of torch are seen, before rules of other modes take them over."""

        def g(x: Any) -> Any:
            with self:
                out = f(x)
            for rule in _rules(out):
                self._note_rule(rule)
            return out

        return g

    def note_scripts(self, roots: Sequence[nn.Module]) -> None:
        """Note what scripted modules detach, whose calls nobody sees."""
        for script in _scripts(roots):
            graph = str(getattr(script, "inlined_graph", ""))
            self.seen |= {f"{op} in TorchScript": None for op in _SCRIPTED if op in graph}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        self._note_foreign(func, name, args)
        in_place = name.endswith("_") and not name.endswith("__")
        carried = in_place and _any_carries((args, kwargs))  # of which nothing is left afterwards
        out = func(*args, **kwargs)
        if name in _CONSTANT:
            return out
        # Most results have derivatives, so that arguments need not be looked at.
        suspicious = name in _READING or kwargs.get("out") is not None or _drops(out)
        if suspicious and (carried if in_place else _any_carries((args, kwargs))):
            self.seen[name.strip("_") or type(func).__name__] = None
        return out

    def _note_foreign(self, func: Any, name: str, args: tuple[Any, ...]) -> None:
        """Note rules and operators that are not torch's, and what is read past its records."""
        owner = getattr(func, "__self__", None)
        if owner is Tensor.data and args and not isinstance(args[0], nn.Parameter):
            self.seen["data"] = None  # what is written there is not recorded, either
        if name == "custom_function_call":
            self._note_rule(args[0])
        is_operator = isinstance(func, OpOverload | OpOverloadPacket)
        if is_operator and str(func).partition(".")[0] not in _BUILT_IN:
            self.seen[f"operator {func}"] = None

    def _note_rule(self, rule: Any) -> None:
        """Note an `autograd.Function` that is not torch's own."""
        if not str(getattr(rule, "__module__", "")).startswith(_OWN):
            self.seen[f"autograd.Function {getattr(rule, '__name__', rule)}"] = None


def _carries(value: Any) -> bool:
    """Whether a tensor has a derivative with it, forward or backward."""
    if not isinstance(value, Tensor) or not _is_smooth(value):
        return False
    if value.requires_grad:
        return not isinstance(value, nn.Parameter)
    try:
        return forward_ad.unpack_dual(value).tangent is not None
    except RuntimeError:  # no derivative is being taken, or not of such a tensor
        return False


def _any_carries(values: Any) -> bool:
    return any(map(_carries, tree_flatten(values)[0]))


def _drops(out: Any) -> bool:
    """Whether there are floating results, and none has a derivative."""
    leaves = (out,) if isinstance(out, Tensor) else tree_flatten(out)[0]
    floating = [v for v in leaves if isinstance(v, Tensor) and _is_smooth(v)]
    return bool(floating) and not any(map(_carries, floating))


def _is_smooth(value: Tensor) -> bool:
    return value.is_floating_point() or value.is_complex()


def _scripts(modules: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """The outermost scripted modules; their graphs have what is inside."""
    for module in modules:
        if isinstance(module, torch.jit.ScriptModule):
            yield module
        else:
            yield from _scripts(module.children())


def _rules(out: Any) -> Iterator[type]:
    """The autograd functions in the graph of tensors."""
    waiting = [v.grad_fn for v in tree_flatten(out)[0] if isinstance(v, Tensor)]
    seen = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(node, BackwardCFunction):
            yield type(node)._forward_cls
        waiting += [following for following, _ in node.next_functions]
