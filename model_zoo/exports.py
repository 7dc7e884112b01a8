"""The public names of `liederiv.model_zoo`, imported when the first of them is asked for."""

from __future__ import annotations

from .clouds import CloudSet, load_clouds
from .data_config import DataConfig
from .images import ImageSet, load_images
from .layouts import FeatureLevel, OutputLayout
from .loading import list_models, load
from .names import ModelEntry
from .point_models import LoadedPointModel
from .presets import PRESETS, PresetEntry, preset
from .timm_models import LoadedModel
from .weights.checkpoints import Checkpoint, read_checkpoint
from .weights.state import weights_fingerprint

__all__ = [
    "PRESETS",
    "Checkpoint",
    "CloudSet",
    "DataConfig",
    "FeatureLevel",
    "ImageSet",
    "LoadedModel",
    "LoadedPointModel",
    "ModelEntry",
    "OutputLayout",
    "PresetEntry",
    "list_models",
    "load",
    "load_clouds",
    "load_images",
    "preset",
    "read_checkpoint",
    "weights_fingerprint",
]
