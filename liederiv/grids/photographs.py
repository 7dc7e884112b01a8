"""Photographs of any size as an input: what the network gets of them, and a camera that moves.

`Photographs` are references, decoded when they are needed. `Photographs.images` is what the network
gets, unrounded; under the interpolation scheme of `liederiv.grids.camera` these images move as if
the camera had.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from liederiv.errors import ImageError
from liederiv.foreign import one_line
from liederiv.grids.pipeline import Axis, Pipeline

__all__ = ["LEAST_SCALE", "Photograph", "Photographs", "streamed"]

LEAST_SCALE = 2.0
"""Pixels of a photograph per pixel of the input from which on its derivative is known: at 2, the
finest pattern of the input has four pixels of the photograph per period."""


@dataclass(frozen=True)
class Photograph:
    """A photograph by reference.

    Attributes:
        name: for people.
        read: decodes it to levels 0…255, uint8 [C, H, W].
        height: in pixels.
        width: in pixels.
    """

    name: str
    read: Callable[[], Tensor] = field(repr=False)
    height: int
    width: int


@dataclass(frozen=True)
class Photographs(Sequence[Photograph]):
    """Photographs with the pipeline of a model.

    Attributes:
        items: the photographs.
        pipeline: how they become inputs.
        labels: class index of each, or None.
    """

    items: tuple[Photograph, ...]
    pipeline: Pipeline
    labels: tuple[int, ...] | None = None

    def __len__(self) -> int:
        """How many."""
        return len(self.items)

    def __getitem__(self, index: Any) -> Any:
        """One photograph, or some of them with the same pipeline (and the same camera)."""
        if not isinstance(index, slice):
            return self.items[index]
        labels = None if self.labels is None else self.labels[index]
        return replace(self, items=self.items[index], labels=labels)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the photographs."""
        return tuple(p.name for p in self.items)

    @property
    def too_small(self) -> tuple[str, ...]:
        """Names of those that the camera's derivative is not known of, see `LEAST_SCALE`."""
        return tuple(p.name for p in self.items if min(self._scales(p)) < LEAST_SCALE)

    @property
    def large_enough(self) -> Photographs:
        """The others."""
        small = set(self.too_small)
        kept = [i for i, p in enumerate(self.items) if p.name not in small]
        labels = None if self.labels is None else tuple(self.labels[i] for i in kept)
        return replace(self, items=tuple(self.items[i] for i in kept), labels=labels)

    @property
    def images(self) -> Tensor:
        """What the network gets, unrounded and normalised, float32 [B, C, H, W]."""
        return torch.stack([self.developed(i) for i in range(len(self))]).float()

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """The images and their labels, in order."""
        for start in range(0, len(self), size):
            part = self[start : start + size]
            yield part.images, None if part.labels is None else torch.tensor(part.labels)

    def levels(self, index: int) -> Tensor:
        """One photograph, decoded: uint8 [C, H, W].

        Raises:
            ImageError: if it is not what it was.
        """
        one = self.items[index]
        p = one.read()
        if p.dtype != torch.uint8 or tuple(p.shape) != (
            len(self.pipeline.mean),
            one.height,
            one.width,
        ):
            raise ImageError(f"photograph {one_line(one.name)} has changed; load it again.")
        return p

    def developed(self, index: int) -> Tensor:
        """P p of one photograph, float64 [C, H, W]."""
        y, x = self.axes(index)
        p = self.levels(index)
        Wx = x.weights().T
        out = torch.zeros(len(p), y.size, x.size, dtype=torch.float64)
        for rows, weights in streamed(y.weights()):
            out += weights @ (p[:, rows].double() @ Wx)
        return self.finished(out, index)

    def finished(self, levels: Tensor, index: int) -> Tensor:
        """What is resampled to the input's size, float64 [C, H, W], padded and normalised."""
        y, x = self.axes(index)
        inside = _inside(y)[:, None] & _inside(x)
        mean = 255 * torch.tensor(self.pipeline.mean, dtype=torch.float64)[:, None, None]
        fill = mean.round() if self.pipeline.mode == "border" else torch.zeros_like(mean)
        return self.pipeline.normalised(torch.where(inside, levels, fill))

    def axes(self, index: int) -> tuple[Axis, Axis]:
        """Vertical and horizontal axis of one photograph."""
        one = self.items[index]
        return self.pipeline.axes(one.height, one.width)

    def _scales(self, p: Photograph) -> tuple[float, float]:
        y, x = self.pipeline.axes(p.height, p.width)
        return y.scale, x.scale


_ROWS = 256  # of a photograph in memory at once as floating-point numbers


def streamed(*weights: Tensor) -> Iterator[tuple[Any, ...]]:
    """Slices of a photograph's rows, with the columns of the matrices that they meet."""
    for start in range(0, weights[0].shape[1], _ROWS):
        rows = slice(start, start + _ROWS)
        yield (rows, *(w[:, rows] for w in weights))


def _inside(axis: Axis) -> Tensor:
    """Which pixels of the input are no padding, bool [size]."""
    at = torch.arange(axis.size) + axis.offset
    return (at >= 0) & (at < axis.resized)
