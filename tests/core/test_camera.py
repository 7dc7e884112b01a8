"""Photographs: the pipeline against timm's, motions against a scene that is known everywhere."""

import copy
import math

import numpy as np
import pytest
import torch
from laws import assert_generates, assert_group, assert_identity
from PIL import Image
from tolerances import Tolerance
from torch import nn

import liederiv
from liederiv import LieDerivError, resolve_generators
from liederiv.actions import ImageAction
from liederiv.analysis import attribute, orbit
from liederiv.grids.camera import Camera
from liederiv.grids.photographs import Photograph, Photographs
from liederiv.grids.pipeline import FILTERS, Axis, Pipeline
from liederiv.transforms import transform

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
HEIGHT, WIDTH, SIZE = 150, 211, 32
PIPELINE = Pipeline((SIZE, SIZE), (37, 37), "center", "bicubic", MEAN, STD)
AXES = PIPELINE.axes(HEIGHT, WIDTH)
ALL = "translation,rotation,scale,shear,stretch"


def scene(A=((1.0, 0.0), (0.0, 1.0)), b=(0.0, 0.0)):
    """Levels of a sum of waves, rendered where the camera looks after q ↦ A q + b."""
    y, x = AXES
    q = torch.stack(torch.broadcast_tensors(x.positions(), y.positions()[:, None]), -1)
    u, v = (q @ torch.tensor(A, dtype=torch.float64).T + torch.tensor(b)).unbind(-1)
    return torch.stack(
        [
            100 + 30 * torch.sin(0.5 * u + 0.2 * v) + 20 * torch.cos(1.1 * v - 0.4 * u),
            90 + 40 * torch.cos(0.9 * u) * torch.sin(0.7 * v),
            120 + 50 * torch.sin(0.3 * u - 1.3 * v),
        ]
    )


def small(levels):
    """What the network gets of it; the weights are tested against timm's."""
    y, x = AXES
    return PIPELINE.normalised(y.weights() @ levels @ x.weights().T)


class Rendered(Photographs):
    """A photograph with levels that are not rounded to 8 bits."""

    def levels(self, index):
        return scene()


@pytest.fixture(scope="module")
def photographs():
    return Rendered((Photograph("waves", lambda: None, HEIGHT, WIDTH),), PIPELINE)


def motion(name, t):
    """exp(t ξ) of the generators, by hand."""
    c, s = math.cos(t), math.sin(t)
    return {
        "translation_x": (((1, 0), (0, 1)), (t, 0)),
        "translation_y": (((1, 0), (0, 1)), (0, t)),
        "rotation": (((c, -s), (s, c)), (0, 0)),
        "scale": (((math.exp(t), 0), (0, math.exp(t))), (0, 0)),
        "shear_x": (((1, t), (0, 1)), (0, 0)),
        "shear_y": (((1, 0), (t, 1)), (0, 0)),
        "stretch_x": (((math.exp(t), 0), (0, 1)), (0, 0)),
        "stretch_y": (((1, 0), (0, math.exp(t))), (0, 0)),
    }[name]


def seen(name, t):
    A, b = motion(name, t)
    return small(scene(tuple(tuple(map(float, row)) for row in A), tuple(map(float, b))))


def relative(a, b):
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("name", [f for f in FILTERS if f != "box"])
def test_the_pipeline_is_timms_but_for_rounding(name, mode):
    from timm.data import create_transform

    noise = np.random.default_rng(0).integers(60, 190, (12, 17, 3), dtype=np.uint8)
    for size, (width, height) in (((48, 48), (151, 97)), ((32, 48), (90, 140))):
        picture = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
        timm = create_transform((3, *size), is_training=False, interpolation=name, mean=MEAN,
                                std=STD, crop_pct=0.875, crop_mode=mode)  # fmt: skip
        resized = tuple(math.floor(s / 0.875) for s in size)
        pipeline = Pipeline(size, resized, mode, name, MEAN, STD)
        levels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        one = Photographs((Photograph("p", lambda p=levels: p, height, width),), pipeline)
        gap = (one.images[0] - timm(picture)) * torch.tensor(STD)[:, None, None] * 255
        assert gap.abs().max() < 1.3, "each of two passes rounds to 8 bits"


@pytest.mark.parametrize("name", [g.name for g in resolve_generators(ALL)])
def test_tangents_are_those_of_the_scene(photographs, name):
    x, h = photographs.images.double(), 1e-5
    slope = (seen(name, h) - seen(name, -h)) / (2 * h)

    def tangent(scheme):
        return ImageAction(resolve_generators(name), SIZE, SIZE, scheme).tangents(x)[0, 0]

    assert relative(tangent(Camera(photographs)), slope) < 2e-5
    assert relative(tangent("bspline5"), slope) > 0.02, "the small image does not know"


@pytest.mark.parametrize(
    ("name", "t"),
    [("translation_x", 0.7), ("translation_y", -0.3), ("rotation", 0.02), ("scale", -0.2)],
)
def test_finite_motions_are_those_of_the_scene(photographs, name, t):
    x = photographs.images.double()
    moved = transform(x, name, t, Camera(photographs))[0]
    assert relative(moved, seen(name, t)) < 1e-4
    assert relative(transform(x, name, t, "bspline5")[0], seen(name, t)) > 1e-3


@pytest.mark.parametrize("name", ["translation_x", "rotation", "scale"])
def test_laws(photographs, name):
    x, camera = photographs.developed(0)[None], Camera(photographs)
    assert_identity(x, name, camera)
    exponentials = {torch.float64: Tolerance(1e-8, 1e-8)}  # of matrices, to 1e-11 of an angle
    assert_group(x, name, 0.03, -0.05, camera, exponentials)
    assert_generates(x, name, camera)


