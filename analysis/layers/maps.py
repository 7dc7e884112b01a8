"""Tensors of every layout as maps [B, C, h, w], and back."""

from __future__ import annotations

from torch import Tensor, cat

from liederiv.errors import UnknownLayoutError

from .layouts import Layout

__all__ = ["from_map", "to_map"]


def to_map(z: Tensor, layout: Layout) -> tuple[Tensor | None, Tensor]:
    """Split a tensor into prefix tokens and a map.

    Args:
        z: any batch size, axes in the layout's order. Maps may have any resolution; tokens must
            fill the layout's grid.
        layout: spatial, not flattened.

    Returns:
        prefix tokens [B, prefix, C], None if there are none, and the map [B, C, h, w].

    Raises:
        UnknownLayoutError: if z cannot have that layout.
    """
    if layout.flat or not layout.spatial:
        raise UnknownLayoutError(f"layout={layout} is no map; it cannot be resampled.")
    if layout.kind in ("NCHW", "NHWC"):
        if z.ndim != 4:
            raise UnknownLayoutError(
                f"a tensor of shape {list(z.shape)} is no {layout.kind} map; pass example=images "
                "to intervene() so that the layout is recognised."
            )
        return None, z if layout.kind == "NCHW" else z.movedim(-1, 1)
    tokens = z if layout.kind == "NLC" else z.mT
    if z.ndim != 3 or tokens.shape[1] != layout.tokens:
        raise UnknownLayoutError(
            f"a tensor of shape {list(z.shape)} does not have the {layout.tokens} tokens of "
            f"layout {layout}; the network was repaired for another image size: repair it again "
            "with an example of this size."
        )
    prefix = tokens[:, : layout.prefix] if layout.prefix else None
    return prefix, tokens[:, layout.prefix :].mT.unflatten(2, layout.grid)


def from_map(prefix: Tensor | None, maps: Tensor, layout: Layout) -> Tensor:
    """Undo `to_map`; the map may have another resolution.

    Args:
        prefix: [B, prefix, C] or None.
        maps: [B, C, h, w].
        layout: order of the axes; its grid is not looked at.
    """
    if layout.kind == "NCHW":
        return maps
    if layout.kind == "NHWC":
        return maps.movedim(1, -1)
    tokens = maps.flatten(2).mT
    if prefix is not None:
        tokens = cat([prefix, tokens], 1)
    return tokens if layout.kind == "NLC" else tokens.mT
