r"""Interpolation schemes: how a sampled signal is continued between its pixels.

A scheme is a set of basis functions φ_i: a signal v with n samples is continued to
v(u) = Σ_i φ_i(u) v_i at any position u, counted in pixels (u = j is the centre of pixel j).
Two matrices follow from it, and everything spatial in liederiv is made of them:

* ``interpolation(n, u)``: the [P, n] matrix φ_i(u_p), which warps a signal by a finite amount;
* ``derivative(n)``: the [n, n] matrix D = dφ_i/du at the pixel centres, which moves it by an
  infinitesimal amount. D is per pixel.

============== =========================================== ===================== ===============
scheme         interpolant                                 continued beyond      coordinates
                                                           the border by
============== =========================================== ===================== ===============
bspline        cubic B-spline                              mirror (edge)         half-pixel
bspline5       B-spline of degree 5                        mirror (edge)         half-pixel
fourier        trigonometric polynomial, Nyquist real      periodicity           half-pixel
fourier_mirror the same of the mirrored signal             mirror (edge)         half-pixel
central        Catmull-Rom cubic: central difference       mirror (edge)         half-pixel
bilinear       the side of the linear interpolant that     reflection (centre)   corners aligned
               the paper's code differentiates
============== =========================================== ===================== ===============

Coordinates. In the half-pixel convention pixel j of n sits at p = (2j + 1)/n − 1, so that a layer
of stride s maps exactly onto a grid s times coarser. "Mirror (edge)" repeats the border pixel
(… b a | a b …), the continuation that commutes with average pooling. ``bilinear`` exists to
reproduce published numbers (Gruver et al., arXiv 2210.02984): it aligns the corner pixels' centres
with p = ±1, and takes whichever one-sided difference lies above the floor of the rounded float32
identity grid of ``torch.nn.functional.affine_grid``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from liederiv.errors import LieDerivError

__all__ = ["SCHEMES", "QuinticBSpline", "Scheme", "get_scheme"]


class Scheme(ABC):
    """An interpolation scheme. Instances are stateless; use `get_scheme`."""

    name: str
    boundary: str
    align_corners: bool = False

    def half_width(self, n: float) -> float:
        """Pixels per unit of the normalised coordinate p ∈ [−1, 1] on an axis of n pixels."""
        return (n - 1) / 2 if self.align_corners else n / 2

    def coordinates(self, n: int) -> Tensor:
        """Normalised coordinates of the pixel centres, float64 [n]."""
        centre = (n - 1) / 2
        half = self.half_width(n)
        return (torch.arange(n, dtype=torch.float64) - centre) / (half if half else 1.0)

    def derivative(self, n: int, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
        """The matrix D [n, n]: (D v)_j is the slope of v's continuation at pixel j, per pixel."""
        return _cast_derivative(self.name, n, dtype, torch.device(device))

    def interpolation(self, n: int, positions: Tensor) -> Tensor:
        """Values of the basis functions.

        Args:
            n: number of samples on the axis.
            positions: float64 [P], in pixels; any real value.

        Returns:
            float64 [P, n]; row p applied to the samples gives the signal at ``positions[p]``.
        """
        local = self.taps(positions)
        assert local is not None, "a scheme of global basis functions overrides interpolation()"
        weights, index = local
        out = _taps_to_matrix(weights, self.extend(index, n), n)
        coefficients = self.coefficients(n)
        return out if coefficients is None else out @ coefficients

    def taps(self, positions: Tensor) -> tuple[Tensor, Tensor] | None:
        """The few basis functions that reach a position, for schemes with local ones.

        Args:
            positions: float64 [P], in pixels.

        Returns:
            Weights float64 [P, taps] and the indices [P, taps] of the coefficients that they
            multiply, to be brought inside the axis by `extend`; None for global basis functions.
        """
        return None

    def coefficients(self, n: int) -> Tensor | None:
        """float64 [n, n] map from samples to the coefficients of `taps`; None for the identity."""
        return None

    def extend(self, index: Tensor, n: int) -> Tensor:
        """The sample of an axis of n that stands at any integer index, beyond the border too."""
        return _CONTINUATIONS[self.boundary](index, n)

    def tangents(self, action: Any, x: Tensor) -> Tensor:
        """X x of images x [B, C, H, W] for the spatial generators of an action: [K, *x.shape]."""
        return action.on_map(x)

    def resampling(self, action: Any, x: Tensor, tangents: Tensor) -> Tensor | None:
        """What of tangents of x the scheme did not find in x itself; None where that is nothing."""
        return None

    def notes(self, action: Any) -> list[str]:
        """What is to be known of how images were moved."""
        return []

    def moved(self, transform: Any, x: Tensor) -> Tensor:
        """T x of images x [B, C, H, W] for a spatial transform."""
        return transform.on_map(x)

    @abstractmethod
    def _derivative64(self, n: int) -> Tensor: ...

    def __repr__(self) -> str:
        return f"<scheme {self.name}>"


