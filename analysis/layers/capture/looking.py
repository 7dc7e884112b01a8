"""Where the positions of a tensor look in another: a layout confirmed by gradients, not by shape.

Half the size may be a stride, or a crop; 256 rows may be 16 × 16 tokens, or queries. Along each
axis two rows of positions are pulled back to a tensor of known layout, and the centres of what they
depend on must lie where the layout says, on the image. Layers that see everything draw the
centres together, so the distance is tested loosely: a crop taken for a stride of 2 is off by half.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..layouts import Grid, Layout, positions

__all__ = ["looks_there"]

_SLOWEST, _FASTEST = 0.7, 1.4  # distance of the centres over the expected one
_ASIDE = 0.15  # largest displacement, in units of the expected distance, beyond a position's size


def looks_there(z: Tensor, layout: Layout, source: Tensor, known: Layout, image: Grid) -> bool:
    """Whether the positions of z depend on the places of a source where a layout puts them.

    Args:
        z: with a graph back to the source.
        layout: what z is taken for.
        source: tensor of known layout.
        known: its layout.
        image: height and width of the input in pixels.
    """
    return all(_along(axis, z, layout, source, known, image) for axis in (0, 1))


def _along(
    axis: int, z: Tensor, layout: Layout, source: Tensor, known: Layout, image: Grid
) -> bool:
    n = layout.grid[axis]
    if n == 1:
        return True
    first = n // 4 if n > 3 else 0
    places = [_place(layout, axis, j, image) for j in (first, n - 1 - first)]
    centres = [_centre(axis, z, layout, j, source, known, image) for j in (first, n - 1 - first)]
    if centres[0] is None or centres[1] is None:
        return False
    expected, found = places[1] - places[0], centres[1] - centres[0]
    aside = abs(sum(places) - centres[0] - centres[1]) / 2
    pixel = max(_spacing(v, axis, image) for v in (layout, known))
    return _SLOWEST <= found / expected <= _FASTEST and aside <= pixel + _ASIDE * expected


def _spacing(layout: Layout, axis: int, image: Grid) -> float:
    return (layout.extent or image)[axis] / layout.grid[axis]


def _place(layout: Layout, axis: int, j: int, image: Grid) -> float:
    """Of a row of positions, in pixels from the image's centre."""
    return (j - (layout.grid[axis] - 1) / 2) * _spacing(layout, axis, image)


def _centre(
    axis: int, z: Tensor, layout: Layout, j: int, source: Tensor, known: Layout, image: Grid
) -> float | None:
    """Of what one row of positions of z depends on, in pixels; None if it depends on nothing."""
    mask = torch.zeros(layout.grid, dtype=z.dtype, device=z.device)
    mask.select(axis, j).fill_(1)
    chosen = positions(z, layout)[layout.prefix :]
    random = torch.Generator().manual_seed(j)
    u = torch.randn(chosen.shape, generator=random).to(z) * mask.flatten()[:, None]
    try:
        (g,) = torch.autograd.grad(chosen, source, u, retain_graph=True, allow_unused=True)
    except RuntimeError:
        return None
    if g is None:
        return None
    energy = positions(g.double(), known)[known.prefix :].square().sum(1)
    along = energy.unflatten(0, known.grid).sum(1 - axis)
    total = float(along.sum())
    if not total > 0:
        return None
    at = [_place(known, axis, i, image) for i in range(known.grid[axis])]
    return float(along @ torch.tensor(at, dtype=along.dtype, device=along.device)) / total
