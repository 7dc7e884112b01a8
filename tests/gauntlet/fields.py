"""Tangents of images and clouds, and actions on outputs, written out for the truth alone."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from liederiv.points import PointCloud

F64 = torch.float64

IMAGE_FIELDS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    # rows x and y of the velocity [A | b], in pixels of the input from the centre, y downwards
    "translation_x": ((0, 0, 1), (0, 0, 0)),
    "translation_y": ((0, 0, 0), (0, 0, 1)),
    "rotation": ((0, -1, 0), (1, 0, 0)),
    "scale": ((1, 0, 0), (0, 1, 0)),
}
GROUPS = {
    "image": {
        "translation": ("translation_x", "translation_y"),
        "rotation": ("rotation",),
        "scale": ("scale",),
    },
    "cloud": {
        "translation": ("translation_x", "translation_y", "translation_z"),
        "rotation": ("rotation_x", "rotation_y", "rotation_z"),
        "scale": ("scale",),
    },
}


def names_of(generators: str, x: Any) -> list[str]:
    """Single generators behind names of groups."""
    known = GROUPS["cloud" if isinstance(x, PointCloud) else "image"]
    return [name for group in generators.split(",") for name in known.get(group, (group,))]


def spectral(n: int) -> Tensor:
    """Derivative per sample of n periodic samples, the Nyquist mode dropped: a sum of cosines.

    D_jl = −(2π/n) (2/n) Σ_{0 < k < n/2} k sin(2π k (j − l)/n).
    """
    gap = torch.arange(n, dtype=F64)[:, None] - torch.arange(n, dtype=F64)
    D = torch.zeros(n, n, dtype=F64)
    for k in range(1, (n + 1) // 2):
        D -= (2 * math.pi / n) * (2 / n) * k * torch.sin(2 * math.pi * k * gap / n)
    return D


def move_map(name: str, y: Tensor, size: tuple[int, int]) -> Tensor:
    """ξ · ∇y for a map [..., h, w] that covers an image of ``size`` pixels."""
    (h, w), (H, W) = y.shape[-2:], size
    px, py = W / w, H / h
    qx = px * (torch.arange(w, dtype=F64) + 0.5) - W / 2
    qy = (py * (torch.arange(h, dtype=F64) + 0.5) - H / 2)[:, None]
    (a, b, c), (d, e, f) = IMAGE_FIELDS[name]
    dx, dy = y.to(F64) @ spectral(w).T / px, spectral(h) @ y.to(F64) / py
    return (a * qx + b * qy + c) * dx + (d * qx + e * qy + f) * dy


def cloud_field(name: str, dim: int) -> tuple[Tensor, Tensor]:
    """A and b of a motion of space, p ↦ A p + b."""
    A, b = torch.zeros(dim, dim, dtype=F64), torch.zeros(dim, dtype=F64)
    axis = "xyz".find(name[-1])
    if name.startswith("translation"):
        b[axis] = 1
    elif name == "scale":
        A += torch.eye(dim, dtype=F64)
    else:
        i, j = ((axis + 1) % 3, (axis + 2) % 3) if dim == 3 else (0, 1)
        A[i, j], A[j, i] = -1, 1
    return A, b


def leaves_of(x: Any) -> list[Tensor]:
    """The tensors of an input that move."""
    return [x.pos, *x.vectors.values()] if isinstance(x, PointCloud) else [x]


def with_leaves(x: Any, leaves: list[Tensor]) -> Any:
    """The same input with other moving tensors."""
    if not isinstance(x, PointCloud):
        return leaves[0]
    moved = dict(zip(x.vectors, leaves[1:], strict=True))
    return x.with_fields(pos=leaves[0], vectors=moved)


def tangent(name: str, x: Any) -> list[Tensor]:
    """X x for each tensor of the input that moves, float64."""
    if not isinstance(x, PointCloud):
        return [move_map(name, x, tuple(x.shape[-2:]))]
    A, b = cloud_field(name, x.pos.shape[1])
    return [x.pos.to(F64) @ A.T + b, *(v.to(F64) @ A.T for v in x.vectors.values())]


def act(spec: str, name: str, y: Tensor, x: Any) -> Tensor:
    """X_out y for a representation by name, y float64."""
    if spec in ("auto", "invariant", "scalars"):
        return torch.zeros_like(y)
    if spec == "NCHW":
        return move_map(name, y, tuple(x.shape[-2:]))
    if spec == "NHWC":
        return move_map(name, y.permute(0, 3, 1, 2), tuple(x.shape[-2:])).permute(0, 2, 3, 1)
    A, b = cloud_field(name, x.pos.shape[1])
    return y @ A.T + (b if spec == "positions" else 0)
