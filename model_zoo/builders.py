"""Give a timm model its weights: from a checkpoint, a folder, a package, a hub, or at random."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from liederiv.errors import ModelError
from liederiv.foreign import one_line

from .checkpoint_models import model_from_checkpoint
from .construction import create, create_with_state_dict
from .recipes import Recipe, local_weights
from .weights.checkpoints import Checkpoint, read_checkpoint
from .weights.hub import download_errors, offline_if_unreachable
from .weights.packaged import describe_sample_weights, has_sample_weights, sample_state_dict

__all__ = ["Built", "build_recipe"]


@dataclass(frozen=True)
class Built:
    """A model and, in words, where its weights come from."""

    model: nn.Module
    weights: str


def build_recipe(recipe: Recipe, file: Checkpoint | None, pretrained: bool) -> Built:
    """Build the model and give it its weights.

    Args:
        recipe: What to build.
        file: Checkpoint whose weights count, or None.
        pretrained: Take the published weights where there is no checkpoint.

    Returns:
        The model and the provenance of its weights.

    Raises:
        ModelError: If arguments, weights and architecture do not go together.
    """
    if file is not None:
        model, said = model_from_checkpoint(recipe, file)
        return Built(model, f"checkpoint {one_line(file.path.name)}{said}")
    if not pretrained:
        return Built(create(recipe, recipe.num_classes), f"random (seed {recipe.seed})")
    if recipe.folder is not None:
        file = read_checkpoint(local_weights(recipe.folder))
        model, said = model_from_checkpoint(recipe, file)
        origin = f"folder {one_line(recipe.folder.name)}, file {one_line(file.path.name)}"
        return Built(model, f"{origin}{said}")
    if has_sample_weights(recipe.arch):
        plain = create(replace(recipe, kwargs={}), None)
        native = sample_state_dict(recipe.arch, plain)
        description = describe_sample_weights(recipe.arch)
        return Built(
            create_with_state_dict(recipe, native, recipe.num_classes),
            description + _head_note(recipe),
        )
    return _from_hub(recipe)


def _from_hub(recipe: Recipe) -> Built:
    hub_id, url = recipe.config.get("hf_hub_id"), recipe.config.get("url")
    if not (hub_id or url):
        raise ModelError(
            f"No pretrained weights exist for {recipe.full_name!r}; use random ones with "
            "`pretrained=False` (--no-pretrained), or give a file with `checkpoint`."
        )
    weights = f"hf-hub:{hub_id}" if hub_id else str(url)
    with offline_if_unreachable(), download_errors(weights, None if hub_id else str(url)):
        model = create(recipe, recipe.num_classes, pretrained=True)
    if recipe.name != weights:
        weights = f"timm: {recipe.full_name}, {weights}"
    return Built(model, weights + _head_note(recipe))


def _head_note(recipe: Recipe) -> str:
    """Say so when the published classifier had to make way for one of another size."""
    published = recipe.config.get("num_classes")
    if recipe.num_classes in (None, 0, published):
        return ""
    return f"; classifier of {recipe.num_classes} classes random (seed {recipe.seed})"
