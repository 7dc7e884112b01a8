r"""Finite transforms: what the one-parameter groups and the lattice do to images and maps.

A generator X integrates to T_t = exp(tX), which moves an image along the flow φ_t = exp(tξ) of its
velocity field: (T_t x)(q) = x(φ_t(q)). The values between pixels come from the same interpolation
scheme whose slopes are the matrices D, so (T_t x − x)/t → X x as t → 0 for every scheme with a
differentiable interpolant. ``bilinear`` has a kink at every pixel: there the limits from t > 0 and
t < 0 are the two one-sided differences, and D holds one of them.

A shift by whole pixels copies pixels, exactly, and continues them beyond the border as the scheme
does: mirrored (``bspline``, ``fourier_mirror``, ``central``), rolled (``fourier``), reflected
(``bilinear``).

`rot90`, `flip` and `roll` permute the pixels. They belong to the symmetries of the lattice, which
no interpolation touches; flips are not in any one-parameter group.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from liederiv.actions import ImageAction
from liederiv.derivatives import Scheme, get_scheme
from liederiv.domains import domain_of
from liederiv.errors import ImageError, LieDerivError
from liederiv.generators import Generator, IntensityGenerator
from liederiv.generators import generator as find_generator

if TYPE_CHECKING:
    from liederiv.channels import ChannelAction

__all__ = ["FiniteTransform", "exponential", "flip", "roll", "rot90", "transform", "warp"]

_SNAP = 1e-10  # pixels; rounding of a flow on an axis of 10⁴ pixels stays far below
_DENSE_BUDGET = 2**24  # elements of an intermediate product, for schemes of global basis functions


def transform(
    x: Any,
    generator: str | Generator,
    t: float | Tensor,
    scheme: str | Scheme = "bspline",
) -> Any:
    """T_t x = exp(tX) x.

    Args:
        x: images [B, C, H, W], float32 or float64, or a `PointCloud`.
        generator: name or generator X.
        t: in the unit of the generator; a number, or one per image or cloud [B].
        scheme: how images are continued between pixels, see `liederiv.derivatives`.

    Returns:
        Like x, differentiable in x.

    Raises:
        ImageError: if x is not a floating [B, C, H, W] tensor, or t has another length.
        LieDerivError: for an unknown generator or scheme.

    Example:
        >>> x = torch.arange(4.0).reshape(1, 1, 1, 4)
        >>> transform(x, "translation_x", 1.0)
        tensor([[[[1., 2., 3., 3.]]]])
        >>> transform(x, "translation_x", 1.0, scheme="fourier")
        tensor([[[[1., 2., 3., 0.]]]])
    """
    domain = domain_of(x)
    domain.check(x)
    if isinstance(generator, str):
        generator = find_generator(generator, catalogue=domain.catalogue(x))
    coordinates = torch.as_tensor(t, dtype=torch.float64).reshape(-1, 1)
    return domain.transform(domain.bind([generator], x, scheme), coordinates).on_input(x)


class FiniteTransform:
    """T = exp(Σ_k t_k X_k), one per image or one for all.

    With one generator this is T_t. With both translations it is the shift by (t_0, t_1).

    Args:
        action: the generators X_k, bound to an image size and a scheme. An intensity generator
            must be the only one.
        t: coordinates [B, K], or [1, K] for all images alike, in the generators' units.
    """

    def __init__(self, action: ImageAction, t: Tensor) -> None:
        if t.ndim != 2 or t.shape[1] != len(action):
            raise LieDerivError(
                f"t has shape {list(t.shape)}; it needs one column for each of the "
                f"{len(action)} generators, [B, {len(action)}]."
            )
        intensity = [isinstance(g, IntensityGenerator) for g in action.generators]
        if any(intensity) and len(action) > 1:
            raise LieDerivError("an intensity generator combines with no other; use it alone.")
        self.action = action
        self.scheme = action.scheme
        self.t = t.detach().to(device="cpu", dtype=torch.float64)
        self.is_spatial = not any(intensity)

    @property
    def height(self) -> float:
        """Pixels of the input."""
        return self.action.height

    @property
    def width(self) -> float:
        """Pixels of the input."""
        return self.action.width

    def within(
        self, height: float, width: float, offset: tuple[float, float] = (0.0, 0.0)
    ) -> FiniteTransform:
        """The same transform of a window of the image, see `ImageAction.within`."""
        return FiniteTransform(self.action.within(height, width, offset), self.t)

    @property
    def flow(self) -> Tensor:
        """φ in normalised coordinates as [A | b], float64 [B or 1, 2, 3]."""
        K = len(self.action)
        fields = [self.action.normalised(k) for k in range(K)] if self.is_spatial else []
        return exponential(torch.stack(fields) if fields else torch.zeros(K, 2, 3), self.t)

    @property
    def flow_in_pixels(self) -> Tensor:
        """φ as [A | b] in pixels from the middle, float64 [B or 1, 2, 3]."""
        return exponential(self.action.affine, self.t)

    @property
    def points(self) -> Tensor:
        """Where what is at a point goes, φ⁻¹, as [A | b] in pixels from the middle: [B or 1, 2, 3].

        (T x)(q) = x(φ(q)) has at φ⁻¹(q) what x has at q.
        """
        return exponential(self.action.affine, -self.t)

    def on_input(self, x: Tensor) -> Tensor:
        """T x for images x [B, C, H, W] of the size that the action is bound to."""
        if x.shape[-2:] != (self.action.height, self.action.width):
            raise ImageError(
                f"x has images of {x.shape[-2]} × {x.shape[-1]} pixels, but the transform is "
                f"bound to {self.action.height} × {self.action.width}; make a new one."
            )
        self._check_batch(x)
        if self.is_spatial:
            return self.scheme.moved(self, x)
        (g,) = self.action.generators
        assert isinstance(g, IntensityGenerator)
        values = self.t[:, 0].tolist()
        if len(values) == 1:
            return g.transform(x, values[0])
        return torch.cat([g.transform(x[b : b + 1], t) for b, t in enumerate(values)])

    def on_map(self, z: Tensor) -> Tensor:
        """T z for maps of scalars [B, C, h, w] that cover the image at any resolution."""
        self._check_batch(z)
        return warp(z, self.flow, self.scheme) if self.is_spatial else z

    def on_channels(self, channels: ChannelAction, count: int) -> Tensor:
        """exp(Σ_k t_k M_k) for the channel action's matrices M_k, float64 [B or 1, C, C].

        Raises:
            UnknownLayoutError: where the channel action is not defined.
        """
        M = channels.matrices(self.action.linear, count)
        return torch.linalg.matrix_exp(torch.einsum("bk,kdc->bdc", self.t, M))

    def valid(self, h: int, w: int, margin: float = 0.0) -> Tensor:
        """Where an h × w map was moved from inside the image, bool [B or 1, 1, h, w].

        Args:
            h: height of the map.
            w: width of the map.
            margin: pixels of the map between the border and what counts as inside; 0 asks that
                the value is interpolated between pixels, not continued beyond them.
        """
        inside = [
            (u >= margin) & (u <= n - 1 - margin)
            for u, n in zip(self.sources(h, w), (w, h), strict=True)
        ]
        return (inside[0] & inside[1]).reshape(len(self.t), 1, h, w)

    def sources(self, h: int, w: int) -> tuple[Tensor, Tensor]:
        """Where each pixel of an h × w map comes from, (x, y) in its pixels, float64 [B or 1, h·w].

        Pixel (0, 0) is the upper left one, rows follow each other.
        """
        return _sources(_pixel_map(self.flow, h, w, self.scheme), h, w)

    def linear(self, h: int, w: int) -> Tensor:
        """Offsets (x, y) of sources per offset of an h × w map's pixels, float64 [B or 1, 2, 2]."""
        return _pixel_map(self.flow, h, w, self.scheme)[..., :2]

    def _check_batch(self, z: Tensor) -> None:
        if len(self.t) not in (1, len(z)):
            raise ImageError(
                f"t has {len(self.t)} entries for {len(z)} images; give one, or one per image."
            )


