"""The penalty at a step, against the change of the output written out with affine resampling."""

import math

import pytest
import torch
from torch import nn

import liederiv
from liederiv import equivariance_penalty
from liederiv.errors import LieDerivError, ModelError, UnknownLayoutError

EVERYTHING = {"num_generators": None, "num_images": None}


def network():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.Softplus(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(16, 5))


@pytest.fixture
def images():
    return torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize(
    ("transforms", "unit"), [("translation", "px"), ("rotation", "deg"), ("scale", "%")]
)
def test_tends_to_the_lie_penalty(images, transforms, unit):
    """With an error of second order in the step: it is a central difference."""
    net = network().double()

    def penalty(**how):
        return equivariance_penalty(net, images, transforms, amplitudes=2.0, **how, **EVERYTHING)

    lie = penalty().item()
    errors = [abs(penalty(step=f"{transforms}={h}{unit}").item() / lie - 1) for h in (0.2, 0.02)]
    assert errors[1] < 1e-4
    assert errors[0] / errors[1] == pytest.approx(100, rel=0.2)


def rolled(x, columns):
    return torch.roll(x, columns, dims=3)


def test_whole_pixels_against_rolled_images(images):
    """The periodic scheme moves by whole pixels as roll does: f(roll by 1) − f(roll by −1)."""
    net = network().double()
    found = equivariance_penalty(
        net, images, "translation_x", step="translation_x=2px", scheme="fourier",
        output_type="probs", **EVERYTHING,
    )  # fmt: skip
    ahead, back = (net(rolled(images, n)).softmax(1) for n in (1, -1))
    own = (ahead - back).square().mean() / 2**2
    assert found.item() == pytest.approx(own.item(), rel=1e-12)
    # … and its gradient, by ordinary differentiation of what is written here.
    grads = torch.autograd.grad(found, list(net.parameters()))
    for g, expected in zip(grads, torch.autograd.grad(own, list(net.parameters())), strict=True):
        torch.testing.assert_close(g, expected, rtol=1e-9, atol=1e-15)


def test_maps_are_moved_back_by_the_whole_step():
    """A map that is the image times a ramp, which does not move along."""

    class Ramp(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.ones(1, dtype=torch.float64))

        def forward(self, x):
            return self.gain * x * torch.linspace(0, 1, x.shape[3], dtype=x.dtype)

    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = equivariance_penalty(
        Ramp(), x, "translation_x", step={"translation_x": 4}, scheme="fourier",
        output="NCHW", **EVERYTHING,
    )  # fmt: skip
    ramp = torch.linspace(0, 1, 8, dtype=torch.float64)
    change = rolled(rolled(x, 2) * ramp, -2) - rolled(rolled(x, -2) * ramp, 2)
    assert found.item() == pytest.approx(change.square().mean().item() / 4**2, rel=1e-12)
    same = nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular").double()
    kept = equivariance_penalty(
        same, x, "translation", step="translation=2px", scheme="fourier", output="NCHW"
    )
    assert kept.item() < 1e-25


def test_is_what_the_metric_reports(images):
    net = network().double().eval()
    step = "translation=2px;rotation=30deg"
    scores = liederiv.measure(
        net, images, "translation,rotation", "lee_step", output_type="probs", steps=step
    )
    rows = ("translation_x@2px", "translation_y@2px", "rotation@30deg")
    values = [scores.get("lee_step", name).value for name in rows]
    found = equivariance_penalty(net, images, step=step, output_type="probs", **EVERYTHING)
    assert found.item() == pytest.approx(sum(values) / 3, rel=1e-9)


def test_amplitudes_weigh_it_and_units_agree(images):
    net = network().double()
    one = equivariance_penalty(net, images[:1], "rotation", step="rotation=10deg").item()
    for step in (f"rotation={math.radians(10)}rad", {"rotation": 10.0}, {"rotation": ["10°"]}):
        found = equivariance_penalty(net, images[:1], "rotation", step=step, amplitudes=3)
        assert found.item() == pytest.approx(9 * one, rel=1e-9)


def test_batch_norms_in_training_see_each_end_by_itself(images):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2))
    net = net.double().train()
    before = net[1].running_mean.clone()
    options = {"output_type": "logits", "scheme": "fourier", **EVERYTHING}
    found = equivariance_penalty(net, images, "translation_x", step="translation_x=2px", **options)
    assert torch.equal(net[1].running_mean, before)
    ahead, back = net(rolled(images, 1)), net(rolled(images, -1))
    assert found.item() == pytest.approx(((ahead - back) / 2).square().mean().item(), rel=1e-12)
    lie = equivariance_penalty(net, images, "translation_x", **options).item()
    small = equivariance_penalty(
        net, images, "translation_x", step="translation_x=0.001", **options
    )
    assert small.item() == pytest.approx(lie, rel=1e-4)


