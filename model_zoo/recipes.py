"""Resolve the name of a timm model, a hub model or a local folder into what is to be built."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from timm.models import PretrainedCfg, is_model, load_model_config_from_hf

from liederiv.errors import LieDerivError, ModelError
from liederiv.foreign import at_home, described, one_line

from .data_config import DataConfig, spatial_size
from .model_arguments import check_arguments, data_only
from .names import resolve_name
from .weights.hub import download_errors, offline_if_unreachable

__all__ = ["Recipe", "local_weights", "recipe_for"]

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth")
SUFFIXES = (".safetensors", ".pth", ".pt", ".pth.tar", ".bin")


@dataclass(frozen=True)
class Recipe:
    """Everything that timm needs to build one model.

    Attributes:
        name: The name asked for.
        full_name: Current name with tag, or the name with its source.
        arch: timm's architecture.
        config: timm's `pretrained_cfg` of the weights, as a dictionary.
        kwargs: Arguments of the constructor.
        num_classes: Explicit size of the classifier, or None.
        folder: Folder of a `local-dir:` model.
        seed: Seed of what is random.
    """

    name: str
    full_name: str
    arch: str
    config: Mapping[str, Any]
    kwargs: Mapping[str, Any]
    num_classes: int | None
    folder: Path | None
    seed: int


def recipe_for(
    name: str,
    num_classes: int | None,
    img_size: int | Sequence[int] | None,
    kwargs: Mapping[str, Any],
    seed: int,
) -> Recipe:
    """Resolve a name into what is to be built; downloads at most a hub model's config.

    Args:
        name: timm name, "hf-hub:org/name" or "local-dir:/path".
        num_classes: Size of the classifier, or None.
        img_size: Input size in pixels, or None.
        kwargs: Arguments of the constructor; they win over those stored with the weights.
        seed: Seed of what is random.

    Returns:
        The recipe.

    Raises:
        ModelError: If the name is unknown or its source cannot be read.
    """
    source, _, rest = name.partition(":")
    folder = None
    stored: Mapping[str, Any] = {}
    if source in ("hf-hub", "hf_hub"):
        with offline_if_unreachable(), download_errors(name):
            config, arch, stored = _read_hub_config(name, rest)
        full_name = name
    elif source == "local-dir":
        folder = at_home(rest)
        config, arch, stored = _read_local_config(folder)
        full_name = name
    else:
        full_name = resolve_name(name)
        arch = full_name.partition(".")[0]
        found = timm.get_pretrained_cfg(full_name)
        config = (
            found.to_dict() if found is not None else PretrainedCfg(architecture=arch).to_dict()
        )
    if not isinstance(arch, str) or not is_model(arch):
        raise ModelError(
            f"Model {name!r} is of architecture {described(arch)}, which timm "
            f"{timm.__version__} does not know; a newer timm may."
        )
    check_arguments(arch, stored, f"the config of {name!r}")
    check_arguments(arch, kwargs, "`model_kwargs`")
    merged = {**stored, **kwargs}
    if img_size is not None and "img_size" not in kwargs and config.get("fixed_input_size"):
        merged["img_size"] = spatial_size(img_size)
    return Recipe(name, full_name, arch, config, merged, num_classes, folder, seed)


def local_weights(folder: Path) -> Path:
    """Find the weights file of a `local-dir:` model, in timm's order of preference.

    Args:
        folder: The folder.

    Returns:
        The file.

    Raises:
        ModelError: If there is none.
    """
    candidates = [folder / name for name in WEIGHT_FILES]
    for suffix in SUFFIXES:
        candidates += sorted(folder.glob(f"*{suffix}"))
    for path in candidates:
        if path.is_file():
            return path
    raise ModelError(
        f"Folder {folder} holds no weights ({', '.join(WEIGHT_FILES)}); save the model there with "
        "timm's save_for_hf, or use `pretrained=False` (--no-pretrained)."
    )


def _read_local_config(folder: Path) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """Read timm's config.json: the weights' config, the architecture, the stored arguments."""
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(
            f"Folder {folder} holds no config.json; save the model there with timm's save_for_hf, "
            "or name the architecture and give the file with `checkpoint`."
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        arch = content["architecture"]
        stored = dict(content.get("model_args") or {})
        config = dict(content.get("pretrained_cfg", content))
    except (AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError) as error:
        raise ModelError(
            f"{path} is not a config that timm wrote ({type(error).__name__}: {one_line(error)}); "
            "it needs at least an 'architecture'."
        ) from error
    if "num_classes" in content:
        config["num_classes"] = content["num_classes"]
    return _checked(data_only(config), str(path)), arch, stored


def _read_hub_config(name: str, hub_id: str) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """A hub model's config; its weights come from this very repository, by timm's file names."""
    try:
        config, arch, stored = load_model_config_from_hf(hub_id)
        facts, stored = data_only(config), dict(stored or {})
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        if type(error).__module__.startswith("huggingface_hub"):
            raise  # about the repository or its name: told by `download_errors`
        raise ModelError(
            f"the config.json of {name!r} is not one that timm wrote ({type(error).__name__}: "
            f"{one_line(error)}); name another model."
        ) from error
    facts = _checked(facts, f"the config.json of {name!r}")
    return {**facts, "hf_hub_id": hub_id, "source": "hf-hub"}, arch, stored


def _checked(facts: dict[str, Any], origin: str) -> dict[str, Any]:
    """The facts of a stored config, if they describe images."""
    number, heads = facts.get("num_classes", 0), facts.get("classifier") or ()
    wrong = None
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        wrong = f"num_classes={described(number)} is no number of classes"
    elif not isinstance(heads, str | list | tuple) or not all(isinstance(h, str) for h in heads):
        wrong = f"classifier={described(heads)} is no name of a layer"
    try:
        DataConfig.from_mapping(facts)
    except LieDerivError as error:
        wrong = wrong or str(error).rstrip(".")
    if wrong is not None:
        raise ModelError(
            f"{origin} does not describe a model on images ({wrong}); repair it, or name the "
            "architecture and give the file with `checkpoint`."
        )
    return facts