def exponential(fields: Tensor, t: Tensor) -> Tensor:
    """exp(Σ_k t_k ξ_k) of affine fields [A | b].

    Args:
        fields: [K, 2, 3].
        t: float64 [B, K].

    Returns:
        The motions as [A | b], float64 [B, 2, 3].
    """
    algebra = torch.zeros(len(t), 3, 3, dtype=torch.float64)
    algebra[:, :2] = torch.einsum("bk,kij->bij", t, fields.double())
    return torch.linalg.matrix_exp(algebra)[:, :2]


def warp(z: Tensor, flow: Tensor, scheme: str | Scheme = "bspline") -> Tensor:
    """z(φ(p)) at all pixels p of a map.

    Args:
        z: maps [B, C, h, w].
        flow: φ as [A | b] in normalised coordinates p ∈ [−1, 1]², float64 [B or 1, 2, 3].
        scheme: interpolation scheme.

    Returns:
        [B, C, h, w].
    """
    scheme = get_scheme(scheme)
    h, w = z.shape[-2:]
    pixel = _pixel_map(flow, h, w, scheme)
    if pixel[:, 0, 1].abs().max() * h < _SNAP and pixel[:, 1, 0].abs().max() * w < _SNAP:
        ux = _snap(pixel[:, 0, :1] * _centred(w) + pixel[:, 0, 2:] + (w - 1) / 2)
        uy = _snap(pixel[:, 1, 1:2] * _centred(h) + pixel[:, 1, 2:] + (h - 1) / 2)
        return _warp_axis(_warp_axis(z, ux, scheme).mT, uy, scheme).mT
    ux, uy = _sources(pixel, h, w)
    if scheme.taps(ux[0, :1]) is not None:
        return _warp_local(z, ux, uy, scheme)
    return _warp_dense(z, ux, uy, scheme)


