r"""The camera as an interpolation scheme: how photographs, not their small versions, move.

Resizing, cropping and normalising are linear: x = P p. A camera that moves changes p, so the
tangent of the input is P(X p), with X p taken at the photograph's full resolution, and a finite
motion gives P(T_t p), real surroundings at the border included. Nothing is guessed between the
pixels of x; what is, between those of p, is half as far apart or less.

Generators have the units that they have everywhere: a translation is by pixels of the *input*, a
rotation about its middle. P is one matrix W per axis and X = (A q + b)·∇, so

    P(X p) = Σ (W_y M_y) p (W_x M_x)ᵀ,     M ∈ {1, q, D, q D},

eight small matrices for each photograph, whose rows are streamed. D is the slope of the B-spline of
degree 5; against the trigonometric interpolant's it says how well X p itself is known
(`Camera.uncertainty`).

Images are known by their content. One that differs a little from what the camera has shown (by
rounding, by a probe) moves as the nearest photograph, and the difference as the plain scheme of
degree 5 moves it. Inside a network there is no photograph: feature maps move by that scheme.
Intensity generators act on what enters the network, after the pipeline.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from liederiv.derivatives import QuinticBSpline, Scheme
from liederiv.errors import ImageError
from liederiv.foreign import one_line
from liederiv.grids.photographs import LEAST_SCALE, Photographs, streamed
from liederiv.grids.pipeline import Axis
from liederiv.transforms import exponential

__all__ = ["Camera"]

Slope = Literal["bspline", "fourier"]

_NEAR = 0.05  # of an image's norm by which it may differ from what the camera has shown
_STEP = 1e-3  # pixels, radians, …: of central differences, whose error goes with its square
_KEPT = 64  # images whose tangents are kept
_SEEN = 2**17  # images that are known
_PLAIN = QuinticBSpline()


@dataclass(frozen=True)
class _Shown:
    """What an image is of: a photograph, seen from x ↦ A x + b in pixels from the middle."""

    index: int
    flow: Tensor | None = None  # [2, 3]; None for the camera at rest


class Camera(Scheme):
    """The scheme under which the images of photographs move as a camera would move them.

    Raises:
        ImageError: if there are none, or some are too small.
    """

    name = "camera"
    boundary = "mirror"

    def __init__(self, photographs: Photographs) -> None:
        if not photographs:
            raise ImageError("there are no photographs; give at least one.")
        small = photographs.too_small
        if small:
            raise ImageError(
                f"{len(small)} of {len(photographs)} photographs are too small for scheme='camera' "
                f"({', '.join(map(one_line, small[:3]))}{', …' if len(small) > 3 else ''}): it "
                f"needs {LEAST_SCALE:g} of their pixels per pixel of the input; take "
                "photographs.large_enough, or scheme='bspline'."
            )
        self.photographs = photographs
        self._known: OrderedDict[bytes, _Shown] = OrderedDict()
        self._basis: OrderedDict[int, Tensor] = OrderedDict()
        self._thumbnails: list[Tensor] = []
        for i in range(len(photographs)):
            x = photographs.developed(i).float()
            self._remember(x, _Shown(i))
            self._thumbnails.append(_thumbnail(x))

    # Feature maps move by the plain scheme.

    def derivative(self, n: int, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
        """See `Scheme.derivative`."""
        return _PLAIN.derivative(n, dtype, device)

    def taps(self, positions: Tensor) -> tuple[Tensor, Tensor] | None:
        """See `Scheme.taps`."""
        return _PLAIN.taps(positions)

    def coefficients(self, n: int) -> Tensor | None:
        """See `Scheme.coefficients`."""
        return _PLAIN.coefficients(n)

    def _derivative64(self, n: int) -> Tensor:
        return _PLAIN._derivative64(n)

    # Images move with their photographs.

    def tangents(self, action: Any, x: Tensor) -> Tensor:
        """See `Scheme.tangents`: P(X p), [K, B, C, H, W]."""
        fields = action.affine
        found = []
        for one in x:
            shown, rest = self._find(one)
            v = self._tangent(shown, fields)
            if rest is not None:
                v = v + action.on_map(rest[None])[:, 0]
            found.append(v)
        return torch.stack(found, 1).to(x)

    def resampling(self, action: Any, x: Tensor, tangents: Tensor) -> Tensor:
        """See `Scheme.resampling`: P(X p) − X x, what the pipeline keeps from the network."""
        return tangents - action.on_map(x)

    def moved(self, transform: Any, x: Tensor) -> Tensor:
        """See `Scheme.moved`: P(T p), [B, C, H, W]."""
        flows = transform.flow_in_pixels.expand(len(x), 2, 3)
        out = []
        for one, flow in zip(x, flows, strict=True):
            shown, rest = self._find(one)
            if torch.equal(flow, _STANDING):
                out.append(one)
                continue
            whole = flow if shown.flow is None else _after(shown.flow, flow)
            z = self._seen_from(shown.index, whole).to(one)
            if rest is None:
                self._remember(z, _Shown(shown.index, whole))
            else:
                z = z + transform.on_map(rest[None].to(one))[0]
            out.append(z)
        return torch.stack(out)

    def uncertainty(self, action: Any) -> Tensor:
        """By how much two derivatives at full resolution differ: [K, photographs].

        The B-spline of degree 5 against the trigonometric interpolant, relative to the tangent; 0
        where nothing moves.
        """
        rows = []
        for i in range(len(self.photographs)):
            first, second = (self._combined(self._basis_of(i, s), action.affine) for s in _SLOPES)
            gap, size = (v.flatten(1).norm(dim=1) for v in (first - second, first))
            rows.append(torch.where(size > _NOTHING * first[0].numel() ** 0.5, gap / size, 0.0))
        return torch.stack(rows, 1)

    def notes(self, action: Any) -> list[str]:
        """See `Scheme.notes`: how well the photographs' own derivative is known."""
        if not action.affine.any():
            return []
        gaps = self.uncertainty(action).amax(0)
        middle, worst = float(gaps.sort().values[len(gaps) // 2]), int(gaps.argmax())
        return [
            f"the photographs' derivative at full resolution is known to {middle:.1%} of the "
            f"tangent (worst {gaps[worst]:.1%}, {one_line(self.photographs.names[worst])}): "
            "B-spline of degree 5 against the trigonometric interpolant"
        ]

    # What is known.

    def _find(self, x: Tensor) -> tuple[_Shown, Tensor | None]:
        """What an image is of, and what of it is not that."""
        key = _key(x)
        if key in self._known:
            return self._known[key], None
        thumbnail = _thumbnail(x)
        gaps = [float((thumbnail - other).norm()) for other in self._thumbnails]
        index = min(range(len(gaps)), key=gaps.__getitem__)
        rest = x.detach().cpu().double() - self.photographs.developed(index)
        if float(rest.norm()) > _NEAR * float(x.detach().double().norm()):
            raise ImageError(
                "scheme='camera' moves the photographs that it was made of, and an image is none "
                "of them; pass photographs (load_images(…).photographs), or scheme='bspline'."
            )
        return _Shown(index), rest

    def _remember(self, x: Tensor, shown: _Shown) -> None:
        self._known[_key(x)] = shown
        if len(self._known) > _SEEN + len(self.photographs):
            oldest = next(k for k, s in self._known.items() if s.flow is not None)
            del self._known[oldest]

    # The mathematics.

    def _tangent(self, shown: _Shown, fields: Tensor) -> Tensor:
        """P(X T p) for each field, float64 [K, C, H, W]."""
        if shown.flow is None:
            return self._combined(self._basis_of(shown.index, "bspline"), fields)
        found = []
        steps = torch.tensor([[_STEP], [-_STEP]], dtype=torch.float64)
        for field in fields:
            motions = exponential(field[None], steps)
            ahead, back = (self._seen_from(shown.index, _after(shown.flow, m)) for m in motions)
            found.append((ahead - back) / (2 * _STEP))
        return torch.stack(found)

    def _combined(self, basis: Tensor, fields: Tensor) -> Tensor:
        """Σ over the entries of [A | b] of those of the basis: [K, C, H, W]."""
        return torch.einsum("kij,ijchw->kchw", fields, basis)

    def _basis_of(self, index: int, slope: Slope) -> Tensor:
        """P(q_j ∂_i p) and P(∂_i p), float64 [2 (i: x, y), 3 (j: x, y, 1), C, H, W]."""
        if slope == "bspline" and index in self._basis:
            self._basis.move_to_end(index)
            return self._basis[index]
        y, x = self.photographs.axes(index)
        p = self.photographs.levels(index)
        My, Mx = _matrices(y, slope), _matrices(x, slope)
        out = torch.zeros(2, 3, len(p), y.size, x.size, dtype=torch.float64)
        for rows, plain, q, D, qD in streamed(*My):
            level = p[:, rows].double()
            W, Q, DW, QDW = (level @ m.T for m in Mx)
            out[0, 0] += plain @ QDW
            out[0, 1] += q @ DW
            out[0, 2] += plain @ DW
            out[1, 0] += D @ Q
            out[1, 1] += qD @ W
            out[1, 2] += D @ W
        out = self.photographs.pipeline.scaled(out)
        if slope == "bspline":
            self._basis[index] = out
            if len(self._basis) > _KEPT:
                self._basis.popitem(last=False)
        return out

    def _seen_from(self, index: int, flow: Tensor) -> Tensor:
        """P(p ∘ φ) for φ(q) = A q + b in pixels of the input from its middle: float64 [C, H, W]."""
        y, x = self.photographs.axes(index)
        p = self.photographs.levels(index)
        if float(flow[0, 1].abs()) * x.size < _STILL and float(flow[1, 0].abs()) * y.size < _STILL:
            Ry, Rx = _resampled(y, flow[1, 1], flow[1, 2]), _resampled(x, flow[0, 0], flow[0, 2])
            z = torch.zeros(len(p), y.size, x.size, dtype=torch.float64)
            for rows, part in streamed(Ry):
                z += part @ (p[:, rows].double() @ Rx.T)
        else:
            z = _turned(p, y, x, flow)
        return self.photographs.finished(z, index)


_STILL = 1e-12  # pixels that an axis may move the other; then each is resampled by itself
_NOTHING = 1e-9  # root mean square of a tangent in normalised units: rounding, of whole levels
_STANDING = torch.eye(2, 3, dtype=torch.float64)
_SLOPES: tuple[Slope, ...] = ("bspline", "fourier")


def _matrices(axis: Axis, slope: Slope) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """W M for M in 1, q, D, q D, float64 [size, pixels]; D per pixel of the input."""
    W, q = axis.weights(), axis.positions()
    D = _slope_response(axis.pixels, slope) * axis.scale
    return W, W * q, _filtered(W, D), _filtered(W * q, D)


def _slope_response(n: int, slope: Slope) -> Tensor:
    """The derivative's answer to each frequency of the mirrored signal, complex [n + 1]."""
    w = torch.pi * torch.arange(n + 1, dtype=torch.float64) / n
    if slope == "fourier":
        return 1j * torch.where(w < torch.pi, w, 0.0)
    above = (10 * torch.sin(w) + torch.sin(2 * w)) / 12
    return 1j * above / _spline_response(w)


def _spline_response(w: Tensor) -> Tensor:
    """Of the B-spline of degree 5 at the pixels: samples from coefficients."""
    return (66 + 52 * torch.cos(w) + 2 * torch.cos(2 * w)) / 120


def _filtered(rows: Tensor, response: Tensor) -> Tensor:
    """R F for the filter F of signals that are mirrored at both ends: [m, n] for R [m, n]."""
    n = rows.shape[1]
    spectrum = torch.fft.rfft(rows, 2 * n) * response.conj()
    first, second = torch.fft.irfft(spectrum, 2 * n).split(n, 1)
    return first + second.flip(1)


def _resampled(axis: Axis, a: Tensor, b: Tensor) -> Tensor:
    """W of the signal seen from a q + b, in terms of its samples: float64 [size, pixels]."""
    W, n = axis.weights(), axis.pixels
    weights, index = _PLAIN.taps(axis.indices(a * axis.positions() + b))
    index, out = _PLAIN.extend(index, n), torch.zeros_like(W)
    for k in range(weights.shape[1]):
        out.index_add_(1, index[:, k], W * weights[:, k])
    return _filtered(out, _inverse_response(n))


def _turned(p: Tensor, y: Axis, x: Axis, flow: Tensor) -> Tensor:
    """The same for any motion: float64 [C, height, width] of the input."""
    c = _filtered(p.double().flatten(0, 1), _inverse_response(x.pixels)).unflatten(0, p.shape[:2])
    c = _filtered(c.mT.flatten(0, 1), _inverse_response(y.pixels))
    c = c.unflatten(0, (len(p), x.pixels)).permute(2, 1, 0).contiguous()  # [H, W, C]
    Wy, Wx = y.weights(), x.weights()
    columns = Wx.any(0).nonzero().flatten()  # the crop leaves out the others
    Wx, qx, qy = Wx[:, columns], x.positions()[columns], y.positions()
    out = torch.zeros(len(p), y.size, x.size, dtype=torch.float64)
    for rows, part in streamed(Wy):
        if not part.any():
            continue
        at = torch.stack(torch.broadcast_tensors(qx, qy[rows, None]), -1) @ flow[:, :2].T
        at = at + flow[:, 2]
        found = _interpolated(c, x.indices(at[..., 0]), y.indices(at[..., 1]))
        out += part @ (found.movedim(-1, 0) @ Wx.T)
    return out


def _interpolated(c: Tensor, ux: Tensor, uy: Tensor) -> Tensor:
    """The spline of coefficients c [H, W, C] at positions (ux, uy), each [r, s]: [r, s, C]."""
    h, w, channels = c.shape
    taps = []
    for u, n in ((ux, w), (uy, h)):
        weights, index = _PLAIN.taps(u.flatten())
        taps.append((weights.T, _PLAIN.extend(index, n).T))
    (wx, ix), (wy, iy) = taps
    flat = c.view(h * w, channels)  # the channels of a pixel are fetched at once
    out = torch.zeros(ux.numel(), channels, dtype=torch.float64)
    for weight, row in zip(wy, iy, strict=True):
        along = torch.zeros_like(out)
        for other, column in zip(wx, ix, strict=True):
            along.addcmul_(flat.index_select(0, row * w + column), other[:, None])
        out.addcmul_(along, weight[:, None])
    return out.view(*ux.shape, channels)


def _inverse_response(n: int) -> Tensor:
    """Coefficients from samples, for each frequency of the mirrored signal."""
    w = torch.pi * torch.arange(n + 1, dtype=torch.float64) / n
    return (1 / _spline_response(w)).to(torch.complex128)


def _after(first: Tensor, second: Tensor) -> Tensor:
    """Q ↦ first(second(q)): an image that was moved by ``first``, moved by ``second``."""
    A = first[:, :2] @ second[:, :2]
    b = first[:, :2] @ second[:, 2] + first[:, 2]
    return torch.cat([A, b[:, None]], 1)


def _key(x: Tensor) -> bytes:
    values = x.detach().float().cpu().contiguous().numpy().tobytes()
    return hashlib.blake2b(values, digest_size=16).digest()


def _thumbnail(x: Tensor) -> Tensor:
    return torch.nn.functional.adaptive_avg_pool2d(x.detach().cpu().double()[None], 8)[0]
