"""Fit a state dict to a model, tensor by tensor, and name weights by their content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from liederiv.errors import ModelError

from .checkpoint_parts import Part, is_average

__all__ = [
    "FilterFn",
    "Mismatch",
    "Weighted",
    "classifier_size",
    "compare",
    "fit",
    "fit_parts",
    "strip_wrappers",
    "weights_fingerprint",
]

# Put in front of every name by DataParallel, torch.compile and Lightning modules.
WRAPPERS = ("module.", "_orig_mod.", "_forward_module.", "model.", "net.", "network.")
# Put inside names by torch.compile, FSDP and activation checkpointing.
INNER_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
# Counters that averaging and profiling tools leave among the weights.
COUNTERS = ("n_averaged", "total_ops", "total_params")

StateDict = dict[str, Tensor]
FilterFn = Callable[[StateDict, nn.Module], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Mismatch:
    """How a state dict differs from what a model needs; empty when it fits.

    Attributes:
        missing: Names that the model has and the state dict lacks.
        unexpected: Names that the state dict has and the model lacks.
        shapes: Names that both have, with the shapes (in the state dict, in the model).
        total: Number of tensors that the model has.
        notes: Of weights that were loaded: what was taken, removed or adapted, in words.
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    shapes: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    total: int
    notes: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """Number of tensors that do not fit."""
        return len(self.missing) + len(self.unexpected) + len(self.shapes)

    @property
    def said(self) -> str:
        """The notes in brackets, to be put behind the name of a file; empty without any."""
        return f" ({'; '.join(self.notes)})" if self.notes else ""

    def describe(self) -> str:
        """Say in half a sentence how many tensors do not fit, and name the first few."""
        parts = []
        if self.missing:
            parts.append(f"{len(self.missing)} missing ({_first(self.missing)})")
        if self.unexpected:
            parts.append(f"{len(self.unexpected)} unexpected ({_first(self.unexpected)})")
        if self.shapes:
            shown = [f"{name} {list(a)} for {list(b)}" for name, a, b in self.shapes]
            parts.append(f"{len(self.shapes)} of another shape ({_first(shown)})")
        return f"of {self.total} tensors " + ", ".join(parts)


def strip_wrappers(state_dict: Mapping[str, Tensor], target: Collection[str] = ()) -> StateDict:
    """Remove wrapper prefixes, repeated and in any order, until a name is one the model has.

    Args:
        state_dict: Tensors by name.
        target: Names of the model's tensors; a prefix that belongs to such a name stays.

    Returns:
        The same tensors under their plain names, counters of other tools left out.

    Raises:
        ModelError: If two tensors end up under the same name.
    """
    names = frozenset(target)
    plain: StateDict = {}
    for key, tensor in state_dict.items():
        name = _strip(key, names)
        if name in plain:
            raise ModelError(
                f"`checkpoint` holds {name!r} twice, with and without a wrapper's prefix "
                f"({key!r}); save the weights of one model only."
            )
        if name in names or name.rsplit(".", 1)[-1] not in COUNTERS:
            plain[name] = tensor
    return plain


def _strip(key: str, names: frozenset[str]) -> str:
    if key in names:
        return key
    inner = _without_inner(key)  # submodules that were wrapped on their own
    while inner not in names:
        prefix = next((p for p in WRAPPERS if inner.startswith(p)), None)
        if prefix is None:
            break
        inner = inner[len(prefix) :]
    return inner


def _without_inner(key: str) -> str:
    for wrapper in INNER_WRAPPERS:
        key = key.replace(f".{wrapper}", ".").removeprefix(wrapper)
    return key


def _parts_by_prefix(
    state_dict: Mapping[str, Tensor], names: Collection[str]
) -> Iterator[tuple[str, StateDict]]:
    """Subsets whose names, less a common prefix, are those of a model: averages first."""
    inner = {_without_inner(k): v for k, v in state_dict.items()}
    anchors = list(names)[:1] + list(names)[-1:]
    prefixes = {k[: -len(a)] for a in anchors for k in inner if k.endswith(f".{a}")}
    for prefix in sorted(prefixes, key=lambda p: (not is_average(p), len(p), p)):
        yield prefix, {k.removeprefix(prefix): v for k, v in inner.items() if k.startswith(prefix)}


