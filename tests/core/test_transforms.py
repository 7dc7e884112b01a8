"""Finite transforms: one-parameter group laws, generators as derivatives, scipy, the lattice."""

import math

import numpy as np
import pytest
import scipy.ndimage
import torch
from cases import band_limited
from laws import assert_generates, assert_group, assert_identity
from tolerances import COMPUTED, assert_close

from liederiv import GENERATORS, GROUPS, SCHEMES, ImageError, LieDerivError, generator
from liederiv import transforms as module
from liederiv.actions import ImageAction
from liederiv.generators import resolve_generators
from liederiv.transforms import FiniteTransform, flip, roll, rot90, transform

SMOOTH = ("bspline", "fourier", "fourier_mirror", "central")
MIRRORED = ("bspline", "fourier_mirror", "central")


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def blob(q: torch.Tensor) -> torch.Tensor:
    """A Gaussian at (2, -3), elliptic and tilted; q: [2, ...] pixels from the image centre."""
    x, y = q[0] - 2, q[1] + 3
    return torch.exp(-(x**2 + 1.6 * y**2 + 0.7 * x * y) / 20)


def centred_grid(h: int, w: int) -> torch.Tensor:
    y = torch.arange(h, dtype=torch.float64) - (h - 1) / 2
    x = torch.arange(w, dtype=torch.float64) - (w - 1) / 2
    return torch.stack(torch.broadcast_tensors(x, y[:, None]))


def tangent(x: torch.Tensor, name: str, scheme: str) -> torch.Tensor:
    return ImageAction([generator(name)], *x.shape[-2:], scheme).tangents(x)[0]


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", GENERATORS)
def test_identity_at_zero_is_exact(name, scheme):
    assert_identity(noise(2, 3, 9, 12), name, scheme)


@pytest.mark.parametrize("scheme", SMOOTH)
@pytest.mark.parametrize("name", GROUPS["spatial"])
def test_generator_is_the_derivative_of_the_finite_transform(name, scheme):
    assert_generates(noise(2, 1, 14, 18), name, scheme)


@pytest.mark.parametrize("name", GROUPS["intensity"])
def test_intensity_generators_are_derivatives_and_groups(name):
    x = noise(2, 3, 8, 8)
    assert_generates(x, name)
    assert_group(x, name, 0.4, -1.1)


def test_the_law_fails_for_a_wrong_generator():
    """The helpers see a wrong transform."""
    x = noise(1, 1, 14, 18)
    with pytest.raises(AssertionError):
        assert_generates(x, "shear_x", of="shear_y")
    with pytest.raises(AssertionError):
        assert_group(x, "translation_x", 0.5, 0.5, "central")


def test_bilinear_tends_to_one_sided_differences_and_its_derivative_holds_one_of_them():
    x = noise(1, 1, 6, 33)
    forward, backward = (
        (transform(x, "translation_x", t, "bilinear") - x) / t for t in (0.2, -0.2)
    )
    reflected = torch.cat([x[..., 1:2], x, x[..., -2:-1]], -1)  # … 1 0 | 0-th pixel itself
    torch.testing.assert_close(forward, reflected[..., 2:] - x, rtol=0, atol=1e-13)
    torch.testing.assert_close(backward, x - reflected[..., :-2], rtol=0, atol=1e-13)
    Xx = tangent(x, "translation_x", "bilinear")
    sides = torch.stack(
        [(Xx - forward).abs().amax((0, 1, 2)), (Xx - backward).abs().amax((0, 1, 2))]
    )
    assert sides.amin(0).max() < 1e-12, "every column holds one of the two"
    assert sides.amax(0).min() > 1e-3, "and the two differ"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("t", [3, -5, 40])
