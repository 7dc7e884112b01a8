"""Sampled metrics against hand computation, known networks, and the Lie derivative."""

import math

import numpy as np
import pytest
import torch
from cases import formula_images, formula_network
from sampling_cases import blob, circular_net, drawn, images, rng
from tolerances import COMPUTED, close
from torch import nn

from liederiv import (
    FeatureMap,
    ImageError,
    LieDerivError,
    ModelError,
    UnknownLayoutError,
    lie_derivative,
    resolve_generators,
)
from liederiv.actions import ImageAction
from liederiv.metrics.agreement import (
    effective_invariance,
    grayscale,
    quarter_turns,
    shift_consistency,
    top1_accuracy,
)
from liederiv.metrics.eq import eq_r, eq_r_relative, eq_t, eq_t_relative
from liederiv.metrics.finite import act_finite
from liederiv.metrics.sampled import (
    SampledMetric,
    equivariance_error,
    random_transforms,
)
from liederiv.transforms import FiniteTransform, transform

# --- the limit of small transforms --------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["bspline", "fourier", "fourier_mirror", "central"])
@pytest.mark.parametrize("output", ["NCHW", "invariant"])
def test_finite_error_over_t_tends_to_the_lie_derivative(scheme, output):
    net = circular_net()
    f = net if output == "NCHW" else (lambda x: net(x).square().mean((2, 3)))
    x = images(2, 3, 10, 14)
    generators = resolve_generators("spatial")
    L = lie_derivative(f, x, generators, scheme=scheme, output=output)
    y = f(x).detach()
    for k, g in enumerate(generators):
        errors = []
        for t in (1e-4, 1e-6):
            T = FiniteTransform(
                ImageAction([g], 10, 14, scheme), torch.tensor([[t]], dtype=torch.float64)
            )
            rho_y = act_finite(FeatureMap(), T, y) if output == "NCHW" else y
            difference = (f(T.on_input(x)) - rho_y).detach() / t
            errors.append(float((difference - L[k]).norm()))
        # A translation along the fourier scheme is a symmetry of this network up to aliasing.
        assert errors[1] < 0.02 * errors[0] + 1e-7, (g.name, errors)
        assert errors[1] < 1e-3 * L[k].norm(), (g.name, errors)


@pytest.mark.parametrize("name", ["translation_x", "rotation", "shear_y"])
def test_sampled_error_over_t_squared_tends_to_the_squared_lie_derivative(name):
    """E t² ‖L f‖²/dim, with E t² over the parameters drawn."""
    net, x, half_range = (
        formula_network().double(),
        formula_images(torch.float64),
        1e-7,
    )  # below the ReLU kinks

    def f(x):
        return net(x).softmax(1)

    metric = equivariance_error(f, x, name, half_range=half_range, num_samples=6)
    t = drawn(x, name, [half_range], 6, stream=name)[..., 0]
    L = lie_derivative(f, x, name)[0]
    expected = L.square().mean(1).numpy() * (t**2).mean(1)
    np.testing.assert_allclose(metric.per_image.numpy(), expected, rtol=1e-3)


# --- sampled error ------------------------------------------------------------------------------


def test_invariance_error_of_the_centroid_is_its_mean_squared_displacement():
    """f(x) = Σ j x_j moves by −t·mass: analytic, no interpolation error for a smooth blob."""
    x = torch.cat([blob(40, 48), 2 * blob(40, 48)])
    j = torch.arange(48, dtype=torch.float64)
    mass = x.sum((1, 2, 3)).numpy()
    metric = equivariance_error(
        lambda x: (x * j).sum((2, 3)), x, "translation_x", seed=1, num_samples=7
    )
    t = drawn(x, "translation_x", [6.0], 7, seed=1, stream="translation_x")[..., 0]
    np.testing.assert_allclose(metric.per_image, mass**2 * (t**2).mean(1), rtol=1e-3)
    many = equivariance_error(
        lambda x: (x * j).sum((2, 3)), x[:1], "translation_x", num_samples=2000
    )
    standard_error = math.sqrt(4 / 45 / 2000) * 3  # of t² / (range²/3), t uniform
    assert many.value / (mass[0] ** 2 * 36 / 3) == pytest.approx(1, abs=4 * standard_error)
    assert metric.transform == "translation_x, ±6 px"