def compare(state_dict: Mapping[str, Tensor], model: nn.Module) -> Mismatch:
    """List every tensor that keeps `state_dict` from being exactly the model's weights.

    Batch norm's `num_batches_tracked`, absent from old checkpoints and unused in evaluation, is
    not counted as missing.

    Args:
        state_dict: Tensors by name.
        model: The model that is to receive them.

    Returns:
        The differences.
    """
    own = model.state_dict()
    missing = tuple(k for k in own if k not in state_dict and not k.endswith("num_batches_tracked"))
    unexpected = tuple(k for k in state_dict if k not in own)
    shapes = tuple(
        (k, tuple(v.shape), tuple(own[k].shape))
        for k, v in state_dict.items()
        if k in own and v.shape != own[k].shape
    )
    return Mismatch(missing, unexpected, shapes, len(own))


def fit(
    state_dict: Mapping[str, Tensor],
    model: nn.Module,
    filter_fn: FilterFn | None = None,
    optional: Collection[str] = (),
) -> Mismatch:
    """Load `state_dict` into `model` if every tensor fits, remapped by `filter_fn` if need be.

    Tried in this order: the tensors less the prefixes of wrappers; the same translated by
    `filter_fn`; those of one submodule of a larger model (`backbone.`, `student.`), whose siblings
    are left out and named in the notes.

    Args:
        state_dict: Tensors by name, wrapper prefixes allowed.
        model: Receives the weights in place; left untouched when they do not fit.
        filter_fn: The architecture's own translation of foreign checkpoints, tried second.
        optional: Names to leave out of the state dict where the model has no use for them.

    Returns:
        A mismatch without any differences after loading, else the smallest one found.

    Raises:
        ModelError: If the state dict holds one tensor under two names, or tensors that are no
            plain numbers.
    """
    names = model.state_dict().keys()
    plain = strip_wrappers(state_dict, names)
    best = _try_load(plain, model, optional)
    # A filter may recognise a foreign format by the very prefix that was stripped.
    for attempt in (plain, dict(state_dict)) if filter_fn is not None else ():
        best = min(_try_filtered(filter_fn, attempt, model, optional), best, key=_size_of)
        if not best.count:
            return best
    for prefix, part in _parts_by_prefix(state_dict, names) if best.count else ():
        found = _try_load(part, model, optional)
        if found.count and filter_fn is not None:
            found = min(_try_filtered(filter_fn, part, model, optional), found, key=_size_of)
        if not found.count:
            rest = len(state_dict) - len(part)
            said = [f"prefix {prefix} removed" + (" (averaged weights)" * is_average(prefix))]
            said += [f"{rest} tensors without it left out"] if rest else []
            return replace(found, notes=(*said, *found.notes))
    return best


def fit_parts(
    parts: Sequence[Part],
    model: nn.Module,
    filter_fn: FilterFn | None = None,
    optional: Collection[str] = (),
) -> Mismatch:
    """Load the first part of a file that fits, see `fit`; its notes say which one it was.

    Args:
        parts: In the order in which they are to be tried.
        model: See `fit`.
        filter_fn: See `fit`.
        optional: See `fit`.

    Returns:
        As `fit` does; the mismatch of the part that comes nearest where none fits.
    """
    best: Mismatch | None = None
    refusal: ModelError | None = None
    for part in parts:
        try:
            found = fit(part.state_dict, model, filter_fn, optional)
        except ModelError as error:
            refusal = refusal or error
            continue
        if not found.count:
            kind = " (averaged weights)" if is_average(part.key) else ""
            said = (f"part {part.key}{kind}",) if part.key else ()
            return replace(found, notes=(*said, *found.notes))
        best = found if best is None else min(found, best, key=_size_of)
    if refusal is not None and (best is None or len(parts) == 1):
        raise refusal
    assert best is not None
    return best


def _size_of(mismatch: Mismatch) -> int:
    return mismatch.count


