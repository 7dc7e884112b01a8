r"""Functions on the circle and the sphere, sampled at a few orientations, and how they turn.

A fiber feature f assigns channels to O unit vectors n. A rotation moves it as (R f)(n) = f(R⁻¹ n),
so a generator with the antisymmetric matrix A acts as (X f)(n) = −∇f(n)·A n. Between the
orientations f is continued by its harmonic fit: with Y [O, M] the real harmonics up to a degree
that O orientations support, and L [M, M] the generator on their coefficients,

    D = Y L Y⁺,     R = Y(R⁻¹ n) Y⁺ + (1 − Y Y⁺).

Both are exact for functions of that degree (a vector's components along n are of degree 1). What
the fit leaves out, ‖f − Y Y⁺ f‖ / ‖f‖, is the `FiberGrid.residual`; it stays where it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from liederiv.errors import UnknownLayoutError

__all__ = ["FiberGrid", "harmonics"]

_MAX_DEGREE = 12  # more orientations than networks use resolve no more
_MAX_CONDITION = 3.0  # of Y: how far noise in f may be blown up in its coefficients


@dataclass(frozen=True)
class FiberGrid:
    """O orientations: unit vectors in the plane or in space.

    Attributes:
        points: the unit vectors, O tuples of d numbers.
    """

    points: tuple[tuple[float, ...], ...]

    @classmethod
    def of(cls, points: Tensor) -> FiberGrid:
        """From a tensor [O, d].

        Raises:
            UnknownLayoutError: if these are no unit vectors.
        """
        if points.ndim != 2 or points.shape[1] not in (2, 3) or len(points) == 0:
            raise UnknownLayoutError(
                f"fiber grid has shape {list(points.shape)}; give unit vectors [O, 2] or [O, 3]."
            )
        grid = points.detach().double().cpu()
        length = grid.norm(dim=1)
        if not ((length - 1).abs() < 1e-4).all():  # rounded lengths are divided out below
            raise UnknownLayoutError(
                f"fiber grid has vectors of length {float(length.min()):.3g} to "
                f"{float(length.max()):.3g}; give unit vectors."
            )
        return cls(tuple(tuple(v) for v in (grid / length[:, None]).tolist()))

    def __len__(self) -> int:
        return len(self.points)

    @property
    def dim(self) -> int:
        """Dimension d of space."""
        return len(self.points[0])

    @property
    def degree(self) -> int:
        """The highest degree of harmonics that the orientations tell apart."""
        return _fit(self)[0]

    def generators(self, linear: Tensor) -> Tensor:
        """D = Y L Y⁺ for the rotation part of K matrices A [K, d, d]: float64 [K, O, O].

        Raises:
            UnknownLayoutError: for shears and stretches, which do not keep directions apart.
        """
        degree, Y, inverse = _fit(self)
        A = linear.double().cpu()
        symmetric = (A + A.mT) / 2
        trace = symmetric.diagonal(dim1=1, dim2=2).mean(1)
        # Entries of generators are of order 1 in float64: 1e-12 is rounding.
        if (symmetric - trace[:, None, None] * torch.eye(self.dim)).abs().max() > 1e-12:
            raise UnknownLayoutError(
                "a fiber does not say how shears or stretches act; measure translation, rotation "
                "and scale."
            )
        rates = (
            A[:, 1, :1] if self.dim == 2 else torch.stack([A[:, 2, 1], A[:, 0, 2], A[:, 1, 0]], 1)
        )
        L = torch.einsum("kr,rij->kij", rates.to(Y), _basis_generators(self.dim, degree))
        return Y @ L @ inverse

    def moved(self, rotation: Tensor) -> Tensor:
        """The matrices of finite rotations or reflections R [B, d, d]: float64 [B, O, O]."""
        degree, Y, inverse = _fit(self)
        back = torch.linalg.inv(rotation.double().cpu())
        points = torch.einsum("bij,oj->boi", back, self.tensor)
        rest = torch.eye(len(self), dtype=torch.float64) - Y @ inverse
        return harmonics(points, degree) @ inverse + rest

    @property
    def tensor(self) -> Tensor:
        """The unit vectors, float64 [O, d]."""
        return torch.tensor(self.points, dtype=torch.float64)

    def residual(self, f: Tensor) -> float:
        """‖f − Y Y⁺ f‖ / ‖f‖ for features [rows, O, …]: what no generator can turn."""
        _, Y, inverse = _fit(self)
        f = f.detach().double().cpu()
        rest = f - torch.einsum("ij,bj...->bi...", Y @ inverse, f)
        return float(rest.norm() / f.norm()) if f.any() else 0.0

    def __repr__(self) -> str:
        return f"FiberGrid({len(self)} on S{'¹²'[self.dim - 2]}, degree {self.degree})"


def harmonics(points: Tensor, degree: int) -> Tensor:
    """Real orthonormal harmonics at unit vectors.

    On the circle 1, cos mθ, sin mθ; on the sphere Y_lm, from the recurrences of the Legendre
    functions in Cartesian form (any textbook; no angles, so smooth at the poles).

    Args:
        points: [..., 2] or [..., 3].
        degree: highest m, or l.

    Returns:
        [..., 2 · degree + 1] or [..., (degree + 1)²].

    Example:
        >>> harmonics(torch.eye(3), 1)[:, 1:].abs().sum(1)
        tensor([0.4886, 0.4886, 0.4886])
    """
    x, y = points[..., 0], points[..., 1]
    cos, sin = (
        [torch.ones_like(x)],
        [torch.zeros_like(x)],
    )  # of mθ, times the m-th power of √(x²+y²)
    for _ in range(degree):
        cos, sin = [*cos, x * cos[-1] - y * sin[-1]], [*sin, x * sin[-1] + y * cos[-1]]
    if points.shape[-1] == 2:
        rows = [cos[0] / math.sqrt(2 * math.pi)]
        for m in range(1, degree + 1):
            rows += [cos[m] / math.sqrt(math.pi), sin[m] / math.sqrt(math.pi)]
        return torch.stack(rows, -1)
    z, rows = points[..., 2], []
    for m in range(degree + 1):
        before, now = torch.zeros_like(z), torch.full_like(z, math.prod(range(1, 2 * m, 2)))
        for k in range(m, degree + 1):
            ratio = math.factorial(k - m) / math.factorial(k + m)
            size = math.sqrt((2 * k + 1) / (4 * math.pi) * ratio * (2 if m else 1))
            rows += [size * now * cos[m], size * now * sin[m]][: 2 if m else 1]
            before, now = now, ((2 * k + 1) * z * now - (k + m) * before) / (k - m + 1)
    return torch.stack(rows, -1)


@lru_cache(maxsize=32)
def _fit(grid: FiberGrid) -> tuple[int, Tensor, Tensor]:
    """Degree, Y [O, M] and its pseudo-inverse [M, O]."""
    points = grid.tensor
    for degree in range(_MAX_DEGREE, 0, -1):
        Y = harmonics(points, degree)
        if Y.shape[1] > len(points):
            continue
        sizes = torch.linalg.svdvals(Y)
        if sizes[-1] * _MAX_CONDITION > sizes[0]:
            return degree, Y, torch.linalg.pinv(Y)
    Y = harmonics(points, 0)
    return 0, Y, torch.linalg.pinv(Y)


@lru_cache(maxsize=32)
def _basis_generators(dim: int, degree: int) -> Tensor:
    """L on the coefficients for the rotations about each axis (one in the plane): [R, M, M]."""
    random = torch.Generator().manual_seed(0)
    M = 2 * degree + 1 if dim == 2 else (degree + 1) ** 2
    points = torch.randn(8 * M + 16, dim, dtype=torch.float64, generator=random)
    points = points / points.norm(dim=1, keepdim=True)
    Y = harmonics(points, degree)
    found = []
    for i, j in [(0, 1)] if dim == 2 else [(1, 2), (2, 0), (0, 1)]:
        velocity = torch.zeros_like(points)
        velocity[:, i], velocity[:, j] = -points[:, j], points[:, i]
        moved = torch.func.jvp(lambda p: harmonics(p, degree), (points,), (-velocity,))[1]
        found.append(torch.linalg.lstsq(Y, moved).solution)
    return torch.stack(found)
