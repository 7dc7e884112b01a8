"""The public names of `liederiv.model_zoo`, imported when the first of them is asked for."""

from __future__ import annotations

from .inputs.base import Asked, Inputs, register_inputs
from .inputs.clouds import CloudSet, load_clouds
from .inputs.data_config import DataConfig
from .inputs.images import ImageSet, load_images
from .scan.presets import PRESETS, PresetEntry, preset
from .sources.image_source import Built, ImageSource, Wanted
from .sources.layouts import FeatureLevel, OutputLayout
from .sources.loaded import Loaded, LoadedModel, Target
from .sources.rapidash_models import LoadedPointModel
from .sources.registry import list_models, load, register_source, source_of
from .sources.source import ModelEntry, Source
from .weights.checkpoints import Checkpoint, read_checkpoint
from .weights.state import weights_fingerprint

__all__ = [
    "PRESETS",
    "Asked",
    "Built",
    "Checkpoint",
    "CloudSet",
    "DataConfig",
    "FeatureLevel",
    "ImageSet",
    "ImageSource",
    "Inputs",
    "Loaded",
    "LoadedModel",
    "LoadedPointModel",
    "ModelEntry",
    "OutputLayout",
    "PresetEntry",
    "Source",
    "Target",
    "Wanted",
    "list_models",
    "load",
    "load_clouds",
    "load_images",
    "preset",
    "read_checkpoint",
    "register_inputs",
    "register_source",
    "source_of",
    "weights_fingerprint",
]