def _centred(n: int) -> Tensor:
    return torch.arange(n, dtype=torch.float64) - (n - 1) / 2


def _snap(u: Tensor) -> Tensor:
    """Put positions that rounding moved off a pixel centre back on it."""
    whole = u.round()
    return torch.where((u - whole).abs() < _SNAP, whole, u)


def _pixel_map(flow: Tensor, h: int, w: int, scheme: Scheme) -> Tensor:
    """The flow [A | b] in pixels of an h × w map, from its centre."""
    halves = [scheme.half_width(w), scheme.half_width(h)]
    half = torch.tensor([v or 1.0 for v in halves], dtype=torch.float64)
    pixel = flow * half[:, None]
    pixel[..., :2] /= half
    return pixel


def _sources(pixel: Tensor, h: int, w: int) -> tuple[Tensor, Tensor]:
    """Positions (x, y) in pixels where each pixel of the map comes from, each [B, h · w]."""
    q = torch.stack(torch.broadcast_tensors(_centred(w), _centred(h)[:, None])).flatten(1)
    u = pixel[..., :2] @ q + pixel[..., 2:]
    return _snap(u[:, 0] + (w - 1) / 2), _snap(u[:, 1] + (h - 1) / 2)


def _warp_axis(z: Tensor, u: Tensor, scheme: Scheme) -> Tensor:
    """Interpolate the last axis of z [B, C, h, n] at positions u [B or 1, n]."""
    n = z.shape[-1]
    if (u == u.round()).all():
        index = scheme.extend(u.long(), n).to(z.device)
        if len(index) == 1:
            return z.index_select(-1, index[0])
        return z.gather(-1, index[:, None, None].expand_as(z))
    matrix = scheme.interpolation(n, u.flatten()).to(z).unflatten(0, u.shape)
    return z @ (matrix[0].T if len(matrix) == 1 else matrix[:, None].mT)