def test_default_ranges():
    x, f = images(1, 3, 16, 32), lambda x: x.mean((2, 3))
    for name, expected in (
        ("translation_y", "±2 px"),
        ("rotation", f"±{math.pi / 16:.4g} rad"),
        (resolve_generators("translation_x", unit="grid")[0], "±0.25 half-width"),
    ):
        assert equivariance_error(f, x, name).transform.endswith(expected)
    with pytest.raises(LieDerivError, match="half_range is needed for shear_x"):
        equivariance_error(f, x, "shear_x")


# --- drawing ------------------------------------------------------------------------------------


def test_draws_depend_on_the_seed_and_not_on_the_batches_or_the_global_state():
    x, net = images(5, 3, 16, 16), circular_net()
    before = torch.random.get_rng_state()
    for metric in (
        lambda x, s: eq_t(net, x, seed=s, output="NCHW", dynamic_range=2.0),
        lambda x, s: eq_r(net, x, seed=s, output="NCHW", dynamic_range=2.0),
        lambda x, s: eq_t_relative(net, x, seed=s, output="NCHW", integer=False),
        lambda x, s: eq_r_relative(net, x, seed=s, output="NCHW"),
        lambda x, s: equivariance_error(net, x, "translation_y", seed=s, output="NCHW"),
        lambda x, s: shift_consistency(lambda x: net(x).mean((2, 3)), x, num_pairs=4, seed=s),
    ):
        whole = metric(x, 7)
        parts = SampledMetric.join([metric(x[:2], 7), metric(x[2:], 7)])
        torch.testing.assert_close(parts.per_image, whole.per_image, rtol=1e-9, atol=0)
        assert parts.value == close(whole.value, COMPUTED)
    assert not torch.equal(
        eq_t_relative(net, x, seed=8, output="NCHW").per_image,
        eq_t_relative(net, x, seed=7, output="NCHW").per_image,
    )
    assert torch.equal(before, torch.random.get_rng_state())


def test_parameters_are_uniform_in_the_range_and_whole_ones_are_whole():
    x = images(200, 1, 4, 4)
    drawn = list(random_transforms(x, "translation", [3.0, 0.5], num_samples=20))
    t = torch.stack([T.t for T in drawn]).flatten(0, 1)
    assert t.abs().amax(0).tolist() == pytest.approx([3.0, 0.5], rel=0.01)
    assert (t.square().mean(0) * 3 / torch.tensor([9.0, 0.25])).tolist() == pytest.approx(
        [1, 1], abs=0.06
    )
    whole = next(random_transforms(x, "rotation", [3.2], num_samples=1, steps=[1.0]))
    assert set(whole.t.flatten().tolist()) == {-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0}
    with pytest.raises(LieDerivError, match="1 entries for 2"):
        next(random_transforms(x, "translation", [3.0], num_samples=1))
    with pytest.raises(LieDerivError, match="num_samples=0"):
        next(random_transforms(x, "rotation", [3.0], num_samples=0))


def test_unknown_outputs_are_refused_and_batches_of_other_metrics_not_joined():
    x = images(2, 3, 16, 16)
    with pytest.raises(UnknownLayoutError, match="declare it"):
        eq_t_relative(lambda x: x[:, :, :5, :7], x)
    one, other = eq_t_relative(nn.GELU(), x), eq_r_relative(nn.GELU(), x)
    with pytest.raises(LieDerivError, match="same metric"):
        SampledMetric.join([one, other])


# --- decisions ----------------------------------------------------------------------------------


def column_parity(x: torch.Tensor) -> torch.Tensor:
    """Class 0 if the brightest pixel is in an even column, else 1."""
    column = x.flatten(1).argmax(1) % x.shape[-1]
    return nn.functional.one_hot(column % 2, 2).to(x)


def bright_pixels(*columns: int) -> torch.Tensor:
    x = torch.zeros(len(columns), 1, 16, 32)
    for b, column in enumerate(columns):
        x[b, 0, 8, column] = 1
    return x


@pytest.mark.parametrize("scheme", ["bspline", "fourier"])
def test_shift_consistency_over_all_pairs(scheme):
    """0 … 7 px: half the shifts are even, so two shifts agree with probability 1/2."""
    x = bright_pixels(15, 20)
    for along, expected in (("x", 0.5), ("y", 1.0), ("xy", 0.5)):
        metric = shift_consistency(column_parity, x, along=along, scheme=scheme)
        assert metric.per_image.tolist() == [expected] * 2
    uneven = shift_consistency(column_parity, x, along="x", max_shift=2, scheme=scheme)
    assert uneven.value == close((2 / 3) ** 2 + (1 / 3) ** 2, COMPUTED)
    assert (uneven.unit, uneven.transform) == (
        "fraction",
        f"shift along x, 0 to 2 px, border {'mirrored' if scheme == 'bspline' else 'rolled'}",
    )


