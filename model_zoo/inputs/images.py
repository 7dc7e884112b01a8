"""Load images as normalised batches: built-in photographs, a folder, or a timm data set."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from liederiv.errors import ImageError
from liederiv.foreign import at_home, one_line, printable, shortened
from liederiv.grids.camera import Camera
from liederiv.grids.photographs import Photographs

from .base import Asked, Inputs, register_inputs
from .data_config import DataConfig
from .decoding import SCALE, check_size
from .image_datasets import dataset_items, is_dataset_name
from .image_folders import choose_split
from .image_items import ImageItem, folder_items, is_image_name
from .photographs import sample_items
from .pipelines import photographs_of

__all__ = ["DeviceBatches", "ImageSet", "PhotographSet", "load_images"]


_SAMPLES = "samples"


@register_inputs
@dataclass(frozen=True)
class ImageSet(Inputs, Sequence[Tensor]):
    """Images that are decoded when they are asked for, all of them known to be readable.

    Attributes:
        source: What they were loaded from, in words.
        data_config: How they are prepared.
        items: References to the images.
        labels: Class index for each image, or None where any image has none. They are a model's
            classes only if `len(class_names)` is its number of classes.
        class_names: Names of the classes, where known.
        skipped: Name and reason of every file that was tried and could not be read.
        fingerprint: Sixteen hexadecimal digits that name the content and the order of the images,
            whatever their file names.
        notes: What was left out beside a split, and by what rule deep pixels became 8 bits.
    """

    source: str
    data_config: DataConfig
    items: tuple[ImageItem, ...] = field(repr=False)
    labels: tuple[int, ...] | None = field(repr=False)
    class_names: tuple[str, ...] = field(repr=False)
    skipped: tuple[tuple[str, str], ...] = field()
    fingerprint: str = field()
    notes: tuple[str, ...] = ()

    kind = title = "images"

    @classmethod
    def open(cls, asked: Asked, expects: DataConfig) -> ImageSet:
        """See `Inputs.open` and `load_images`."""
        a = asked
        return load_images(a.source, expects, a.count, a.seed, a.split, data_dir=a.data_dir)

    @property
    def names(self) -> tuple[str, ...]:  # type: ignore[override]
        """Name of each image."""
        return tuple(item.name for item in self.items)

    @property
    def clusters(self) -> list[str] | None:
        """The built-in photographs are crops of a few."""
        if self.source != _SAMPLES:
            return None
        return [name.split("/")[0] for name in self.names]

    @property
    def photographs(self) -> Photographs:
        """What the images were made from, for ``scheme="camera"``; see `Photographs`.

        Raises:
            ImageError: if an image can no longer be read, or the model's filter is no linear one.
        """
        return photographs_of(self.items, self.data_config, self.labels)

    def photographed(self) -> Inputs:
        """See `Inputs.photographed`."""
        return PhotographSet.of(self)

    @property
    def size_in_words(self) -> str:
        """Height and width as the model sees them."""
        return " × ".join(str(n) for n in self.data_config.input_size[1:]) + " pixels"

    def batch(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """All images [B, C, H, W]."""
        return torch.stack(self[:]).to(device, dtype)

    def first(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """The first image [1, C, H, W]."""
        image: Tensor = self[0]
        return image[None].to(device, dtype)

    def feed(
        self, device: torch.device, dtype: torch.dtype, size: int | None, labelled: bool
    ) -> DeviceBatches:
        """See `Inputs.feed`: decoded as they are needed."""
        step = size or (32 if device.type == "cuda" else 4)
        return DeviceBatches(self, step, device, dtype, labelled)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.items)

    def __getitem__(self, index: Any) -> Any:
        """Decode one image, [C, H, W] float32 normalised, or a list of them for a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        item = self.items[index]
        try:
            image, _ = item.read(_mode(self.data_config))
        except ImageError as error:
            raise ImageError(
                f"Image {item.name} of {self.source} can no longer be read: {error}; load again."
            ) from error
        return _transform(self.data_config)(image)

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Decode the images in order.

        Args:
            batch_size: Number of images in each batch but the last.

        Yields:
            Images [B, C, H, W], float32, normalised by mean and std; labels [B], int64, or None.

        Raises:
            ImageError: If `batch_size` is below 1 or an image can no longer be read.
        """
        if batch_size < 1:
            raise ImageError(f"`batch_size` must be at least 1, got {batch_size}.")
        for start in range(0, len(self), batch_size):
            images = torch.stack(self[start : start + batch_size])
            labels = None
            if self.labels is not None:
                labels = torch.tensor(self.labels[start : start + batch_size], dtype=torch.int64)
            yield images, labels


# Of 255 levels, mean over an image: what rounds twice, and clips now and then, stays far below.
_ROUNDING = 1.0


@dataclass(frozen=True)
class PhotographSet(ImageSet):
    """An `ImageSet` whose images are unrounded, and move with the camera.

    What `ImageSet` delivers are the same in 8 bits, as timm's pipeline makes them.
    """

    @classmethod
    def of(cls, images: ImageSet) -> PhotographSet:
        """The same images.

        Raises:
            ImageError: if the camera does not fit them, see `Camera`, or if the model's
                pipeline makes something else of them.
        """
        found = cls(**{f.name: getattr(images, f.name) for f in fields(ImageSet)})
        _ = found.camera
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
    def camera(self) -> Camera:
        """One for all batches: it knows the images."""
        return Camera(self.photographs)

    def scheme(self, name: str) -> Camera:
        """See `Inputs.scheme`."""
        return self.camera

    def __getitem__(self, index: Any) -> Any:
        """One image, [C, H, W] float32 normalised, unrounded, or a list of them for a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self.camera.photographs.developed(index).float()