@lru_cache(maxsize=256)
def _cast_derivative(name: str, n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # what is kept must serve a later backward pass too
        return SCHEMES[name]._derivative64(n).to(device=device, dtype=dtype)


def _mirror(index: Tensor, n: int) -> Tensor:
    """Index of the sample that stands at ``index`` when the edge is mirrored: … 1 0 | 0 1 …."""
    index = index.remainder(2 * n)
    return torch.minimum(index, 2 * n - 1 - index)


def _reflect(index: Tensor, n: int) -> Tensor:
    """The same when the border pixel's centre is the mirror: … 2 1 | 0 1 …."""
    if n == 1:
        return torch.zeros_like(index)
    index = index.remainder(2 * n - 2)
    return torch.minimum(index, 2 * n - 2 - index)


_CONTINUATIONS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "mirror": _mirror,
    "reflection": _reflect,
    "periodic": torch.remainder,
}


def _taps_to_matrix(weights: Tensor, index: Tensor, n: int) -> Tensor:
    """Scatter [P, taps] weights at integer sample indices into a dense [P, n] matrix."""
    out = weights.new_zeros(len(weights), n)
    return out.scatter_add_(1, index, weights)


class _Cubic(Scheme):
    """Four-tap cubic convolution with mirrored edges; subclasses give the kernel."""

    boundary = "mirror"

    @abstractmethod
    def _weights(self, fraction: Tensor) -> Tensor:
        """Weights [P, 4] of the samples at floor(u) − 1 … floor(u) + 2, for u − floor(u)."""

    def taps(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        base = positions.floor()
        return self._weights(positions - base), base.long()[:, None] + torch.arange(-1, 3)

    def _derivative64(self, n: int) -> Tensor:
        # Both cubic kernels have slope (c[j+1] − c[j−1]) / 2 at the pixel centres.
        j = torch.arange(n)
        index = _mirror(torch.stack([j - 1, j + 1], 1), n)
        weights = torch.tensor([-0.5, 0.5], dtype=torch.float64).expand(n, 2)
        out = _taps_to_matrix(weights, index, n)
        coefficients = self.coefficients(n)
        return out if coefficients is None else out @ coefficients


class CubicBSpline(_Cubic):
    """Cubic B-spline interpolation (Unser, Aldroubi & Eden 1993): nearest to a real camera."""

    name = "bspline"

    def _weights(self, fraction: Tensor) -> Tensor:
        t, s = fraction, 1 - fraction
        return torch.stack(
            [s**3, 4 - 6 * t**2 + 3 * t**3, 4 - 6 * s**2 + 3 * s**3, t**3], dim=1
        ).div(6)

    def coefficients(self, n: int) -> Tensor:
        return _bspline_coefficients(n)


@lru_cache(maxsize=64)
def _bspline_coefficients(n: int) -> Tensor:
    with torch.inference_mode(False):  # as in _cast_derivative
        j = torch.arange(n)
        index = _mirror(torch.stack([j - 1, j, j + 1], 1), n)
        weights = (torch.tensor([1.0, 4.0, 1.0], dtype=torch.float64) / 6).expand(n, 3)
        return torch.linalg.inv(_taps_to_matrix(weights, index, n))


class QuinticBSpline(Scheme):
    """B-spline interpolation of degree 5: nearer to a camera than degree 3, with wider support."""

    name = "bspline5"
    boundary = "mirror"

    def taps(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """See `Scheme.taps`: six."""
        base = positions.floor()
        offsets = torch.arange(-2, 4)
        distance = (positions - base)[:, None] - offsets
        return _quintic(distance.abs()), base.long()[:, None] + offsets

    def coefficients(self, n: int) -> Tensor:
        """See `Scheme.coefficients`."""
        return _quintic_coefficients(n)

    def _derivative64(self, n: int) -> Tensor:
        j, offsets = torch.arange(n)[:, None], torch.arange(-2, 3)
        weights = torch.tensor([-1.0, -10.0, 0.0, 10.0, 1.0], dtype=torch.float64) / 24
        slopes = _taps_to_matrix(weights.repeat(n, 1), _mirror(j + offsets, n), n)
        return slopes @ self.coefficients(n)


def _quintic(x: Tensor) -> Tensor:
    """β⁵ at distances x ≥ 0."""
    near = 33 / 60 - x**2 / 2 + x**4 / 4 - x**5 / 12
    middle = 17 / 40 + 5 * x / 8 - 7 * x**2 / 4 + 5 * x**3 / 4 - 3 * x**4 / 8 + x**5 / 24
    far = (3 - x).clamp_min(0) ** 5 / 120
    return torch.where(x < 1, near, torch.where(x < 2, middle, far))


@lru_cache(maxsize=64)
def _quintic_coefficients(n: int) -> Tensor:
    with torch.inference_mode(False):  # as in _cast_derivative
        j, offsets = torch.arange(n)[:, None], torch.arange(-2, 3)
        weights = torch.tensor([1.0, 26.0, 66.0, 26.0, 1.0], dtype=torch.float64) / 120
        index = _mirror(j + offsets, n)
        return torch.linalg.inv(_taps_to_matrix(weights.repeat(n, 1), index, n))


class Central(_Cubic):
    """Catmull-Rom cubic convolution (Keys 1981, a = −1/2): the central difference."""

    name = "central"

    def _weights(self, fraction: Tensor) -> Tensor:
        t = fraction
        return torch.stack(
            [
                -t + 2 * t**2 - t**3,
                2 - 5 * t**2 + 3 * t**3,
                t + 4 * t**2 - 3 * t**3,
                -(t**2) + t**3,
            ],
            dim=1,
        ).div(2)


class Fourier(Scheme):
    """Trigonometric interpolation of the periodic signal.

    Translation is an exact group action on signals without energy at the Nyquist frequency; that
    one mode (even n only) is continued as a cosine, whose slope at the pixels is zero.
    """

    name = "fourier"
    boundary = "periodic"

    def interpolation(self, n: int, positions: Tensor) -> Tensor:
        offset = positions[:, None] - torch.arange(n, dtype=torch.float64)
        return _dirichlet(offset, n)

    def _derivative64(self, n: int) -> Tensor:
        j = torch.arange(n, dtype=torch.float64)
        return _dirichlet_slope(j[:, None] - j, n)


class FourierMirror(Scheme):
    """Trigonometric interpolation of the signal followed by its mirror image, period 2n."""

    name = "fourier_mirror"
    boundary = "mirror"

    def interpolation(self, n: int, positions: Tensor) -> Tensor:
        return _fold(_FOURIER.interpolation(2 * n, positions))

    def _derivative64(self, n: int) -> Tensor:
        return _fold(_FOURIER._derivative64(2 * n)[:n])


_FOURIER = Fourier()


def _fold(matrix: Tensor) -> Tensor:
    """Apply a [P, 2n] matrix to mirrored signals: [P, n]."""
    first, second = matrix.chunk(2, dim=1)
    return first + second.flip(1)


def _dirichlet(u: Tensor, n: int) -> Tensor:
    """(1/n) Σ_k cos(2πku/n) over the n lowest frequencies, the Nyquist mode counted once."""
    u = u - n * torch.round(u / n)
    angle = torch.pi * u / n
    envelope = angle.tan() if n % 2 == 0 else angle.sin()
    value = torch.sin(torch.pi * u) / (n * envelope)
    # 0/0 at u = 0; so near to it the value is 1 − O(u²) = 1.
    return torch.where(u.abs() < 1e-9, torch.ones_like(value), value)


def _dirichlet_slope(u: Tensor, n: int) -> Tensor:
    """d/du of `_dirichlet` at integer u, in closed form."""
    angle = torch.pi * u / n
    sign = torch.where(u.remainder(2) == 0, 1.0, -1.0).to(u.dtype)
    envelope = angle.tan() if n % 2 == 0 else angle.sin()
    slope = sign * torch.pi / n / envelope
    return torch.where(u == 0, torch.zeros_like(slope), slope)


class Bilinear(Scheme):
    """The one-sided differences of bilinear sampling at the rounded float32 identity grid.

    At the pixel centres the linear interpolant has a kink. Which side's slope automatic
    differentiation returns is decided by the rounding of ``affine_grid`` in float32, which this
    scheme repeats: the slope is taken between floor(u) and floor(u) + 1 at the rounded position u,
    reflected at the border. Its finite transforms tend to D only where D faces their side.
    """

    name = "bilinear"
    boundary = "reflection"
    align_corners = True

    def taps(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        base = positions.floor()
        t = positions - base
        return torch.stack([1 - t, t], 1), base.long()[:, None] + torch.arange(2)

    def _derivative64(self, n: int) -> Tensor:
        if n == 1:
            return torch.zeros(1, 1, dtype=torch.float64)
        identity = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
        grid = F.affine_grid(identity, [1, 1, 2, n], align_corners=True)[0, 0, :, 0]
        base = ((grid + 1) / 2 * (n - 1)).floor().long()
        index = _reflect(torch.stack([base, base + 1], 1), n)
        weights = torch.tensor([-1.0, 1.0], dtype=torch.float64).expand(n, 2)
        return _taps_to_matrix(weights, index, n)


SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        CubicBSpline(),
        QuinticBSpline(),
        Fourier(),
        FourierMirror(),
        Central(),
        Bilinear(),
    )
}


def get_scheme(scheme: str | Scheme) -> Scheme:
    """The scheme of that name.

    Raises:
        LieDerivError: if there is none.

    Example:
        >>> get_scheme("central").derivative(4, torch.float64)[1]
        tensor([-0.5000,  0.0000,  0.5000,  0.0000], dtype=torch.float64)
    """
    if isinstance(scheme, Scheme):
        return scheme
    if scheme == "camera":
        raise LieDerivError(
            "scheme='camera' needs photographs, which are larger than the input; pass "
            "load_images(…).photographs instead of tensors, or choose another scheme."
        )
    if scheme not in SCHEMES:
        raise LieDerivError(f"scheme={scheme!r} is unknown; choose one of {', '.join(SCHEMES)}.")
    return SCHEMES[scheme]
