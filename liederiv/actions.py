r"""Generators bound to an input: how they act on it and on what is computed from it.

An `Action` is K generators and one input that they act on. `ImageAction` is that of images;
`liederiv.points.action.PointAction` that of point clouds.

A velocity field lives on the plane of the input image. `ImageAction` expresses it on any grid that
covers the same area, at that grid's own resolution and through one interpolation scheme:

    X z = ξ_x · (z D_wᵀ) + ξ_y · (D_h z),

with ξ in pixels of the grid. All K generators of an action share the two products with D, which are
taken of z less its first column (or row): D annihilates constants, so nothing changes but the
rounding, and what is flat along an axis stands still along it exactly.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from liederiv.derivatives import Scheme, get_scheme
from liederiv.errors import ImageError, LieDerivError
from liederiv.generators import Generator, IntensityGenerator, SpatialGenerator

__all__ = ["Action", "ImageAction", "check_images"]


class Action(ABC):
    """K generators acting on one kind of input, bound to the shape of one.

    Attributes:
        generators: the K generators.
    """

    generators: tuple[Generator, ...]

    def __len__(self) -> int:
        return len(self.generators)

    @property
    @abstractmethod
    def scheme_name(self) -> str:
        """How the input is continued between its samples; ``exact`` where nothing has to be."""

    @abstractmethod
    def tangents(self, x: Any) -> Any:
        """X x for each generator: like x, every tensor with a leading axis of K."""

    def resampling(self, x: Any, tangents: Any) -> Tensor | None:
        """What of tangents cannot be found in x itself, like these; None where that is nothing.

        A photograph holds more than the small image that is made of it.
        """
        return None

    @abstractmethod
    def take(self, which: slice) -> Action:
        """The action of some of the generators on the same input."""


def check_images(x: Tensor, argument: str = "x") -> None:
    """Raise `ImageError` unless x is a non-empty, dense, floating [B, C, H, W] tensor."""
    if not isinstance(x, Tensor):
        raise ImageError(f"{argument} must be a tensor [B, C, H, W], not {type(x).__name__}.")
    if x.is_nested or x.layout != torch.strided:
        raise ImageError(f"{argument} is sparse or nested; make it dense, of images of one size.")
    if x.ndim != 4 or x.numel() == 0:
        raise ImageError(
            f"{argument} must be a non-empty tensor [B, C, H, W], not of shape {list(x.shape)}; "
            "add the batch dimension with x[None] if it is missing."
        )
    if x.dtype not in (torch.float32, torch.float64):
        raise ImageError(
            f"{argument} has dtype {x.dtype}; derivatives need float32 or float64: convert with "
            "x.float() after the model's own normalisation."
        )


class ImageAction(Action):
    """K generators acting on images of one size, and on what is computed from them.

    Args:
        generators: resolved generators (see `liederiv.generators.resolve_generators`).
        height: pixels of the input image.
        width: pixels of the input image.
        scheme: name or instance of an interpolation scheme.
    """

    def __init__(
        self,
        generators: Sequence[Generator],
        height: float,
        width: float,
        scheme: str | Scheme = "bspline",
    ) -> None:
        self.generators = tuple(generators)
        for g in self.generators:
            if not isinstance(g, SpatialGenerator | IntensityGenerator):
                raise LieDerivError(
                    f"generator {g.name!r} does not act on images; give its name, or take it from "
                    "liederiv.GENERATORS."
                )
        self.height, self.width = height, width
        self.scheme = get_scheme(scheme)
        self._fields: dict[tuple[int, int, torch.dtype, torch.device], Tensor] = {}
        self._windows: dict[tuple[float, ...], ImageAction] = {}

    @property
    def scheme_name(self) -> str:
        """See `Action.scheme_name`."""
        return self.scheme.name

    def take(self, which: slice) -> ImageAction:
        """See `Action.take`."""
        return ImageAction(self.generators[which], self.height, self.width, self.scheme)

    def within(
        self, height: float, width: float, offset: tuple[float, float] = (0.0, 0.0)
    ) -> ImageAction:
        """The same generators on a window of the image.

        Convolutions without padding leave maps that do not cover the image: `on_map` of the window
        moves them, at any resolution, exactly along. What is beyond a part of the image is not its
        other side, so a window of another size than the image is continued as mirrored by
        ``fourier_mirror`` where the scheme is ``fourier``.

        Args:
            height: of the window, in pixels of the image; larger than the image's where strided
                layers have rounded up.
            width: the same.
            offset: of the window's middle from the image's, down and to the right, in pixels.
        """
        key = (height, width, *offset)
        if key not in self._windows:
            half = self._half_widths(self.height, self.width).tolist()
            generators = [
                g.in_pixels(*half).seen_from(offset[1], offset[0])
                if isinstance(g, SpatialGenerator)
                else g
                for g in self.generators
            ]
            part = (height, width) != (self.height, self.width)
            periodic = self.scheme.boundary == "periodic"
            scheme = get_scheme("fourier_mirror") if part and periodic else self.scheme
            window = ImageAction(generators, height, width, scheme)
            self._windows[key] = window
        return self._windows[key]

    @property
    def linear(self) -> Tensor:
        """The matrices A of the velocity fields in pixels, float64 [K, 2, 2]; 0 for intensities."""
        zero = torch.zeros(2, 2, dtype=torch.float64)
        return torch.stack(
            [
                torch.tensor(g.linear, dtype=torch.float64)
                if isinstance(g, SpatialGenerator)
                else zero
                for g in self.generators
            ]
        )

    @property
    def affine(self) -> Tensor:
        """The fields as [A | b] in pixels, float64 [K, 2, 3]; 0 for intensities."""
        half = self._half_widths(self.height, self.width).tolist()
        none = torch.zeros(2, 3, dtype=torch.float64)
        fields = [
            g.affine(*half) if isinstance(g, SpatialGenerator) else none for g in self.generators
        ]
        return torch.stack(fields) if fields else none.new_zeros(0, 2, 3)

    def normalised(self, index: int) -> Tensor:
        """Velocity field of one spatial generator as [A | b], 2 × 3, in p ∈ [−1, 1]²."""
        g = self.generators[index]
        assert isinstance(g, SpatialGenerator)
        half = self._half_widths(self.height, self.width)
        field = g.affine(float(half[0]), float(half[1]))
        field = field / half[:, None]
        field[:, :2] *= half
        return field

    def velocity(self, h: int, w: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """ξ at the pixel centres of an h × w grid, in pixels of that grid: [K, 2 (x, y), h, w]."""
        key = (h, w, dtype, device)
        if key not in self._fields:
            half = self._half_widths(h, w)
            px = self.scheme.coordinates(w).expand(h, w)
            py = self.scheme.coordinates(h)[:, None].expand(h, w)
            p = torch.stack([px, py, torch.ones_like(px)])
            fields = torch.zeros(len(self), 2, h, w, dtype=torch.float64)
            for k, g in enumerate(self.generators):
                if isinstance(g, SpatialGenerator):
                    fields[k] = torch.einsum("ij,jhw->ihw", self.normalised(k), p)
            fields *= half[:, None, None]
            self._fields[key] = fields.to(dtype=dtype, device=device)
        return self._fields[key]

    def on_map(self, z: Tensor, *, channels_last: bool = False) -> Tensor:
        """X z for a map of scalars at any resolution.

        Args:
            z: [..., C, h, w], or [..., h, w, C] with ``channels_last``.
            channels_last: where the channel axis is.

        Returns:
            [K, *z.shape].
        """
        h, w = z.shape[-3:-1] if channels_last else z.shape[-2:]
        Dh = self.scheme.derivative(h, z.dtype, z.device)
        Dw = self.scheme.derivative(w, z.dtype, z.device)
        xi = self.velocity(h, w, z.dtype, z.device)
        xi = xi.reshape(
            len(self), 2, *[1] * (z.ndim - 3), *((h, w, 1) if channels_last else (1, h, w))
        )
        if channels_last:
            zx = torch.einsum("ij,...hjc->...hic", Dw, z - z[..., :1, :])
            zy = torch.einsum("ij,...jwc->...iwc", Dh, z - z[..., :1, :, :])
        else:
            zx, zy = (z - z[..., :1]) @ Dw.T, Dh @ (z - z[..., :1, :])
        return torch.addcmul(xi[:, 0] * zx, xi[:, 1], zy)

    def tangents(self, x: Tensor) -> Tensor:
        """X x for images x [B, C, H, W]: [K, B, C, H, W]."""
        check_images(x)
        if x.shape[-2:] != (self.height, self.width):
            raise ImageError(
                f"x has images of {x.shape[-2]} × {x.shape[-1]} pixels, but the generators were "
                f"bound to {self.height} × {self.width}; make a new ImageAction."
            )
        out = self.scheme.tangents(self, x)
        for k, g in enumerate(self.generators):
            if isinstance(g, IntensityGenerator):
                out[k] = g.tangent(x)
        return out

    def resampling(self, x: Tensor, tangents: Tensor) -> Tensor | None:
        """See `Action.resampling`; intensities are those of x."""
        rest = self.scheme.resampling(self, x, tangents)
        if rest is None:
            return None
        spatial = [isinstance(g, SpatialGenerator) for g in self.generators]
        return rest * torch.tensor(spatial).to(rest)[:, None, None, None, None]

    def _half_widths(self, h: float, w: float) -> Tensor:
        halves = [self.scheme.half_width(w), self.scheme.half_width(h)]
        return torch.tensor([v or 1.0 for v in halves], dtype=torch.float64)
