r"""Alias-free counterparts: the same operations, computed on grids that can carry the result.

* A pointwise nonlinearity σ makes frequencies that its grid cannot carry. Its counterpart is
  σ_AF = D∘LP∘σ∘U: go up to a grid ``factor`` times finer, apply σ there, keep the original band,
  come down. As the factor grows it commutes with every translation of the band.
* A strided affine layer S∘C (convolution, average pooling, patch embedding) folds frequencies above
  the coarser grid's Nyquist limit. Its counterpart is S∘LP∘C, the stride-1 layer low-passed and
  subsampled. C commutes with LP (exactly for circular padding), so S∘C∘LP is the same and costs
  nothing: the low-pass goes in front, and the strided layer stays as it is. Otherwise a patch
  embedding of stride 16 would cost 256 times as much.
* Max pooling does both: it runs densely on the finer grid, its window dilated by ``factor``, and
  the result is low-passed to the coarser limit before it is sampled.

Sampling phase. A strided layer with kernel k, padding p and stride s samples at s·j − p + (k−1)/2
pixels of its input. All filters here are symmetric, so every counterpart samples where the original
does; a repair that moved the samples would be a translation. See Karras et al., arXiv 2106.12423,
for the same construction in a generator.

Cost of an activation on n × n maps: factor² times as many evaluations, plus
4 n³ · factor · (1 + factor) operations per channel for U and D.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from liederiv.errors import LieDerivError

from ..layers.layouts import Layout
from ..layers.maps import from_map, to_map
from ..layers.windows import Window
from .resampling import (
    Boundary,
    apply_axes,
    blur,
    check_boundary,
    downsampling,
    low_pass,
    pad,
    upsampling,
)

__all__ = ["AliasFreeActivation", "AliasFreeMaxPool", "Filtered", "Wrapper", "filter_maps"]

NCHW = Layout("NCHW")
FilterMatrix = Callable[[int, int, Boundary, torch.dtype, torch.device], Tensor]
_FILTERS: dict[str, FilterMatrix] = {"low_pass": low_pass, "blur": blur}


class Wrapper(nn.Module):
    """Stands in for a module and shows its attributes to code that asks for them.

    Args:
        module: the original; keeps its parameters, its mode and its name ``module``.
    """

    module: nn.Module

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.training = module.training

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)


class AliasFreeActivation(Wrapper):
    """σ_AF = D∘LP∘σ∘U for a pointwise nonlinearity σ.

    Args:
        module: σ; takes maps of any resolution in the layout's order of axes.
        factor: how many times finer the grid is on which σ is applied; 1 is σ itself.
        boundary: how maps are continued, see `liederiv.analysis.aliasing.resampling`.
        layout: of the input. Prefix tokens pass through σ as they are.
    """

    def __init__(
        self,
        module: nn.Module,
        factor: int = 2,
        boundary: Boundary = "mirror",
        layout: Layout = NCHW,
    ) -> None:
        super().__init__(module)
        check_factor(factor)
        check_boundary(boundary)
        self.factor, self.boundary, self.layout = factor, boundary, layout

    def forward(self, z: Tensor) -> Tensor:
        """σ_AF(z), of z's shape."""
        if self.factor == 1:
            return self.module(z)
        prefix, fine = self.fine(z)
        h, w = (n // self.factor for n in fine.shape[-2:])
        down = [
            downsampling(n, self.factor, self.boundary, z.dtype, z.device, 1, None) for n in (h, w)
        ]
        return from_map(prefix, apply_axes(fine, *down), self.layout)

    def fine(self, z: Tensor) -> tuple[Tensor | None, Tensor]:
        """σ of the prefix tokens, and σ(U z) on the finer grid [B, C, factor·h, factor·w]."""
        prefix, maps = to_map(z, self.layout)
        up = [upsampling(n, self.factor, self.boundary, z.dtype, z.device) for n in maps.shape[-2:]]
        fine = apply_axes(maps, *up)
        tokens = self.layout.kind in ("NLC", "NCL")
        grid = (fine.shape[-2], fine.shape[-1])
        plain = Layout(self.layout.kind, grid) if tokens else self.layout
        out = to_map(self.module(from_map(None, fine, plain)), plain)[1]
        if prefix is None:
            return None, out
        rows = (prefix if self.layout.kind == "NLC" else prefix.mT).clone()  # σ may work in place
        first = self.module(rows)
        return first if self.layout.kind == "NLC" else first.mT, out


class Filtered(Wrapper):
    """A strided affine layer with a filter in front.

    Args:
        module: takes NCHW maps.
        stride: of the layer, rows and columns.
        kind: ``low_pass`` (ideal, to the coarser grid's Nyquist limit) or ``blur`` (Zhang 2019).
        boundary: how maps are continued.
    """

    def __init__(
        self,
        module: nn.Module,
        stride: tuple[int, int],
        kind: str = "low_pass",
        boundary: Boundary = "mirror",
    ) -> None:
        super().__init__(module)
        check_boundary(boundary)
        self.steps, self.kind, self.boundary = stride, kind, boundary

    def forward(self, z: Tensor) -> Tensor:
        """The layer's output for the filtered maps."""
        return self.module(filter_maps(z, self.steps, self.kind, self.boundary))


class AliasFreeMaxPool(Wrapper):
    """Max pooling on a finer grid, filtered before it is sampled.

    Args:
        module: an `nn.MaxPool2d` or a subclass with "same" padding.
        factor: how many times finer the grid is; 1 pools densely on the original grid.
        kind: ``low_pass`` or ``blur`` (Zhang's MaxBlurPool; only with factor 1).
        boundary: how maps are continued; beyond the border the pooled window sees this.
    """

    def __init__(
        self,
        module: nn.MaxPool2d,
        factor: int = 1,
        kind: str = "low_pass",
        boundary: Boundary = "mirror",
    ) -> None:
        super().__init__(module)
        check_factor(factor)
        check_boundary(boundary)
        if kind == "blur" and factor != 1:
            raise LieDerivError(f"factor={factor} is not defined for a blur; use factor=1.")
        self.factor, self.kind, self.boundary = factor, kind, boundary

    def forward(self, z: Tensor) -> Tensor:
        """[B, C, h, w] → as many rows and columns as the original gives."""
        dense = self.dense(z)
        window = Window.of(self.module)
        size = [window.outputs(axis, z.shape[2 + axis]) for axis in (0, 1)]
        stride = window.stride
        if self.kind == "blur":
            smooth = filter_maps(dense, stride, "blur", self.boundary)
            smooth = pad(smooth, (0, 0), stride, self.boundary)  # ceil_mode samples beyond
            return smooth[..., :: stride[0], :: stride[1]][..., : size[0], : size[1]]
        down = [
            downsampling(n, self.factor, self.boundary, z.dtype, z.device, s, m)
            for n, s, m in zip(z.shape[-2:], stride, size, strict=True)
        ]
        return apply_axes(dense, *down)

    def dense(self, z: Tensor) -> Tensor:
        """The maximum over the window at every pixel of the finer grid."""
        f = self.factor
        if f > 1:
            up = [upsampling(n, f, self.boundary, z.dtype, z.device) for n in z.shape[-2:]]
            z = apply_axes(z, *up)
        window = Window.of(self.module)
        before = [window.padding(axis, z.shape[2 + axis] // f)[0] for axis in (0, 1)]
        after = [max(window.reach(axis) - before[axis], 0) for axis in (0, 1)]
        z = pad(z, (f * before[0], f * before[1]), (f * after[0], f * after[1]), self.boundary)
        dilation = (f * window.dilation[0], f * window.dilation[1])
        return F.max_pool2d(z, window.kernel, 1, 0, dilation)


def filter_maps(z: Tensor, stride: tuple[int, int], kind: str, boundary: Boundary) -> Tensor:
    """Filter maps [..., h, w] for subsampling by ``stride``, at full resolution."""
    matrix = _FILTERS[kind]
    rows, columns = (
        matrix(n, s, boundary, z.dtype, z.device) for n, s in zip(z.shape[-2:], stride, strict=True)
    )
    return apply_axes(z, rows, columns)


def check_factor(factor: int) -> None:
    """Raise `LieDerivError` unless the factor is a positive whole number."""
    if not isinstance(factor, int) or factor < 1:
        raise LieDerivError(f"factor={factor!r} must be a whole number, 1 or larger.")