def test_shift_consistency_says_that_it_is_not_the_one_of_crops():
    metric = shift_consistency(column_parity, bright_pixels(15))
    assert "mirrored beyond its border (not crops of a larger image, as in Zhang" in (
        metric.definition
    )


def test_shift_consistency_of_drawn_pairs():
    x = bright_pixels(15, 20)
    metric = shift_consistency(column_parity, x, num_pairs=2000, seed=2)
    # Two shifts agree with probability 1/2, pairs are independent.
    assert metric.per_image.tolist() == pytest.approx([0.5] * 2, abs=4 * 0.5 / math.sqrt(2000))
    assert not torch.equal(*metric.per_image.split(1)), "each image draws its own"


def corner_probabilities(x: torch.Tensor) -> torch.Tensor:
    """(p, 1 − p), p the top left pixel."""
    p = x[:, 0, 0, 0]
    return torch.stack([p, 1 - p], 1)


def test_effective_invariance_by_hand():
    x = torch.tensor([[[[0.9, 0.4], [0.6, 0.8]]]], dtype=torch.float64)
    # The top left pixel becomes 0.4, 0.8, 0.6 under rotations by 90°, 180°, 270°.
    metric = effective_invariance(corner_probabilities, x, quarter_turns(x), "rotation by 90°")
    expected = (0 + math.sqrt(0.9 * 0.8) + math.sqrt(0.9 * 0.6)) / 3
    assert metric.value == close(expected)
    assert metric.transform == "rotation by 90°"
    shifted = effective_invariance(
        corner_probabilities, x, [transform(x, "translation_y", 1)], "translation"
    )
    assert shifted.value == close(math.sqrt(0.9 * 0.6))


def test_effective_invariance_is_the_confidence_of_an_invariant_classifier():
    x = images(3, 3, 8, 8)

    def f(x):
        return x.mean((2, 3)).softmax(1)

    confidence = f(x).max(1).values
    turned = effective_invariance(f, x, quarter_turns(x), "rotation")
    torch.testing.assert_close(turned.per_image, confidence, rtol=1e-12, atol=0)
    drawn = random_transforms(x, "translation", [3.0, 3.0], num_samples=3, scheme="fourier")
    moved = effective_invariance(f, x, (T.on_input(x) for T in drawn), "translation")
    torch.testing.assert_close(moved.per_image, confidence, rtol=1e-12, atol=0)


def test_effective_invariance_refuses_what_it_cannot_measure():
    x = images(1, 3, 8, 10)
    with pytest.raises(ImageError, match="8 × 10 pixels; quarter turns need square"):
        quarter_turns(x)
    with pytest.raises(ModelError, match="softmax"):
        effective_invariance(lambda x: x.mean((2, 3)), x, [x], "none")
    with pytest.raises(ModelError, match="class scores"):
        effective_invariance(nn.GELU(), x, [x], "none")
    with pytest.raises(LieDerivError, match="views is empty"):
        effective_invariance(lambda x: x.mean((2, 3)).softmax(1), x, [], "none")


def test_grayscale_is_the_luma_in_the_picture_and_normalised_again():
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    picture = torch.rand(2, 3, 4, 4, dtype=torch.float64, generator=rng())
    m, s = (torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1) for v in (mean, std))
    gray = grayscale((picture - m) / s, mean, std) * s + m
    luma = 0.299 * picture[:, 0] + 0.587 * picture[:, 1] + 0.114 * picture[:, 2]
    torch.testing.assert_close(gray, luma[:, None].expand(-1, 3, -1, -1), rtol=0, atol=1e-14)
    with pytest.raises(ImageError, match="1 channels"):
        grayscale(picture[:, :1], mean, std)


def test_accuracy():
    scores = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.4, 0.6]])
    x = images(3, 1, 4, 4)
    metric = top1_accuracy(lambda x: scores, x, torch.tensor([1, 1, 1]))
    assert metric.per_image.tolist() == [1, 0, 1]
    assert metric.value == close(2 / 3, COMPUTED)
    with pytest.raises(LieDerivError, match="from 0 to 7, but the model has 2 classes"):
        top1_accuracy(lambda x: scores, x, torch.tensor([0, 7, 1]))
    with pytest.raises(LieDerivError, match="labels has shape"):
        top1_accuracy(lambda x: scores, x, torch.tensor([0, 1]))
    with pytest.raises(ModelError, match="NaN"):
        top1_accuracy(lambda x: scores * math.nan, x, torch.tensor([0, 1, 0]))
