"""The public names of `liederiv.model_zoo.inputs`, imported when the first is asked for."""

from __future__ import annotations

from .base import INPUTS, Inputs, register_inputs
from .clouds import CLOUD_SOURCES, CloudSet, load_clouds
from .data_config import DataConfig
from .images import ImageSet, load_images

__all__ = [
    "CLOUD_SOURCES",
    "INPUTS",
    "CloudSet",
    "DataConfig",
    "ImageSet",
    "Inputs",
    "load_clouds",
    "load_images",
    "register_inputs",
]
