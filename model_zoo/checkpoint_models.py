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

from .checkpoints import Checkpoint
from .construction import create, create_with_state_dict
from .recipes import Recipe
from .weights import FilterFn, Mismatch, classifier_size, compare, fit_parts, strip_wrappers

__all__ = ["model_from_checkpoint"]

FILTERS = ("checkpoint_filter_fn", "_filter_fn", "checkpoint_filter_fn_classifier")
MAX_SUGGESTION_TRIALS = 16


def model_from_checkpoint(recipe: Recipe, file: Checkpoint) -> tuple[nn.Module, str]:
    """Build the model with the number of classes that the file has, and load every tensor.

    Args:
        recipe: What to build.
        file: The weights.

    Returns:
        The model with the file's weights, and what was taken and adapted (`Mismatch.said`).

    Raises:
        ModelError: If any tensor is missing, left over or of another shape.
    """
    heads = _classifiers(recipe.config)
    num_classes = _number_of_classes(recipe, file, heads)
    model = create(recipe, num_classes, plain=True)
    mismatch = _fit(recipe, file, model)
    found = _foreign_head(mismatch, heads) if recipe.num_classes is None else None
    if found is not None:  # the classifier came to light under timm's names only
        num_classes = found
        model = create(recipe, num_classes, plain=True)
        mismatch = _fit(recipe, file, model)
    if mismatch.count:
        raise ModelError(_explain(recipe, file, mismatch, model, heads))
    if recipe.kwargs.get("features_only"):
        model = create_with_state_dict(recipe, model.state_dict(), None)
    return model, mismatch.said


def _fit(recipe: Recipe, file: Checkpoint, model: nn.Module) -> Mismatch:
    optional = []
    if getattr(model, "num_classes", None) == 0:
        heads = _classifiers(recipe.config)
        optional = [f"{head}.{kind}" for head in heads for kind in ("weight", "bias")]
    return fit_parts(file.parts, model, _timm_filter(recipe.arch), optional)


def _classifiers(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the classifier modules; a distilled model has two."""
    names = config.get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)


def _number_of_classes(recipe: Recipe, file: Checkpoint, heads: tuple[str, ...]) -> int | None:
    sizes = (classifier_size(part.state_dict, heads) for part in file.parts)
    found = next((size for size in sizes if size is not None), None)
    wanted = recipe.num_classes
    if found is None or wanted == 0:
        return wanted
    if wanted is not None and wanted != found[1]:
        raise ModelError(
            f"`num_classes`={wanted} conflicts with `checkpoint` {file.path}, whose classifier "
            f"{found[0]!r} has {found[1]} classes; leave `num_classes` out, or give 0 for features."
        )
    return found[1]


def _foreign_head(mismatch: Mismatch, heads: tuple[str, ...]) -> int | None:
    """Size of a classifier that, after timm's remapping, alone has another shape."""
    weights = [(name, shape) for name, shape, _ in mismatch.shapes if name.endswith(".weight")]
    named = [shape[0] for name, shape in weights if name.removesuffix(".weight") in heads]
    return named[0] if named and len(weights) == len(named) else None


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
    start = f"`checkpoint` {file.path} does not fit {recipe.name!r}: {mismatch.describe()}"
    head_names = {f"{h}.{kind}" for h in heads for kind in ("weight", "bias")}
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
        return f"the file says that it was trained as {file.arch!r}"
    family = recipe.arch.split("_")[0].rstrip("0123456789")
    relatives = [n for n in timm.list_models(f"{family}*") if n != recipe.arch]
    near = difflib.get_close_matches(recipe.arch, relatives, MAX_SUGGESTION_TRIALS, cutoff=0.0)
    plain = strip_wrappers(file.state_dict)
    for name in near:
        if _has_shapes_of(name, plain):
            return f"its shapes are those of {name!r}"
    return None


def _has_shapes_of(name: str, plain: Mapping[str, Tensor]) -> bool:
    config = timm.get_pretrained_cfg(name)
    head = classifier_size(plain, _classifiers(config.to_dict() if config else {}))
    kwargs: dict[str, Any] = {} if head is None else {"num_classes": head[1]}
    try:
        with torch.device("meta"):
            model = timm.create_model(name, **kwargs)
    except (AssertionError, NotImplementedError, RuntimeError, TypeError, ValueError):
        return False  # a suggestion is a courtesy: models that need real tensors are passed over
    return compare(plain, model).count == 0
