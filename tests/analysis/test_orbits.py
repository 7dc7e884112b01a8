"""Orbits: against answers known in closed form, strides known by construction, planted faults."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from liederiv import PointCloud
from liederiv.analysis import orbit
from liederiv.analysis.orbits import curves, measuring, readable, response, worst
from liederiv.analysis.orbits.periodogram import f_tail, find_period, gram
from liederiv.errors import LieDerivError, ModelError
from liederiv.generators import generator

N = 32
WAVE = 2 * math.pi / N  # radians per pixel of one wave over the image
BARE = {"shifts": 0, "worst": 0}


class Phase(nn.Module):
    """(c, s) = mean of the image times a cosine and a sine: turns by WAVE per pixel of shift."""

    def forward(self, x):
        along = WAVE * torch.arange(x.shape[-1], dtype=x.dtype)
        row = x.mean((1, 2))
        return torch.stack([(row * along.cos()).mean(1), (row * along.sin()).mean(1)], 1)


def waves(*sizes):
    """Images of one wave along x, of these amplitudes: Phase answers a vector of half of each."""
    row = (WAVE * torch.arange(N, dtype=torch.float64)).cos()
    return torch.stack([a * row.expand(1, 8, N) for a in sizes])


@pytest.fixture(scope="module")
def turned():
    kwargs = {"scheme": "fourier", "output_type": "output", "ranges": {"translation": 6}}
    return orbit(Phase().eval(), waves(1.0, 2.0), "translation_x", points=8, **kwargs, **BARE)


def test_a_sinusoidal_answer_in_closed_form(turned):
    """u turns on a circle of radius a/2: chord, speed and arc are known."""
    c = turned.get("translation_x")
    for b, radius in enumerate((0.5, 1.0)):
        rms = radius / math.sqrt(2)  # of two entries
        assert c.change[b] == pytest.approx(2 * rms * np.abs(np.sin(WAVE * c.t / 2)), abs=1e-12)
        assert c.lee[b] == pytest.approx((rms * WAVE) ** 2, rel=1e-7)
        assert c.path[b] == pytest.approx(rms * WAVE * np.abs(c.t), rel=1e-7)
        assert c.asymmetry[b] == pytest.approx(asymmetry_of_an_arc(c.t, rms), rel=1e-9)
    assert (c.path_error < 1e-7).all()
    assert c.bound_holds
    assert (c.change <= c.chords + 1e-12).all()
    assert (c.chords <= c.path + 1e-7).all()
    assert c.shown_unit == "px"
    assert c.t[c.on_grid].tolist() == pytest.approx(np.arange(-6, 7, 1.5).tolist())


def asymmetry_of_an_arc(t, rms):
    """Σ w |z − z̄|² of points on a circle, weighted by the trapezium rule."""
    z = rms * np.exp(1j * WAVE * t)
    w = np.gradient(t) * 0
    w[:-1] += np.diff(t) / 2
    w[1:] += np.diff(t) / 2
    w /= w.sum()
    return (w * abs(z) ** 2).sum() - abs((w * z).sum()) ** 2


def test_a_linear_answer():
    """The mean of x + t is a straight line: path length and change are one, LEE(t) is 1."""
    mean = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    c = orbit(mean, x, "brightness", output_type="output", points=4, **BARE).get("brightness")
    assert c.change == pytest.approx(np.abs(c.t)[None].repeat(2, 0), abs=1e-12)
    assert c.path == pytest.approx(c.change, abs=1e-9)
    assert c.lee == pytest.approx(np.ones_like(c.lee), rel=1e-8)
    assert c.asymmetry[0] == pytest.approx(0.5**2 / 3, rel=0.1)  # variance of t, by nine points


def test_lee_at_zero_is_the_lie_derivative():
    from liederiv import lie_derivative

    net = strided(2).eval()
    x = smooth(3, 16)
    found = orbit(net, x, "rotation,scale", output_type="logits", points=2, **BARE)
    for k, name in enumerate(("rotation", "scale")):
        L = lie_derivative(net, x, name)[0].square().mean(1)
        c = found.get(name)
        assert c.lee[:, len(c.t) // 2] == pytest.approx(L.numpy(), rel=1e-5), k


def smooth(items, size, seed=0):
    """Images without energy in the upper half of frequencies."""
    x = torch.randn(items, 3, size, size, generator=torch.Generator().manual_seed(seed)).double()
    f = torch.fft.fftfreq(size).abs() < 0.25
    return torch.fft.ifft2(torch.fft.fft2(x) * (f[:, None] & f[None])).real


def strided(*strides, padding="circular", seed=0, classes=5):
    """A classifier of that total stride, which circular padding makes exact."""
    torch.manual_seed(seed)
    layers, channels = [], 3
    for s in strides:
        layers += [nn.Conv2d(channels, 6, 3, s, 1, padding_mode=padding), nn.ReLU()]
        channels = 6
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, classes))
    return net.double().eval()


class Rigid(nn.Module):
    """Equivariant by construction: the image itself, as a map."""

    def forward(self, x):
        return 2 * x


def test_a_map_that_moves_along_does_not_change():
    x = smooth(1, 32)
    c = orbit(Rigid().eval(), x, "translation_x", output="NCHW", scheme="fourier", points=4, **BARE)
    found = c.get("translation_x")
    assert found.change.max() < 1e-10
    assert found.path.max() < 1e-6 * found.size.max()
    assert found.compared.max() < 1  # the border is left out


def test_a_representation_of_the_wrong_sign_is_seen(monkeypatch):
    """Planted: ρ_t in place of its inverse. The map of the test above then moves twice."""
    right = response.Response._back
    monkeypatch.setattr(
        response.Response, "_back", lambda self, action, t, y: right(self, action, -t, y)
    )
    x = smooth(1, 32)
    c = orbit(Rigid().eval(), x, "translation_x", output="NCHW", scheme="fourier", points=4, **BARE)
    assert c.get("translation_x").change.max() > 0.1 * c.get("translation_x").size.max()


def test_a_path_that_is_too_short_is_no_number(monkeypatch):
    """Planted: degrees taken for radians in the derivative alone. The bound breaks, and is said."""
    right = response.Response.linear

    def wrong(self, action, t):
        found = right(self, action, t)
        return response.Linear(found.u, found.du / 57.3, found.errors, found.verification)

    monkeypatch.setattr(response.Response, "linear", wrong)
    x = waves(1.0)
    kwargs = {"scheme": "fourier", "output_type": "output", "points": 4}
    c = orbit(Phase().eval(), x, "translation_x", **kwargs, **BARE).get("translation_x")
    assert not c.bound_holds
    assert c.total_path is None
    assert "take more points" in c.reason


def test_a_grid_in_step_with_the_pixels_is_corrected():
    """A speed that vanishes at every grid point: the drawn points, and the stated error, see it."""
    misses, errors = [], []
    for seed in range(40):
        grid = curves.Grid.of(8.0, 16, seed)
        speed = np.sin(math.pi * grid.t)[None] ** 2
        length, error = curves.path_length(grid, speed)
        misses.append(length[0, -1] - 4.0)  # ∫₀⁸ sin²πt dt
        errors.append(error[0, -1])
    assert abs(np.mean(misses)) < 3 * np.std(misses) / math.sqrt(len(misses))
    assert np.mean(np.abs(misses) <= errors) > 0.9
    assert np.mean(errors) < 4


def test_units_of_people():
    assert readable(generator("rotation")).to_t(180) == pytest.approx(math.pi)
    assert readable(generator("scale")).to_t(10) == pytest.approx(math.log(1.1))
    assert readable(generator("scale")).of_t(math.log(1.1)) == pytest.approx(10)
    assert readable(generator("shear_x")).to_t(10) == pytest.approx(0.1)
    c = orbit(strided(1), smooth(1, 16), "rotation", ranges={"rotation": 30}, points=2, **BARE).get(
        "rotation"
    )
    assert c.t[-1] == pytest.approx(math.pi / 6)
    assert c.shown[-1] == pytest.approx(30)


@pytest.mark.parametrize(
    ("strides", "period"),
    [((1, 1), 1), ((2,), 2), ((2, 2), 4), ((3, 1), 3), ((2, 2, 2), 8), ((4, 2), 8)],
)
def test_the_period_of_a_strided_network(strides, period):
    size = 48 if period in (1, 2, 3, 4) else 64
    kwargs = {"output_type": "logits", "points": 2, "worst": 0, "ranges": {"translation": 1}}
    found = orbit(strided(*strides), smooth(2, size), "translation_x", **kwargs)
    (p,) = found.periods
    assert p.pixels == period
    assert p.p_value < 1e-4
    assert p.share > 0.9
    assert not p.doubt


class Flat(nn.Module):
    """No symmetry at all: a random image is laid over the input."""

    def __init__(self, size):
        super().__init__()
        torch.manual_seed(1)
        self.linear = nn.Linear(3 * size * size, 6).double()

    def forward(self, x):
        return self.linear(x.flatten(1)).tanh()


def test_no_period_where_there_is_none():
    kwargs = {"points": 2, "worst": 0, "output_type": "output", "ranges": {"translation": 1}}
    (p,) = orbit(Flat(48).eval(), smooth(2, 48), "translation_y", **kwargs).periods
    assert p.pixels is None
    assert "no line stands out" in p.reason
    still = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    (p,) = orbit(still, smooth(2, 48), "translation_x", **kwargs).periods
    assert p.pixels is None
    assert p.reason == "the output does not change beyond rounding"


@pytest.mark.parametrize("period", [5, 6, 8, 16, 24])
@pytest.mark.parametrize("harmonic", [1, 2, 3])
def test_harmonics_and_multiples_are_not_taken_for_the_period(period, harmonic):
    """Power at a harmonic only moves the period to what repeats; the fundamental holds it."""
    t = np.arange(97.0)
    phase = 2 * math.pi * t / period
    overtone = np.stack([np.sin(harmonic * phase), np.cos(harmonic * phase + 1)], 1)
    alone = find_period([gram(overtone)], [1e-12])
    assert alone.period == period // math.gcd(period, harmonic)
    both = overtone + 0.3 * np.stack([np.cos(phase + 2), np.sin(phase)], 1)
    assert find_period([gram(both)], [1e-12]).period == period
    drift = np.outer(np.linspace(0, 3, 97), [1.0, -0.5])
    assert find_period([gram(both + drift)], [1e-12]).period == period


def test_faint_lines_are_said_to_be_faint():
    """A line that stands out, of 2 % of the variation: no period, and not "no line"."""
    rng = np.random.default_rng(0)
    t = np.arange(193.0)[:, None]
    noise = [rng.normal(size=(193, 64)) for _ in range(8)]
    weights = rng.normal(size=(1, 64))
    wave = 0.25 * weights * np.sin(2 * math.pi * t / 4)
    found = find_period([gram(n + wave) for n in noise], [1e-12] * 8)
    assert found.period is None
    assert found.weak
    assert found.weak % 4 == 0
    assert 0.01 < found.share < 0.05
    assert not find_period([gram(n) for n in noise], [1e-12] * 8).weak


@pytest.mark.parametrize("shape", [(), (1,), (2, 2, 2)])
def test_outputs_of_any_shape_have_a_period(shape):
    """Also one number per image [B], and [B, 1]."""

    class Shaped(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = strided(4, classes=max(1, math.prod(shape)))

        def forward(self, x):
            return self.net(x).reshape(len(x), *shape)

    kwargs = {"output_type": "output", "points": 2, "worst": 10, "ranges": {"translation": 1}}
    how = {"output": "invariant", "resamples": 2, **kwargs}
    found = orbit(Shaped().eval(), smooth(2, 48), "translation_x", **how)
    assert found.periods[0].pixels == 4
    assert found.curves[0].change.shape == (2, 5)


def test_noise_and_drifts_have_no_period():
    rng = np.random.default_rng(0)
    for make in (
        lambda: rng.normal(size=(65, 4)),
        lambda: rng.normal(size=(65, 4)).cumsum(0),
        lambda: np.outer(rng.normal(size=65), rng.normal(size=4)),
        lambda: np.outer(rng.normal(size=65).cumsum(), rng.normal(size=4)),
    ):
        found = [find_period([gram(make()), gram(make())], [1e-12] * 2).period for _ in range(25)]
        assert found == [None] * 25


def test_fishers_f_as_scipy_has_it():
    from scipy.stats import f

    rng = np.random.default_rng(0)
    for _ in range(100):
        a, b, v = rng.uniform(0.5, 80), rng.uniform(0.5, 400), 10 ** rng.uniform(-2, 1.5)
        assert f_tail(v, a, b) == pytest.approx(f.sf(v, a, b), rel=1e-9, abs=1e-300)


def test_an_asymmetrys_part_of_the_loss_in_closed_form():
    """Logits ±t/2 of two classes: E log(1 + e^{−t}) − log 2 over t ∈ [−2, 2], label 1."""

    class Lean(nn.Module):
        def forward(self, x):
            t = x.mean((1, 2, 3))
            return torch.stack([-t / 2, t / 2], 1)

    x = torch.zeros(2, 1, 8, 8, dtype=torch.float64)
    kwargs = {"labels": [1, 0], "output_type": "logits", "ranges": {"brightness": 2}}
    c = orbit(Lean().eval(), x, "brightness", points=64, **kwargs, **BARE).get("brightness")
    dense = np.linspace(-2, 2, 100001)
    expected = np.log1p(np.exp(-dense)).mean() - math.log(2)
    assert c.asymmetry_loss == pytest.approx([expected] * 2, rel=0.02)
    assert c.loss[0] == pytest.approx(np.log1p(np.exp(-c.t)), rel=1e-12)
    assert (c.correct[0] == (c.t > 0)).all()  # a tie goes to class 0
    assert (c.kept[0] == (c.t <= 0)).all()


@pytest.mark.parametrize("kind", ["probs", "logits"])
def test_what_an_asymmetry_costs_is_never_negative(kind):
    x = smooth(4, 16)
    found = orbit(
        strided(2, 2), x, "translation,rotation", labels=[0, 1, 2, 3], output_type=kind, points=4,
        **BARE,
    )  # fmt: skip
    for c in found.curves:
        assert (c.asymmetry_loss >= 0).all()
        assert (c.asymmetry > 0).all()


def test_the_worst_transform_of_a_smooth_hill():
    """(u(t) − u(0))² = 4 sin²(t WAVE/2) grows up to half a wave: the worst is at the box's end."""
    kwargs = {"scheme": "fourier", "output_type": "output", "points": 2, "shifts": 0}
    x = waves(1.0)
    kwargs["ranges"] = {"translation": 8}
    found = orbit(Phase().eval(), x, "translation_x", worst=60, starts=2, **kwargs).worst
    top = 2 * 0.5 / math.sqrt(2) * math.sin(WAVE * 8 / 2)
    assert found.ascent == pytest.approx([top], rel=1e-6)
    assert found.grid == pytest.approx([top], rel=1e-6)
    assert abs(found.ascent_at[0, 0]) == pytest.approx(8)
    assert found.won == (0, 0)
    # Beyond half a wave the summit is inside, where a grid point only comes near.
    kwargs["ranges"] = {"translation": 21.7}
    found = orbit(Phase().eval(), x, "translation_x", worst=8, starts=2, **kwargs).worst
    assert found.grid_passes <= found.ascent_passes == 8
    assert found.largest <= 2 * 0.5 / math.sqrt(2) + 1e-12


