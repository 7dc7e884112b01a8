"""Resolve the name of a timm model, a hub model or a local folder into what is to be built."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import timm
from timm.models import PretrainedCfg, is_model, load_model_config_from_hf

from liederiv.errors import ModelError
from liederiv.foreign import at_home, described, one_line

from .data_config import spatial_size
from .hub import download_errors, offline_if_unreachable
from .names import resolve_name

__all__ = ["Recipe", "local_weights", "recipe_for"]

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth")
# Arguments with which timm finds weights: a file, an address, a function that loads.
_LOADERS = ("pretrained", "checkpoint", "hf_hub", "custom_load", "cache", "url")
_LOADING = frozenset({"file", "source", "state_dict", "kwargs_filter", "filter_fn"})
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
            config, arch, stored = load_model_config_from_hf(rest)
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
    if not is_model(arch):
        raise ModelError(
            f"Model {name!r} is of architecture {arch!r}, which timm {timm.__version__} does not "
            "know; a newer timm may."
        )
    _check_arguments(stored, f"the config of {name!r}")
    _check_arguments(kwargs, "`model_kwargs`")
    merged = {**stored, **kwargs}
    if img_size is not None and "img_size" not in kwargs and config.get("fixed_input_size"):
        merged["img_size"] = spatial_size(img_size)
    return Recipe(name, full_name, arch, config, merged, num_classes, folder, seed)


def _check_arguments(kwargs: Mapping[str, Any], where: str) -> None:
    """Let nothing through to timm that makes it read, download or execute.

    Raises:
        ModelError: naming the argument.
    """
    for key, value in kwargs.items():
        if not isinstance(key, str) or key.lower().startswith(_LOADERS) or key in _LOADING:
            raise ModelError(
                f"{where} sets {one_line(key)!r}, which says where weights come from; give a file "
                "with `checkpoint`, whose content is never executed."
            )
        if not _is_plain(value):
            raise ModelError(
                f"{where} sets {one_line(key)}={described(value)}; arguments are numbers, words, "
                "or lists and tables of them, and no paths or addresses."
            )


def _is_plain(value: Any, depth: int = 0) -> bool:
    if value is None or isinstance(value, bool | int | float):
        return True
    if isinstance(value, str):
        return not re.search(r"[/\\\x00-\x1f]|\.(pth?|bin|ckpt|tar|npz|pkl|safetensors)$", value)
    if depth > 6:
        return False
    if isinstance(value, list | tuple):
        return all(_is_plain(v, depth + 1) for v in value)
    if isinstance(value, Mapping):
        return all(
            isinstance(k, str | int)
            and str(k).lower() not in _LOADING
            and not str(k).lower().startswith(_LOADERS)
            and _is_plain(v, depth + 1)
            for k, v in value.items()
        )
    return False


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
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{path} is not a config that timm wrote ({type(error).__name__}: {error}); it needs "
            "at least an 'architecture'."
        ) from error
    if "num_classes" in content:
        config["num_classes"] = content["num_classes"]
    known = {f.name for f in fields(PretrainedCfg)} - {
        *("url", "hf_hub_id", "hf_hub_filename", "source", "file", "state_dict", "custom_load")
    }
    return {k: v for k, v in config.items() if k in known}, arch, stored