def test_whole_pixels_are_copied_exactly(scheme, t, dtype):
    x = noise(2, 2, 7, 11).to(dtype)
    mode = {"fourier": "wrap", "bilinear": "reflect"}.get(scheme, "symmetric")
    for axis, name in ((3, "translation_x"), (2, "translation_y")):
        padding = [(0, 0)] * 4
        padding[axis] = (40, 40)
        padded = torch.from_numpy(np.pad(x.numpy(), padding, mode=mode))
        expected = padded.narrow(axis, 40 + t, x.shape[axis])
        assert torch.equal(transform(x, name, t, scheme), expected)
    if scheme == "fourier":
        assert torch.equal(transform(x, "translation_x", t, scheme), roll(x, t, 0))
        assert torch.equal(transform(x, "translation_y", t, scheme), roll(x, 0, t))


@pytest.mark.parametrize("name", ["translation_x", "translation_y"])
def test_fourier_translation_is_an_exact_group_on_band_limited_signals(name):
    assert_group(band_limited((2, 3, 12, 17), band=0.9), name, 2.37, -0.61, "fourier")


@pytest.mark.parametrize("scheme", ["bspline", "fourier", "fourier_mirror"])
@pytest.mark.parametrize("name", GROUPS["spatial"])
def test_affine_transforms_move_a_smooth_picture_along_the_true_flow(name, scheme):
    """Against the picture evaluated at exp(tξ)(q), on a non-square image: a rotation rotates."""
    q = centred_grid(48, 56)
    t = 1.7 if "translation" in name else 0.23
    field = torch.zeros(3, 3, dtype=torch.float64)
    field[:2] = generator(name).affine(28.0, 24.0)
    A = torch.linalg.matrix_exp(t * field)
    moved = torch.einsum("ij,jhw->ihw", A[:2, :2], q) + A[:2, 2, None, None]
    got = transform(blob(q)[None, None], name, t, scheme)[0, 0]
    assert (got - blob(moved)).abs().max() < (2e-3 if scheme == "bspline" else 1e-6)
    assert (blob(q) - blob(moved)).abs().max() > 0.1


def test_rotation_flow_in_closed_form():
    """x(R_t q) with R_t = [[cos t, −sin t], [sin t, cos t]]: a fixed sign convention."""
    q, t = centred_grid(48, 56), 0.8
    moved = torch.stack(
        [math.cos(t) * q[0] - math.sin(t) * q[1], math.sin(t) * q[0] + math.cos(t) * q[1]]
    )
    got = transform(blob(q)[None, None], "rotation", t, "fourier")[0, 0]
    action = ImageAction([generator("rotation")], 48, 56)
    inside = FiniteTransform(action, torch.tensor([[t]])).valid(48, 56)[0, 0]
    assert inside.float().mean() > 0.7
    assert (got - blob(moved))[inside].abs().max() < 1e-6, "elsewhere the periodic picture enters"


@pytest.mark.parametrize(("scheme", "tolerance"), [("fourier", 1e-6), ("bspline", 6e-3)])
def test_commutators_of_tangents(scheme, tolerance):
    """[X_rot, X_tx] = −X_ty, [X_rot, X_ty] = X_tx, [X_tx, X_ty] = 0, [X_scale, X_rot] = 0.

    The cubic spline differentiates a wave of frequency ω as ω(1 − ω⁴/180), so a commutator, which
    differentiates this in ω, is off by ω⁴/36: 6e-3 at the blob's ω ≈ 0.7.
    """
    x = blob(centred_grid(48, 56))[None, None]

    def bracket(a: str, b: str) -> torch.Tensor:
        first = tangent(tangent(x, b, scheme), a, scheme)
        return first - tangent(tangent(x, a, scheme), b, scheme)

    tx, ty = (tangent(x, f"translation_{a}", scheme) for a in "xy")
    assert relative(bracket("rotation", "translation_x"), -ty) < tolerance
    assert relative(bracket("rotation", "translation_y"), tx) < tolerance
    assert relative(bracket("rotation", "translation_x"), ty) > 1.9
    assert bracket("translation_x", "translation_y").norm() < 1e-12 * tx.norm()
    size = tangent(tangent(x, "rotation", scheme), "scale", scheme).norm()
    assert bracket("scale", "rotation").norm() < tolerance * size


