r"""Directions to compare a symmetry's tangent with.

A small LEE can mean an equivariant network, an insensitive one (a saturated softmax) or smooth
images. The response to other directions of the input tells these apart:

* `same_norm`: Gaussian noise of the tangent's norm: how sensitive is the network at all?
* `same_spectrum`: the tangent with its Fourier phases scrambled, the same for all channels: how
  sensitive is it at the spatial frequencies and colours where the tangent has its energy?
* `blur`: the direction of a small Gaussian blur, ½ Δx per px² of variance.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from liederiv.derivatives import Scheme, get_scheme
from liederiv.draws import seeded_normal

__all__ = ["blur", "same_norm", "same_spectrum", "seeded_noise"]


def seeded_noise(x: Tensor, seeds: Sequence[int], count: int = 1) -> Tensor:
    """Standard normal noise like x [B, …], each image's from its own seed: [count, B, …]."""
    return seeded_normal(seeds, (count, *x.shape[1:])).to(x).movedim(1, 0)


def same_norm(noise: Tensor) -> Tensor:
    """Noise [B, …] scaled to unit norm per image; a tangent's norm is a factor to apply later."""
    return noise / noise.flatten(1).norm(dim=1).reshape(-1, *[1] * (noise.ndim - 1))


def same_spectrum(tangents: Tensor, noise: Tensor) -> Tensor:
    """Tangents with their phases scrambled by those of noise.

    Args:
        tangents: [K, B, C, H, W].
        noise: [B, C, H, W], real; the phases of its first channel are used for all channels, so
            that the correlation between colours is kept.

    Returns:
        [K, B, C, H, W] with the power spectra, and so the norms, of the tangents.
    """
    phase = torch.fft.fft2(noise[:, :1])
    phase = phase / phase.abs().clamp_min(torch.finfo(noise.dtype).tiny)
    return torch.fft.ifft2(torch.fft.fft2(tangents) * phase).real.contiguous()


def blur(x: Tensor, scheme: str | Scheme = "bspline") -> Tensor:
    """½ Δx = dx/d(σ²) of a Gaussian blur of standard deviation σ pixels, at σ = 0: [B, C, H, W].

    Second differences with mirrored borders (periodic ones for the ``fourier`` scheme).
    """
    mode = "circular" if get_scheme(scheme).boundary == "periodic" else "replicate"
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1), mode=mode)
    horizontal = padded[..., 1:-1, 2:] + padded[..., 1:-1, :-2]
    vertical = padded[..., 2:, 1:-1] + padded[..., :-2, 1:-1]
    return (horizontal + vertical - 4 * x) / 2
