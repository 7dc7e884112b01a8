"""What to measure: models with their weights and data config, and the images to feed them.

`load` takes a timm name, a hub id, a local folder or the user's own factory, and a checkpoint;
`load_images` takes the built-in photographs, a folder or a timm data set. Neither executes
anything that a file contains, and both work offline with the `samples` extra.
"""

from .checkpoints import Checkpoint, read_checkpoint
from .clouds import CloudSet, load_clouds
from .data_config import DataConfig
from .images import ImageSet, load_images
from .layouts import FeatureLevel, OutputLayout
from .loading import list_models, load
from .names import ModelEntry
from .point_models import LoadedPointModel
from .presets import PRESETS, PresetEntry, preset
from .timm_models import LoadedModel
from .weights import weights_fingerprint

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