def test_a_slope_of_the_wrong_sign_finds_less(monkeypatch):
    kwargs = {"scheme": "fourier", "output_type": "output", "points": 2, "shifts": 0, "starts": 2}
    right = orbit(Phase().eval(), waves(1.0), "translation_x", worst=60, **kwargs).worst
    climb = worst._Hill.climb
    monkeypatch.setattr(
        worst._Hill, "climb", lambda self, p: (lambda v, s: (v, -s))(*climb(self, p))
    )
    wrong = orbit(Phase().eval(), waves(1.0), "translation_x", worst=60, **kwargs).worst
    assert wrong.ascent < 0.99 * right.ascent
    assert wrong.won == (0, 1)


def test_intensities_stay_out_of_the_box():
    found = orbit(
        strided(2), smooth(2, 16), "translation_x,contrast,rotation", points=2, shifts=0, worst=24,
        output_type="logits",
    ).worst  # fmt: skip
    assert found.generators == ("translation_x", "rotation")
    assert found.left_out == ("contrast",)


def test_points():
    """The mean position turns with the cloud; its first coordinate alone does not."""
    pos = torch.randn(10, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1
    cloud = PointCloud(pos, torch.arange(2).repeat_interleave(5))

    def centre(c):
        return torch.stack([c.pos[c.batch == b].mean(0) for b in range(len(c))])

    sound = orbit(centre, cloud, "rotation_z,translation_x", output="positions", points=4, worst=0)
    assert max(c.change.max() for c in sound.curves) < 1e-12
    assert sound.periods == ()
    assert sound.border == ""
    assert sound.get("rotation_z").shown[-1] == pytest.approx(180)
    wrong = orbit(centre, cloud, "rotation_z", output="scalars", points=8, worst=0)
    c = wrong.get("rotation_z")
    mean = centre(cloud)[:, :2].norm(dim=1).numpy()
    expected = 2 * mean[:, None] * np.abs(np.sin(c.t / 2)) / math.sqrt(3)
    assert c.change == pytest.approx(expected, abs=1e-12)
    assert c.total_path == pytest.approx(2 * math.pi * mean / math.sqrt(3), rel=1e-6)


def test_batches_and_order_do_not_matter(monkeypatch):
    x = smooth(3, 16)
    kwargs = {"output_type": "logits", "points": 2, "worst": 24, "shifts": 12}
    whole = orbit(strided(2), x, "translation_x,rotation", **kwargs)
    back = orbit(strided(2), x.flip(0), "translation_x,rotation", **kwargs)
    monkeypatch.setattr(measuring, "pieces", lambda x: (x[b : b + 1] for b in range(len(x))))
    single = orbit(strided(2), x, "translation_x,rotation", **kwargs)
    for a, b, c in zip(whole.curves, back.curves, single.curves, strict=True):
        assert a.change == pytest.approx(b.change[::-1], rel=1e-9, abs=1e-12)
        assert a.path == pytest.approx(c.path, rel=1e-6, abs=1e-12)
    assert whole.worst.ascent == pytest.approx(back.worst.ascent[::-1], rel=1e-6)
    assert whole.worst.ascent == pytest.approx(single.worst.ascent, rel=1e-6)


def test_differences_carry_their_error():
    """A black box, which leaves torch, has its derivative by differences, and says how well."""

    def black(x):
        mean = x.detach().double().numpy().mean((1, 2, 3))
        return torch.from_numpy(np.stack([np.sin(mean), np.cos(mean)], 1)).to(x)

    x = torch.rand(1, 1, 8, 8, dtype=torch.float64)
    found = orbit(black, x, "brightness", output_type="output", points=2, **BARE)
    assert len(found.warnings) == 1
    assert "finite-differences" in found.warnings[0]
    c = found.get("brightness")
    assert found.engine == "finite-differences"
    assert (np.abs(c.lee - 0.5) <= 3 * c.lee_error).all()
    assert 0 < c.lee_error.max() < 1e-6


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"points": 3}, "points=3 must be an even number"),
        ({"points": 0}, "points=0 must be an even number"),
        ({"shifts": 5}, "shifts=5 must be 12 or more"),
        ({"worst": 3}, "worst=3 forward passes are too few"),
        ({"worst": -1}, "worst=-1 must be a number of forward passes"),
        ({"starts": 0}, "starts=0 must be 1 or more"),
        ({"ranges": {"rotation": 3}}, "'rotation' is not followed; choose from translation"),
        ({"ranges": {"translation": -3}}, "translation=-3 must be a positive number"),
        ({"ranges": {"translation": float("nan")}}, "must be a positive number"),
        ({"labels": [0, 1]}, "one for each of 1 inputs"),
        ({"labels": [0.5]}, "must be whole numbers"),
        ({"labels": ["cat"]}, "are no whole numbers"),
        ({"labels": [5]}, "not those of 5 classes"),
        ({"output_type": "probs,logits"}, "output_type='probs,logits' must be one of"),
        ({"transforms": "wobble"}, "wobble"),
        ({"unit": "mile"}, "unit='mile'"),
    ],
)
def test_bad_arguments(given, message):
    given = {"transforms": "translation_x", "shifts": 0, **given}
    with pytest.raises(LieDerivError, match=message.replace("(", r"\(")):
        orbit(strided(2), smooth(1, 16), **given)


