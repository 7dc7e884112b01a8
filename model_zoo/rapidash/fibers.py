"""Between points and orientations: lifting inputs, invariants of pairs, reading outputs.

Modules without parameters, so that attribution can name them. Their attributes say how vectors
enter and leave; everything else is recognised by the network's `fiber_grid`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from liederiv.points import Vectors

from .invariants import spatial_invariants

__all__ = ["LiftVectors", "OrientationMean", "OrientationVectors", "PairInvariants"]


class LiftVectors(nn.Module):
    """Vectors [N, V, n] to functions of orientation [N, O, V]: v ↦ ⟨v, o⟩."""

    input_representation = Vectors()

    def forward(self, vectors: Tensor, grid: Tensor) -> Tensor:
        """Args: vectors [N, V, n]; grid [O, n]."""
        return torch.einsum("nvd,od->nov", vectors, grid)


class PairInvariants(nn.Module):
    """Relative positions [E, n] to what the kernel sees, see `spatial_invariants`."""

    input_representation = Vectors()

    def __init__(self, equivariance: str, orthogonal_2d: str) -> None:
        super().__init__()
        self.equivariance, self.orthogonal_2d = equivariance, orthogonal_2d

    def forward(self, relative: Tensor, grid: Tensor | None) -> Tensor:
        """Args: relative [E, n]; grid [O, n] or None."""
        return spatial_invariants(relative, grid, self.equivariance, self.orthogonal_2d)


class OrientationMean(nn.Module):
    """Scalars as the mean over orientations: [N, O, C] to [N, C]."""

    def forward(self, features: Tensor) -> Tensor:
        """Args: features [N, O, C]."""
        return features.mean(1)


class OrientationVectors(nn.Module):
    """Vectors as the mean of the orientations, weighted: [N, O, V] to [N, V, n]."""

    output_representation = Vectors()

    def forward(self, features: Tensor, grid: Tensor) -> Tensor:
        """Args: features [N, O, V]; grid [O, n]."""
        return torch.einsum("nov,od->nvd", features, grid) / grid.shape[0]