@dataclass(frozen=True)
class DeviceBatches:
    """Batches of an `ImageSet` on a device and in a dtype, with a known number of images."""

    images: ImageSet
    size: int
    device: torch.device
    dtype: torch.dtype
    labelled: bool

    @property
    def num_images(self) -> int:
        """How many there are in all batches."""
        return len(self.images)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        for x, labels in self.images.batches(self.size):
            yield x.to(self.device, self.dtype), labels if self.labelled else None


def load_images(
    source: str | Path = "samples",
    data_config: DataConfig | None = None,
    num_images: int | None = None,
    seed: int = 0,
    split: str | None = None,
    *,
    data_dir: str | Path | None = None,
) -> ImageSet:
    """Choose images and check that each can be decoded.

    Args:
        source: "samples" (photographs that come with scikit-image), a folder, or the name of a
            timm data set ("torch/cifar10", "hfds/…"). A folder is read recursively; class-named
            subfolders give labels. Files that are no images are skipped and reported.
        data_config: How images are prepared; ImageNet's defaults when None.
        num_images: How many to take: the first ones of the samples, else a random choice with
            `seed`, kept in the order of the source. All when None or when there are fewer.
        seed: Seed of the choice; the global random state is neither read nor changed.
        split: Subfolder or split to read, by name or relative path. A folder of splits is read in
            "val" or "validation" by default, as timm does, else in "test", else in "train";
            `ImageSet.source` says so.
        data_dir: Where the files of a named data set lie.

    Returns:
        The images.

    Raises:
        ImageError: If the source is missing or holds no readable image, or `num_images` < 1.
    """
    if num_images is not None and num_images < 1:
        raise ImageError(f"`num_images` must be at least 1, got {num_images}.")
    config = DataConfig() if data_config is None else data_config
    mode = _mode(config)
    found = _find_items(str(source), split, data_dir, num_images)
    shuffle = None if source == _SAMPLES else seed
    chosen, labels, tried, scales = _choose(found.items, mode, num_images, shuffle)
    skipped = [*found.skipped, *tried]
    if not chosen:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped[:3])
        held = f"{len(skipped)} files, none an image ({reasons})" if skipped else "no files"
        raise ImageError(f"`images` {one_line(source)!r} holds {held}; give a folder with images.")
    known = [label for label in labels if label is not None]
    return ImageSet(
        source=found.source,
        data_config=config,
        items=tuple(chosen),
        labels=tuple(known) if len(known) == len(chosen) else None,
        class_names=found.class_names,
        skipped=tuple(skipped),
        fingerprint=_fingerprint(chosen),
        notes=(*found.notes, *_scale_notes(scales)),
    )


