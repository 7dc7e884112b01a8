"""Images, networks and draws that the tests of sampled metrics share."""

import numpy as np
import torch
from torch import nn

from liederiv.metrics.sampled import random_transforms


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=rng(seed))


def drawn(x: torch.Tensor, names, ranges: list[float], samples: int, *, seed: int = 0,
          stream: str = "", whole: bool = False) -> np.ndarray:  # fmt: skip
    """The parameters that a metric draws: [images, samples, generators]."""
    steps = [1.0] * len(ranges) if whole else None
    moves = random_transforms(
        x, names, ranges, num_samples=samples, seed=seed, stream=stream, steps=steps
    )
    return torch.stack([T.t for T in moves], 1).numpy()


def circular_net() -> nn.Sequential:
    """Smooth and exactly equivariant under rolls."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [
            nn.Conv2d(3, 6, 3, padding=1, padding_mode="circular"),
            nn.GELU(),
            nn.Conv2d(6, 4, 5, padding=2, padding_mode="circular"),
        ]
    return nn.Sequential(*layers).double().eval()


def blob(height: int, width: int) -> torch.Tensor:
    y = torch.arange(height, dtype=torch.float64)[:, None] - (height - 1) / 2
    x = torch.arange(width, dtype=torch.float64) - (width - 1) / 2
    return torch.exp(-((x - 2) ** 2 + 1.4 * (y + 1) ** 2) / 16)[None, None]