def test_images_too_small_for_a_period():
    (p,) = orbit(strided(2), smooth(1, 8), "translation_x", points=2, worst=0).periods
    assert p.pixels is None
    assert "8 shifts are too few" in p.reason


def test_small_images_are_followed_less_far():
    (c,) = orbit(strided(2), smooth(1, 8), "translation_x", points=2, **BARE).curves
    assert c.shown[-1] == 2  # a quarter of 8 pixels


def test_ranges_beyond_the_image():
    net, x = strided(2), smooth(1, 12)
    half = orbit(net, x, "translation_x", ranges={"translation": 7}, points=2, **BARE)
    assert "only 42% of the image was photographed" in half.warnings[0]
    for name, size in (("translation_x", 12), ("scale", 1e4), ("translation_x", 1e300)):
        with pytest.raises(LieDerivError, match=r"ranges: .*(leaves nothing|up to 10000)"):
            orbit(net, x, name, ranges={name: size}, points=2, **BARE)
    periodic = {"scheme": "fourier", "ranges": {"translation": 12}, "points": 2}
    (c,) = orbit(net, x, "translation_x", **periodic, **BARE).curves
    assert c.change[:, -1].max() < 1e-9  # once round


def test_a_turn_leaves_out_the_corners_between_its_points():
    """At ± 90° and 0° every pixel of a square is inside; on the way the corners are not."""
    (c,) = orbit(Rigid().eval(), smooth(1, 16), "rotation", output="NCHW", output_type="output",
                 ranges={"rotation": 90}, points=2, **BARE).curves  # fmt: skip
    assert c.compared.max() < 0.85  # the disc, π/4, by pixels


