"""Fit a state dict to a model, tensor by tensor, and name weights by their content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from liederiv.errors import ModelError

__all__ = [
    "Mismatch",
    "Weighted",
    "classifier_size",
    "compare",
    "fit",
    "strip_wrappers",
    "weights_fingerprint",
]

# Put in front of every name by DataParallel, torch.compile and Lightning modules.
WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.")
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
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    shapes: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    total: int

    @property
    def count(self) -> int:
        """Number of tensors that do not fit."""
        return len(self.missing) + len(self.unexpected) + len(self.shapes)

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
    inner = key.replace("._orig_mod.", ".")  # a submodule that was compiled on its own
    while inner not in names:
        prefix = next((p for p in WRAPPERS if inner.startswith(p)), None)
        if prefix is None:
            break
        inner = inner[len(prefix) :]
    return inner


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

    Args:
        state_dict: Tensors by name, wrapper prefixes allowed.
        model: Receives the weights in place; left untouched when they do not fit.
        filter_fn: The architecture's own translation of foreign checkpoints, tried second.
        optional: Names to leave out of the state dict where the model has no use for them.

    Returns:
        An empty mismatch after loading, else the smallest one found.

    Raises:
        ModelError: If the state dict holds one tensor under two names.
    """
    plain = strip_wrappers(state_dict, model.state_dict().keys())
    best = _try_load(plain, model, optional)
    # A filter may recognise a foreign format by the very prefix that was stripped.
    for attempt in (plain, dict(state_dict)) if filter_fn is not None else ():
        if not best.count:
            break
        filtered = _filtered(filter_fn, attempt, model)
        if filtered is not None:
            best = min(_try_load(filtered, model, optional), best, key=lambda m: m.count)
    return best


def _filtered(
    filter_fn: FilterFn | None, state_dict: StateDict, model: nn.Module
) -> StateDict | None:
    if filter_fn is None:
        return None
    try:
        return dict(filter_fn(dict(state_dict), model))
    except (AttributeError, KeyError, IndexError, RuntimeError, TypeError, ValueError):
        return None  # the filter knows some foreign formats; this is none of them


def _try_load(
    state_dict: Mapping[str, Tensor], model: nn.Module, optional: Collection[str]
) -> Mismatch:
    own = model.state_dict().keys()
    used = {k: v for k, v in state_dict.items() if k in own or k not in optional}
    mismatch = compare(used, model)
    if not mismatch.count:
        model.load_state_dict(used, strict=False)  # only num_batches_tracked may be absent
    return mismatch


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
