"""Decode one image file into 8-bit RGB (or grey), upright, whatever its mode.

Pixels of more than 8 bits are scaled by a full scale that is stated, never clipped or wrapped:

- 16-bit images (mode "I;16…", and 16-bit PNG files however Pillow calls them): 65535;
- 32-bit integers ("I") and floating point ("F"): their type has no customary range, so the least
  of 1 (floating point only), 255, 65535 and 2³¹ − 1 (integers only) that holds the largest value
  counts as full scale. Images with negative values, with larger ones, or with NaN are refused.
"""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from liederiv.errors import ImageError
from liederiv.foreign import one_line

__all__ = ["SCALE", "check_size", "decode", "to_mode"]

SCALE = "liederiv_scale"
"""Key of `Image.info` under which the rule is said by which deep pixels were scaled."""
_MOST_ELONGATED = 100  # resizing the shorter side of a strip would take all memory
_TIFF_BITS, _TIFF_SAMPLE_FORMAT, _TIFF_UNSIGNED = 258, 339, 1


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
        if isinstance(source, str | Path) and os.stat(source).st_size == 0:
            raise ImageError("empty (0 bytes)")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged metadata around sound pixels
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(stream) as image:
                image.load()
                return to_mode(image, mode)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError("not an image") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ImageError("too large for an image that can be trusted") from error
    except PermissionError as error:
        raise ImageError(f"cannot be read ({error.strerror})") from error
    except Exception as error:  # decoders raise anything on damaged data
        reason = one_line(error)[:200] or type(error).__name__
        raise ImageError(f"cannot be decoded ({reason})") from error


def check_size(image: Image.Image) -> None:
    """Refuse sizes that no photograph has, before they are resized.

    Raises:
        ImageError: If a side has one pixel, or is too long for the other.
    """
    short, long = sorted(image.size)
    if short < 2 or long > _MOST_ELONGATED * short:
        raise ImageError(f"{image.width} × {image.height} pixels are no photograph")


def to_mode(image: Image.Image, mode: str) -> Image.Image:
    """Convert to upright 8-bit "RGB" or "L".

    Transparent pixels are laid over white; deeper pixels are scaled by the rule of this module.

    Args:
        image: Any image that Pillow reads.
        mode: "RGB" or "L".

    Returns:
        The converted image; `info[SCALE]` states the rule for pixels that were scaled.

    Raises:
        ImageError: If the values have no range, or Pillow has no conversion.
    """
    try:
        image.load()
        deep = image.mode in ("I", "F") or image.mode.startswith("I;")
        scale = ""
        if deep:
            image, scale = _to_8_bit(image)
        image = ImageOps.exif_transpose(image) or image
        if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
            rgba = image.convert("RGBA")
            white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
            image = Image.alpha_composite(white, rgba)
        image = image if image.mode == mode else image.convert(mode)
    except ImageError:
        raise
    except Exception as error:  # truncated data, modes without a conversion
        raise ImageError(f"cannot be decoded ({one_line(error)[:200]})") from error
    if scale:
        image.info[SCALE] = scale
    return image


def _to_8_bit(image: Image.Image) -> tuple[Image.Image, str]:
    """Scale one-channel integers or floats to 8 bits; the image, and the rule in words."""
    raw = np.asarray(image)
    if image.mode == "I" and _is_unsigned(image):
        raw = raw.astype(np.int64) % 2**32  # Pillow reads them as signed
    values = raw.astype(np.float64)
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        return _scaled(image, values, 65535.0), ""
    if not np.isfinite(values).all():
        raise ImageError("has NaN or infinite pixels")
    low, peak = float(values.min(initial=0.0)), float(values.max(initial=0.0))
    kind = "floating-point" if image.mode == "F" else "32-bit"
    scales = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0, 2.0**31 - 1)
    full_scale = next((s for s in scales if peak <= s), None)
    if low < 0 or full_scale is None:
        raise ImageError(
            f"has {kind} pixels from {low:g} to {peak:g}, of which nobody knows the full scale; "
            "save it with 8 or 16 bits"
        )
    scale = f"{kind} pixels were scaled by a full scale of {full_scale:.10g}"
    return _scaled(image, values, full_scale), scale


def _scaled(image: Image.Image, values: np.ndarray, full_scale: float) -> Image.Image:
    eight = Image.fromarray(np.rint(values / full_scale * 255.0).astype(np.uint8))
    exif = image.getexif()
    if exif.get(_ORIENTATION):
        eight.getexif()[_ORIENTATION] = exif[_ORIENTATION]
    return eight


_ORIENTATION = 0x0112


def _is_unsigned(image: Image.Image) -> bool:
    """Whether a TIFF file says that its 32-bit integers are unsigned, as they are by default."""
    tags = getattr(image, "tag_v2", None)
    if tags is None:
        return False
    form = tags.get(_TIFF_SAMPLE_FORMAT, (_TIFF_UNSIGNED,))
    first = form[0] if isinstance(form, tuple) else form
    bits = tags.get(_TIFF_BITS, (32,))
    return first == _TIFF_UNSIGNED and (bits[0] if isinstance(bits, tuple) else bits) == 32
