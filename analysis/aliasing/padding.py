"""Convolutions and pooling with another continuation beyond the border of their maps."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from ..layers.windows import WINDOWED, Window
from .alias_free import Wrapper
from .resampling import Boundary, check_boundary, pad

__all__ = ["ContinuedLayer"]


class ContinuedLayer(Wrapper):
    """A convolution or pooling layer that sees its map continued instead of zeros (or −∞).

    The number of padded rows and columns stays, so the output's size and sampling phase do too.

    Args:
        module: one of `WINDOWED`, with padding; its own padding is switched off.
        boundary: ``periodic`` (circular padding) or ``mirror``.
    """

    def __init__(self, module: nn.Module, boundary: Boundary) -> None:
        check_boundary(boundary)
        module = copy.copy(module)  # same parameters; it may stand elsewhere in the model too
        super().__init__(module)
        self.boundary = boundary
        self.window = Window.of(module)
        self._base = next(b for b in WINDOWED if isinstance(module, b))
        # The forward of timm's …2dSame layers would pad again; the plain layer's does not.
        self._plain = type(module).__name__.endswith("2dSame")
        module.padding = (0, 0)  # type: ignore[assignment]
        if hasattr(module, "same_pad"):
            module.same_pad = False  # type: ignore[assignment]
        if isinstance(module, nn.Conv2d):
            module.padding_mode = "zeros"

    def forward(self, z: Tensor) -> Tensor:
        """The layer's output for the continued maps."""
        (top, bottom), (left, right) = (
            self.window.padding(axis, z.shape[2 + axis]) for axis in (0, 1)
        )
        z = pad(z, (top, left), (bottom, right), self.boundary)
        module: Any = self.module
        out: Tensor = self._base.forward(module, z) if self._plain else module(z)
        return out
