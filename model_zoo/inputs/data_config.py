"""What a network expects of its input: size, crop, normalisation, interpolation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from liederiv.errors import ModelError
from liederiv.foreign import described, one_line

__all__ = ["DataConfig", "spatial_size"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
CROP_MODES = ("center", "squash", "border")
_LARGEST_SIZE = 2**16  # of channels and of pixels along an axis
# Normalised pixels beyond these are lost in the rounding of float32, or overflow.
_SMALLEST, _LARGEST = 1e-6, 1e6


@dataclass(frozen=True)
class DataConfig:
    """How photographs become input tensors, in the terms of timm's data config.

    Attributes:
        input_size: Channels, height and width of one input, in pixels.
        crop_pct: Fraction of the resized image that the crop keeps (the image is resized to
            `input_size / crop_pct` first). Above 1, the crop is padded.
        crop_mode: "center" (shortest side), "squash" (aspect ratio given up) or "border" (padded).
        mean: Mean per channel, in units of the full range [0, 1], that is subtracted.
        std: Standard deviation per channel, same unit, that is divided by.
        interpolation: Name of the resampling filter.

    Raises:
        ModelError: If a value is out of range or `mean`, `std` do not match the channels.
    """

    input_size: tuple[int, int, int] = (3, 224, 224)
    crop_pct: float = 0.875
    crop_mode: str = "center"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        size = self.input_size
        if len(size) != 3 or not all(isinstance(s, int) and s > 0 for s in size):
            raise ModelError(
                f"`input_size` must be positive integers (channels, height, width), got {size}."
            )
        if max(size) > _LARGEST_SIZE:
            raise ModelError(f"`input_size` may be {_LARGEST_SIZE} at most, got {described(size)}.")
        if not 0 < self.crop_pct < math.inf:
            raise ModelError(
                f"`crop_pct` must be a positive fraction such as 0.875, got {self.crop_pct}."
            )
        _check_choice("crop_mode", self.crop_mode, CROP_MODES)
        _check_choice("interpolation", self.interpolation, INTERPOLATIONS)
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != size[0]:
                raise ModelError(
                    f"`{name}` must have one value for each of the {size[0]} input channels, "
                    f"got {tuple(values)}."
                )
        if not all(s > 0 for s in self.std):
            raise ModelError(f"`std` must be positive in every channel, got {tuple(self.std)}.")
        if not all(_SMALLEST <= s <= _LARGEST for s in self.std):
            raise ModelError(
                f"`std` must lie between {_SMALLEST:g} and {_LARGEST:g} in every channel, in units "
                f"of the full range [0, 1] of pixels, got {tuple(self.std)}."
            )
        if not all(abs(m) <= _LARGEST for m in self.mean):  # false for NaN too
            raise ModelError(
                f"`mean` must be finite and at most {_LARGEST:g} in size in every channel, in "
                f"units of the full range [0, 1] of pixels, got {tuple(self.mean)}."
            )

    @classmethod
    def from_mapping(cls, config: Mapping[str, Any]) -> DataConfig:
        """Read the fields of a timm data config or `pretrained_cfg`; other keys are ignored.

        Args:
            config: Any mapping with keys named as the attributes; missing or None ones keep the
                default.

        Returns:
            The data config.

        Raises:
            ModelError: If a value is out of range.
        """
        try:
            return cls._from_mapping(config)
        except (TypeError, ValueError, IndexError, OverflowError, AttributeError) as error:
            raise ModelError(
                f"the data config {described(config)} cannot be read ({one_line(error)}); it needs "
                "`input_size` (channels, height, width), `mean` and `std` per channel."
            ) from error

    @classmethod
    def _from_mapping(cls, config: Mapping[str, Any]) -> DataConfig:
        known = {f.name for f in fields(cls)}
        values = {k: v for k, v in config.items() if k in known and v is not None}
        for key in ("input_size", "mean", "std"):
            if key in values:
                values[key] = tuple(values[key])
        channels = values.get("input_size", cls.input_size)[0]
        for key, default in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            values[key] = _per_channel(values.get(key, default), channels)
        return cls(**values)

    def override(
        self,
        *,
        img_size: int | Sequence[int] | None = None,
        crop_pct: float | None = None,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        interpolation: str | None = None,
        in_chans: int | None = None,
    ) -> DataConfig:
        """Replace what is given and keep the rest.

        Args:
            img_size: Height and width in pixels, or one number for both.
            crop_pct: Fraction of the resized image that is kept.
            mean: One number, or one for each channel.
            std: One number, or one for each channel.
            interpolation: Name of the resampling filter.
            in_chans: Number of input channels.

        Returns:
            A new data config.

        Raises:
            ModelError: If a value is out of range.
        """
        channels = self.input_size[0] if in_chans is None else in_chans
        height, width = self.input_size[1:] if img_size is None else spatial_size(img_size)
        return replace(
            self,
            input_size=(channels, height, width),
            crop_pct=self.crop_pct if crop_pct is None else crop_pct,
            mean=_per_channel(self.mean if mean is None else mean, channels),
            std=_per_channel(self.std if std is None else std, channels),
            interpolation=self.interpolation if interpolation is None else interpolation,
        )


def spatial_size(img_size: int | Sequence[int]) -> tuple[int, int]:
    """Read an image size given as one number or as (height, width), in pixels.

    Raises:
        ModelError: If it is neither.
    """
    size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
    if len(size) != 2 or not all(isinstance(s, int) and s > 0 for s in size):
        raise ModelError(
            f"`img_size` must be a positive number of pixels or (height, width), got {img_size!r}."
        )
    return size[0], size[1]


def _per_channel(values: float | Sequence[float], channels: int) -> tuple[float, ...]:
    """Expand one number to all channels; average ImageNet's three for a single channel."""
    numbers = (
        (float(values),) if isinstance(values, (int, float)) else tuple(float(v) for v in values)
    )
    if len(numbers) == 1:
        return numbers * channels
    if channels == 1:
        return (sum(numbers) / len(numbers),)
    return numbers


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ModelError(f"`{name}` must be one of {', '.join(choices)}, got {value!r}.")
