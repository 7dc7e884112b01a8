"""Invariants of pairs of points and orientations, and the kernel basis computed from them.

With r = x_send − x_receive and an orientation o of the sender, on Rⁿ × Sⁿ⁻¹ the spatial invariants
are ⟨r, o⟩ and ‖r − ⟨r, o⟩ o‖, and the spherical one is ⟨o, o'⟩; on Rⁿ it is ‖r‖. "Tn" adds r.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = [
    "PolynomialFeatures",
    "basis_network",
    "cutoff",
    "safe_norm",
    "spatial_invariants",
    "spherical_invariants",
]


def safe_norm(x: Tensor) -> Tensor:
    """‖x‖ over the last axis, which is kept; its derivative at 0 is 0 instead of NaN.

    Example:
        >>> import torch
        >>> zero, one = torch.zeros(3), torch.ones(3)
        >>> torch.func.jvp(safe_norm, (zero,), (one,))
        (tensor([0.]), tensor([0.]))
    """
    square = x.square().sum(-1, keepdim=True)
    positive = square > 0
    return torch.where(positive, square, 1.0).sqrt() * positive


def spatial_invariants(
    relative: Tensor, grid: Tensor | None, equivariance: str, orthogonal_2d: str = "signed"
) -> Tensor:
    """What the spatial kernel sees of each edge.

    Args:
        relative: x_send − x_receive, [E, n].
        grid: unit vectors [O, n], or None on the base space Rⁿ.
        equivariance: "Tn" or "SEn".
        orthogonal_2d: "signed" or "sum", see `RapidashConfig`.

    Returns:
        [E, features] without a grid, [E, O, features] with one.
    """
    if grid is None:
        return relative if equivariance == "Tn" else safe_norm(relative)
    r = relative[:, None, :]
    along = (r * grid).sum(-1, keepdim=True)
    across = r - along * grid
    if grid.shape[-1] == 3:
        orthogonal = safe_norm(across)
    elif orthogonal_2d == "sum":
        orthogonal = across.sum(-1, keepdim=True)
    else:
        turned = torch.stack((-grid[:, 1], grid[:, 0]), -1)
        orthogonal = (r * turned).sum(-1, keepdim=True)
    own = torch.cat((along, orthogonal), -1)
    if equivariance == "SEn":
        return own
    return torch.cat((r.expand(-1, grid.shape[0], -1), own), -1)


def spherical_invariants(grid: Tensor) -> Tensor:
    """Cosine between each receiving and each sending orientation: [O, O, 1]."""
    return (grid[:, None, :] * grid).sum(-1, keepdim=True)


def cutoff(distance: Tensor, radius: float, p: int = 6) -> Tensor:
    """Smooth window: 1 at distance 0, 0 from the radius on, with p − 1 continuous derivatives.

    Source: Gasteiger, Groß & Günnemann, "Directional Message Passing for Molecular Graphs",
    ICLR 2020, equation 8.
    """
    u = distance / radius
    a, b, c = (p + 1) * (p + 2) / 2, p * (p + 2), p * (p + 1) / 2
    return (1 - u**p * (a - b * u + c * u * u)) * (u < 1)


class PolynomialFeatures(nn.Module):
    """x ↦ [x, x ⊗ x, …] up to order degree + 1, all products (not only the distinct ones)."""

    def __init__(self, degree: int) -> None:
        super().__init__()
        self.degree = degree

    def forward(self, x: Tensor) -> Tensor:
        """[..., m] to [..., m + m² + … + m^(degree + 1)]."""
        powers = [x]
        for _ in range(self.degree):
            powers.append((powers[-1][..., :, None] * x[..., None, :]).flatten(-2))
        return torch.cat(powers, -1)

    def width(self, m: int) -> int:
        """Features made of m invariants."""
        return sum(m**order for order in range(1, self.degree + 2))


def basis_network(m: int, degree: int, hidden: int, out: int) -> nn.Sequential:
    """Functions of m invariants that every layer combines linearly into its kernel."""
    features = PolynomialFeatures(degree)
    return nn.Sequential(
        features, nn.Linear(features.width(m), hidden), nn.GELU(), nn.Linear(hidden, out), nn.GELU()
    )