@dataclass(frozen=True)
class _Found:
    """What a source holds before anything is decoded; the fields as those of `ImageSet`."""

    source: str
    items: list[ImageItem]
    class_names: tuple[str, ...] = ()
    skipped: Sequence[tuple[str, str]] = ()
    notes: tuple[str, ...] = ()


def _find_items(
    source: str, split: str | None, data_dir: str | Path | None, num_images: int | None
) -> _Found:
    if source == _SAMPLES:
        return _Found(source, sample_items())
    shown = printable(source, keep="")
    try:
        path = at_home(source)
        is_folder, is_file = path.is_dir() and source != "", path.is_file()
        exists = path.exists()
    except (OSError, ValueError) as error:
        reason = one_line(getattr(error, "strerror", None) or error).rstrip(".")
        raise ImageError(
            f"`images` {shortened(shown)!r} is no path ({reason}); give 'samples', a folder, or a "
            "timm data set."
        ) from error
    if is_folder:
        chosen = choose_split(path, split, is_image_name)
        if chosen.inner:
            shown = f"{shown} (its folder {printable(chosen.inner, keep='')!r})"
        notes = tuple(filter(None, [chosen.note]))
        return _Found(shown, *folder_items(chosen.folder), notes)
    if is_file:
        raise ImageError(f"`images` {shown!r} is a file; give the folder that holds it.")
    if is_dataset_name(source):
        return _Found(shown, *dataset_items(source, data_dir, split, num_images))
    what = "is neither a folder nor a file" if exists and source else "does not exist"
    raise ImageError(
        f"`images` {shortened(shown)!r} {what}; give 'samples', a folder, or a timm data set such "
        "as 'torch/cifar10' or 'hfds/name'."
    )


def _choose(
    items: list[ImageItem], mode: str, num_images: int | None, seed: int | None
) -> tuple[list[ImageItem], list[int | None], list[tuple[str, str]], Counter[str]]:
    """Decode items until enough are good; shuffled by `seed` when only some are wanted."""
    wanted = len(items) if num_images is None else num_images
    order = list(range(len(items)))
    if seed is not None and wanted < len(items):
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(items), generator=generator).tolist()
    good: list[tuple[int, int | None]] = []
    skipped: list[tuple[int, str]] = []
    scales: Counter[str] = Counter()
    for i in order:
        if len(good) == wanted:
            break
        try:
            image, label = items[i].read(mode)
            check_size(image)
            good.append((i, label))
            scales.update(filter(None, [image.info.get(SCALE)]))
        except ImageError as error:
            skipped.append((i, str(error)))
    good.sort(key=lambda pair: pair[0])
    skipped.sort()
    chosen = [items[i] for i, _ in good]
    tried = [(items[i].name, why) for i, why in skipped]
    return chosen, [label for _, label in good], tried, scales


def _scale_notes(scales: Counter[str]) -> list[str]:
    """By what rule deep pixels became 8 bits, and that images of one set differ in it."""
    notes = [f"{n} images with {scale}" for scale, n in sorted(scales.items())]
    if len({scale.rpartition(" ")[2] for scale in scales}) > 1:
        notes.append("full scale differs between these images; save them as 8 or 16 bits")
    return notes


def _mode(config: DataConfig) -> str:
    """Mode in which Pillow delivers the number of channels that the model takes."""
    channels = config.input_size[0]
    if channels not in (1, 3):
        raise ImageError(
            f"Photographs have 1 or 3 channels, the model's `input_size` has {channels}; pass your "
            "own tensors instead."
        )
    return "RGB" if channels == 3 else "L"


def _transform(config: DataConfig) -> Any:
    """Timm's evaluation transform: resize, crop, to [0, 1], normalise."""
    from timm.data import create_transform

    return create_transform(
        input_size=config.input_size,
        is_training=False,
        interpolation=config.interpolation,
        mean=config.mean,
        std=config.std,
        crop_pct=config.crop_pct,
        crop_mode=config.crop_mode,
    )


def _fingerprint(items: Sequence[ImageItem]) -> str:
    digest = hashlib.sha256()
    for item in items:
        digest.update(hashlib.sha256(item.identity()).digest())
    return digest.hexdigest()[:16]
