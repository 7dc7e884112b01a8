r"""How EQ-T_frac and EQ-R move a picture that a network has made, without aliasing it.

Shifts by a fraction of a pixel interpolate with the Lanczos kernel of 3 lobes. Rotations go through
a low-pass filter for the band that the pixels before and after have in common, an octagon of
frequencies: R_α z resamples z with that filter, and R*_α y passes y, which stands rotated already,
through the same filter, so that both have lost the same frequencies ("pseudo-rotation"). What lies
outside the picture is taken for 0 and masked out wherever a filter reaches it.

Source: Karras et al. 2021, "Alias-Free Generative Adversarial Networks", arXiv 2106.12423,
appendix E. As there, the filter is (sinc² ∗ rotated sinc²) · (window ∗ rotated window), Lanczos
windows of 3 lobes, cut off at 6 pixels, tabulated at quarters of a pixel, linear in between. Here
the first convolution is an integral over the octagon rather than a discrete one; R* takes the
filter at whole pixels (their code convolves at whole pixels, which folds the octagon's corners).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from liederiv.transforms import FiniteTransform

if TYPE_CHECKING:
    from liederiv.channels import ChannelAction

__all__ = ["BandLimitedRotation", "LanczosShift", "PseudoRotation", "band_filter", "lanczos_matrix"]

LOBES = 3
_REACH = 2 * LOBES  # pixels from the centre of the filter to its end
_UP = 4  # entries of its table per pixel
ROTATED_MARGIN = _REACH - 0.5  # from the outermost pixel centres: 6 px from the picture's edge
PSEUDO_MARGIN = _REACH - 1
_NODES = 16  # of the quadrature, per piece of the octagon


@dataclass(frozen=True)
class _Element:
    """A group element whose inputs and channels move as the finite transform says.

    Attributes:
        move: the transform, bound to the input's size.
    """

    move: FiniteTransform

    def within(self, height: int, width: int) -> _Element:
        """The same for a window around the image's centre, see `ImageAction.within`."""
        return replace(self, move=self.move.within(height, width))

    def on_input(self, x: Tensor) -> Tensor:
        """Move images [B, C, H, W], by the scheme."""
        return self.move.on_input(x)

    def on_channels(self, channels: ChannelAction, count: int) -> Tensor:
        """See `FiniteTransform.on_channels`."""
        return self.move.on_channels(channels, count)


class LanczosShift(_Element):
    """A translation by any amount: the operator T_x of EQ-T_frac."""

    def on_map(self, z: Tensor) -> Tensor:
        """Move maps [B, C, h, w]; what lies outside is 0."""
        ux, uy = self._positions(*z.shape[-2:])
        along_x = lanczos_matrix(ux, z.shape[-1])[:, None].to(z)
        along_y = lanczos_matrix(uy, z.shape[-2])[:, None].to(z)
        return along_y @ z @ along_x.mT

    def valid(self, h: int, w: int, margin: float = 0.0) -> Tensor:
        """Where all samples of the kernel lie inside, bool [B or 1, 1, h, w]."""
        inside = [
            (u.floor() - (LOBES - 1) >= margin) & (u.floor() + LOBES <= n - 1 - margin)
            for u, n in zip(self._positions(h, w), (w, h), strict=True)
        ]
        return (inside[1][:, :, None] & inside[0][:, None])[:, None]

    def _positions(self, h: int, w: int) -> tuple[Tensor, Tensor]:
        """Where each column and each row comes from, [B, w] and [B, h]."""
        ux, uy = (u.unflatten(1, (h, w)) for u in self.move.sources(h, w))
        return ux[:, 0], uy[:, :, 0]


