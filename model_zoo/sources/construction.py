"""Call timm's factory: random weights, downloaded ones, or a state dict in timm's own names."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import timm
import torch
from timm.models import PretrainedCfg
from torch import Tensor, nn

from liederiv.errors import ModelError
from liederiv.foreign import one_line, shortened
from liederiv.foreign_code import causes

from .model_arguments import check_arguments, no_code_from_files
from .recipes import Recipe

__all__ = ["create", "create_with_state_dict", "seed_generators"]


def seed_generators(seed: int) -> None:
    """Seed the CPU generator, and the CUDA generators if CUDA is in use already."""
    if torch.cuda.is_initialized():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


def create(
    recipe: Recipe,
    num_classes: int | None,
    *,
    pretrained: bool = False,
    plain: bool = False,
    overlay: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build the model of a recipe.

    Args:
        recipe: What to build.
        num_classes: Size of the classifier; None for that of the weights.
        pretrained: Let timm load the weights that the recipe's config names.
        plain: Leave out arguments that cut the model down to its features, so that its tensors
            are those of a checkpoint.
        overlay: Entries that replace those of the recipe's config.

    Returns:
        The model.

    Raises:
        ModelError: If timm rejects the arguments.
    """
    kwargs = dict(recipe.kwargs)
    if plain:
        for key in ("features_only", "out_indices", "feature_cls", "output_stride"):
            kwargs.pop(key, None)
    if num_classes is not None:
        kwargs["num_classes"] = num_classes
    seed_generators(recipe.seed)
    config = {f.name: recipe.config.get(f.name, f.default) for f in fields(PretrainedCfg)}
    check_arguments(recipe.arch, kwargs, f"{recipe.name!r}")
    try:
        with no_code_from_files():
            return timm.create_model(
                recipe.arch,
                pretrained=pretrained,
                pretrained_cfg=config,
                pretrained_cfg_overlay=dict(overlay) if overlay else None,
                **kwargs,
            )
    except (ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError,
            NotImplementedError, RuntimeError, TypeError, ValueError,
            pickle.UnpicklingError) as error:  # fmt: skip
        # Newer timm tells in words of its own what torch's safe unpickler has refused.
        if any(isinstance(cause, pickle.UnpicklingError) for cause in causes(error)):
            raise ModelError(
                f"the published weights of {recipe.name!r} were refused: they ask to run code, and "
                "nothing in them was run; give weights as .safetensors with `checkpoint`."
            ) from error
        reason = shortened(one_line(error) or type(error).__name__).rstrip(".")
        raise ModelError(
            f"timm cannot build {recipe.name!r} with {_arguments(kwargs)}: {reason}; check "
            "`model_kwargs`, `img_size` and `num_classes`."
        ) from error


def _arguments(kwargs: Mapping[str, Any]) -> str:
    return shortened(one_line(", ".join(f"{k}={v!r}" for k, v in kwargs.items()))) or (
        "its default arguments"
    )


def create_with_state_dict(
    recipe: Recipe, state_dict: Mapping[str, Tensor], num_classes: int | None
) -> nn.Module:
    """Build the model of a recipe around a complete state dict of its plain form.

    timm adapts the weights where `recipe` asks for another number of input channels, another
    classifier or features only, as it does for published weights.

    Args:
        recipe: What to build.
        state_dict: Tensors under timm's names.
        num_classes: Size of the classifier; None for that of the weights.

    Returns:
        The model with these weights.

    Raises:
        ModelError: If timm rejects the arguments.
    """
    overlay = {
        "state_dict": dict(state_dict),
        "source": None,
        "file": None,
        "custom_load": False,
        "label_offset": None,
    }
    with _quiet_timm():
        model = create(recipe, num_classes, pretrained=True, overlay=overlay)
    for module in model.modules():
        config = getattr(module, "pretrained_cfg", None)
        if isinstance(config, dict):
            config.pop("state_dict", None)
    return model


@contextmanager
def _quiet_timm() -> Iterator[None]:
    """Silence timm's notes on tensors that a features-only model leaves out on purpose."""
    logger = logging.getLogger("timm.models._builder")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
