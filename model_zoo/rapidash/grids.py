"""Grids of orientations on the circle and on the sphere; nothing here is random."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from liederiv.errors import ModelError

__all__ = ["circle", "fibonacci_sphere", "orientation_grid", "repulsion_sphere"]


def orientation_grid(dim: int, count: int, kind: str = "fibonacci") -> Tensor:
    """Unit vectors that cover all directions evenly.

    Args:
        dim: 2 for the circle, 3 for the sphere.
        count: number of orientations.
        kind: on the sphere "fibonacci" or "repulsion"; the circle is always even.

    Returns:
        [count, dim], float64.

    Raises:
        ModelError: if the kind is unknown.

    Example:
        >>> orientation_grid(3, 8).norm(dim=-1).allclose(torch.ones(8, dtype=torch.float64))
        True
    """
    if dim == 2:
        return circle(count)
    if kind == "fibonacci":
        return fibonacci_sphere(count)
    if kind == "repulsion":
        return repulsion_sphere(count)
    raise ModelError(f"`grid`={kind!r} is unknown; use 'fibonacci' or 'repulsion'.")


def circle(count: int) -> Tensor:
    """Even angles from 0 on: [count, 2], float64."""
    angle = torch.arange(count, dtype=torch.float64) * (2 * math.pi / count)
    return torch.stack((angle.cos(), angle.sin()), -1)


def fibonacci_sphere(count: int) -> Tensor:
    """Polar angle acos(1 − 2(i + ½)/O), azimuth π(1 + √5) i: [count, 3], float64."""
    i = torch.arange(count, dtype=torch.float64)
    azimuth = (math.pi * (1 + math.sqrt(5)) * i) % (2 * math.pi)
    polar = torch.acos(1 - 2 * (i + 0.5) / count)
    return torch.stack(
        (azimuth.cos() * polar.sin(), azimuth.sin() * polar.sin(), polar.cos()), dim=-1
    )


def repulsion_sphere(count: int, steps: int = 500) -> Tensor:
    """Points that repel each other (energy Σ 1/d²), relaxed from the Fibonacci grid.

    The start is fixed, so that the same count always gives the same grid: weights trained on one
    grid are of little use on another.

    Returns:
        [count, 3], float64.
    """
    points = fibonacci_sphere(count)
    step = 0.1 / count  # of the point that is pushed hardest; shorter where the energy would rise
    other = ~torch.eye(count, dtype=torch.bool)
    energy = _energy(points, other)
    for _ in range(steps):
        difference = points[:, None] - points
        square = difference.square().sum(-1)
        square = torch.where(other, square, 1.0)
        force = (difference * (other / square.square())[..., None]).sum(1)
        force = force - (force * points).sum(-1, keepdim=True) * points
        moved = points + step * force / force.norm(dim=-1).max().clamp(min=1e-12)
        moved = moved / moved.norm(dim=-1, keepdim=True)
        now = _energy(moved, other)
        if now < energy:
            points, energy = moved, now
        else:
            step /= 2
    return points


def _energy(points: Tensor, other: Tensor) -> float:
    square = (points[:, None] - points).square().sum(-1)
    return float((1 / square[other]).sum())
