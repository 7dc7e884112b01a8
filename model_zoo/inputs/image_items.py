"""One image that can be decoded when it is needed, and a folder as a list of them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from liederiv.errors import ImageError
from liederiv.foreign import printable

from .decoding import decode
from .image_folders import list_files

__all__ = [
    "ImageItem",
    "LabelledImage",
    "file_item",
    "folder_items",
    "is_image_name",
    "natural_key",
]


LabelledImage = tuple[Image.Image, int | None]


@dataclass(frozen=True)
class ImageItem:
    """An image by reference.

    Attributes:
        name: Name for people, unique in its set.
        read: Decodes it into the mode given ("RGB" or "L") and gives its class index, or None;
            raises ImageError when unreadable.
        identity: Gives bytes that name the content.
    """

    name: str
    read: Callable[[str], LabelledImage]
    identity: Callable[[], bytes]


def file_item(
    path: Path,
    name: str,
    label: int | None = None,
    crop: tuple[float, float, float] | None = None,
) -> ImageItem:
    """Refer to an image file, or to a square of it.

    Args:
        path: The file.
        name: Name for people.
        label: Class index, or None.
        crop: Left and top as fractions of the free play, side as a fraction of the shorter edge.

    Returns:
        The item.
    """
    return ImageItem(name, partial(_read_file, path, crop, label), partial(_identify, path, crop))


def folder_items(
    folder: Path,
) -> tuple[list[ImageItem], tuple[str, ...], list[tuple[str, str]]]:
    """List all files in a folder, recursively, in natural order; hidden ones are left out.

    Where no image file lies in `folder` itself and it has at least two subfolders, or links to
    such, their names are the classes and their natural order ("2" before "10", as in timm) gives
    the labels. Where all of them are ImageNet-1k synsets, even a few, the labels are ImageNet's own
    indices.

    Args:
        folder: An existing folder.

    Returns:
        The items, the names of the classes (empty without labels), and what is neither file nor
        folder, with the reason.

    Raises:
        ImageError: If the folder cannot be opened.
    """
    listing = list_files(folder)
    paths = sorted(listing.files, key=lambda p: natural_key(p.as_posix()))
    classes = sorted({p.parts[0] for p in paths if len(p.parts) > 1}, key=natural_key)
    has_own_images = any(len(p.parts) == 1 and is_image_name(p.name) for p in paths)
    if has_own_images or len(classes) < 2:
        classes = []
    classes = _imagenet_synsets(classes) or classes
    index = {name: i for i, name in enumerate(classes)}
    items = [file_item(folder / p, _shown(p), index.get(p.parts[0])) for p in paths]
    skipped = sorted((_shown(name), why) for name, why in listing.skipped)
    return items, tuple(_shown(name) for name in classes), skipped


def _shown(path: object) -> str:
    """A path in print; unlike in a sentence, white space stays, which may tell two names apart."""
    return printable(path, keep="")


def is_image_name(name: str) -> bool:
    """Whether a file's name ends as an image's does."""
    return Path(name).suffix.lower() in Image.registered_extensions()


def natural_key(text: str) -> list[tuple[int, str]]:
    """Sort key that reads runs of digits as numbers."""
    parts = re.split(r"(\d+)", text.lower())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _imagenet_synsets(names: list[str]) -> list[str]:
    """All 1000 synsets of ImageNet-1k if `names` are some of them, else nothing."""
    if not names or not all(re.fullmatch(r"n\d{8}", name) for name in names):
        return []
    from timm.data import ImageNetInfo

    synsets = list(ImageNetInfo("imagenet-1k").label_names())
    return synsets if set(names) <= set(synsets) else []


def _read_file(
    path: Path, crop: tuple[float, float, float] | None, label: int | None, mode: str
) -> LabelledImage:
    image = decode(path, mode)
    if crop is None:
        return image, label
    left, top, fraction = crop
    side = round(fraction * min(image.size))
    x, y = round(left * (image.width - side)), round(top * (image.height - side))
    return image.crop((x, y, x + side, y + side)), label


def _identify(path: Path, crop: tuple[float, float, float] | None) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ImageError(f"cannot be read ({error.strerror})") from error
    return hashlib.sha256(content).digest() + repr(crop).encode()
