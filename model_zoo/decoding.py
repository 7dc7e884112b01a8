"""Decode one image file into 8-bit RGB (or grey), upright, whatever its mode."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from liederiv.errors import ImageError

__all__ = ["decode", "to_mode"]

_MOST_ELONGATED = 100  # resizing the shorter side of a strip would take all memory


def decode(source: str | Path | bytes | BinaryIO, mode: str = "RGB") -> Image.Image:
    """Read an image and convert it: EXIF orientation applied, first frame, 8 bits per channel.

    Args:
        source: A path, the bytes of a file, or an open file.
        mode: "RGB" or "L" (grey).

    Returns:
        The decoded image.

    Raises:
        ImageError: If it is no image, or is truncated or too large to be one.
    """
    stream = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged metadata around sound pixels
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(stream) as image:
                if max(image.size) > _MOST_ELONGATED * min(image.size):
                    width, height = image.size
                    raise ImageError(f"{width} × {height} pixels are no photograph")
                image.load()
                upright = ImageOps.exif_transpose(image)
                return to_mode(upright if upright is not None else image, mode)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError("not an image") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ImageError("too large for an image that can be trusted") from error
    except Exception as error:  # decoders raise anything on damaged data
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ImageError(f"cannot be decoded ({reason})") from error


def to_mode(image: Image.Image, mode: str) -> Image.Image:
    """Convert to 8-bit "RGB" or "L".

    Transparent pixels are laid over white; integers beyond 8 bits and floating-point values are
    scaled to 8 bits by a full scale (1 for floats, 255, 65535, 2³¹ − 1, the least that holds them),
    so that no contrast is stretched.

    Args:
        image: Any image that Pillow reads.
        mode: "RGB" or "L".

    Returns:
        The converted image.

    Raises:
        ImageError: For negative or larger values, which have no such scale.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _to_8_bit(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, rgba)
    return image if image.mode == mode else image.convert(mode)


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Scale one-channel integers or floats, see `to_mode`."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float64))  # NaN: no measurement there
    if values.min(initial=0.0) < 0:
        raise ImageError("has negative values, which no brightness is")
    scales: tuple[float, ...] = (65535.0,)
    if not image.mode.startswith("I;16"):
        scales = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0, 2.0**31 - 1)
    peak = float(values.max(initial=0.0))
    full_scale = next((s for s in scales if peak <= s), None)
    if full_scale is None:
        raise ImageError(f"has values up to {peak:g}, whose full scale nobody states")
    return Image.fromarray(np.rint(values / full_scale * 255.0).astype(np.uint8))
