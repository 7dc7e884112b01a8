r"""Band-limited resampling of maps, as one matrix per axis.

A signal of n pixels is a sum of modes; which modes depends on what stands beyond the border:

* ``periodic``: e^{2πiku/n}. Faithfully moved are those with |k| < n/2: the Nyquist mode of an even
  n has no slope at the pixels (see `liederiv.derivatives.Fourier`), so it lies outside the band.
* ``mirror``: cos(πk(u + ½)/n), k < n, the modes of the mirrored signal (a discrete cosine
  transform, type II). It has no Nyquist mode.

``u`` counts pixels, u = j is the centre of pixel j. A grid s times finer has its pixels at
u = (i + ½)/s − ½: both grids cover the same area (half-pixel convention), so neither going up nor
coming down moves the picture.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, get_args

import torch
from torch import Tensor

from liederiv.errors import LieDerivError

__all__ = [
    "Boundary",
    "apply_axes",
    "blur",
    "check_boundary",
    "downsampling",
    "fine_positions",
    "low_pass",
    "pad",
    "upsampling",
]

Boundary = Literal["periodic", "mirror"]


def check_boundary(boundary: str) -> None:
    """Raise `LieDerivError` unless the boundary is known."""
    if boundary not in get_args(Boundary):
        raise LieDerivError(f"boundary={boundary!r} is unknown; choose 'periodic' or 'mirror'.")


def apply_axes(z: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Apply one matrix to each axis of maps.

    Args:
        z: [..., h, w].
        rows: [h', h].
        columns: [w', w].

    Returns:
        [..., h', w'].
    """
    return rows @ (z @ columns.T)


def fine_positions(n: int, factor: int) -> Tensor:
    """Where the pixels of a grid ``factor`` times finer sit, in pixels of n: float64 [factor · n].

    Example:
        >>> fine_positions(2, 2)
        tensor([-0.2500,  0.2500,  0.7500,  1.2500], dtype=torch.float64)
    """
    return (torch.arange(factor * n, dtype=torch.float64) + 0.5) / factor - 0.5


@lru_cache(maxsize=256)
def upsampling(
    n: int, factor: int, boundary: Boundary, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """U [factor · n, n]: the band of the signal, sampled on the finer grid."""
    matrix = _band(n, _pixels(n), fine_positions(n, factor), n, boundary)
    return matrix.to(dtype=dtype, device=device)


@lru_cache(maxsize=256)
def downsampling(
    n: int,
    factor: int,
    boundary: Boundary,
    dtype: torch.dtype,
    device: torch.device,
    stride: int = 1,
    size: int | None = None,
) -> Tensor:
    """D∘LP [size, factor · n]: low-pass a signal on the finer grid, sample it on the coarser one.

    Args:
        n: pixels of the grid in between, whose samples sit at u = 0 … n − 1.
        factor: how many times finer the input's grid is.
        boundary: what stands beyond the border.
        dtype: of the matrix.
        device: of the matrix.
        stride: the output is sampled at u = 0, stride, 2 · stride, …, and low-passed to that
            grid's Nyquist limit 1/(2 · stride).
        size: number of output samples; by default ⌈n / stride⌉.
    """
    positions = _pixels(-(-n // stride) if size is None else size) * stride
    matrix = _band(n, fine_positions(n, factor), positions, n / stride, boundary)
    return matrix.to(dtype=dtype, device=device)


@lru_cache(maxsize=256)
def low_pass(
    n: int, stride: int, boundary: Boundary, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """[n, n]: keep frequencies below 1/(2 · stride), what a grid so much coarser can carry."""
    matrix = _band(n, _pixels(n), _pixels(n), n / stride, boundary)
    return matrix.to(dtype=dtype, device=device)


@lru_cache(maxsize=256)
def blur(
    n: int, stride: int, boundary: Boundary, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """[n, n]: a triangle of half-width ``stride``, [1, 2, 1] / 4 for stride 2.

    Symmetric about its pixel, so it moves nothing. Its response sinc² vanishes at the multiples of
    the sampling frequency 1/stride. For stride 2 it is the Triangle-3 filter of Zhang,
    "Making Convolutional Networks Shift-Invariant Again", 2019, section 3.2.
    """
    offsets = torch.arange(1 - stride, stride)
    weights = (stride - offsets.abs()).to(torch.float64) / stride**2
    index = _continue(torch.arange(n)[:, None] + offsets, n, boundary)
    out = torch.zeros(n, n, dtype=torch.float64)
    out.scatter_add_(1, index, weights.expand(n, -1))
    return out.to(dtype=dtype, device=device)


def pad(z: Tensor, before: tuple[int, int], after: tuple[int, int], boundary: Boundary) -> Tensor:
    """Continue maps beyond their border.

    Args:
        z: [..., h, w].
        before: rows above and columns to the left.
        after: rows below and columns to the right.
        boundary: how.
    """
    for axis, b, a in zip((-2, -1), before, after, strict=True):
        if b or a:
            n = z.shape[axis]
            index = _continue(torch.arange(-b, n + a), n, boundary)
            z = z.index_select(axis, index.to(z.device))
    return z


def _pixels(n: int) -> Tensor:
    return torch.arange(n, dtype=torch.float64)


def _continue(index: Tensor, n: int, boundary: Boundary) -> Tensor:
    """The pixel that stands at any integer position."""
    if boundary == "periodic":
        return index.remainder(n)
    index = index.remainder(2 * n)
    return torch.minimum(index, 2 * n - 1 - index)


def _band(n: int, samples: Tensor, positions: Tensor, limit: float, boundary: Boundary) -> Tensor:
    """Project samples on the modes below a limit and evaluate the result elsewhere.

    Args:
        n: period (periodic) or half of it (mirror), in pixels.
        samples: float64 [N], where the signal is given: a uniform grid over the n pixels.
        positions: float64 [P], where the result is wanted.
        limit: number of pixels that the band can carry; n for the whole band of n pixels.
        boundary: which modes.

    Returns:
        float64 [P, N].
    """
    tiny = 1e-9  # a limit that is a whole number but for rounding leaves out the mode on it
    if boundary == "periodic":
        count = max(0, int(torch.tensor(limit / 2 - tiny).ceil()) - 1)
        k = torch.arange(1, count + 1, dtype=torch.float64) * (2 * torch.pi / n)
        phase = positions[:, None] * k, samples[:, None] * k
        waves = phase[0].cos() @ phase[1].cos().T + phase[0].sin() @ phase[1].sin().T
    else:
        count = int(torch.tensor(limit - tiny).ceil()) - 1
        k = torch.arange(1, count + 1, dtype=torch.float64) * (torch.pi / n)
        waves = ((positions[:, None] + 0.5) * k).cos() @ ((samples[:, None] + 0.5) * k).cos().T
    return (1 + 2 * waves) / len(samples)
