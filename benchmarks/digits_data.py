"""Scikit-learn's handwritten digits, and two small networks for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from liederiv.errors import LieDerivError

__all__ = ["NETWORKS", "Digits", "load_digits"]


@dataclass(frozen=True)
class Digits:
    """Images [N, 1, 16, 16] in 0 … 1 and labels [N], to train on and to test on."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor


def load_digits(seed: int = 0, train_size: int = 1000, *, choosing: bool = False) -> Digits:
    """The 1,797 digits of scikit-learn, 8 × 8 pixels enlarged to 16 × 16, split at random.

    Args:
        seed: of the split.
        train_size: images to train on.
        choosing: whether to test on the 297 that are set aside for choices, instead of the rest.

    Raises:
        LieDerivError: if scikit-learn is not installed.
    """
    try:
        from sklearn import datasets
    except ImportError:
        raise LieDerivError(
            "the digits come with scikit-learn, which is missing; pip install scikit-learn."
        ) from None
    data = datasets.load_digits()
    x = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    y = torch.tensor(data.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    first, aside, rest = (
        order[:train_size],
        order[train_size : train_size + 297],
        order[train_size + 297 :],
    )
    held = aside if choosing else rest
    return Digits(x[first], y[first], x[held], y[held])


def cnn() -> nn.Module:
    """A convolutional network with one stride and a global average, 6,000 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip


class ViT(nn.Module):
    """A vision transformer: patches of 4 × 4 pixels, two blocks, 20,000 parameters."""

    def __init__(self, width: int = 32, depth: int = 2) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 4, stride=4)
        self.position = nn.Parameter(0.02 * torch.randn(1, 16, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, 4, 2 * width, 0.0, F.gelu, batch_first=True, norm_first=True
            )
            for _ in range(depth)
        )
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 10))

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, 10] of images [B, 1, 16, 16]."""
        z = self.patches(x).flatten(2).mT + self.position
        for block in self.blocks:
            z = block(z)
        out: Tensor = self.head(z.mean(1))
        return out


NETWORKS: dict[str, Callable[[], nn.Module]] = {"CNN": cnn, "ViT": ViT}
