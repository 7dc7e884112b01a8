"""Models that return several tensors: which declaration is for which of them.

A declaration has the structure of the model's output and is matched to it

* by *key* where the model returns a mapping (a dict of any kind, a `ModelOutput`), a dataclass or a
  named tuple: a key that is not there is an error, and so is one that is not declared;
* by position where it returns a list or tuple, of the same length;
* at any depth: one declaration in place of a part serves all tensors in it.

None leaves a part unmeasured, whatever it is. What is to be measured must be floating tensors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from liederiv.errors import NotDifferentiableError, UnknownLayoutError
from liederiv.representations import OutputSpec

__all__ = ["Measured", "Part", "Parts", "is_structured", "match_outputs"]


@dataclass(frozen=True)
class Parts:
    """The tensors of an output that are measured.

    Attributes:
        tensors: in the order of the output.
        specs: the declaration for each.
        paths: where each is in the output, as in ``output['boxes'][0]``.
        structure: of the output: dicts (also for dataclasses and other mappings), lists and tuples
            with numbers of tensors in their places, None for what is not measured.
    """

    tensors: list[Tensor]
    specs: list[OutputSpec]
    paths: list[str]
    structure: Any

    def rebuild(self, values: Sequence[Any]) -> Any:
        """The structure with values in place of the tensors."""
        leaves, spec = tree_flatten(self.structure)
        return tree_unflatten([None if i is None else values[i] for i in leaves], spec)


def is_structured(output: OutputSpec) -> bool:
    """Whether a declaration is one for several tensors."""
    return isinstance(output, Mapping | list | tuple)


def match_outputs(output: OutputSpec, y: Any) -> Parts:
    """Give each tensor of a model's output its declaration.

    Args:
        output: see `liederiv.representations.OutputSpec`.
        y: what the model returned.

    Raises:
        UnknownLayoutError: if the structures differ; the message lists the keys that there are.
        NotDifferentiableError: if something that is to be measured is no floating tensor.

    Example:
        >>> import torch
        >>> found = match_outputs({"b": "NCHW", "a": None}, {"a": 3, "b": torch.zeros(1, 2, 4, 4)})
        >>> found.specs, found.paths
        (['NCHW'], ["output['b']"])
    """
    parts = Parts([], [], [], None)
    structure = _descend(output, y, "output", parts)
    if not parts.tensors:
        raise UnknownLayoutError(
            f"output={output!r} leaves nothing of the model's {type(y).__name__} to be measured; "
            "declare how one of its tensors transforms."
        )
    return dataclasses.replace(parts, structure=structure)


class Measured:
    """A model of which only the tensors that are measured come out, as a list.

    Args:
        model: returns several tensors.
        output: declaration of each.

    Attributes:
        parts: what was found at the last call, without the tensors.
    """

    parts: Parts

    def __init__(self, model: Callable[[Any], Any], output: OutputSpec) -> None:
        self.model, self.output = model, output

    def __call__(self, x: Any) -> list[Tensor]:
        """The tensors of `match_outputs`."""
        found = match_outputs(self.output, self.model(x))
        self.parts = dataclasses.replace(found, tensors=[])  # they may be traced ones
        return found.tensors


@dataclass(frozen=True)
class Part:
    """A model of which only one of the tensors that are measured comes out.

    Attributes:
        model: returns several tensors.
        output: declaration of each.
        number: of the one among those that are measured.
    """

    model: Callable[[Any], Any]
    output: OutputSpec
    number: int

    def __call__(self, x: Any) -> Tensor:
        """That tensor."""
        return match_outputs(self.output, self.model(x)).tensors[self.number]


def _descend(output: OutputSpec, y: Any, path: str, parts: Parts) -> Any:
    """Add the tensors of y to the parts; their structure."""
    if output is None:
        return None
    if isinstance(y, Tensor):
        return _leaf(output, y, path, parts)
    items = _items(y)
    if items is None:
        if y is None and not is_structured(output):
            return None  # a head that is switched off
        raise NotDifferentiableError(
            f"{path} is a {type(y).__name__}, which has no derivative; pass None in its place to "
            "leave it unmeasured."
        )
    specs = _specs(output, y, items, path)
    found = {k: _descend(specs[k], v, f"{path}[{k!r}]", parts) for k, v in items.items()}
    if _by_key(y) or not isinstance(y, list | tuple):
        return found
    return list(found.values()) if isinstance(y, list) else tuple(found.values())


def _leaf(output: OutputSpec, y: Tensor, path: str, parts: Parts) -> int:
    if is_structured(output):
        raise UnknownLayoutError(
            f"output lists {len(output)} representations, but the model returns 1 tensor for "
            f"{path}; give one representation."
        )
    if not y.is_floating_point():
        raise NotDifferentiableError(
            f"{path} has type {y.dtype}, which has no derivative; pass None in its place to leave "
            "it unmeasured, or measure floating-point scores (before argmax, round or NMS)."
        )
    parts.tensors.append(y)
    parts.specs.append(output)
    parts.paths.append(path)
    return len(parts.tensors) - 1


def _by_key(y: Any) -> bool:
    return isinstance(y, Mapping) or dataclasses.is_dataclass(y) or hasattr(y, "_fields")


def _items(y: Any) -> dict[Any, Any] | None:
    """The parts of a mapping, dataclass, list or tuple by key or position; else None."""
    if isinstance(y, Mapping):
        return dict(y.items())
    if dataclasses.is_dataclass(y) and not isinstance(y, type):
        return {f.name: getattr(y, f.name) for f in dataclasses.fields(y)}
    if isinstance(y, tuple) and hasattr(y, "_fields"):
        return dict(zip(y._fields, y, strict=True))
    if isinstance(y, list | tuple):
        return dict(enumerate(y))
    return None


def _specs(
    output: OutputSpec, y: Any, items: Mapping[Any, Any], path: str
) -> Mapping[Any, OutputSpec]:
    """The declaration of each part."""
    if not is_structured(output):
        return dict.fromkeys(items, output)
    kind = type(y).__name__
    if isinstance(output, Mapping):
        return _by_name(output, y, items, path)
    if isinstance(y, Mapping) or not isinstance(y, list | tuple):
        raise UnknownLayoutError(
            f"{path} is a {kind} with the keys {_listed(items)}, which have no order; declare it "
            f"by key: {{{', '.join(f'{k!r}: …' for k in items)}}}."
        )
    if len(output) != len(items):
        raise UnknownLayoutError(
            f"output lists {len(output)} representations, but the model returns {len(items)} parts "
            f"in {path}; give one for each, None for what is not to be measured."
        )
    return dict(zip(items, output, strict=True))


def _by_name(
    output: Mapping[Any, OutputSpec], y: Any, items: Mapping[Any, Any], path: str
) -> Mapping[Any, OutputSpec]:
    if not _by_key(y):
        raise UnknownLayoutError(
            f"output has the keys {_listed(output)}, but {path} is a {type(y).__name__} of "
            f"{len(items)}; declare it by position, as a list."
        )
    unknown = [k for k in output if k not in items]
    if unknown:
        raise UnknownLayoutError(
            f"output has the key {unknown[0]!r}, which the model does not return in {path}; it "
            f"returns {_listed(items)}."
        )
    missing = [k for k, v in items.items() if k not in output and v is not None]
    if missing:
        raise UnknownLayoutError(
            f"output does not say how {path}[{missing[0]!r}] transforms (the model returns "
            f"{_listed(items)}); declare it, or pass None for it to leave it unmeasured."
        )
    return {k: output.get(k) for k in items}


def _listed(items: Mapping[Any, Any]) -> str:
    return ", ".join(repr(k) for k in items)