def test_point_clouds():
    """Σ y² of points turned by ±h/2 about z, written out."""

    class Squares(nn.Module):
        output_representation = "invariant"

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64))

        def forward(self, cloud):
            values = (cloud.pos.square() * self.weight).sum(1, keepdim=True)
            return torch.zeros(len(cloud), 1, dtype=values.dtype).index_add(0, cloud.batch, values)

    pos = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).double()
    cloud = liederiv.PointCloud(pos, batch=torch.tensor([0, 0, 0, 1, 1]))
    found = equivariance_penalty(
        Squares(), cloud, "rotation_z", step="rotation_z=40deg", **EVERYTHING
    )
    half = math.radians(20)
    ends = [(math.sin(s * half) * pos[:, 0] + math.cos(half) * pos[:, 1]).square() for s in (1, -1)]
    change = torch.stack([(ends[0] - ends[1])[:3].sum(), (ends[0] - ends[1])[3:].sum()])
    assert found.item() == pytest.approx(change.square().mean().item() / (2 * half) ** 2)


def test_training_with_it_lowers_the_change_over_that_step(images):
    net = network().double()
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    how = {"step": "translation=4px;rotation=30deg", "output_type": "logits", **EVERYTHING}
    start = equivariance_penalty(net, images, **how).item()
    for _ in range(30):
        optimiser.zero_grad()
        equivariance_penalty(net, images, **how).backward()
        optimiser.step()
    assert equivariance_penalty(net, images, **how).item() < 0.5 * start


class Jumps(nn.Module):
    """Without a slope anywhere: rounded brightness. The derivative says 0, a step does not."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1, dtype=torch.float64))

    def forward(self, x):
        return self.gain * torch.round(64 * x.flatten(1)[:, :8])


def test_sees_what_has_no_derivative(images):
    how = {"output_type": "output", "verify": False, **EVERYTHING}
    assert equivariance_penalty(Jumps(), images, "translation", **how).item() == 0
    assert equivariance_penalty(Jumps(), images, "translation", step="translation=2", **how) > 1


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"step": "rotation=1px"}, "step: rotation@1px is in the wrong unit"),
        ({"step": "rotation=1,2"}, r"step gives rotation 2 sizes \(1deg, 2deg\)"),
        ({"step": "translation=2;translation_x=1"}, "step gives translation_x 2 sizes"),
        ({"step": "scale=1%"}, "step: 'scale' is not among the transforms"),
        ({"step": "nothing=1"}, "step: 'nothing' is unknown"),
        ({"step": "10deg"}, "step: '10deg' is no step; write TRANSFORM=SIZE;"),
        ({"step": 10}, "step is a int"),
        ({"step": ""}, "step holds no step"),
        ({"step": "rotation=0"}, "step: '0' of rotation must be a number"),
        ({"step": "rotation=1", "method": "finite"}, "method='finite' draws its own sizes"),
        (
            {"step": "rotation=0.0001;translation=1e-5"},
            "hardly more than rounding in torch.float32",
        ),
        ({"step": "rotation=360;translation=16"}, "hardly more than rounding"),
    ],
)
def test_refusals(how, message):
    x = torch.rand(2, 3, 8, 8)
    with pytest.raises(LieDerivError, match=message):
        equivariance_penalty(network(), x, **{**EVERYTHING, **how})


def test_an_output_that_cannot_be_moved_by_a_step_is_refused(images):
    own = liederiv.Custom(lambda action, y: torch.zeros_like(y))
    with pytest.raises(UnknownLayoutError, match="finite"):
        equivariance_penalty(network().double(), images, step="rotation=10", output=own)


def test_blank_images_are_no_reason_to_stop():
    flat = torch.ones(2, 3, 8, 8)
    assert equivariance_penalty(network(), flat, "rotation", step="rotation=5").item() < 1e-12


class Noisy(nn.Module):
    def __init__(self, across=False):
        super().__init__()
        self.net, self.across = network().double(), across

    def forward(self, x):
        y = self.net(x)
        return y - y.mean(0) if self.across else nn.functional.dropout(y, 0.5, training=True)


@pytest.mark.parametrize("how", [{"step": "rotation=10"}, {"method": "finite"}])
def test_chance_and_neighbours_are_no_motion(images, how):
    """Both would change from pass to pass, or with the draw of images, by themselves."""
    with pytest.raises(ModelError, match="stochastic"):
        equivariance_penalty(Noisy(), images, "rotation", **how)
    with pytest.raises(ModelError, match="depend on the other images"):
        equivariance_penalty(Noisy(across=True), images, "rotation", **how)