@pytest.mark.parametrize("t", [0.3, -2.41, 30.7])
def test_bspline_translation_agrees_with_scipy(t):
    x = noise(1, 1, 20, 23)
    for name, shift in (("translation_x", (0, -t)), ("translation_y", (-t, 0))):
        theirs = scipy.ndimage.shift(x[0, 0].numpy(), shift, order=3, mode="reflect")
        ours = transform(x, name, t)[0, 0].numpy()
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", [n for n in GROUPS["spatial"] if "translation" not in n])
@pytest.mark.parametrize("t", [0.21, -1.3])
def test_bspline_affine_agrees_with_scipy(name, t):
    x = noise(1, 1, 20, 23)
    A = torch.linalg.matrix_exp(t * torch.tensor(generator(name).linear, dtype=torch.float64))
    rows = A.flip(0, 1).numpy()  # (x, y) to (row, column)
    centre = np.array([9.5, 11.0])
    theirs = scipy.ndimage.affine_transform(
        x[0, 0].numpy(), rows, centre - rows @ centre, order=3, mode="reflect"
    )
    np.testing.assert_allclose(transform(x, name, t)[0, 0].numpy(), theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_quarter_turns_and_half_turns_are_permutations(scheme):
    x = noise(2, 1, 10, 10)
    for k in (1, 2, 3, -1):
        turned = transform(x, "rotation", k * math.pi / 2, scheme)
        assert_close(turned, rot90(x, k))
    y = noise(1, 1, 6, 9)
    assert_close(transform(y, "rotation", math.pi, scheme), flip(flip(y, "x"), "y"))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", ["translation_y", "rotation", "stretch_x", "contrast"])
def test_one_parameter_per_image(name, scheme):
    x, t = noise(3, 2, 8, 10), torch.tensor([0.4, -0.7, 0.0])
    together = transform(x, name, t, scheme)
    for b in range(3):
        alone = transform(x[b : b + 1], name, float(t[b]), scheme)
        torch.testing.assert_close(together[b : b + 1], alone, rtol=0, atol=1e-13)
    whole = transform(x, "translation_x", torch.tensor([1, 0, -2]), scheme)
    assert torch.equal(whole[1], x[1])
    assert torch.equal(whole[2:], transform(x[2:], "translation_x", -2, scheme))


def test_chunks_of_the_dense_product_do_not_show(monkeypatch):
    x = noise(2, 2, 9, 12)
    whole = transform(x, "rotation", 0.3, "fourier")
    monkeypatch.setattr(module, "_DENSE_BUDGET", 5 * 2 * 2 * 9)
    torch.testing.assert_close(transform(x, "rotation", 0.3, "fourier"), whole, rtol=0, atol=1e-14)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", ["translation_x", "rotation"])
def test_float32_agrees_with_float64_and_keeps_its_dtype(name, scheme):
    x = noise(1, 3, 16, 16)
    single = transform(x.float(), name, 0.37, scheme)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), transform(x, name, 0.37, scheme), rtol=0, atol=5e-6)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_spatial_transforms_are_linear_and_differentiable_in_the_image(scheme):
    x, v = noise(1, 2, 6, 7), noise(1, 2, 6, 7, seed=1)
    _, jv = torch.func.jvp(lambda x: transform(x, "rotation", 0.5, scheme), (x,), (v,))
    torch.testing.assert_close(jv, transform(v, "rotation", 0.5, scheme), rtol=0, atol=1e-13)


def test_two_generators_at_once_are_the_exponential_of_their_sum():
    x = noise(2, 1, 12, 16)
    action = ImageAction([generator("translation_x"), generator("translation_y")], 12, 16)
    both = FiniteTransform(action, torch.tensor([[1.3, -0.6]])).on_input(x)
    t = torch.tensor([1.3, -0.6]).double()
    one = transform(transform(x, "translation_x", float(t[0])), "translation_y", float(t[1]))
    torch.testing.assert_close(both, one, rtol=0, atol=1e-6)
    # A rotation about a point c: ξ(q) = J (q − c). The fixed point c stays where it is.
    pair = ImageAction([generator("rotation"), generator("translation_x")], 13, 13)
    centre_at_y4 = FiniteTransform(pair, torch.tensor([[0.9, 0.9 * 2.0]], dtype=torch.float64))
    y = noise(1, 1, 13, 13)
    moved = centre_at_y4.on_input(y)
    assert abs(moved[0, 0, 8, 6] - y[0, 0, 8, 6]) < 1e-12
    assert abs(moved[0, 0, 8, 7] - y[0, 0, 8, 7]) > 1e-3


