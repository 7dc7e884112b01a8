"""`assert_equivariant` on maps whose errors are known, and what it says when they fail."""

import math
import re

import pytest
import torch
from cases import band_limited, formula_images, formula_network
from points.point_networks import LinearForms, Pairs, clouds
from torch import nn

from liederiv import (
    FeatureMap,
    LieDerivError,
    ModelError,
    NotDifferentiableError,
    PointCloud,
    TokenGrid,
    UnknownLayoutError,
    resolve_generators,
)
from liederiv.actions import ImageAction
from liederiv.locations import in_words
from liederiv.points.action import PointAction
from liederiv.points.representations import Fiber, Positions, Scalars, Vectors
from liederiv.testing import RTOL, assert_equivariant, equivariance_errors

X = band_limited((3, 2, 8, 8))


def circular(dtype=torch.float64):
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular") for _ in range(2)]
    return nn.Sequential(layers[0], nn.Conv2d(4, 2, 1), layers[1]).to(dtype).eval()


def failure(*arguments, **named) -> str:
    with pytest.raises(AssertionError) as caught:
        assert_equivariant(*arguments, **named)
    return str(caught.value)


# --- maps that are equivariant -------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equivariant_maps_pass(dtype):
    x = X.to(dtype)
    assert_equivariant(circular(dtype), x, "translation")
    pooled = nn.Sequential(circular(dtype), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    assert_equivariant(pooled, x, "translation")
    assert_equivariant(lambda x: x, x, "spatial", output="NCHW")
    assert_equivariant(lambda x: x.permute(0, 2, 3, 1), x, "spatial", output="NHWC")
    assert_equivariant(lambda x: x * 0 + 1, x, "translation", output="invariant", verify=False)


@pytest.mark.parametrize("kind", ["energy", "charges", "forces", "positions", "dipole"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equivariant_networks_on_points_pass(kind, dtype):
    model = Pairs(kind).to(dtype).eval()
    assert_equivariant(model, clouds((5, 3), dtype=dtype), "rotation")
    motions = "translation" if kind == "dipole" else "rigid"
    assert_equivariant(model, clouds((5, 3), dtype=dtype), motions)


def test_errors_in_float64_are_rounding():
    for e in equivariance_errors(circular(), X, "translation"):
        assert 0 < e.error < 1e-13
    assert RTOL[torch.float64] < RTOL[torch.float32] < RTOL[torch.float16]


# --- analytic errors -----------------------------------------------------------------------------


def test_a_flip_has_error_sqrt_2_along_its_axis():
    """D flip = −flip D: L = −2 D f, and noise keeps its norm under a flip, so 2 / √(1 + 1)."""
    one = X[:1]
    x, y = equivariance_errors(lambda x: x.flip(-1), one, "translation", output="NCHW")
    assert math.isclose(x.error, math.sqrt(2), rel_tol=1e-12)
    assert y.error < 1e-14
    # The place is where the slope of the output is largest.
    D = ImageAction(resolve_generators("translation_x"), 8, 8, "fourier").on_map(one.flip(-1))
    assert torch.equal(torch.tensor(x.index), (D[0].abs() == D.abs().max()).nonzero()[0])
    assert math.isclose(x.value, -2 * D[0][x.index], rel_tol=1e-9)


def test_the_identity_declared_invariant_has_error_1():
    for e in equivariance_errors(lambda x: x, X[:1], "spatial", output="invariant"):
        assert math.isclose(e.error, 1, rel_tol=1e-12)


def test_the_worst_item_counts_against_the_typical_scale():
    """Errors of items c_b in size: max_b c_b |v_b| over the root mean square of √2 c_b |v_b|."""
    c = torch.tensor([1.0, 0.5, 3.0], dtype=torch.float64)[:, None, None, None]

    def f(x):
        return c[: len(x)] * x.flip(-1)

    # Its rows depend on their place in the batch, which the witness would refuse.
    (e,) = equivariance_errors(f, X, "translation_x", output="NCHW", verify=False)
    action = ImageAction(resolve_generators("translation_x"), 8, 8, "fourier")
    size = (c * action.tangents(X)[0]).flatten(1).norm(dim=1)
    want = 2 * size.max() / (2 * size.square()).mean().sqrt()
    assert math.isclose(e.error, want, rel_tol=1e-12)
    assert e.index[0] == int(size.argmax())


def test_a_mirror_image_of_points_has_error_sqrt_2_along_its_axis():
    mirror = torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)
    c = clouds((4,), velocity=False)
    found = equivariance_errors(lambda c: c.pos * mirror, c, "translation", output="positions")
    assert math.isclose(found[0].error, math.sqrt(2), rel_tol=1e-12)
    assert found[0].where.endswith("component x")
    assert found[0].value == -2
    assert found[1].error == found[2].error == 0


def test_a_linear_form_reacts_to_a_translation_by_its_sum():
    """y = Σ_p w·p: L = N w, noise of the tangent's norm √N gives √N |w| √N/√(3N) on average."""
    w = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    (e,) = equivariance_errors(LinearForms(w).eval(), clouds((6,)), "translation_x", directions=800)
    # E (w·Σ n)² = |n|² N |w|²/(3N) = N/3, so the error is N/√(N/3) = √(3 N).
    assert math.isclose(e.error, math.sqrt(18), rel_tol=0.1)  # 800 draws: √(2/800)/2 = 2.5 %


# --- what a failure says -------------------------------------------------------------------------


def test_the_message_names_everything():
    x = X.float()
    flip = nn.Sequential(circular(torch.float32), Flip()).eval()
    text = failure(flip, x, "translation,rotation")
    (e, y, r) = equivariance_errors(flip, x, "translation,rotation")
    lines = text.splitlines()
    assert lines[0] == "not equivariant under translation_x, rotation (rtol 1.0e-04)"
    b, c, i, j = e.index
    assert lines[1].startswith(f"  translation_x: error {e.error:.3g} > 1.0e-04 (rounding floor ")
    assert (
        f"worst at image {b}, channel {c}, row {i}, column {j} (index {[b, c, i, j]})" in lines[1]
    )
    assert lines[1].endswith(f"where L f = {e.value:.4g} per px")
    assert float(re.search(r"floor ([\d.e-]+)", lines[1])[1]) < 1e-5
    assert lines[2] == f"  translation_y: error {y.error:.2e}, within the tolerance"
    assert lines[3].endswith(f"where L f = {r.value:.4g} per rad")
    assert "FeatureMap(layout='NCHW', channels=None) (recognised); scheme fourier" in lines[4]
    assert "rounding explains" not in text


class Flip(nn.Module):
    def forward(self, x):
        return x.flip(-1)


def test_rounding_is_told_from_a_real_error():
    text = failure(circular(torch.float32), X.float(), "translation", rtol=1e-9)
    assert text.count("rounding explains this: test in float64, or raise rtol") == 2
    assert "rounding explains" not in failure(Flip().eval(), X, "translation")
    assert "(measured in float64)" in failure(Flip().eval(), X, "translation")

    kernel = torch.randn(3, X.shape[1], 1, 1)
    text = failure(lambda x: nn.functional.conv2d(x, kernel).flip(-1), X.float(), "translation_x")
    assert "rounding floor unknown: the model does not run in float64" in text


def test_a_tolerance_is_the_boundary():
    assert_equivariant(Flip().eval(), X[:1], "translation_x", rtol=1.4143)
    failure(Flip().eval(), X[:1], "translation_x", rtol=1.4142)


def test_the_tolerance_is_that_of_the_coarser_dtype():
    x, net = X.float(), circular(torch.float32)

    def half(x):
        return net(x).to(torch.bfloat16)

    assert_equivariant(half, x, "translation")
    assert "rtol 1.0e-01" in failure(lambda x: half(x).flip(-1), x, "translation")


def test_not_a_number_fails():
    def broken(x):
        y = x.clone()
        y[:, 1, 2, 3] = y[:, 1, 2, 3] / 0 * 0
        return y

    text = failure(broken, X[:1], "translation_x", output="NCHW")
    assert "error nan" in text
    assert "image 0, channel 1, row 2, column 3" in text


def test_classifiers_and_points_in_words():
    text = failure(formula_network(), formula_images(), "rotation")
    assert re.search(r"worst at image [01], entry \d \(index \[[01], \d\]\)", text)
    text = failure(LinearForms(torch.ones(2, 3).double()).eval(), clouds((5, 3)), "rotation_z")
    assert re.search(r"worst at cloud [01], entry [01] \(index", text)
    assert "scheme exact" in text


@pytest.mark.parametrize(
    ("index", "shape", "rho", "words"),
    [
        ((1,), (2,), FeatureMap("NCHW"), None),
        ((0, 5, 7, 2), (1, 8, 8, 3), FeatureMap("NHWC"), "image 0, row 5, column 7, channel 2"),
        (
            (0, 6, 3),
            (1, 17, 8),
            TokenGrid((4, 4), 1),
            "image 0, token 6 (row 1, column 1 of the patches), channel 3",
        ),
        (
            (0, 3, 0),
            (1, 8, 17),
            TokenGrid((4, 4), 1, "NCL"),
            "image 0, token 0 (a prefix token), channel 3",
        ),
    ],
)
def test_places_in_images(index, shape, rho, words):
    action = ImageAction(resolve_generators("rotation"), 8, 8)
    if words is None:  # an index that is no entry of a map is no place
        with pytest.raises(ValueError):
            in_words(index, shape, rho, action)
    else:
        assert in_words(index, shape, rho, action) == words


@pytest.mark.parametrize(
    ("index", "shape", "rho", "words"),
    [
        ((6, 2), (8, 3), Vectors(), "point 6 (of cloud 1), component z"),
        ((1, 4, 0), (2, 5, 3), Positions(), "cloud 1, channel 4, component x"),
        ((0,), (2,), Scalars(), "cloud 0"),
        ((7, 1), (8, 2), Scalars("node"), "point 7 (of cloud 1), entry 1"),
        (
            (0, 3, 2),
            (2, 6, 4),
            Fiber.on(torch.eye(3).repeat(2, 1) * torch.tensor([1, 1, 1, -1, -1, -1])[:, None]),
            "cloud 0, orientation 3, entry 2",
        ),
    ],
)
def test_places_in_clouds(index, shape, rho, words):
    c = clouds((5, 3))
    action = PointAction(resolve_generators("rotation", catalogue=catalogue(c)), c)
    assert in_words(index, shape, rho, action) == words


def catalogue(c: PointCloud):
    from liederiv.points.generators import POINTS

    return POINTS[c.dim]


def cut(x):
    return x[..., :4].detach().mean((2, 3)) + 0 * x.mean((2, 3))


# --- what cannot be tested is no pass ------------------------------------------------------------


@pytest.mark.parametrize(
    ("f", "named", "error", "message"),
    [
        (lambda x: (x * 4).round().mean((2, 3)), {}, NotDifferentiableError, "no slope"),
        (lambda x: x - x.mean(0), {}, ModelError, "depend on the other images"),
        (lambda x: x + torch.randn_like(x), {}, ModelError, "stochastic"),
        (circular().train(), {}, ModelError, r"model\.eval\(\)"),
        (circular(torch.float32), {}, ModelError, "float32, but the images have torch.float64"),
        (circular().to("meta"), {}, ModelError, "on meta, but the images are on cpu"),
        (lambda x: x[:, :, :5], {}, UnknownLayoutError, "declare it"),
        (lambda x: {"out": x}, {}, ModelError, "returns a dict"),
        (lambda x: x, {"rtol": 0.0}, LieDerivError, "rtol=0.0 must be a positive number"),
        (lambda x: x, {"rtol": math.nan}, LieDerivError, "rtol=nan must be"),
        (lambda x: x, {"directions": 0}, LieDerivError, "directions=0 must be at least 1"),
        (lambda x: x, {"transforms": "tilt"}, LieDerivError, "'tilt' is unknown"),
    ],
)
def test_unfit_functions_are_refused(f, named, error, message):
    arguments = {"transforms": "rotation"} | named
    with pytest.raises(error, match=message):
        assert_equivariant(f, X, **arguments)


@pytest.mark.parametrize(
    ("f", "generator"),
    [
        (cut, "rotation"),
        (lambda x: x.square().mean((2, 3)) + x.detach().pow(3).mean((2, 3)), "contrast"),
    ],
)
@pytest.mark.filterwarnings("ignore::liederiv.ForwardModeWarning")
def test_a_detach_does_not_pass_for_invariance(f, generator):
    with pytest.raises(AssertionError, match="not equivariant"):
        assert_equivariant(f, X, generator)


def test_verification_can_be_left_out():
    assert_equivariant(cut, X, "rotation", verify=False)


def test_integer_images_are_refused():
    with pytest.raises(LieDerivError, match=r"dtype torch\.int64"):
        assert_equivariant(lambda x: x, (X * 9).long(), "rotation")
