"""Tangents: analytic values, commutators, units, non-square images, groups of names."""

import pytest
import torch
from cases import band_limited
from tolerances import assert_close

from liederiv import GENERATORS, ImageError, LieDerivError, generator, resolve_generators
from liederiv.actions import ImageAction

SPATIAL = [n for n, g in GENERATORS.items() if hasattr(g, "linear")]


def bump(h: int, w: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A Gaussian bump far from the border, with x, y in pixels from the centre and its width²."""
    y, x = torch.meshgrid(
        torch.arange(h, dtype=torch.float64) - (h - 1) / 2,
        torch.arange(w, dtype=torch.float64) - (w - 1) / 2,
        indexing="ij",
    )
    s2 = torch.tensor(9.0, dtype=torch.float64)
    return torch.exp(-((x - 2) ** 2 + (y + 3) ** 2) / (2 * s2)), x, y, s2


@pytest.mark.parametrize("size", [(48, 48), (48, 64)])
@pytest.mark.parametrize("name", SPATIAL)
def test_tangent_is_the_field_times_the_analytic_gradient(name, size):
    z, x, y, s2 = bump(*size)
    gx, gy = -(x - 2) / s2 * z, -(y + 3) / s2 * z
    A = torch.tensor(GENERATORS[name].linear, dtype=torch.float64)
    b = torch.tensor(GENERATORS[name].shift, dtype=torch.float64)
    xi = torch.einsum("ij,jhw->ihw", A, torch.stack([x, y])) + b[:, None, None]
    want = xi[0] * gx + xi[1] * gy
    action = ImageAction((GENERATORS[name],), *size, "fourier")
    got = action.tangents(z[None, None])[0, 0, 0]
    assert (got - want).abs().max() < 1e-6 * want.abs().max()


def _bracket(first: str, second: str, z: torch.Tensor) -> torch.Tensor:
    """[X, Y] z on an image, both applied through the spectral scheme."""
    X = ImageAction((GENERATORS[first],), *z.shape[-2:], "fourier")
    Y = ImageAction((GENERATORS[second],), *z.shape[-2:], "fourier")
    return X.on_map(Y.on_map(z)[0])[0] - Y.on_map(X.on_map(z)[0])[0]


@pytest.mark.parametrize(
    ("first", "second", "result", "sign"),
    [
        ("rotation", "translation_x", "translation_y", -1),
        ("rotation", "translation_y", "translation_x", 1),
        ("scale", "translation_x", "translation_x", -1),
        ("shear_x", "translation_y", "translation_x", -1),
        ("hyperbolic_rotation", "translation_x", "translation_y", -1),
    ],
)
def test_commutators(first, second, result, sign):
    """[X_ξ, X_η] = X_{ξ·∇η − η·∇ξ}: for a linear field A and a shift b that is −A b."""
    z = bump(48, 64)[0][None, None]
    want = sign * ImageAction((GENERATORS[result],), 48, 64, "fourier").on_map(z)[0]
    assert (_bracket(first, second, z) - want).norm() < 1e-5 * want.norm()


def test_rotation_and_scale_commute():
    z = bump(48, 48)[0][None, None]
    assert _bracket("rotation", "scale", z).norm() < 1e-5 * z.norm()


def test_sum_of_two_stretches_is_scale():
    x = band_limited((1, 2, 16, 24))
    names = ("stretch_x", "stretch_y", "scale")
    t = ImageAction(resolve_generators(names), 16, 24).tangents(x)
    assert (t[0] + t[1] - t[2]).abs().max() < 1e-12


def test_grid_unit_is_half_widths():
    x = band_limited((1, 1, 8, 12))
    pixel = ImageAction((generator("translation_x"),), 8, 12).tangents(x)
    grid = ImageAction((generator("translation_x", unit="grid"),), 8, 12).tangents(x)
    assert_close(grid, 6 * pixel)


def test_coarser_map_moves_by_the_same_fraction():
    """One pixel of the input is a quarter of a pixel of a map four times coarser."""
    action = ImageAction((generator("translation_x"),), 32, 32)
    z = band_limited((1, 1, 8, 8))
    want = z @ action.scheme.derivative(8, torch.float64).T / 4
    assert_close(action.on_map(z)[0], want)


def test_channels_last_is_the_same_action():
    action = ImageAction(resolve_generators("spatial"), 16, 24)
    z = band_limited((2, 3, 8, 12))
    last = action.on_map(z.permute(0, 2, 3, 1), channels_last=True)
    assert (last.permute(0, 1, 4, 2, 3) - action.on_map(z)).abs().max() < 1e-12


def test_intensity_tangents():
    x = band_limited((2, 3, 4, 4))
    sat, bri, con = ImageAction(resolve_generators("intensity"), 4, 4).tangents(x)
    assert torch.equal(sat, x)
    assert torch.equal(bri, torch.ones_like(x))
    assert con.mean((1, 2, 3)).abs().max() < 1e-15
    # Intensities act trivially on maps computed by the network.
    assert ImageAction(resolve_generators("intensity"), 4, 4).on_map(x).abs().max() == 0


def test_names_expand_to_groups_in_order():
    names = [g.name for g in resolve_generators("rotation, translation,translation_x")]
    assert names == ["rotation", "translation_x", "translation_y"]
    assert len(resolve_generators("all")) == len(GENERATORS) == 12


def test_errors_name_the_remedy():
    with pytest.raises(LieDerivError, match=r"transform 'twist' is unknown; choose from trans"):
        generator("twist")
    with pytest.raises(LieDerivError, match=r"'translation' stands for several"):
        generator("translation")
    with pytest.raises(LieDerivError, match="transforms is empty"):
        resolve_generators("")
    with pytest.raises(LieDerivError, match="unit='metre' is unknown"):
        generator("rotation", unit="metre")
    action = ImageAction(resolve_generators("rotation"), 8, 8)
    with pytest.raises(ImageError, match=r"8 × 9 pixels"):
        action.tangents(torch.zeros(1, 1, 8, 9))
    with pytest.raises(ImageError, match=r"dtype torch.uint8"):
        action.tangents(torch.zeros(1, 1, 8, 8, dtype=torch.uint8))
    with pytest.raises(ImageError, match=r"add the batch dimension"):
        action.tangents(torch.zeros(1, 8, 8))


def test_a_window_moves_as_the_image_around_it():
    """Away from its border, X of the middle of an image is the middle of X of the image."""
    x = torch.rand(1, 1, 12, 16, dtype=torch.float64)
    middle = (..., slice(2, 10), slice(3, 13))
    inner = (..., slice(1, -1), slice(1, -1))
    for unit in ("pixel", "grid"):
        action = ImageAction(resolve_generators("spatial", unit=unit), 12, 16, "central")
        window = action.within(8, 10)
        want = action.on_map(x)[middle][inner]
        assert_close(window.on_map(x[middle])[inner], want)
