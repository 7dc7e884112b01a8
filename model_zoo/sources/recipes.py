"""What timm needs to build one model, and where that is read: a folder, a hub, timm's own table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
from timm.models import PretrainedCfg, load_model_config_from_hf

from liederiv.errors import LieDerivError, ModelError
from liederiv.foreign import described, one_line

from ..inputs.data_config import DataConfig
from ..weights.hub import download_errors, offline_if_unreachable
from ..weights.origin import HubWeights
from .model_arguments import data_only

__all__ = [
    "DEFAULT_FILE",
    "Recipe",
    "Stored",
    "hub_weights",
    "local_weights",
    "stored_in_folder",
    "stored_in_hub",
    "stored_in_timm",
]

DEFAULT_FILE = "pytorch_model.bin"
# What timm takes instead of a pickle where the repository has it, in its order.
SAFE_FILES = {
    DEFAULT_FILE: ("model.safetensors",),
    "open_clip_pytorch_model.bin": ("open_clip_model.safetensors",),
}
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth")
SUFFIXES = (".safetensors", ".pth", ".pt", ".pth.tar", ".bin")


@dataclass(frozen=True)
class Stored:
    """What is written down with a model's weights.

    Attributes:
        config: timm's `pretrained_cfg`, as a dictionary.
        arch: timm's architecture; not checked yet.
        kwargs: Arguments of the constructor.
    """

    config: Mapping[str, Any]
    arch: Any
    kwargs: Mapping[str, Any] = field(default_factory=dict)


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
        seed: Seed of what is random.
    """

    name: str
    full_name: str
    arch: str
    config: Mapping[str, Any]
    kwargs: Mapping[str, Any]
    num_classes: int | None
    seed: int


def stored_in_timm(full_name: str) -> Stored:
    """What timm writes down about weights of its own."""
    arch = full_name.partition(".")[0]
    found = timm.get_pretrained_cfg(full_name)
    config = found.to_dict() if found is not None else PretrainedCfg(architecture=arch).to_dict()
    return Stored(config, arch)


def hub_weights(
    name: str, repository: str, file: str = DEFAULT_FILE, *, config: bool = False
) -> HubWeights:
    """Weights in a repository of the hub.

    Args:
        name: Of the model.
        repository: Its name, with a revision after an @ unless it is the main branch.
        file: As the model's config names it; formats that are safe to read come first.
        config: Whether the repository's config.json is needed, too.
    """
    repo, _, revision = repository.partition("@")
    safe = SAFE_FILES.get(file, ())
    if not safe and file.endswith(".bin"):
        safe = (file[: -len(".bin")] + ".safetensors",)
    return HubWeights(name, repo, (*safe, file), revision or None, config=config)


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


def stored_in_folder(folder: Path) -> Stored:
    """Read timm's config.json: the weights' config, the architecture, the stored arguments.

    Raises:
        ModelError: If there is none, or it is not one that timm wrote.
    """
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
    return Stored(_checked(data_only(config), str(path)), arch, stored)


def stored_in_hub(name: str, hub_id: str) -> Stored:
    """A hub model's config; its weights come from this very repository, by timm's file names.

    Raises:
        ModelError: If it cannot be downloaded, or is not one that timm wrote.
    """
    with offline_if_unreachable(), download_errors(name):
        return _read_hub_config(name, hub_id)


def _read_hub_config(name: str, hub_id: str) -> Stored:
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
    return Stored({**facts, "hf_hub_id": hub_id, "source": "hf-hub"}, arch, stored)


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
