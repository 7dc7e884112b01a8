"""Shared cases: networks and images given by formula, band-limited images."""

import math

import torch
from torch import nn


def formula_network() -> nn.Sequential:
    """The network of the reference values: weights given by a formula, no random numbers."""
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.GELU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    ).eval()
    with torch.no_grad():
        for k, p in enumerate(net.parameters()):
            i = torch.arange(p.numel(), dtype=torch.float64)
            size = 1 / math.sqrt(p[0].numel()) if p.ndim > 1 else 0.1
            p.copy_((torch.sin(0.7 * i + k + 1) * size).reshape(p.shape))
    return net


def formula_images(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """[2, 3, 32, 32]."""
    axes = [torch.arange(v, dtype=torch.float64) for v in (2, 3, 32, 32)]
    n, c, i, j = torch.meshgrid(*axes, indexing="ij")
    x = torch.sin(0.37 * i + 0.23 * j * (c + 1) + n) + 0.5 * torch.cos(0.05 * i * j + c)
    return x.to(dtype)


def band_limited(shape: tuple[int, ...], seed: int = 0, band: float = 0.5) -> torch.Tensor:
    """Random float64 images with no energy above ``band`` × the Nyquist frequency."""
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    fy = torch.fft.fftfreq(shape[-2], dtype=torch.float64).abs() * 2
    fx = torch.fft.fftfreq(shape[-1], dtype=torch.float64).abs() * 2
    keep = (fy[:, None] < band) & (fx[None] < band)
    return torch.fft.ifft2(torch.fft.fft2(x) * keep).real
