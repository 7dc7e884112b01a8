"""The comparison with a real camera shift: its ingredients, and its fast form end to end."""

import json
import math

import numpy as np
import pytest
import torch
from scipy.interpolate import make_interp_spline

import liederiv
from liederiv.actions import ImageAction
from liederiv.derivatives import get_scheme
from liederiv.model_zoo import load

MODEL = "tf_efficientnet_lite0"


@pytest.fixture(scope="module")
def camera_shift(load_script):
    return load_script("camera_shift")


@pytest.fixture(scope="module")
def pipeline(camera_shift):
    return camera_shift.Pipeline(load(MODEL, pretrained=False).data_config)


def smooth_photograph(height, width):
    """Two plane waves with at least 100 pixels per period, and their exact slopes along x, y."""
    y, x = torch.meshgrid(
        torch.arange(height).double(), torch.arange(width).double(), indexing="ij"
    )
    a, b, c = 2 * math.pi / 140, 2 * math.pi / 190, 2 * math.pi / 110
    wave = torch.sin(a * x + b * y) + torch.cos(c * x)
    slope_x = a * torch.cos(a * x + b * y) - c * torch.sin(c * x)
    slope_y = b * torch.cos(a * x + b * y)
    return [v.expand(3, -1, -1) for v in (wave, slope_x, slope_y)]


@pytest.mark.parametrize("slope", ["eighth order", "spectral"])
def test_slopes_of_smooth_waves(camera_shift, slope):
    wave, slope_x, slope_y = smooth_photograph(512, 600)
    inside = (slice(None), slice(150, 350), slice(200, 400))  # mirroring bends the wave at the edge
    tolerance = 1e-9 if slope == "eighth order" else 2e-2
    for axis, exact in ((-1, slope_x), (-2, slope_y)):
        found = camera_shift.TRUTHS[slope](wave, axis)
        error = (found - exact)[inside].abs().max() / exact.abs().max()
        assert error < tolerance


def test_positions_are_those_of_the_resized_and_cropped_pixels(camera_shift, pipeline):
    photograph = torch.zeros(3, 500, 741, dtype=torch.float64)
    (qx, per_x), (qy, per_y) = pipeline.axes(photograph)
    assert (per_x, per_y) == pytest.approx((741 / 379, 500 / 256))
    positions = torch.stack(torch.broadcast_tensors(qx, qy[:, None]))
    seen = pipeline.resample(positions)
    own = torch.arange(224).double() - 111.5
    # A bicubic filter of fractional scale does not reproduce a ramp exactly.
    torch.testing.assert_close(seen[0], own.expand(224, 224), rtol=0, atol=2e-3)
    torch.testing.assert_close(seen[1], own[:, None].expand(224, 224), rtol=0, atol=2e-3)


def test_on_a_smooth_photograph_truth_and_scheme_agree(camera_shift, pipeline):
    """Units, signs and centres: every generator, against the scheme applied to the input."""
    photograph = smooth_photograph(600, 512)[0] / 4 + 0.5
    generators = liederiv.resolve_generators("translation,rotation,scale,shear")
    truth = camera_shift.true_tangents(photograph, pipeline, generators, camera_shift.eighth_order)
    x = pipeline.tangent_of(photograph)[None]
    guessed = ImageAction(generators, 224, 224, "bspline").tangents(x)[:, 0]
    inside = (..., slice(8, -8), slice(8, -8))
    for g, a, b in zip(generators, truth[inside], guessed[inside], strict=True):
        assert (a - b).norm() / a.norm() < 1e-3, g.name


def test_float_pipeline_is_timms_up_to_rounding_and_clipping(camera_shift):
    images = list(camera_shift.photographs(None, 1).values())
    rms, _ = camera_shift.pipeline_gap(MODEL, images)
    assert rms < 0.5  # levels of 255; each of Pillow's two passes rounds: 0.41


def test_splines_of_higher_degree(camera_shift):
    n = 40
    v = np.random.default_rng(0).normal(size=n)
    mirrored = np.concatenate([v[::-1], v, v[::-1]])
    for degree in (5, 7):
        D = camera_shift.BSpline(degree).derivative(n, torch.float64)
        spline = make_interp_spline(np.arange(-n, 2 * n), mirrored, k=degree)
        expected = torch.tensor(spline.derivative()(np.arange(n)))
        torch.testing.assert_close(D @ torch.tensor(v), expected, rtol=1e-8, atol=1e-8)
    cubic = camera_shift.BSpline(3).derivative(n, torch.float64)
    expected = get_scheme("bspline").derivative(n, torch.float64)
    torch.testing.assert_close(cubic, expected, rtol=0, atol=1e-12)


def test_bspline_beats_bilinear_on_two_photographs(camera_shift, tmp_path, capsys):
    how = ["--models", MODEL, "--num-images", "2", "--transforms", "translation_x,rotation"]
    how += ["--schemes", "bspline,bilinear,one-sided"]
    rows = camera_shift.main([*how, "--json", str(tmp_path / "r.json")])
    found = {(r.scheme, r.transform): r for r in rows if r.output == "logits"}
    for transform in ("translation", "rotation"):
        assert found["spectral", transform].error < 0.06  # the truth is known to that
        assert found["bspline", transform].error < 0.6 < found["bilinear", transform].error
        assert 0.5 < found["bspline", transform].lee_ratio < 1.5
        assert found["one-sided", transform].lee_ratio > 2
    report = json.loads((tmp_path / "r.json").read_text())
    assert len(report["results"]) == len(rows)
    assert len(report["photographs"]) == 2
    assert "LEE / true LEE" in capsys.readouterr().out
