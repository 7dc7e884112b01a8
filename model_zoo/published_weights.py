"""Which files hold a model's published weights."""

from __future__ import annotations

from .point_models import is_point_model
from .recipes import recipe_for
from .user_models import is_factory_name
from .weights.origin import HubWeights, WebWeights, WeightsSource
from .weights.packaged import has_sample_weights

__all__ = ["weights_source"]

DEFAULT_FILE = "pytorch_model.bin"
# What timm takes instead of a pickle where the repository has it, in its order.
SAFE_FILES = {
    DEFAULT_FILE: ("model.safetensors",),
    "open_clip_pytorch_model.bin": ("open_clip_model.safetensors",),
}


def weights_source(name: str) -> WeightsSource | None:
    """Find where a model's weights come from; nothing is downloaded.

    Args:
        name: As `load` takes it.

    Returns:
        The source; None where no download is needed or possible: weights from an installed
        package, a local folder or the user's own code, or none published.

    Raises:
        ModelError: If timm does not know the name.
    """
    kind, _, rest = name.partition(":")
    if kind in ("hf-hub", "hf_hub"):
        repo, _, revision = rest.partition("@")
        return HubWeights(name, repo, _candidates(DEFAULT_FILE), revision or None, config=True)
    if kind == "local-dir" or is_factory_name(name) or is_point_model(name):
        return None
    recipe = recipe_for(name, None, None, {}, 0)
    if has_sample_weights(recipe.arch):
        return None
    if recipe.config.get("hf_hub_id"):
        repo, _, revision = str(recipe.config["hf_hub_id"]).partition("@")
        file = recipe.config.get("hf_hub_filename") or DEFAULT_FILE
        return HubWeights(name, repo, _candidates(file), revision or None)
    url = str(recipe.config.get("url") or "")
    return WebWeights(name, url) if url else None


def _candidates(file: str) -> tuple[str, ...]:
    safe = SAFE_FILES.get(file, ())
    if not safe and file.endswith(".bin"):
        safe = (file[: -len(".bin")] + ".safetensors",)
    return (*safe, file)
