"""G z once more, written out: what the witness of an attribution compares `Layout.act` with."""

from __future__ import annotations

import torch
from torch import Tensor

from liederiv.actions import Action, ImageAction
from liederiv.derivatives import get_scheme
from liederiv.generators import SpatialGenerator
from liederiv.points import Joined, PointAction, Positions, Scalars, Vectors
from liederiv.points.representations import PointRepresentation

from .layouts import Layout
from .point_layouts import PointLayout

__all__ = ["direct_action"]


def direct_action(layout: Layout, action: Action, z: Tensor, weights: Tensor) -> Tensor:
    """Σ_k w_k G_k z, in float64.

    Args:
        layout: of z.
        action: the K generators, bound to the input.
        z: a tensor inside the network.
        weights: w, float64 [K].

    Returns:
        like z.
    """
    z = z.detach().double()
    if isinstance(layout, PointLayout):
        assert isinstance(action, PointAction)
        return _on_rows(layout.rho, action, z, weights)
    if not layout.spatial:
        return torch.zeros_like(z)
    assert isinstance(action, ImageAction)
    shaped = layout.unflatten(z)
    out = torch.zeros_like(shaped)
    if layout.kind in ("NCHW", "NHWC"):
        last = layout.kind == "NHWC"
        moved = _on_map(layout, action, shaped[0].movedim(-1, 0) if last else shaped[0], weights)
        out[0] = moved.movedim(0, -1) if last else moved
        return out.reshape(z.shape)
    tokens, target = (shaped[0].mT, out[0].mT) if layout.kind == "NLC" else (shaped[0], out[0])
    moved = _on_map(layout, action, tokens[:, layout.prefix :].unflatten(1, layout.grid), weights)
    target[:, layout.prefix :] = moved.flatten(1)
    return out.reshape(z.shape)


def _on_map(layout: Layout, action: ImageAction, z: Tensor, weights: Tensor) -> Tensor:
    """For a map [C, h, w]: the field at every pixel's place in the image, in pixels of the map."""
    h, w = z.shape[1:]
    half_height, half_width = (action.scheme.half_width(n) for n in (action.height, action.width))
    field = torch.zeros(2, 3, dtype=torch.float64)
    for weight, g in zip(weights.tolist(), action.generators, strict=True):
        if isinstance(g, SpatialGenerator):
            field += weight * g.affine(half_width or 1.0, half_height or 1.0)
    dy, dx = layout.spacing(action)
    x = ((torch.arange(w, dtype=torch.float64) - (w - 1) / 2) * dx).expand(h, w)
    y = ((torch.arange(h, dtype=torch.float64) - (h - 1) / 2) * dy)[:, None].expand(h, w)
    xi_x, xi_y = (
        (row[0] * x + row[1] * y + row[2]).to(z.device) / step
        for row, step in zip(field, (dx, dy), strict=True)
    )
    # A part of the image is not continued by its own other side.
    part = layout.extent is not None and action.scheme.name == "fourier"
    scheme = get_scheme("fourier_mirror") if part else action.scheme
    slopes = [scheme.derivative(n, z.dtype, z.device) for n in (h, w)]
    along_x = torch.einsum("ij,chj->chi", slopes[1], z)
    along_y = torch.einsum("ij,cjw->ciw", slopes[0], z)
    return xi_x * along_x + xi_y * along_y


def _on_rows(rho: PointRepresentation, action: PointAction, z: Tensor, weights: Tensor) -> Tensor:
    """For rows of points, clouds or edges."""
    affine = torch.einsum("k,kij->ij", weights, action.affine).to(z)
    A, b = affine[:, :-1], affine[:, -1]
    if isinstance(rho, Scalars):
        return torch.zeros_like(z)
    if isinstance(rho, Vectors):
        return z @ A.T
    if isinstance(rho, Positions):
        return z @ A.T + b
    if isinstance(rho, Joined):
        parts = zip(rho.split(z), rho.parts, strict=True)
        return torch.cat([_on_rows(r, action, part, weights) for part, (_, r) in parts], -1)
    return torch.einsum("k,k...->...", weights.to(z), rho.act_on_rows(action, z))
