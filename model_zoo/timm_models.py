"""Load a model with its weights, from timm, a hub, a folder, a checkpoint or the user's code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from liederiv.errors import ModelError
from liederiv.foreign import described, one_line

from .builders import build_recipe
from .construction import seed_generators
from .data_config import DataConfig, spatial_size
from .layouts import OutputLayout, declared_layout
from .recipes import Recipe, recipe_for
from .user_models import build_user_model, is_factory_name, user_data_config
from .weights.checkpoints import Checkpoint, read_checkpoint
from .weights.files import shown
from .weights.fitting import find_weights, load_weights
from .weights.parts import Target
from .weights.state import Mismatch, Weighted

__all__ = ["LoadedModel", "load"]


@dataclass(frozen=True)
class LoadedModel(Weighted):
    """A model ready to be measured, and where it comes from.

    Attributes:
        model: In evaluation mode on the CPU, no parameter requires a gradient.
        name: Full current name, with the tag of the weights' data config where there is one.
        requested_name: The name that was asked for.
        weights: Where the weights come from, in words.
        data_config: How images are prepared for it.
        num_classes: Number of logits; 0 for a model without classifier, None where not declared.
    """

    model: nn.Module
    name: str
    requested_name: str
    weights: str
    data_config: DataConfig
    num_classes: int | None

    @cached_property
    def layout(self) -> OutputLayout:
        """What the model declares about its outputs; takes one forward pass, on first use."""
        return declared_layout(self.model, self.data_config.input_size)


def load(
    name: str,
    checkpoint: str | Path | None = None,
    pretrained: bool = True,
    *,
    num_classes: int | None = None,
    img_size: int | Sequence[int] | None = None,
    crop_pct: float | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    interpolation: str | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> LoadedModel:
    """Load a model by name and prepare it for measuring.

    Args:
        name: A timm name with or without tag ("vit_small_patch16_224.augreg_in1k"), a deprecated
            one, "hf-hub:org/name", "local-dir:/path" or the user's own "package.module:factory".
        checkpoint: File with the weights, which then count instead of the pretrained ones.
            Nothing in it is executed.
        pretrained: Take the published weights; False gives random ones. Ignored with `checkpoint`
            and for the user's own factory.
        num_classes: Size of the classifier; 0 removes it. By default what the weights have.
        img_size: Height and width of the input in pixels, or one number for both.
        crop_pct: Fraction of the resized image that the crop keeps.
        mean: Mean per channel that is subtracted, in units of the range [0, 1].
        std: Standard deviation per channel that is divided by.
        interpolation: Resampling filter: "bilinear", "bicubic", …
        model_kwargs: Further arguments of the model's constructor, such as `features_only=True`.
        seed: Seed of whatever is random in the model; the global random state is unchanged.

    Returns:
        The model in evaluation mode, with its data config and provenance.

    Raises:
        ModelError: If the name, the tag, an argument, the checkpoint or the download fails.
    """
    kwargs = dict(model_kwargs or {})
    if num_classes is None and not is_factory_name(name):
        num_classes = kwargs.pop("num_classes", None)
    if num_classes is not None and (
        not isinstance(num_classes, int) or isinstance(num_classes, bool) or num_classes < 0
    ):
        raise ModelError(
            f"`num_classes`={described(num_classes)} must be 0 (no classifier) or a number of "
            "classes."
        )
    file = None if checkpoint is None else read_checkpoint(checkpoint)
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=devices):
        seed_generators(seed)
        if is_factory_name(name):
            loaded = _load_user_model(name, file, num_classes, kwargs, seed)
        else:
            recipe = recipe_for(name, num_classes, img_size, kwargs, seed)
            loaded = _load_recipe(recipe, file, pretrained)
    config = loaded.data_config.override(
        img_size=img_size,
        crop_pct=crop_pct,
        mean=mean,
        std=std,
        interpolation=interpolation,
        in_chans=kwargs.get("in_chans"),
    )
    model = loaded.model.eval().requires_grad_(False)
    if img_size is not None:
        _check_img_size(model, name, config)
    return LoadedModel(
        model, loaded.name, name, loaded.weights, config, getattr(model, "num_classes", None)
    )


def _load_recipe(recipe: Recipe, file: Checkpoint | None, pretrained: bool) -> LoadedModel:
    built = build_recipe(recipe, file, pretrained)
    config = DataConfig.from_mapping(recipe.config)
    size = recipe.kwargs.get("img_size")
    if size is not None:
        config = config.override(img_size=spatial_size(size))
    return LoadedModel(built.model, recipe.full_name, recipe.name, built.weights, config, None)


def _load_user_model(
    name: str,
    file: Checkpoint | None,
    num_classes: int | None,
    kwargs: Mapping[str, Any],
    seed: int,
) -> LoadedModel:
    if num_classes is not None:
        raise ModelError(
            f"`num_classes`={num_classes} has no meaning for the factory {name!r}; pass what it "
            "needs in `model_kwargs`."
        )
    model = build_user_model(name, kwargs)
    weights = f"as built by {name} (seed {seed})"
    if file is not None:
        found = find_weights(file, model, Target.of(model))
        if isinstance(found, Mismatch):
            raise ModelError(
                f"`checkpoint` {shown(file.path)} does not fit {name!r}: {found.describe()}; check "
                "that factory and file belong together."
            )
        weights = f"checkpoint {one_line(file.path.name)}{load_weights(file, found, model)}"
    return LoadedModel(model, name, name, weights, user_data_config(model), None)


def _check_img_size(model: nn.Module, name: str, config: DataConfig) -> None:
    """Run a zero image through a model whose input size was changed."""
    try:
        with torch.no_grad():
            model(torch.zeros(1, *config.input_size))
    except Exception as error:  # a user's model may raise anything
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ModelError(
            f"`img_size` {config.input_size[1:]} is not supported by {name!r}: {reason}; leave it "
            "out or choose a size that the architecture takes."
        ) from error
