"""What identifies a model's weights before they are loaded, so that a known result is found.

Nothing of the model is executed and nothing downloaded: published weights are named by timm's
entry for them, files by their content, a user's factory by the source file of its module.
"""

from __future__ import annotations

import hashlib
import sys
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

import timm

from liederiv.errors import ModelError
from liederiv.foreign import at_home
from liederiv.model_zoo.point_models import is_point_model, shipped_weights
from liederiv.model_zoo.recipes import local_weights
from liederiv.model_zoo.user_models import is_factory_name
from liederiv.model_zoo.weights.packaged import describe_sample_weights, has_sample_weights

__all__ = ["weights_identity"]


def weights_identity(name: str, pretrained: bool) -> dict[str, Any]:
    """What a result's key says about weights and preprocessing.

    Args:
        name: full current name, as `load` takes it.
        pretrained: published weights; False for random ones, whose seed is among the settings.

    Returns:
        Plain data, the same for the same weights.
    """
    if is_factory_name(name):
        return {"source": _source_of(name.partition(":")[0])}
    if name.startswith("local-dir:"):
        return {"folder": _folder(at_home(name.partition(":")[2]), pretrained)}
    if is_point_model(name):
        return {"weights": shipped_weights(name) if pretrained else None}
    arch = name.partition(".")[0]
    config = timm.get_pretrained_cfg(name) if ":" not in name and timm.is_model(arch) else None
    published: Any = None
    if pretrained:
        packaged = has_sample_weights(arch)
        published = describe_sample_weights(arch) if packaged else name
    return {"weights": published, "config": None if config is None else config.to_dict()}


def _folder(folder: Path, pretrained: bool) -> list[str]:
    files = [folder / "config.json"]
    if pretrained:
        try:
            files.append(local_weights(folder))
        except ModelError:
            return []  # the worker says so
    return [_hash(file) for file in files if file.is_file()]


def _source_of(module: str) -> str:
    """Hash of a module's source; its packages are located and not imported."""
    path: list[str] | None = ["", *sys.path]
    spec: ModuleSpec | None = None
    for end in range(1, module.count(".") + 2):
        spec = PathFinder.find_spec(".".join(module.split(".")[:end]), path)
        if spec is None:
            return ""  # the worker says so
        path = list(spec.submodule_search_locations or ())
    origin = Path(spec.origin) if spec is not None and spec.origin else None
    return _hash(origin) if origin is not None and origin.is_file() else ""


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
