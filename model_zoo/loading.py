"""`load`: one door to every model, on images or on point clouds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from liederiv.errors import ModelError

from . import timm_models
from .names import ModelEntry
from .names import list_models as list_image_models
from .point_models import LoadedPointModel, is_point_model, list_point_models, load_point_model
from .timm_models import LoadedModel

__all__ = ["list_models", "load"]


def load(
    name: str, checkpoint: str | Path | None = None, pretrained: bool = True, **options: Any
) -> Any:
    """Load a model by name and prepare it for measuring.

    Args:
        name: what `liederiv.model_zoo.timm_models.load` takes (a timm name, a hub id, a folder, a
            factory), or a network on point clouds ("rapidash_sen_r3s2").
        checkpoint: file with the weights, which then count instead of the pretrained ones.
            Nothing in it is executed.
        pretrained: take the published weights; False gives random ones.
        options: further arguments of `timm_models.load` or `point_models.load_point_model`.

    Returns:
        A `LoadedModel`, or a `LoadedPointModel` for a network on point clouds.

    Raises:
        ModelError: if the name, an argument, the checkpoint or the download fails.

    Example:
        >>> load("rapidash_tn_r3", pretrained=False).variant.symmetry.name
        'T(3)'
    """
    if not is_point_model(name):
        found: LoadedModel = timm_models.load(name, checkpoint, pretrained, **options)
        return found
    given = {k: v for k, v in options.items() if v is not None and v != {}}
    unknown = sorted(set(given) - {"seed", "regular_grid"})
    if unknown:
        raise ModelError(f"`{unknown[0]}` is for models on images; leave it out for {name!r}.")
    cloud_model: LoadedPointModel = load_point_model(name, checkpoint, pretrained, **given)
    return cloud_model


def list_models(pattern: str = "*", pretrained: bool = False) -> list[ModelEntry]:
    """List the models that `load` knows by name: timm's, then the networks on point clouds.

    Args:
        pattern: shell wildcard that the name, with or without a tag, must match.
        pretrained: keep only those with pretrained weights.
    """
    return list_image_models(pattern, pretrained) + list_point_models(pattern, pretrained)
