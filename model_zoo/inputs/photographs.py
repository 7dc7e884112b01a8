"""The built-in photographs: those inside scikit-image's wheel, with fixed crops of each."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from liederiv.errors import ImageError

from .image_items import ImageItem, file_item

__all__ = ["CROPS", "PHOTOGRAPHS", "sample_items"]

# Colour photographs first. A stereo pair counts once; drawings, masks and textures are left out.
PHOTOGRAPHS = (
    "chelsea.png",
    "coffee.png",
    "astronaut.png",
    "rocket.jpg",
    "motorcycle_left.png",
    "retina.jpg",
    "hubble_deep_field.jpg",
    "ihc.png",
    "camera.png",
    "coins.png",
    "moon.png",
    "gravel.png",
)

# Name and (left, top, side) of a square: position in [0, 1] of the free play, side as a fraction
# of the shorter edge. "whole" is the photograph uncropped.
CROPS: dict[str, tuple[float, float, float] | None] = {
    "whole": None,
    "top-left": (0.0, 0.0, 0.75),
    "bottom-right": (1.0, 1.0, 0.75),
    "top-right": (1.0, 0.0, 0.75),
    "bottom-left": (0.0, 1.0, 0.75),
}


def sample_items() -> list[ImageItem]:
    """List the built-in images: every photograph whole, then every one by its crops in turn.

    Any N consecutive items with N at most the number of photographs are N distinct photographs.

    Returns:
        Items named "chelsea", "chelsea/top-left", …

    Raises:
        ImageError: If scikit-image, which carries the photographs, is not installed.
    """
    spec = importlib.util.find_spec("skimage")
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    paths = [Path(folder) / "data" / name for folder in folders[:1] for name in PHOTOGRAPHS]
    present = [path for path in paths if path.is_file()]
    if not present:
        raise ImageError(
            "`images`='samples' needs the photographs in scikit-image; pip install "
            "'liederiv[samples]'."
        )
    return [
        file_item(path, path.stem if crop is None else f"{path.stem}/{crop_name}", crop=crop)
        for crop_name, crop in CROPS.items()
        for path in present
    ]
