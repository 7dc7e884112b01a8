"""Functions of orientation: harmonics, their generators, finite rotations, fit residuals."""

import math

import pytest
import torch
from point_networks import clouds
from scipy.special import sph_harm_y

from liederiv import UnknownLayoutError, lie_derivative, resolve_generators
from liederiv.metrics.finite import act_finite
from liederiv.points import (
    POINTS,
    Fiber,
    FiberGrid,
    PointAction,
    PointTransform,
    harmonics,
    random_rotations,
)


def fibonacci(n: int) -> torch.Tensor:
    i = torch.arange(n, dtype=torch.float64)
    z = 1 - (2 * i + 1) / n
    angle, r = math.pi * (1 + 5**0.5) * i, (1 - z**2).sqrt()
    return torch.stack([r * angle.cos(), r * angle.sin(), z], 1)


def circle(n: int) -> torch.Tensor:
    angle = 2 * math.pi * torch.arange(n, dtype=torch.float64) / n + 0.1
    return torch.stack([angle.cos(), angle.sin()], 1)


def grid(dim: int, n: int) -> FiberGrid:
    return FiberGrid.of(circle(n) if dim == 2 else fibonacci(n))


def rotations(dim: int) -> torch.Tensor:
    names = "rotation"
    return torch.stack(
        [g.affine[:, :dim] for g in resolve_generators(names, catalogue=POINTS[dim])]
    )


def test_spherical_harmonics_are_scipys():
    p = fibonacci(50)
    theta, phi = p[:, 2].arccos(), torch.atan2(p[:, 1], p[:, 0])
    got, column = harmonics(p, 4), 0
    for m in range(5):
        for degree in range(m, 5):
            Y = torch.tensor(sph_harm_y(degree, m, theta.numpy(), phi.numpy())) * (-1) ** m
            parts = [Y.real] if m == 0 else [math.sqrt(2) * Y.real, math.sqrt(2) * Y.imag]
            for want in parts:
                assert (got[:, column] - want).abs().max() < 1e-12
                column += 1
    assert column == got.shape[1] == 25


def test_harmonics_of_the_circle_are_orthonormal():
    Y = harmonics(circle(64), 5)
    assert torch.allclose(Y.T @ Y * 2 * math.pi / 64, torch.eye(11, dtype=torch.float64))


@pytest.mark.parametrize(("dim", "n"), [(2, 3), (2, 8), (3, 4), (3, 8), (3, 16), (3, 40)])
def test_generator_of_a_vectors_components_along_the_orientations(dim, n):
    """f(n) = v·n is of degree 1, and a rotation turns v: D f = (A v)·n, without residual."""
    fiber = grid(dim, n)
    v = torch.randn(2, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    f = v @ fiber.tensor.T
    for A, D in zip(rotations(dim), fiber.generators(rotations(dim)), strict=True):
        assert torch.allclose(f @ D.T, (v @ A.T) @ fiber.tensor.T, atol=1e-12)
    assert fiber.residual(f[..., None]) < 1e-12


@pytest.mark.parametrize(("dim", "n"), [(2, 9), (3, 32)])
def test_generators_against_finite_rotations_of_band_limited_functions(dim, n):
    fiber = grid(dim, n)
    degree = fiber.degree
    assert degree == 4
    M = harmonics(fiber.tensor, degree).shape[1]
    c = torch.randn(M, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    f = harmonics(fiber.tensor, degree) @ c
    for A, D in zip(rotations(dim), fiber.generators(rotations(dim)), strict=True):
        t = 0.8
        R = torch.linalg.matrix_exp(t * A)
        want = harmonics(fiber.tensor @ R, degree) @ c  # rows n @ R are R⁻¹ n
        assert torch.allclose(torch.linalg.matrix_exp(t * D) @ f, want, atol=1e-10)
        assert torch.allclose(fiber.moved(R[None])[0] @ f, want, atol=1e-10)


def test_generators_close_as_so3():
    """On band-limited functions D is a representation: [D_x, D_y] = ±D_z as the fields commute."""
    fiber = grid(3, 16)
    Dx, Dy, Dz = fiber.generators(rotations(3))
    A = rotations(3)
    assert torch.allclose(A[0] @ A[1] - A[1] @ A[0], A[2])
    assert torch.allclose(Dx @ Dy - Dy @ Dx, Dz, atol=1e-10)


def test_finite_rotations_form_a_group_on_what_the_fit_reaches():
    fiber = grid(3, 20)
    R = random_rotations(2, 3, torch.Generator().manual_seed(0))
    one, other, both = fiber.moved(torch.stack([R[0], R[1], R[0] @ R[1]]))
    assert torch.allclose(one @ other, both, atol=1e-10)


def test_random_rotations_are_rotations_and_uniform():
    for dim in (2, 3):
        R = random_rotations(4000, dim, torch.Generator().manual_seed(0))
        assert torch.allclose(
            R @ R.mT, torch.eye(dim, dtype=torch.float64).expand_as(R), atol=1e-12
        )
        assert torch.allclose(torch.linalg.det(R), torch.ones(4000, dtype=torch.float64))
        # Uniform: the trace's mean is 0, its mean square 1 in space and 2 in the plane.
        trace = R.diagonal(dim1=1, dim2=2).sum(1)
        assert abs(float(trace.mean())) < 0.08
        assert abs(float(trace.square().mean()) - {2: 2, 3: 1}[dim]) < 0.1


def test_residual_of_what_is_not_band_limited():
    fiber = grid(3, 16)
    high = harmonics(fiber.tensor, 5)[:, -3:]
    assert fiber.residual(high[None]) > 0.3
    assert fiber.residual(torch.zeros(2, 16, 3)) == 0.0


def test_lifted_vectors_are_equivariant_fibers():
    """A vector lifted to its components along O orientations, per node and per graph."""
    points = fibonacci(12).float()
    fiber = Fiber.on(points)
    cloud = clouds()

    def lift(c):
        return (c.vectors["velocity"][:, 0] @ points.double().T)[:, :, None].repeat(1, 1, 2)

    got = lie_derivative(lift, cloud, "rigid", output=fiber)
    assert got.shape == (6, 9, 12, 2)
    assert got.abs().max() < 1e-6  # the grid was given in float32, and is normalised
    turns = random_rotations(3, 3, torch.Generator().manual_seed(0))
    g = PointTransform(PointAction((), cloud), turns)
    assert (lift(g.on_input(cloud)) - act_finite(fiber, g, lift(cloud))).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (torch.zeros(3), r"shape \[3\]"),
        (2 * torch.eye(3), "vectors of length 2 to 2"),
    ],
)
def test_grids_that_are_refused(points, message):
    with pytest.raises(UnknownLayoutError, match=message):
        FiberGrid.of(points)


def test_a_fiber_of_another_size_or_dimension_is_refused():
    cloud = clouds()
    with pytest.raises(UnknownLayoutError, match="needs orientations: 4 on the second axis"):
        lie_derivative(lambda c: c.pos[:, :, None], cloud, "scale", output=Fiber.on(fibonacci(4)))
    with pytest.raises(UnknownLayoutError, match="orientations in 2-D for points in 3-D"):
        lie_derivative(lambda c: c.pos[:, :, None], cloud, "scale", output=Fiber.on(circle(3)))