def test_a_path_is_no_shorter_than_its_polygon():
    """The quadrature's correction may go below it, and below zero."""
    found = orbit(strided(2), smooth(2, 16), "translation_x", points=2, **BARE).curves[0]
    low = dataclasses.replace(
        found, path=found.path - 2 * found.path.max(), path_error=np.full_like(found.path, 9.0)
    )
    assert low.path.max() < 0
    assert (low.length == low.chords).all()
    assert (low.total_path > 0).all()


def test_an_output_that_becomes_infinite_is_refused():
    class Burst(nn.Module):
        def forward(self, x):
            return torch.where(x.mean((1, 2, 3)) > 0.2, math.inf, 1.0)[:, None] * x.mean((2, 3))

    x = torch.zeros(1, 1, 8, 8, dtype=torch.float64) + 0.1
    with pytest.raises(ModelError, match="not finite"):
        orbit(Burst().eval(), x, "brightness", output_type="output", points=2, **BARE)


@pytest.mark.slow
def test_a_resnet_has_the_period_of_its_stride():
    import timm

    from liederiv.model_zoo.sources.random_weights import calibrate

    torch.manual_seed(0)
    net = timm.create_model("resnet18", num_classes=50).eval()
    x = smooth(2, 128).float()
    calibrate(net, smooth(4, 128, seed=1).float())
    kwargs = {"output_type": "logits", "points": 2, "worst": 0, "ranges": {"translation": 1}}
    (p,) = orbit(net, x, "translation_x", **kwargs).periods
    assert p.pixels == 32
    assert p.p_value < 1e-4
