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
                image.load()
                upright = ImageOps.exif_transpose(image)
                return to_mode(upright if upright is not None else image, mode)
    except UnidentifiedImageError as error:
        raise ImageError("not an image") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ImageError("too large for an image that can be trusted") from error
    except Exception as error:  # decoders raise anything on damaged data
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ImageError(f"cannot be decoded ({reason})") from error


def to_mode(image: Image.Image, mode: str) -> Image.Image:
    """Convert to 8-bit "RGB" or "L".

    Transparent pixels are laid over white; 16-bit and floating-point values are scaled to 8 bits
    by the range of their type, so that no contrast is stretched.

    Args:
        image: Any image that Pillow reads.
        mode: "RGB" or "L".

    Returns:
        The converted image.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _to_8_bit(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, rgba)
    return image if image.mode == mode else image.convert(mode)


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Scale one-channel integers or floats; full scale is 1, 255 or 65535, the least that holds."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float64))
    if image.mode.startswith("I;16"):
        full_scale = 65535.0
    else:
        peak = float(values.max(initial=0.0))
        scales = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
        full_scale = next((s for s in scales if peak <= s), peak)
    scaled = np.clip(values / full_scale, 0.0, 1.0) * 255.0
    return Image.fromarray(np.rint(scaled).astype(np.uint8))
