"""Image files as photographs for the camera: their levels, and the pipeline as a linear map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from liederiv.grids.photographs import Photograph, Photographs
from liederiv.grids.pipeline import Pipeline

from .data_config import DataConfig
from .image_items import ImageItem

__all__ = ["photographs_of", "pipeline_of"]


def photographs_of(
    items: Sequence[ImageItem], config: DataConfig, labels: tuple[int, ...] | None
) -> Photographs:
    """The photographs, by reference; each is decoded once to see how large it is."""
    mode = "RGB" if config.input_size[0] == 3 else "L"
    found = []
    for item in items:
        width, height = item.read(mode)[0].size
        found.append(Photograph(item.name, partial(_levels, item, mode), height, width))
    return Photographs(tuple(found), pipeline_of(config), labels)


def pipeline_of(config: DataConfig) -> Pipeline:
    """Timm's evaluation transform as a linear map.

    Raises:
        ImageError: for a filter that is none.
    """
    _, height, width = config.input_size
    resized = math.floor(height / config.crop_pct), math.floor(width / config.crop_pct)
    return Pipeline(
        (height, width), resized, config.crop_mode, config.interpolation, config.mean, config.std
    )


def _levels(item: ImageItem, mode: str) -> Tensor:
    levels = torch.from_numpy(np.array(item.read(mode)[0]))
    return levels[None] if levels.ndim == 2 else levels.movedim(-1, 0)
