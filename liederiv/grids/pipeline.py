r"""From a photograph to the input of a network: resize, crop, normalise, as one linear map.

Along each axis an input pixel is a weighted mean of a photograph's pixels, so the map is
P p = (W_y p W_xᵀ − mean) / std with one matrix per axis. The weights are those of Pillow's
resampling (`Resample.c`): a filter that is widened by the scale, cut off at its support and at the
border, and normalised. Pillow computes with rounded weights and rounds what it finds to 8 bits;
here nothing is rounded, so that what moves by a hundredth of a pixel changes by a hundredth of a
level.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from liederiv.errors import ImageError

__all__ = ["FILTERS", "Axis", "Pipeline"]


def _triangle(x: Tensor) -> Tensor:
    return (1 - x.abs()).clamp_min(0)


def _box(x: Tensor) -> Tensor:
    return ((x > -0.5) & (x <= 0.5)).to(x)


def _hamming(x: Tensor) -> Tensor:
    return torch.sinc(x) * (0.54 + 0.46 * torch.cos(torch.pi * x)) * (x.abs() < 1)


def _catmull_rom(x: Tensor) -> Tensor:
    x = x.abs()
    near, far = (1.5 * x - 2.5) * x**2 + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def _lanczos(x: Tensor) -> Tensor:
    return torch.sinc(x) * torch.sinc(x / 3) * (x.abs() < 3)


FILTERS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "box": (_box, 0.5),
    "bilinear": (_triangle, 1.0),
    "hamming": (_hamming, 1.0),
    "bicubic": (_catmull_rom, 2.0),
    "lanczos": (_lanczos, 3.0),
}
"""Pillow's filters by name, and their support in pixels of the coarser grid."""


@dataclass(frozen=True)
class Axis:
    """One axis: a photograph's pixels, resized, then cropped (or padded) to the input's.

    Attributes:
        pixels: of the photograph.
        resized: pixels after the resampling.
        offset: index among these of the input's first pixel; negative where the input is padded.
        size: pixels of the input.
        filter: name in `FILTERS`.
    """

    pixels: int
    resized: int
    offset: int
    size: int
    filter: str

    @property
    def scale(self) -> float:
        """Pixels of the photograph per pixel of the input."""
        return self.pixels / self.resized

    def weights(self) -> Tensor:
        """W, float64 [size, pixels]; rows of padding are 0."""
        kernel, support = FILTERS[self.filter]
        wide = max(self.scale, 1.0)
        index = torch.arange(self.size) + self.offset
        centre = (index + 0.5) * self.scale
        first = (centre - support * wide + 0.5).floor().clamp_min(0)
        last = (centre + support * wide + 0.5).floor().clamp_max(self.pixels)
        at = torch.arange(self.pixels)
        W = kernel((at + 0.5 - centre[:, None]).double() * (1 / wide))  # as Pillow rounds
        W = W * ((at >= first[:, None]) & (at < last[:, None]))
        inside = (index >= 0) & (index < self.resized)
        return torch.where(inside[:, None], W / W.sum(1, keepdim=True), 0.0)

    def positions(self) -> Tensor:
        """Where the photograph's pixels are, in pixels of the input from its middle: [pixels]."""
        at = torch.arange(self.pixels, dtype=torch.float64)
        return (at + 0.5) / self.scale - 0.5 - self.offset - (self.size - 1) / 2

    def indices(self, positions: Tensor) -> Tensor:
        """The inverse: indices of the photograph's pixels, of any real value."""
        return (positions + (self.size - 1) / 2 + self.offset + 0.5) * self.scale - 0.5


@dataclass(frozen=True)
class Pipeline:
    """How photographs of any size become inputs, in the terms of timm's evaluation transform.

    Attributes:
        size: height and width of the input.
        resized: height and width to which photographs are resized before the crop.
        mode: ``center`` (the shorter side is resized, the middle cut out), ``squash`` (both sides),
            ``border`` (the longer side; the rest is padded with the mean).
        filter: name in `FILTERS`.
        mean: per channel, in units of the full range [0, 1].
        std: likewise.
    """

    size: tuple[int, int]
    resized: tuple[int, int]
    mode: str
    filter: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.filter not in FILTERS:
            raise ImageError(
                f"interpolation={self.filter!r} is no weighted mean of pixels that moves smoothly; "
                f"for the camera choose one of {', '.join(FILTERS)}."
            )

    def axes(self, height: int, width: int) -> tuple[Axis, Axis]:
        """The vertical and the horizontal axis for photographs of that size."""
        h, w = self._resized(height, width)
        sides = ((height, h, self.size[0]), (width, w, self.size[1]))
        y, x = (Axis(n, m, _offset(m, s), s, self.filter) for n, m, s in sides)
        return y, x

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """As torchvision's ``Resize`` rounds, and timm's ``ResizeKeepRatio``."""
        h, w = self.resized
        if self.mode == "squash":
            return h, w
        if self.mode == "center" and h == w:  # one number: the other side is rounded down
            short, long = sorted((height, width))
            other = int(h * long / short)
            return (h, other) if height <= width else (other, h)
        ratios = (height / h, width / w)
        ratio = max(ratios) if self.mode == "border" else min(ratios)
        return round(height / ratio), round(width / ratio)

    def normalised(self, x: Tensor) -> Tensor:
        """From levels 0…255, float64 [C, H, W], to what the network takes."""
        mean, std = (
            torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (self.mean, self.std)
        )
        return (x / 255 - mean) / std

    def scaled(self, v: Tensor) -> Tensor:
        """The same of a change of levels, [..., C, H, W]."""
        return v / 255 / torch.tensor(self.std, dtype=torch.float64)[:, None, None]


def _offset(resized: int, size: int) -> int:
    """Where the middle is cut out, as torchvision's ``CenterCrop`` rounds (padding included)."""
    if resized >= size:
        return round((resized - size) / 2)
    return -((size - resized) // 2)
