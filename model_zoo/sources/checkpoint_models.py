"""Build the timm model that a checkpoint fits, or explain why there is none."""

from __future__ import annotations

import difflib
import inspect
import sys
from collections.abc import Mapping
from typing import Any

import timm
import torch
from timm.models import model_entrypoint
from torch import Tensor, nn

from liederiv.errors import ModelError
from liederiv.foreign import one_line

from ..weights.checkpoints import Checkpoint
from ..weights.files import shown
from ..weights.fitting import Fitted, find_weights, load_weights
from ..weights.parts import Target, plausible_parts
from ..weights.state import FilterFn, Mismatch
from .construction import create, create_with_state_dict
from .recipes import Recipe

__all__ = ["model_from_checkpoint"]

FILTERS = ("checkpoint_filter_fn", "_filter_fn", "checkpoint_filter_fn_classifier")
MAX_SUGGESTION_TRIALS = 16


def model_from_checkpoint(recipe: Recipe, file: Checkpoint) -> tuple[nn.Module, str]:
    """Build the model with the number of classes that the file has, and load every tensor.

    Args:
        recipe: What to build.
        file: The weights.

    Returns:
        The model with the file's weights, and what was taken and adapted (`load_weights`).

    Raises:
        ModelError: If any tensor is missing, left over or of another shape, if several different
            parts of the file fit, or if the values cannot be the model's.
    """
    heads = _classifiers(recipe.config)
    model = create(recipe, recipe.num_classes, plain=True)
    found = _find(recipe, file, model, heads)
    if isinstance(found, Mismatch) and recipe.num_classes:
        _refuse_other_classes(recipe, file, model, heads)
    if isinstance(found, Fitted) and recipe.num_classes is None:
        size = _classifier_size(found.part.tensors, heads)
        if size is not None and size != _classifier_size(model.state_dict(), heads):
            model = create(recipe, size, plain=True)
            found = _find(recipe, file, model, heads, strict=True)
    if isinstance(found, Mismatch):
        raise ModelError(_explain(recipe, file, found, model, heads))
    said = load_weights(file, found, model)
    if recipe.kwargs.get("features_only"):
        model = create_with_state_dict(recipe, model.state_dict(), None)
    return model, said


def _find(
    recipe: Recipe,
    file: Checkpoint,
    model: nn.Module,
    heads: tuple[str, ...],
    strict: bool = False,
) -> Fitted | Mismatch:
    tensors = _head_tensors(heads)
    without = getattr(model, "num_classes", None) == 0
    free = () if strict or recipe.num_classes is not None else tensors
    target = Target.of(model, free=free, unused=tensors if without else ())
    return find_weights(file, model, target, _timm_filter(recipe.arch))


def _refuse_other_classes(
    recipe: Recipe, file: Checkpoint, model: nn.Module, heads: tuple[str, ...]
) -> None:
    """Say so where all but the size of the classifier fits."""
    target = Target.of(model, free=_head_tensors(heads))
    found = find_weights(file, model, target, _timm_filter(recipe.arch))
    if isinstance(found, Fitted):
        tensors = found.part.tensors
        name = next((h for h in heads if f"{h}.weight" in tensors), heads[0])
        raise ModelError(
            f"`num_classes`={recipe.num_classes} conflicts with `checkpoint` {shown(file.path)}, "
            f"whose classifier '{name}.weight' has {_classifier_size(tensors, heads)} classes; "
            "leave `num_classes` out, or give 0 for features."
        )


def _classifiers(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the classifier modules; a distilled model has two."""
    names = config.get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(map(str, names))


def _head_tensors(heads: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{head}.{kind}" for head in heads for kind in ("weight", "bias"))


def _classifier_size(tensors: Mapping[str, Tensor], heads: tuple[str, ...]) -> int | None:
    """How many classes the classifier among these weights has."""
    shapes = [tensors[name].shape for name in _head_tensors(heads) if name in tensors]
    return int(shapes[0][0]) if shapes and len(shapes[0]) else None


def _timm_filter(arch: str) -> FilterFn | None:
    """The function with which timm translates foreign checkpoints of this architecture."""
    module = sys.modules[model_entrypoint(arch).__module__]
    found = next((getattr(module, n) for n in FILTERS if hasattr(module, n)), None)
    if found is None:
        return None
    if len(inspect.signature(found).parameters) == 1:
        return lambda state_dict, model: found(state_dict)
    return lambda state_dict, model: found(state_dict, model)


def _explain(
    recipe: Recipe,
    file: Checkpoint,
    mismatch: Mismatch,
    model: nn.Module,
    heads: tuple[str, ...],
) -> str:
    start = f"`checkpoint` {shown(file.path)} does not fit {recipe.name!r}: {mismatch.describe()}"
    head_names = set(_head_tensors(heads))
    if mismatch.count == len(mismatch.missing) and head_names.issuperset(mismatch.missing):
        return f"{start}; it holds no classifier, so load it with `num_classes`=0 (features)."
    values = sum(t.numel() for t in model.state_dict().values())
    start += f"; it holds {file.num_parameters:,} values, the model {values:,}"
    other = _suggest(recipe, file)
    if other is not None:
        return f"{start}; {other}."
    return f"{start}; name the architecture that the file was trained with."


def _suggest(recipe: Recipe, file: Checkpoint) -> str | None:
    """Name the architecture that the file states, or a relative whose shapes it has."""
    if file.arch is not None and file.arch.partition(".")[0] != recipe.arch:
        return f"the file says that it was trained as {one_line(repr(file.arch))[:120]}"
    family = recipe.arch.split("_")[0].rstrip("0123456789")
    relatives = [n for n in timm.list_models(f"{family}*") if n != recipe.arch]
    near = difflib.get_close_matches(recipe.arch, relatives, MAX_SUGGESTION_TRIALS, cutoff=0.0)
    for name in near:
        if _has_shapes_of(name, file):
            return f"its shapes are those of {name!r}"
    return None


def _has_shapes_of(name: str, file: Checkpoint) -> bool:
    config = timm.get_pretrained_cfg(name)
    heads = _classifiers(config.to_dict() if config else {})
    try:
        with torch.device("meta"):
            model = timm.create_model(name)
    except Exception:  # a suggestion is a courtesy: models that need real tensors are passed over
        return False
    target = Target.of(model, free=_head_tensors(heads))
    parts = plausible_parts(file.entries, target)
    return any(target.compare(part.tensors).count == 0 for part in parts)
