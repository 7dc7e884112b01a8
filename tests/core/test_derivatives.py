"""Every scheme: D is the slope of its own interpolant; known derivatives; laws of the borders."""

import numpy as np
import pytest
import torch
from scipy import interpolate

from liederiv import SCHEMES, LieDerivError, get_scheme

SMOOTH = [name for name in SCHEMES if name != "bilinear"]


@pytest.mark.parametrize("n", [1, 2, 7, 16])
@pytest.mark.parametrize("name", SCHEMES)
def test_interpolates_its_samples(name, n):
    at_pixels = get_scheme(name).interpolation(n, torch.arange(n, dtype=torch.float64))
    assert (at_pixels - torch.eye(n)).abs().max() < 1e-13


@pytest.mark.parametrize("n", [1, 2, 7, 16])
@pytest.mark.parametrize("name", SMOOTH)
def test_matrix_is_the_slope_of_the_interpolant(name, n):
    scheme = get_scheme(name)
    u, h = torch.arange(n, dtype=torch.float64), 1e-6
    # Catmull-Rom is only once differentiable: its difference quotient converges like h.
    difference = (scheme.interpolation(n, u + h) - scheme.interpolation(n, u - h)) / (2 * h)
    assert (difference - scheme.derivative(n, torch.float64)).abs().max() < 2e-6


@pytest.mark.parametrize("name", SCHEMES)
def test_constants_have_no_slope(name):
    D = get_scheme(name).derivative(12, torch.float64)
    assert D.sum(1).abs().max() < 1e-13


@pytest.mark.parametrize("name", ["bspline", "central"])  # a line is not band-limited
def test_slope_of_a_line_away_from_the_border(name):
    D = get_scheme(name).derivative(64, torch.float64)
    line = 0.3 * torch.arange(64, dtype=torch.float64)
    assert ((D @ line)[24:40] - 0.3).abs().max() < 1e-9


@pytest.mark.parametrize("n", [15, 16])
def test_fourier_differentiates_sines_exactly(n):
    j = torch.arange(n, dtype=torch.float64)
    D = get_scheme("fourier").derivative(n, torch.float64)
    for k in range(1, (n + 1) // 2):
        w = 2 * torch.pi * k / n
        assert (D @ torch.sin(w * j) - w * torch.cos(w * j)).abs().max() < 1e-12


def test_fourier_drops_the_nyquist_mode():
    nyquist = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(4)
    D = get_scheme("fourier").derivative(8, torch.float64)
    assert (D @ nyquist).abs().max() < 1e-14


def test_fourier_mirror_differentiates_cosines_of_the_half_pixel_grid():
    n, k = 12, 3
    w = torch.pi * k / n
    u = torch.arange(n, dtype=torch.float64) + 0.5
    D = get_scheme("fourier_mirror").derivative(n, torch.float64)
    assert (D @ torch.cos(w * u) + w * torch.sin(w * u)).abs().max() < 1e-12


def test_bspline_agrees_with_scipy_spline():
    """Away from the border, where end conditions have died out (like 0.27 per pixel)."""
    n = 80
    v = np.random.default_rng(0).normal(size=n)
    spline = interpolate.make_interp_spline(np.arange(n), v, k=3)
    D = get_scheme("bspline").derivative(n, torch.float64).numpy()
    middle = slice(30, 50)
    assert np.abs(D @ v - spline(np.arange(n), nu=1))[middle].max() < 1e-12


def test_central_is_the_central_difference():
    D = get_scheme("central").derivative(5, torch.float64)
    assert D[2].tolist() == [0.0, -0.5, 0.0, 0.5, 0.0]
    assert D[0].tolist() == [-0.5, 0.5, 0.0, 0.0, 0.0]  # x[-1] = x[0] behind the mirrored edge


@pytest.mark.parametrize(("n", "below"), [(32, 0), (224, 36), (240, 50), (260, 49)])
def test_bilinear_sides_follow_float32_rounding(n, below):
    """Columns whose rounded position falls below the lattice take the left-hand slope."""
    D = get_scheme("bilinear").derivative(n, torch.float64)
    assert (D.diagonal() == 1).sum() == below
    assert (D.diagonal() == -1).sum() == n - below


def test_half_pixel_coordinates_of_a_coarser_grid_are_block_means():
    scheme = get_scheme("bspline")
    fine, coarse = scheme.coordinates(12), scheme.coordinates(4)
    assert torch.allclose(fine.reshape(4, 3).mean(1), coarse, atol=1e-15)


@pytest.mark.parametrize("name", ["bspline", "central", "fourier_mirror"])
def test_mirrored_border_commutes_with_reversal(name):
    D = get_scheme(name).derivative(9, torch.float64)
    assert (D.flip(0, 1) + D).abs().max() < 1e-13


def test_dtype_and_cache():
    D = get_scheme("bspline").derivative(8, torch.float32)
    assert D.dtype == torch.float32
    assert D is get_scheme("bspline").derivative(8, torch.float32)


def test_unknown_scheme_names_the_choices():
    with pytest.raises(LieDerivError, match="scheme='bicubic' is unknown; choose one of bspline"):
        get_scheme("bicubic")