class BandLimitedRotation(_Element):
    """A rotation by any angle: the operator R_α of EQ-R."""

    def on_map(self, z: Tensor) -> Tensor:
        """Move maps [B, C, h, w]; what lies outside is 0."""
        h, w = z.shape[-2:]
        linear, (ux, uy) = self.move.linear(h, w), self.move.sources(h, w)
        rows = []
        for b, image in enumerate(z):
            k = min(b, len(linear) - 1)
            table = band_filter(_key(linear[k].inverse()))
            fine = _upsample(image, table.to(z))
            grid = torch.stack([ux[k] * _UP, uy[k] * _UP], -1).unflatten(0, (h, w))
            last = torch.tensor([w * _UP - 1, h * _UP - 1], dtype=grid.dtype)
            grid = (2 * grid / last - 1).to(z)[None]
            rows.append(F.grid_sample(fine[None], grid, align_corners=True)[0])
        return torch.stack(rows)

    def valid(self, h: int, w: int, margin: float = 0.0) -> Tensor:
        """Where the filter lies inside, bool [B or 1, 1, h, w]."""
        return self.move.valid(h, w, margin + ROTATED_MARGIN)


class PseudoRotation(_Element):
    """The low-pass filter R*_α of that rotation, for what stands rotated already."""

    def on_map(self, y: Tensor) -> Tensor:
        """Filter maps [B, C, h, w]; what lies outside is 0."""
        linear = self.move.linear(*y.shape[-2:])
        rows = []
        for b, image in enumerate(y):
            table = band_filter(_key(linear[min(b, len(linear) - 1)]))
            taps = table[_UP - 1 :: _UP, _UP - 1 :: _UP]
            taps = (taps / taps.sum()).flip(0, 1).to(y)
            rows.append(F.conv2d(image[:, None], taps[None, None], padding=len(taps) // 2)[:, 0])
        return torch.stack(rows)

    def on_channels(self, channels: ChannelAction, count: int) -> Tensor:
        """The identity: the channels have turned already, [1, C, C]."""
        return torch.eye(count, dtype=torch.float64)[None]

    def valid(self, h: int, w: int, margin: float = 0.0) -> Tensor:
        """Where the filter lies inside, bool [1, 1, h, w]."""
        far = PSEUDO_MARGIN + margin
        inside = [(torch.arange(n) >= far) & (torch.arange(n) <= n - 1 - far) for n in (h, w)]
        return (inside[0][:, None] & inside[1])[None, None]


def lanczos_matrix(positions: Tensor, n: int) -> Tensor:
    """Rows of Lanczos weights, normalised to sum 1, of n samples at positions [B, P]: [B, P, n].

    Weights that fall outside the axis are lost: the signal is 0 there.
    """
    first = positions.floor() - (LOBES - 1)
    index = first[..., None] + torch.arange(2 * LOBES)
    offset = positions[..., None] - index
    weights = torch.sinc(offset) * _window(offset)
    weights = weights / weights.sum(-1, keepdim=True)
    inside = (index >= 0) & (index < n)
    out = weights.new_zeros(*positions.shape, n)
    return out.scatter_add(-1, index.clamp(0, n - 1).long(), weights * inside)


def _window(x: Tensor) -> Tensor:
    """The Lanczos window: the central lobe of sinc(x / LOBES)."""
    return torch.sinc(x / LOBES) * (x.abs() < LOBES)


def _key(linear: Tensor) -> tuple[float, float, float, float]:
    a, b, c, d = linear.flatten().tolist()
    return a, b, c, d


@lru_cache(maxsize=64)
def band_filter(other: tuple[float, float, float, float]) -> Tensor:
    """The filter for the band that two grids of pixels have in common, float64 [47, 47].

    Args:
        other: the matrix M that takes offsets in pixels of this grid to those of the other.

    Returns:
        values at offsets (j − 23)/4 pixels, rows along y; the entries that meet the pixels at any
        one position add up to 1.
    """
    M = torch.tensor(other, dtype=torch.float64).reshape(2, 2)
    q = torch.arange(1 - _REACH * _UP, _REACH * _UP, dtype=torch.float64) / _UP
    x, y = q.expand(len(q), len(q)), q[:, None].expand(len(q), len(q))
    table = _octagon_kernel(M, x, y) * _double_window(M, len(q))
    phases = F.pad(table, (1, 0, 1, 0)).reshape(2 * _REACH, _UP, 2 * _REACH, _UP)
    phases = phases / phases.sum((0, 2), keepdim=True)
    return phases.reshape(2 * _REACH * _UP, -1)[1:, 1:]


def _octagon_kernel(M: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """∫ cos 2π(k·x) dk over the frequencies k that both grids resolve.

    These are |k_x|, |k_y| ≤ ½ and likewise for M⁻ᵀ k. For each k_y they are an interval of k_x,
    over which the integral is known; between the corners its ends are linear in k_y.
    """
    sides = torch.cat([torch.eye(2, dtype=torch.float64)[:1], M.inverse().T])
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    corners = _corners(sides)
    middle, half = (corners[1:] + corners[:-1]) / 2, (corners[1:] - corners[:-1]) / 2
    ky = (middle[:, None] + half[:, None] * torch.from_numpy(nodes)).flatten()
    weight = (half[:, None] * torch.from_numpy(weights)).flatten()
    low, high = torch.full_like(ky, -torch.inf), torch.full_like(ky, torch.inf)
    for a, b in sides.tolist():
        if abs(a) < 1e-12:  # 0 but for rounding: no bound on k_x; |b k_y| ≤ ½ bounds k_y
            weight = weight * ((b * ky).abs() <= 0.5)
            continue
        ends = torch.stack([(-0.5 - b * ky) / a, (0.5 - b * ky) / a])
        low, high = torch.maximum(low, ends.amin(0)), torch.minimum(high, ends.amax(0))
    length, centre = (high - low).clamp_min(0), (high + low) / 2
    out = torch.zeros_like(x)
    for w, k, n, c in zip(*(v.tolist() for v in (weight, ky, length, centre)), strict=True):
        out += w * n * torch.sinc(n * x) * torch.cos(2 * torch.pi * (c * x + k * y))
    return out


def _corners(sides: Tensor) -> Tensor:
    """The values of k_y in ±½ at which two of the lines a k_x + b k_y = ±½ cross, sorted."""
    found = {-0.5, 0.5}
    for i in range(len(sides)):
        for j in range(i):
            pair = torch.stack([sides[i], sides[j]])
            if pair.det().abs() < 1e-12:  # parallel but for rounding: they do not cross
                continue
            for sign in (-0.5, 0.5):
                ends = torch.tensor([0.5, sign], dtype=torch.float64)
                k = float(torch.linalg.solve(pair, ends)[1])
                found |= {v for v in (k, -k) if abs(v) < 0.5}
    return torch.tensor(sorted(found), dtype=torch.float64)


def _double_window(M: Tensor, size: int) -> Tensor:
    """The windows of both grids, convolved on the table's raster: [size, size]."""
    reach = 2 * _REACH * _UP
    q = torch.arange(-reach, reach + 1, dtype=torch.float64) / _UP
    grid = torch.stack(torch.meshgrid(q, q, indexing="xy"))
    mine, others = (
        torch.fft.rfft2(_window(v).prod(0)) for v in (grid, torch.einsum("ij,jhw->ihw", M, grid))
    )
    out = torch.fft.fftshift(torch.fft.irfft2(mine * others, s=grid.shape[1:]))
    # Both windows are centred in the raster, so their convolution is at twice its centre.
    out = torch.roll(out, (1, 1), (0, 1))
    start = (len(q) - size) // 2
    return out[start : start + size, start : start + size]


def _upsample(z: Tensor, table: Tensor) -> Tensor:
    """Maps [C, h, w] on a raster four times finer, [C, 4h, 4w]; entry 4j is pixel j."""
    steps = torch.arange(1 - _REACH, _REACH + 1) * _UP  # pixel m + s, seen from 4m + r
    offset = torch.arange(_UP)[:, None] - steps  # r − 4s, from −24 to 23
    padded = F.pad(table, (1, 0, 1, 0))  # from −24 on
    rows = padded[offset + _REACH * _UP]  # [r, s, …]
    taps = rows[..., offset + _REACH * _UP].permute(0, 2, 1, 3)  # [r_y, r_x, s_y, s_x]
    left, right = _REACH - 1, _REACH
    wide = F.pad(z[:, None], (left, right, left, right))
    return F.pixel_shuffle(F.conv2d(wide, taps.flatten(0, 1)[:, None]), _UP)[:, 0]
