"""Images as the photographs that they were made from: what `--scheme camera` feeds a model.

`ImageSet` delivers what timm's pipeline makes of files, in 8 bits. A `PhotographSet` delivers the
same images unrounded, and the camera that moves them (`liederiv.grids.camera`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from liederiv.errors import ImageError
from liederiv.foreign import one_line
from liederiv.grids.photographs import Photograph, Photographs
from liederiv.grids.pipeline import Pipeline

from .data_config import DataConfig
from .image_items import ImageItem
from .images import ImageSet

if TYPE_CHECKING:
    from liederiv.derivatives import Scheme

__all__ = ["PhotographSet", "photographs_of", "pipeline_of"]

# Of 255 levels, mean over an image: what rounds twice, and clips now and then, stays far below.
_ROUNDING = 1.0


@dataclass(frozen=True)
class PhotographSet(ImageSet):
    """An `ImageSet` whose images are unrounded and move with the camera."""

    @classmethod
    def of(cls, images: ImageSet) -> PhotographSet:
        """The same images.

        Raises:
            ImageError: if the camera does not fit them, see `Photographs.camera`, or if the model's
                pipeline makes something else of them.
        """
        found = cls(**{f.name: getattr(images, f.name) for f in fields(ImageSet)})
        _ = found.photographs.camera
        std = torch.tensor(images.data_config.std)[:, None, None]
        gap = float(((found[0] - images[0]) * std * 255).abs().mean())
        if not gap < _ROUNDING:
            raise ImageError(
                f"the model's pipeline makes something else of {one_line(images.names[0])} than a "
                f"resampling by {images.data_config.interpolation} ({gap:.2g} of 255 levels off); "
                "choose another scheme than camera."
            )
        return found

    @cached_property
    def photographs(self) -> Photographs:
        """See `ImageSet.photographs`; kept, for its camera knows the images."""
        return super().photographs

    def scheme(self, name: str) -> Scheme:
        """See `Inputs.scheme`."""
        return self.photographs.camera

    def __getitem__(self, index: Any) -> Any:
        """One image, [C, H, W] float32 normalised, unrounded, or a list of them for a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self.photographs.developed(index).float()


def photographs_of(images: ImageSet) -> Photographs:
    """The photographs, by reference; each is decoded once to see how large it is."""
    mode = "RGB" if images.data_config.input_size[0] == 3 else "L"
    found = []
    for item in images.items:
        width, height = item.read(mode)[0].size
        found.append(Photograph(item.name, partial(_levels, item, mode), height, width))
    return Photographs(tuple(found), pipeline_of(images.data_config), images.labels)


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
