"""Data sets that timm knows by name (`torch/cifar10`, `hfds/…`, `tfds/…`, `wds/…`) as items."""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import operator
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from liederiv.errors import ImageError
from liederiv.foreign import one_line

from .decoding import decode, to_mode
from .image_items import ImageItem, LabelledImage

__all__ = ["dataset_items", "is_dataset_name"]

# Prefix of the name, and the package that reads such data sets (import name, install name).
READERS = {
    "torch": ("torchvision", "torchvision"),
    "hfds": ("datasets", "datasets"),
    "hfids": ("datasets", "datasets"),
    "tfds": ("tensorflow_datasets", "tensorflow-datasets"),
    "wds": ("webdataset", "webdataset"),
}


def is_dataset_name(source: str) -> bool:
    """Say whether `source` reads as the name of a timm data set, such as "torch/cifar10"."""
    prefix, slash, rest = source.partition("/")
    return bool(slash and rest) and prefix.lower() in READERS


def dataset_items(
    name: str, data_dir: str | Path | None, split: str | None, num_images: int | None
) -> tuple[list[ImageItem], tuple[str, ...]]:
    """Open a timm data set; nothing is downloaded.

    Args:
        name: Name with its prefix.
        data_dir: Where the data lie; the readers of hubs have a cache of their own.
        split: Name of the split; "validation" by default.
        num_images: How many images are wanted; needed for data sets that are streams.

    Returns:
        The items (the first `num_images` of a stream), and the names of the classes if known.

    Raises:
        ImageError: If the reader is not installed or the data are absent.
    """
    module, package = READERS[name.partition("/")[0].lower()]
    if importlib.util.find_spec(module) is None:
        raise ImageError(f"Data set {name!r} needs the package {package}; pip install {package}.")
    from timm.data import create_dataset

    root = None if data_dir is None else str(data_dir)
    if root is None and module in ("torchvision", "webdataset"):
        raise ImageError(
            f"Data set {name!r} is read from a folder; give it with `data_dir` (--data-dir)."
        )
    try:
        dataset = create_dataset(name, root=root, split=split or "validation", download=False)
        items = _list_items(name, dataset, num_images)
    except ImageError:
        raise
    except (Exception, SystemExit) as error:  # each reader has errors of its own
        reason = (one_line(error) or type(error).__name__)[:300].rstrip(".")
        raise ImageError(
            f"Data set {name!r} cannot be opened in {root or 'its cache'}: {reason}; check the "
            "name, `split` and `data_dir`, and download the data beforehand."
        ) from error
    classes = getattr(dataset, "classes", None) or ()
    return items, tuple(one_line(c) for c in classes)


def _list_items(name: str, dataset: Any, num_images: int | None) -> list[ImageItem]:
    if hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__"):
        # timm's reader, where there is one: its data set would put another image in the place
        # of an unreadable one.
        source = getattr(dataset, "reader", dataset)
        return [
            ImageItem(
                f"{name}[{i}]",
                partial(_read_index, source, i),
                partial(_identify_index, source, i),
            )
            for i in range(len(dataset))
        ]
    if num_images is None:
        raise ImageError(f"Data set {name!r} is a stream; say how many images with `num_images`.")
    return _stream_items(name, itertools.islice(iter(dataset), num_images))


def _stream_items(name: str, samples: Iterable[Any]) -> list[ImageItem]:
    return [
        ImageItem(
            f"{name}[{i}]",
            partial(_read_sample, sample),
            partial(_identify_image, sample[0]),
        )
        for i, sample in enumerate(samples)
    ]


def _read_index(source: Any, index: int, mode: str) -> LabelledImage:
    try:
        sample = source[index]
    except Exception as error:  # each reader has errors of its own
        reason = one_line(error)[:200] or type(error).__name__
        raise ImageError(f"cannot be read ({reason})") from error
    return _read_sample(sample, mode)


def _read_sample(sample: Any, mode: str) -> LabelledImage:
    try:
        image, target = sample[0], sample[1]
    except (TypeError, LookupError) as error:
        raise ImageError(f"is a {type(sample).__name__}, not a pair of image and label") from error
    decoded = to_mode(image, mode) if isinstance(image, Image.Image) else decode(image, mode)
    return decoded, _as_label(target)


def _identify_index(source: Any, index: int) -> bytes:
    return _identify_image(_read_index(source, index, "RGB")[0])


def _identify_image(image: Image.Image) -> bytes:
    header = f"{image.mode}{image.size}".encode()
    return hashlib.sha256(header + image.tobytes()).digest()


def _as_label(target: Any) -> int | None:
    """Class index from a target; none for a regression's number or text, nor for timm's -1."""
    try:
        label = operator.index(target)
    except (TypeError, ValueError, RuntimeError):
        return None
    return label if label >= 0 else None
