"""Whether tensors of a file are values that a model can take over as they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from liederiv.errors import ModelError
from liederiv.foreign import one_line

__all__ = ["check_values", "numbers_alike"]

_PLAIN = (Tensor, nn.Parameter, nn.Buffer)
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_values(tensors: Mapping[str, Tensor], model: nn.Module, path: Path) -> tuple[str, ...]:
    """Refuse tensors that are not the plain, finite numbers that the model's own tensors are.

    Args:
        tensors: By the model's names and in its shapes.
        model: As built, which shows the types and where infinities belong (masks).
        path: Of the file, for the sentence.

    Returns:
        Notes on types that were converted.

    Raises:
        ModelError: For sparse, quantised, nested or empty (meta) tensors, for other tensor
            classes, for types that are not the model's, and for NaN or infinite weights.
    """
    own: dict[str, Any] = model.state_dict()
    converted: dict[str, int] = {}
    for name, tensor in tensors.items():
        if name not in own:
            continue
        why = _unusable(tensor, own[name]) or _not_finite(tensor, own[name])
        if why:
            raise ModelError(
                f"`checkpoint` {one_line(path)}: the weights {one_line(repr(name))[:120]} {why}."
            )
        if tensor.dtype != own[name].dtype and tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            converted[kind] = converted.get(kind, 0) + 1
    return tuple(f"{n} tensors are stored as {kind}" for kind, n in converted.items())


def _unusable(tensor: Tensor, own: Tensor) -> str:
    """Why a tensor's kind or type is not the model's; empty if it is."""
    dense = "save `model.state_dict()` of the model in float32"
    if type(tensor) not in _PLAIN:
        return f"are of class {type(tensor).__name__}, whose values need other code; {dense}"
    if tensor.is_quantized:
        return f"are quantised ({tensor.dtype}), so they are not the model's numbers; {dense}"
    if tensor.is_nested or tensor.layout != torch.strided:
        kind = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
        return f"are {kind}, not dense; save them with .to_dense()"
    if tensor.is_meta:
        return "are on the meta device, so the file holds shapes without values; save real weights"
    if tensor.dtype.is_complex != own.dtype.is_complex:
        return f"are of dtype {tensor.dtype} where the model has {own.dtype}; {dense}"
    if own.is_floating_point() and tensor.dtype not in _FLOATS:
        return (
            f"are of dtype {tensor.dtype} where the model has {own.dtype}: quantised or packed "
            f"numbers without their scale; {dense}"
        )
    if not own.dtype.is_complex and not own.is_floating_point() and tensor.is_floating_point():
        return f"are of dtype {tensor.dtype} where the model has {own.dtype}; {dense}"
    return ""


def _not_finite(tensor: Tensor, own: Tensor) -> str:
    """Why values are not numbers; infinities of the model's own (masks) may stay."""
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return ""
    wrong = ~tensor.isfinite()
    if not own.is_meta:
        wrong &= own.isfinite() | tensor.isnan()
    count = int(wrong.sum())
    if count:
        remedy = "the training has diverged, so take an earlier checkpoint"
        return f"hold {count} NaN or infinite values; {remedy}"
    if tensor.dtype != own.dtype and not (tensor.to(own.dtype).isfinite() | ~own.isfinite()).all():
        return f"hold values beyond the range of {own.dtype}; save them in that range"
    return ""


def numbers_alike(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Whether two sets of weights are the same numbers under the same names."""
    return a.keys() == b.keys() and all(_alike(a[name], b[name]) for name in a)


def _alike(a: Tensor, b: Tensor) -> bool:
    if a is b:
        return True
    if a.shape != b.shape or a.dtype != b.dtype or a.layout != b.layout:
        return False
    if a.is_meta or b.is_meta or a.is_quantized or b.is_quantized or a.is_nested or b.is_nested:
        return False
    try:
        return torch.equal(a, b)
    except (RuntimeError, NotImplementedError):  # layouts that cannot be compared
        return False