@pytest.mark.parametrize("size", [(150, 211), (97, 300), (400, 160)])
def test_positions_are_where_the_weights_look(size):
    """The scene above takes positions from the pipeline; a ramp shows where its weights look."""
    for axis in PIPELINE.axes(*size):
        inside = slice(4, -4)  # a filter that the border cuts off looks elsewhere
        ramp = torch.arange(axis.pixels, dtype=torch.float64)
        q = torch.arange(SIZE, dtype=torch.float64) - (SIZE - 1) / 2
        looked = axis.weights() @ ramp
        assert (looked - axis.indices(q))[inside].abs().max() < 0.02 * axis.scale
        assert (looked - axis.indices(q))[inside].mean().abs() < 1e-3 * axis.scale
        assert torch.allclose(axis.indices(axis.positions()), ramp)


def test_a_blank_photograph_has_nothing_to_be_known(net):
    levels = torch.full((3, HEIGHT, WIDTH), 90, dtype=torch.uint8)
    blank = Photographs((Photograph("blank", lambda: levels, HEIGHT, WIDTH),), PIPELINE)
    found = liederiv.measure(net, blank, "translation", "lee", scheme="camera")
    assert any("known to 0.0% of the tangent" in note for note in found.provenance.warnings)


def test_a_crop_that_is_off_by_one_is_seen(photographs, monkeypatch):
    """The tests above compare with positions that the pipeline itself gives; timm's do not."""
    inside = Axis.weights
    monkeypatch.setattr(
        Axis, "weights", lambda a: inside(Axis(a.pixels, a.resized, a.offset + 1, a.size, a.filter))
    )
    with pytest.raises(AssertionError):
        test_the_pipeline_is_timms_but_for_rounding("bicubic", "center")


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1)]
    head = [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)]
    return nn.Sequential(*layers, *head).eval()


def test_lie_derivatives_are_those_of_a_moving_camera(photographs, net):
    found = liederiv.lie_derivative(net, photographs[:1], "translation,rotation", scheme="camera")
    wide, h = copy.deepcopy(net).double(), 1e-6
    for k, name in enumerate(("translation_x", "translation_y", "rotation")):
        with torch.no_grad():
            slope = (wide(seen(name, h)[None]) - wide(seen(name, -h)[None])) / (2 * h)
        assert relative(found[k].double(), slope) < 1e-4


def test_scores_name_the_camera_and_how_well_it_is_known(photographs, net):
    found = liederiv.measure(net, photographs, "translation", "lee,scale", scheme="camera")
    assert found.provenance.scheme == "camera"
    assert any("known to 0.0% of the tangent" in note for note in found.provenance.warnings)
    lie = liederiv.lie_derivative(net, photographs, "translation", scheme="camera")
    lee = found.get("lee", "translation", "logits").value
    assert lee == pytest.approx(float(lie.double().square().mean()), rel=1e-4)


def test_the_resampling_is_a_row_of_its_own(photographs, net):
    found = attribute(net, photographs, "translation,rotation", scheme="camera",
                      output_type="logits")  # fmt: skip
    (row,) = [i for i, e in enumerate(found.entries) if e.kind == "resampling"]
    assert float(found.closure.max()) < 1e-5
    x = photographs.images.double()
    gradient = torch.func.jacrev(copy.deepcopy(net).double())(x)[0, :, 0].flatten(1)
    generators = resolve_generators("translation,rotation")
    whole, alone = (
        ImageAction(generators, SIZE, SIZE, s).tangents(x)[:, 0].flatten(1) @ gradient.T
        for s in (Camera(photographs), "bspline5")
    )
    want = (whole * (whole - alone)).sum(1) / whole.square().sum(1)
    assert found.shares()[row] == pytest.approx(want.tolist(), abs=1e-4)
    assert abs(found.shares()[0]).max() < 1e-4, "nothing else happens before the first layer"
    assert np.nansum(found.shares(), axis=0) == pytest.approx(1, abs=1e-4)


def test_orbits_follow_the_camera(photographs, net):
    found = orbit(net, photographs, "rotation", scheme="camera", output_type="logits", points=2,
                  ranges={"rotation": 1.0}, shifts=0, worst=0)  # fmt: skip
    curve = found.get("rotation")
    wide, t = copy.deepcopy(net).double(), math.radians(1.0)
    with torch.no_grad():
        change = wide(seen("rotation", t)[None]) - wide(photographs.developed(0)[None])
    want = float(change.square().mean().sqrt())
    assert curve.change[0, -1] == pytest.approx(want, rel=1e-3)
    assert curve.path[0, -1] >= want * (1 - 1e-6)


def test_refusals(photographs, net):
    x = photographs.images
    with pytest.raises(LieDerivError, match="'camera' needs photographs"):
        liederiv.measure(net, x, scheme="camera")
    with pytest.raises(LieDerivError, match="none of them"):
        liederiv.measure(net, -x, "translation", "lee", scheme=Camera(photographs))
    levels = torch.zeros(3, 50, 60, dtype=torch.uint8)
    tiny = Photographs((Photograph("tiny", lambda: levels, 50, 60),), PIPELINE)
    assert tiny.too_small == ("tiny",)
    assert len(tiny.large_enough) == 0
    with pytest.raises(LieDerivError, match=r"too small for scheme='camera' \(tiny\)"):
        liederiv.lie_derivative(net, tiny, "translation", scheme="camera")
    with pytest.raises(LieDerivError, match="'nearest'"):
        Pipeline((8, 8), (8, 8), "center", "nearest", MEAN, STD)
    changed = Photographs((Photograph("p", lambda: x[0].byte(), HEIGHT, WIDTH),), PIPELINE)
    with pytest.raises(LieDerivError, match="p has changed"):
        Camera(changed)