def _warp_local(z: Tensor, ux: Tensor, uy: Tensor, scheme: Scheme) -> Tensor:
    """Gather the few coefficients whose basis functions reach each position."""
    h, w = z.shape[-2:]
    px, py = scheme.coefficients(w), scheme.coefficients(h)
    c = z if px is None or py is None else py.to(z) @ z @ px.to(z).T
    c = c.flatten(2)
    taps = []
    for u, n in ((ux, w), (uy, h)):
        local = scheme.taps(u.flatten())
        assert local is not None
        weights, index = local[0].to(z), scheme.extend(local[1], n).to(z.device)
        taps.append([(a.view_as(u), i.view_as(u)) for a, i in zip(weights.T, index.T, strict=True)])
    out = torch.zeros_like(c)
    for weight_y, row in taps[1]:
        for weight_x, column in taps[0]:
            index = (row * w + column)[:, None]
            found = (
                c.index_select(2, index.flatten())
                if len(index) == 1
                else c.gather(2, index.expand_as(c))
            )
            out = torch.addcmul(out, found, (weight_y * weight_x)[:, None])
    return out.view_as(z)


def _warp_dense(z: Tensor, ux: Tensor, uy: Tensor, scheme: Scheme) -> Tensor:
    """Sum all samples with the weight of their basis functions, over chunks of positions."""
    if len(ux) > 1:
        rows = [
            _warp_dense(z[b : b + 1], ux[b : b + 1], uy[b : b + 1], scheme) for b in range(len(z))
        ]
        return torch.cat(rows)
    h, w = z.shape[-2:]
    chunk = max(1, _DENSE_BUDGET // (z.shape[0] * z.shape[1] * h))
    parts = []
    for px, py in zip(ux[0].split(chunk), uy[0].split(chunk), strict=True):
        along_x = z @ scheme.interpolation(w, px).to(z).T
        parts.append((along_x * scheme.interpolation(h, py).to(z).T).sum(-2))
    return torch.cat(parts, -1).view_as(z)


def rot90(x: Tensor, k: int = 1, dims: Sequence[int] = (-2, -1)) -> Tensor:
    """Rotate by k quarter turns: T_t of the rotation at t = kπ/2, without interpolation.

    Args:
        x: [..., H, W]; an odd k swaps H and W.
        k: number of quarter turns; positive turns the picture counterclockwise on the screen.
        dims: the vertical and the horizontal axis.

    Example:
        >>> rot90(torch.tensor([[1, 2], [3, 4]]))
        tensor([[2, 4],
                [1, 3]])
    """
    return torch.rot90(x, k, (dims[0], dims[1]))


def flip(x: Tensor, axis: Literal["x", "y"], dims: Sequence[int] = (-2, -1)) -> Tensor:
    """Mirror along an axis: ``x`` swaps left and right, ``y`` top and bottom.

    Args:
        x: [..., H, W].
        axis: the coordinate that changes sign.
        dims: the vertical and the horizontal axis.

    Example:
        >>> flip(torch.tensor([[1, 2], [3, 4]]), "x")
        tensor([[2, 1],
                [4, 3]])
    """
    if axis not in ("x", "y"):
        raise LieDerivError(f"axis={axis!r} is unknown; choose 'x' or 'y'.")
    return x.flip(dims[1] if axis == "x" else dims[0])


def roll(x: Tensor, dx: int, dy: int, dims: Sequence[int] = (-2, -1)) -> Tensor:
    """Shift by whole pixels with wrap-around: T of the ``fourier`` translation by (dx, dy).

    Args:
        x: [..., H, W].
        dx: pixels; positive moves the picture to the left, as T_t does.
        dy: pixels; positive moves the picture up.
        dims: the vertical and the horizontal axis.

    Example:
        >>> roll(torch.tensor([[1, 2, 3]]), 1, 0)
        tensor([[2, 3, 1]])
    """
    return torch.roll(x, (-dy, -dx), (dims[0], dims[1]))
