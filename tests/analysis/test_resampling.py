"""Band-limited resampling: laws of the matrices."""

import pytest
import torch

from liederiv import LieDerivError, get_scheme
from liederiv.analysis.aliasing.resampling import (
    blur,
    check_boundary,
    downsampling,
    fine_positions,
    low_pass,
    pad,
    upsampling,
)

F64, CPU = torch.float64, torch.device("cpu")
BOUNDARIES = ("periodic", "mirror")


def modes(n, boundary):
    """Columns: the modes of the band, sampled at positions u by the function returned."""
    if boundary == "mirror":
        return [lambda u, k=k: torch.cos(torch.pi * k * (u + 0.5) / n) for k in range(n)]
    out = [lambda u: torch.ones_like(u)]
    for k in range(1, (n + 1) // 2):
        out += [lambda u, k=k: torch.cos(2 * torch.pi * k * u / n)]
        out += [lambda u, k=k: torch.sin(2 * torch.pi * k * u / n)]
    return out


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("n", [7, 8])
@pytest.mark.parametrize("factor", [1, 2, 3])
def test_every_mode_of_the_band_goes_up_and_down_unchanged(boundary, n, factor):
    U = upsampling(n, factor, boundary, F64, CPU)
    D = downsampling(n, factor, boundary, F64, CPU)
    u, fine = torch.arange(n, dtype=F64), fine_positions(n, factor)
    for mode in modes(n, boundary):
        assert torch.allclose(U @ mode(u), mode(fine), atol=1e-12)
        assert torch.allclose(D @ mode(fine), mode(u), atol=1e-12)


@pytest.mark.parametrize("n", [7, 8])
def test_upsampling_is_the_mirrored_fourier_scheme(n):
    want = get_scheme("fourier_mirror").interpolation(n, fine_positions(n, 3))
    assert torch.allclose(upsampling(n, 3, "mirror", F64, CPU), want, atol=1e-13)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_downsampling_removes_what_the_coarse_grid_cannot_carry(boundary):
    n, factor = 8, 4
    D = downsampling(n, factor, boundary, F64, CPU)
    # The modes of the fine grid beyond the coarse band; the Nyquist mode is beyond it, too.
    for mode in modes(n * factor, boundary)[n:]:
        u = fine_positions(n, factor) * factor + (factor - 1) / 2  # pixels of the fine grid
        assert (D @ mode(u)).abs().max() < 1e-12


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_low_pass_keeps_half_the_band_for_stride_two(boundary):
    n = 16
    P = low_pass(n, 2, boundary, F64, CPU)
    u = torch.arange(n, dtype=F64)
    rank = 7 if boundary == "periodic" else 8  # |k| < 4, or k < 8
    for i, mode in enumerate(modes(n, boundary)):
        want = mode(u) if i < rank else torch.zeros(n, dtype=F64)
        assert torch.allclose(P @ mode(u), want, atol=1e-12)
    assert torch.allclose(P @ P, P, atol=1e-12)


@pytest.mark.parametrize("stride", [2, 3, 4])
def test_blur_is_zhangs_triangle_and_moves_nothing(stride):
    B = blur(12, stride, "periodic", F64, CPU)
    row = B[6]
    assert torch.allclose(row.sum(), torch.tensor(1.0, dtype=F64))
    assert torch.allclose(row[6 - stride : 7 + stride], row[6 - stride : 7 + stride].flip(0))
    if stride == 2:
        assert row[5:8].tolist() == [0.25, 0.5, 0.25]
    wave = torch.cos(2 * torch.pi * torch.arange(12, dtype=F64) / stride)
    assert (B @ wave).abs().max() < 1e-12  # aliases onto the constant, so it must vanish


def test_pad_continues_both_ways():
    z = torch.arange(3.0).expand(1, 1, 1, 3)
    assert pad(z, (0, 2), (0, 2), "periodic")[0, 0, 0].tolist() == [1, 2, 0, 1, 2, 0, 1]
    assert pad(z, (0, 2), (0, 2), "mirror")[0, 0, 0].tolist() == [1, 0, 0, 1, 2, 2, 1]


def test_unknown_boundary_is_refused():
    with pytest.raises(LieDerivError, match="boundary='zeros' is unknown"):
        check_boundary("zeros")
