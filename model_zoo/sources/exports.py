"""The public names of `liederiv.model_zoo.sources`, imported when the first is asked for."""

from __future__ import annotations

from .image_source import Built, ImageSource, Wanted
from .loaded import Loaded, LoadedModel, Target
from .rapidash_models import LoadedPointModel
from .registry import SOURCES, register_source, source_of
from .source import ModelEntry, Source

__all__ = [
    "SOURCES",
    "Built",
    "ImageSource",
    "Loaded",
    "LoadedModel",
    "LoadedPointModel",
    "ModelEntry",
    "Source",
    "Target",
    "Wanted",
    "register_source",
    "source_of",
]