def _try_filtered(
    filter_fn: FilterFn | None,
    state_dict: StateDict,
    model: nn.Module,
    optional: Collection[str],
) -> Mismatch:
    """`_try_load` of what timm makes of a foreign checkpoint, with a note on what it resampled."""
    filtered = _filtered(filter_fn, state_dict, model)
    if filtered is None:
        return compare(state_dict, model)
    found = _try_load(filtered, model, optional)
    notes = [
        f"{name} resampled from {list(state_dict[name].shape)} to {list(value.shape)}"
        for name, value in filtered.items()
        if name in state_dict and state_dict[name].shape != value.shape
    ]
    return replace(found, notes=(*found.notes, *notes)) if not found.count else found


def _filtered(
    filter_fn: FilterFn | None, state_dict: StateDict, model: nn.Module
) -> StateDict | None:
    if filter_fn is None:
        return None
    try:
        return dict(filter_fn(dict(state_dict), model))
    except Exception:
        return None  # the filter knows some foreign formats; this is none of them


def _try_load(
    state_dict: Mapping[str, Tensor], model: nn.Module, optional: Collection[str]
) -> Mismatch:
    own = model.state_dict()
    # Single numbers that the model does not know are metrics, not weights.
    metrics = [k for k, v in state_dict.items() if k not in own and v.numel() == 1 and v.ndim < 2]
    left = {*optional, *(metrics if len(metrics) < len(state_dict) else ())}
    used = {k: v for k, v in state_dict.items() if k in own or k not in left}
    mismatch = compare(used, model)
    if mismatch.count:
        return mismatch
    _check_numbers(used, own)
    model.load_state_dict(used, strict=False)  # only num_batches_tracked may be absent
    said = (f"{_first(metrics)} left out",) if metrics else ()
    return replace(mismatch, notes=said)


def _check_numbers(state_dict: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Raise unless the tensors are dense numbers of the model's kind."""
    for name, v in state_dict.items():
        kind = ""
        if v.is_meta:
            kind = "has no values (it is on the meta device)"
        elif v.layout != torch.strided:
            kind = "is sparse"
        elif v.is_quantized:
            kind = "is quantised"
        elif v.is_complex() and not own[name].is_complex():
            kind = "is complex, where the model's is real"
        elif own[name].is_floating_point() and not v.is_floating_point():
            kind = f"holds {str(v.dtype).removeprefix('torch.')}, where the model has floats"
        if kind:
            raise ModelError(
                f"`checkpoint`: tensor {name!r} {kind}; save dense floating-point weights."
            )


def classifier_size(
    state_dict: Mapping[str, Tensor], classifiers: Collection[str]
) -> tuple[str, int] | None:
    """Find how many classes the classifier in a state dict has.

    Args:
        state_dict: Tensors by name, wrapper prefixes allowed.
        classifiers: Names of the classifier modules, as timm's `pretrained_cfg` states them.

    Returns:
        Name of the weight and its number of rows, or None where there is no such tensor.
    """
    plain = strip_wrappers(state_dict)
    for name in classifiers:
        weight = plain.get(f"{name}.weight")
        if weight is not None and weight.ndim >= 2:
            return f"{name}.weight", int(weight.shape[0])
    return None


def weights_fingerprint(model: nn.Module) -> str:
    """Name a model's weights by their content: the first 16 hex digits of a SHA-256.

    It covers names, dtypes, shapes and values of all parameters and buffers, in the order of their
    names, and nothing of the file that they came from.

    Args:
        model: Any module.

    Returns:
        Sixteen hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(
            f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode(errors="surrogatepass")
        )
        values = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(values.view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


class Weighted:
    """Something with a ``model``: how many weights it has, and which."""

    model: nn.Module

    @property
    def num_parameters(self) -> int:
        """Number of values in all parameters, buffers excluded."""
        return sum(p.numel() for p in self.model.parameters())

    @cached_property
    def weights_fingerprint(self) -> str:
        """Content hash of parameters and buffers, see `weights_fingerprint`."""
        return weights_fingerprint(self.model)


def _first(items: Collection[str], count: int = 3) -> str:
    shown = ", ".join(list(items)[:count])
    return f"{shown}, …" if len(items) > count else shown
