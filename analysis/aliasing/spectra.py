r"""Power spectra of feature maps, and how much of them a coarser grid could not carry.

Frequencies are in cycles per pixel of a reference grid. The band that a grid can carry is a square,
so a mode counts with the larger of its two frequencies, f = max(|f_x|, |f_y|): it lies above a
grid's Nyquist limit exactly if one of its axes does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .resampling import Boundary, apply_axes, check_boundary

__all__ = ["Spectrum", "average_spectra", "power_spectrum"]


@dataclass(frozen=True)
class Spectrum:
    """Power of maps by frequency.

    Attributes:
        frequency: centres of the bins, cycles per pixel of the reference grid, [N].
        power: mean square over pixels of the part of the maps in each bin, summed over channels
            and averaged over images, [N].
        limit: Nyquist limit of the grid that must carry this signal next, same unit; NaN if there
            is none coarser.
        above: share of the power above the limit, mode by mode; NaN without a limit.
    """

    frequency: NDArray[np.float64]
    power: NDArray[np.float64]
    limit: float
    above: float

    @property
    def total(self) -> float:
        """Mean square of the maps, summed over channels."""
        return float(self.power.sum())


def power_spectrum(
    z: Tensor,
    boundary: Boundary = "mirror",
    *,
    scale: float = 1.0,
    limit: float = float("nan"),
    num_bins: int = 32,
) -> Spectrum:
    """The spectrum of maps.

    Args:
        z: [B, C, h, w].
        boundary: ``periodic`` (Fourier modes) or ``mirror`` (cosine modes).
        scale: pixels of z per pixel of the reference grid.
        limit: see `Spectrum`; a mode exactly at the limit lies above it.
        num_bins: from 0 to the Nyquist limit of z.

    Example:
        >>> wave = torch.cos(torch.pi * torch.arange(8.0)).expand(1, 1, 8, 8)
        >>> power_spectrum(wave, "periodic", limit=0.25).above
        1.0
    """
    check_boundary(boundary)
    modes = _modes(z.detach(), boundary)
    power = (modes.square().sum((0, 1)) / len(z)).double().cpu()
    fy, fx = (_frequencies(n, boundary) for n in z.shape[-2:])
    f = torch.maximum(fy[:, None], fx)
    edge = 0.5
    index = (f * (num_bins / edge)).long().clamp(max=num_bins - 1)
    binned = torch.zeros(num_bins, dtype=torch.float64)
    binned.scatter_add_(0, index.flatten(), power.flatten())
    total = float(power.sum())
    high = float(power[f * scale >= limit - 1e-12].sum())  # the mode on the limit counts
    known = limit == limit and total > 0
    centres = (np.arange(num_bins, dtype=np.float64) + 0.5) * (edge / num_bins) * scale
    return Spectrum(centres, binned.numpy(), limit, high / total if known else float("nan"))


def average_spectra(spectra: list[Spectrum]) -> Spectrum:
    """Mean over images of spectra with equal bins; ``above`` is weighted by power."""
    power: NDArray[np.float64] = np.stack([s.power for s in spectra]).mean(0)
    totals = np.array([s.total for s in spectra])
    above = np.array([s.above for s in spectra])
    weighted = float((above * totals).sum() / totals.sum()) if totals.sum() > 0 else float("nan")
    return Spectrum(spectra[0].frequency, power, spectra[0].limit, weighted)


def _modes(z: Tensor, boundary: Boundary) -> Tensor:
    """Amplitudes whose squares add up to the mean square over pixels, [B, C, h, w]."""
    h, w = z.shape[-2:]
    if boundary == "periodic":
        return torch.fft.fft2(z).abs() / (h * w)
    return apply_axes(z, _cosines(h).to(z), _cosines(w).to(z)) / (h * w) ** 0.5


def _cosines(n: int) -> Tensor:
    """The orthonormal discrete cosine transform, type II, [n, n]."""
    k = torch.arange(n, dtype=torch.float64)
    matrix = torch.cos(torch.pi * k[:, None] * (k + 0.5) / n) * (2 / n) ** 0.5
    matrix[0] /= 2**0.5
    return matrix


def _frequencies(n: int, boundary: Boundary) -> Tensor:
    if boundary == "periodic":
        return torch.fft.fftfreq(n, dtype=torch.float64).abs()
    return torch.arange(n, dtype=torch.float64) / (2 * n)