def test_valid_marks_what_came_from_inside():
    action = ImageAction([generator("translation_x")], 8, 8)
    inside = FiniteTransform(action, torch.tensor([[3.0], [-1.0]])).valid(8, 8)
    assert inside.shape == (2, 1, 8, 8)
    assert inside.sum((1, 2, 3)).tolist() == [5 * 8, 7 * 8]
    assert inside[0, 0, 0].tolist() == [True] * 5 + [False] * 3
    coarse = FiniteTransform(action, torch.tensor([[4.0]])).valid(4, 4, margin=1.0)
    assert coarse[0, 0].tolist() == [[False] * 4, [True, False, False, False],
                                     [True, False, False, False], [False] * 4]  # fmt: skip


def test_lattice_symmetries():
    x = torch.arange(6.0).reshape(1, 1, 2, 3)
    assert flip(x, "x")[0, 0].tolist() == [[2, 1, 0], [5, 4, 3]]
    assert flip(x, "y")[0, 0].tolist() == [[3, 4, 5], [0, 1, 2]]
    assert roll(x, 1, 0)[0, 0].tolist() == [[1, 2, 0], [4, 5, 3]]
    assert rot90(x)[0, 0].tolist() == [[2, 5], [1, 4], [0, 3]]
    last = x.movedim(1, -1)
    assert torch.equal(rot90(last, dims=(1, 2)), rot90(x).movedim(1, -1))
    with pytest.raises(LieDerivError, match="axis='h'"):
        flip(x, "h")


def test_errors_say_what_is_wrong():
    x = noise(3, 1, 8, 8)
    with pytest.raises(ImageError, match="2 entries for 3 images"):
        transform(x, "rotation", torch.tensor([0.1, 0.2]))
    with pytest.raises(ImageError, match="2 entries for 3 images"):
        transform(x, "contrast", torch.tensor([0.1, 0.2]))
    with pytest.raises(ImageError, match=r"B, C, H, W"):
        transform(x[0], "rotation", 0.1)
    with pytest.raises(LieDerivError, match="transform 'twist' is unknown"):
        transform(x, "twist", 0.1)
    both = ImageAction([generator("rotation"), generator("contrast")], 8, 8)
    with pytest.raises(LieDerivError, match="alone"):
        FiniteTransform(both, torch.zeros(1, 2))
    with pytest.raises(LieDerivError, match="one column for each"):
        FiniteTransform(both, torch.zeros(2))
    bound = FiniteTransform(ImageAction([generator("rotation")], 9, 9), torch.zeros(1, 1))
    with pytest.raises(ImageError, match="bound to 9 × 9"):
        bound.on_input(x)


def test_a_window_is_moved_by_as_many_pixels_as_the_image():
    x = torch.rand(1, 1, 12, 16, dtype=torch.float64)
    middle = (..., slice(2, 10), slice(3, 13))
    shift = FiniteTransform(
        ImageAction(resolve_generators("translation"), 12, 16), torch.ones(1, 2)
    )
    moved = shift.within(8, 10).on_map(x[middle])
    assert_close(moved[..., :-1, :-1], shift.on_map(x)[middle][..., :-1, :-1], COMPUTED)
    turn = FiniteTransform(
        ImageAction(resolve_generators("rotation"), 12, 16),
        torch.full((1, 1), math.pi / 2, dtype=torch.float64),
    )
    square = x[..., 2:10, 4:12]
    assert_close(turn.within(8, 8).on_map(square), rot90(square), COMPUTED)
