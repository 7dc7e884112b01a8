"""Steps of finite size: truths known by hand, and faults that must not pass for them."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import liederiv
from liederiv import measure
from liederiv.cli.tables import score_tables
from liederiv.errors import LieDerivError
from liederiv.generators import GENERATORS
from liederiv.measurement.comparison import compare
from liederiv.measurement.results import Measurement
from liederiv.metrics import structure_function
from liederiv.metrics.reach import crossing
from liederiv.points.cloud import PointCloud
from liederiv.representations import FeatureMap
from liederiv.steps import Step, parse_steps, plan_of
from liederiv.testing import assert_equivariant
from liederiv.testing.limits import judge_limits, parse_limits
from liederiv.training.metric import LocalEquivarianceError

HALF = 1.391557  # sin²(u)/u² = 1/2
KAPPA = 2 * math.pi * 3 / 16  # three waves on sixteen pixels
SCALE = "lee,scale"
INVARIANT = {"output": "invariant", "output_type": "output"}


def sinc2(u):
    return float(np.sinc(u / math.pi) ** 2)


def waves(n=6, dtype=torch.float32):
    """Images of one wave along x, of amplitudes and phases that differ: [n, 1, 4, 16]."""
    q = torch.arange(16, dtype=torch.float64)
    b = torch.arange(n, dtype=torch.float64)[:, None]
    x = (1 + 0.2 * b) * torch.cos(KAPPA * q + 0.7 * b)
    return x[:, None, None].expand(n, 1, 4, 16).contiguous().to(dtype)


def amplitude(x):
    """⟨x, wave⟩: under a shift by t its response is A cos(κ t + φ)."""
    w = torch.cos(KAPPA * torch.arange(16, dtype=torch.float64)).to(x)
    return (x * w).mean((1, 2, 3))[:, None]


def sinusoid(**options):
    options = {"scheme": "fourier", "steps": "translation=1,2px", **INVARIANT, **options}
    return measure(amplitude, options.pop("x", waves()), "translation_x", SCALE, **options)


def check_sinusoid(found):
    """LEE(h)/LEE = sinc²(κh/2) for each image, and the reach where that is one half."""
    lee = np.array(found.get("lee", "translation_x").per_image)
    for h in (1, 2):
        row = found.get("lee_step", f"translation_x@{h}px")
        np.testing.assert_allclose(row.per_image, lee * sinc2(KAPPA * h / 2), rtol=2e-4, atol=1e-9)
        assert row.unit == "output²/px²"
    reach = found.get("reach", "translation_x")
    assert reach.unit == "px"
    assert reach.value == pytest.approx(2 * HALF / KAPPA, rel=0.014)
    assert reach.ci_low == pytest.approx(reach.value, rel=1e-3)  # every image has the same curve


def test_a_sinusoidal_response():
    found = sinusoid()
    check_sinusoid(found)
    share = found.get("lee_share", "translation_x@0.03125px")
    assert share.value == pytest.approx(1, abs=1e-3)
    table = [
        str(c.header) for t in score_tables(found) if not isinstance(t, str) for c in t.columns
    ]
    assert "reach" in table
    assert "LEE(h) = S(h)/h²" in table


TRUE_ENDS = structure_function.ends_of


def doubled(domain, action, step):
    return TRUE_ENDS(domain, action, replace(step, t=2 * step.t))


def half_missing(domain, action, step):
    ahead, _ = TRUE_ENDS(domain, action, step)
    return ahead, TRUE_ENDS(domain, action, replace(step, t=0.0))[0]


def from_x_on(domain, action, step):
    """From x to T_h x: the size is right, the middle of the step is not x."""
    return half_missing(domain, action, replace(step, t=2 * step.t))


def degrees_for_radians(domain, action, step):
    return TRUE_ENDS(domain, action, replace(step, t=step.size))


@pytest.mark.parametrize("fault", [doubled, half_missing, from_x_on])
def test_faults_of_a_step_are_caught(fault, monkeypatch):
    monkeypatch.setattr(structure_function, "ends_of", fault)
    with pytest.raises(AssertionError):
        check_sinusoid(sinusoid())


def turning(n=5):
    """Clouds of one point each, at one length from the origin: its x coordinate is cos(t + φ)."""
    angle = torch.arange(n, dtype=torch.float64) * 1.1
    pos = torch.stack([angle.cos(), angle.sin()], 1).float()
    return PointCloud(pos, torch.arange(n))


def first_coordinate(cloud):
    return cloud.pos[:, :1]


def check_turning():
    steps = {"rotation": ["1deg", math.pi / 2 * 180 / math.pi, "160deg", f"{math.pi}rad"]}
    found = measure(first_coordinate, turning(), "rotation", SCALE, output="scalars",
                    output_type="output", steps=steps)  # fmt: skip
    lee = np.array(found.get("lee", "rotation").per_image)
    for label, h in (("1deg", math.pi / 180), ("90deg", math.pi / 2), ("180deg", math.pi)):
        row = found.get("lee_step", f"rotation@{label}")
        np.testing.assert_allclose(row.per_image, lee * sinc2(h / 2), rtol=1e-3, atol=1e-9)
    reach = found.get("reach", "rotation")
    assert (reach.unit, reach.status) == ("deg", "measured")
    assert reach.value == pytest.approx(math.degrees(2 * HALF), rel=0.014)
    noise = found.get("relative_norm_step", "rotation@1deg")
    assert noise.value > 0


def test_points_turn_by_degrees(monkeypatch):
    check_turning()
    monkeypatch.setattr(structure_function, "ends_of", degrees_for_radians)
    with pytest.raises(AssertionError):
        check_turning()


def brightened(x):
    return x.mean((1, 2, 3))[:, None] * torch.tensor([2.0, -3.0]).to(x)


def test_a_linear_response_reaches_beyond_every_step():
    x = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    found = measure(brightened, x, "brightness", SCALE, **INVARIANT)
    reach = found.get("reach", "brightness")
    assert (reach.status, reach.value) == ("beyond the largest step", None)
    assert reach.reason == "at 1input-std LEE(h) is 1 of LEE"
    assert found.get("lee_step", "brightness@0.1input-std").value == pytest.approx(6.5, rel=1e-4)


KINKS = 8.0  # per unit of brightness


class Telegraph(nn.Module):
    """A piecewise linear function of brightness whose slope ±1 flips at random kinks."""

    def __init__(self):
        super().__init__()
        gaps = torch.empty(700, dtype=torch.float64)
        gaps.exponential_(KINKS, generator=torch.Generator().manual_seed(1))
        self.register_buffer("kinks", gaps.cumsum(0) - 3)

    def forward(self, x):
        u = x.mean((1, 2, 3))[:, None]
        flips = 2.0 * (1 - 2 * (torch.arange(len(self.kinks), device=x.device) % 2)).to(x)
        return u - ((u - self.kinks.to(x)).clamp_min(0) * flips).sum(1, keepdim=True)


def test_a_network_of_known_kink_density():
    """E L(t) L(t + s) = exp(−2 λ s) for λ kinks per unit, so LEE(h) is known, and the reach."""
    x = torch.linspace(-1, 80, 3000, dtype=torch.float64).reshape(-1, 1, 1, 1)
    found = measure(Telegraph().eval(), x, "brightness", SCALE, batch_size=3000, resamples=50,
                    verify=False, **INVARIANT)  # fmt: skip
    for h in (1 / 32, 1 / 8, 1 / 2):
        a = 2 * KINKS * h
        want = 2 * (math.exp(-a) - 1 + a) / a**2
        got = found.get("lee_share", f"brightness@{h:.6g}input-std")
        assert got.value == pytest.approx(want, abs=0.05)
    assert found.get("lee", "brightness").value == pytest.approx(1, rel=1e-6)
    # 2 (e⁻ᵃ − 1 + a)/a² = 1/2 at a = 2.688
    want = 2.688 / (2 * KINKS)
    reach = found.get("reach", "brightness")
    assert reach.value == pytest.approx(want, rel=0.08)
    assert reach.ci_low < want < reach.ci_high


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.GELU(), nn.Conv2d(6, 6, 3, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4),
    ).eval()  # fmt: skip


X = torch.randn(5, 2, 12, 12, generator=torch.Generator().manual_seed(1))


def test_small_steps_are_the_derivative_and_order_changes_nothing():
    how = {"metrics": SCALE, "steps": "translation=1e-3;rotation=1e-3;scale=1e-3"}
    names = (("translation_x", "px"), ("rotation", "deg"), ("scale", "%"))
    transforms = [name for name, _ in names]
    how["steps"] = dict.fromkeys(transforms, 1e-3)
    found = measure(net(), X, transforms, **how)
    moved = measure(net(), X.flip(0), transforms, batch_size=2, **how)
    for output in ("probs", "logits"):
        for name, symbol in names:
            row = found.get("lee_step", f"{name}@0.001{symbol}", output)
            assert row.value == pytest.approx(found.get("lee", name, output).value, rel=0.02)
            assert row.floor < 1e-3 * row.value
            other = moved.get("lee_step", f"{name}@0.001{symbol}", output)
            assert other.per_image[::-1] == pytest.approx(row.per_image, rel=2e-3)
            assert moved.get("relative_norm_step", f"{name}@0.001{symbol}", output).value > 0
            reaches = [m.get("reach", name, output) for m in (found, moved)]
            assert reaches[0].status == reaches[1].status
            assert reaches[0].value == pytest.approx(reaches[1].value, rel=2e-3)


def test_relative_steps_tend_to_the_relative_derivative():
    """Of a linear network, over noise of the same norm and of the same spectrum."""
    steps = "translation_x=0.001px"
    found = measure(lambda x: amplitude(x[:, :1]), waves(), "translation_x", "lee,relative,scale",
                    scheme="fourier", steps=steps, **INVARIANT)  # fmt: skip
    here = found.get("relative_spectrum_step", "translation_x@0.001px")
    assert 0.2 < here.value / found.get("relative_spectrum", "translation_x").value < 5
    assert here.unit == "1"


class Far(nn.Module):
    """A small response on a large constant, which float32 rounds, there or inside the model."""

    def __init__(self, narrow=False, back=False):
        super().__init__()
        self.narrow, self.back = narrow, back

    def forward(self, x):
        y = 3e4 + amplitude(x)
        y = y.float().to(x.dtype) if self.narrow else y
        return y - 3e4 if self.back else y


@pytest.mark.parametrize("back", [False, True])
def test_rounding_is_avoided_in_float64_or_said(back):
    truth = sinusoid(x=waves(dtype=torch.float64), steps="translation=0.001px")
    want = truth.get("lee_step", "translation_x@0.001px").value
    how = dict(scheme="fourier", steps="translation=0.001px", **INVARIANT)
    wide = measure(Far(back=back).eval(), waves(), "translation_x", SCALE, **how)
    row = wide.get("lee_step", "translation_x@0.001px")
    assert row.value == pytest.approx(want, rel=1e-4)
    assert row.floor < 1e-3 * row.value
    single = measure(
        Far(narrow=True, back=back).eval(), waves(), "translation_x", SCALE, verify=False, **how
    )
    row = single.get("lee_step", "translation_x@0.001px")
    assert row.floor > 0.2 * abs(row.value - want)
    assert row.floor > 0.1 * want
    hidden = single.get("lee_share", "translation_x@0.001px")
    assert (hidden.status, hidden.reason) == (
        "not applicable",
        "rounding, or jumps of the output, hide the response",
    )


def test_an_equivariant_map_stands_still():
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular").eval()
    x = torch.randn(2, 2, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    how = {"scheme": "fourier", "output": FeatureMap(), "steps": "translation=0.4,3px"}
    found = measure(conv.double(), x, "translation", SCALE, **how)
    for h in ("0.4px", "3px"):
        assert found.get("lee_step", f"translation@{h}").value < 1e-20
    reach = found.get("reach", "translation")
    assert (reach.status, reach.value) == ("not applicable", None)
    assert_equivariant(conv, x, "translation", output=FeatureMap(), steps="translation=3px")
    # Declared invariant, it is what it is: as sensitive to a motion as to noise.
    with pytest.raises(AssertionError, match=r"translation_x@3px.*\n.*worst image \d"):
        assert_equivariant(conv, x, "translation_x", output="invariant",
                           steps="translation_x=3px")  # fmt: skip


class Stairs(nn.Module):
    def __init__(self, levels):
        super().__init__()
        self.levels = levels

    def forward(self, x):
        return (self.levels * amplitude(x)).round() / self.levels


def test_without_a_derivative_the_smallest_step_must_have_settled():
    x, reach = waves(24), 2 * HALF / KAPPA
    how = {"scheme": "fourier", "steps": "translation=1", **INVARIANT}
    truth = sinusoid(x=x).get("lee_step", "translation_x@1px").value

    def found(levels, **more):
        got = measure(Stairs(levels).eval(), x, "translation_x", "scale", **how, **more)
        row = got.get("lee_step", "translation_x@1px")
        assert row.value == pytest.approx(truth, rel=0.1)
        return got.get("reach", "translation_x")

    coarse = found(2.0)  # the smallest steps see single stairs
    assert coarse.status == "not applicable"
    assert "not settled at the smallest steps" in coarse.reason or "jumps" in coarse.reason
    assert found(2.0, engine="finite-differences").status == "not applicable"
    fine = found(512.0)
    assert fine.value == pytest.approx(reach, rel=0.05)
    assert fine.reason == "LEE taken at 0.03125px"


class Jumping(nn.Module):
    """A smooth part that is differentiated, and a staircase that is not."""

    def forward(self, x):
        return amplitude(x) + (30 * amplitude(x)).round() / 3


def test_a_derivative_that_misses_jumps_has_no_reach():
    found = measure(Jumping().eval(), waves(24), "translation_x", SCALE, scheme="fourier",
                    verify=False, **INVARIANT)  # fmt: skip
    reach = found.get("reach", "translation_x")
    assert reach.status == "failed"
    assert "times LEE: the output changes in jumps" in reach.reason


@pytest.mark.parametrize("ending", ["json", "csv", "parquet"])
def test_statuses_survive_files(tmp_path, ending):
    x = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    found = measure(brightened, x, "brightness,translation", SCALE, **INVARIANT)
    back = Measurement.load(found.save(tmp_path / f"r.{ending}"))
    for a, b in zip(found.scores, back.scores, strict=True):
        assert (a.transform, a.status, a.value, a.reason) == (
            b.transform,
            b.status,
            b.value,
            b.reason,
        )


def test_reaches_are_compared_image_by_image():
    slow = measure(
        lambda x: amplitude(x), waves(), "translation_x", SCALE, scheme="fourier", **INVARIANT
    )
    both = [slow, measure(lambda x: amplitude(x) ** 2, waves(), "translation_x", SCALE,
                          scheme="fourier", **INVARIANT)]  # fmt: skip
    rows = {d.metric: d for d in compare(*both)}
    assert "lee_share" not in rows
    gap = rows["reach"]
    assert gap.difference == pytest.approx(gap.b - gap.a)
    assert gap.ci_low <= gap.difference <= gap.ci_high < 0
    assert gap.unit == "px"
    assert (gap.significant, gap.better) == (True, "")  # neither a long nor a short reach is better


@pytest.mark.parametrize(("limit", "passed"), [(0.9, False), (1.1, True)])
def test_a_limit_over_a_step(limit, passed):
    found = sinusoid()
    value = found.get("lee_step", "translation_x@1px").value
    (one,) = parse_limits(f"translation_x@1px={limit * value}")
    (verdict,) = judge_limits(found, [replace(one, value=limit * found.get(
        "lee_step", "translation_x@1px").ci_low if not passed else one.value)])  # fmt: skip
    assert verdict.passed is passed


@pytest.mark.parametrize(("text", "words"), [
    ("translation@1deg=3", "deg is not a unit of its steps; a step of translation is in px"),
    ("rotation@1=3", "its unit is missing; a step of rotation is in deg"),
    ("rotation@1px=3", "px is not a unit"),
    ("lee/rotation@1deg=3", "lee has no steps"),
    ("lee_step/rotation=3", "lee_step is measured at a step"),
    ("rotation@-1deg=3", "rotation@-1deg: the step must be a number from 1e-06"),
    ("rotation@=3", "must be a number"),
    ("translation@0px=3", "must be a number"),
    ("translation@1px@2px=3", "must be a number"),
    ("translation@1px;2px=3", "must be a number"),
    ("reach/rotation=3", "'reach' cannot be limited"),
])  # fmt: skip
def test_limits_that_are_refused(text, words):
    with pytest.raises(LieDerivError) as caught:
        parse_limits(text)
    assert words in str(caught.value)


@pytest.mark.parametrize(("steps", "words"), [
    ("translation=1deg", "wrong unit; a step of translation_x is measured in px"),
    ("rotation=1", "not among the transforms that are measured"),
    ("turning=1", "unknown"),
    ("translation", "is no step"),
    ("translation=", "must be a number"),
    ("translation=1;translation=2", "twice"),
    ("translation=inf", "must be a number"),
    ("", "holds no step"),
    (3, "steps is a int"),
    ({"translation": True}, "must be a number"),
    ({"translation": None}, "must be"),
])  # fmt: skip
def test_steps_that_are_refused(steps, words):
    with pytest.raises(LieDerivError) as caught:
        measure(amplitude, waves(), "translation_x", "scale", steps=steps, **INVARIANT)
    assert words in str(caught.value)


def test_steps_without_a_metric_that_takes_them():
    with pytest.raises(LieDerivError, match="no metric takes them"):
        measure(amplitude, waves(), "translation_x", "lee", steps="translation=1", **INVARIANT)


def test_units_of_steps():
    assert parse_steps("rotation=1°, 2 deg") == {"rotation": ((1.0, "deg"), (2.0, "deg"))}
    (plan,) = plan_of([GENERATORS["scale"]], [()], "scale=1,100%")
    assert [s.t for s in plan] == pytest.approx([math.log(1.01), math.log(2)])
    both = [GENERATORS[f"translation_{axis}"] for axis in "xy"]
    plan = plan_of(both, [(), ()], "translation=1;translation_x=2px")
    assert [[s.label for s in steps] for steps in plan] == [["1px", "2px"], ["1px"]]
    (plan,) = plan_of([GENERATORS["rotation"]], [(0.5,)], {"rotation": f"{math.pi}rad"})
    assert plan == (Step(0.5, math.radians(0.5), "deg", False), Step(180.0, math.pi, "deg", True))


def test_crossing_of_curves_that_do_not_cross():
    log_h = np.log([1.0, 2.0, 4.0])
    found = crossing(
        log_h, np.array([[1, 0.9, 0.8], [0.4, 0.3, 0.2], [1.2, 1.1, 0.1], [1, 0.5, 2]])
    )
    assert found[:2].tolist() == [math.inf, -math.inf]
    assert 2 < math.exp(found[2]) < 4
    assert math.exp(found[3]) == pytest.approx(2)


def test_a_metric_of_training_at_a_step():
    metric = LocalEquivarianceError("translation_x", "fourier", output="invariant",
                                    output_type="output", steps="translation_x=1,2")  # fmt: skip
    x = waves()
    metric.update(amplitude, x[:2])
    metric.update(amplitude, x[2:])
    found, want = metric.compute(), sinusoid()
    assert set(found) == {"translation_x", "translation_x@1px", "translation_x@2px"}
    for name in ("translation_x@1px", "translation_x@2px"):
        assert float(found[name]) == pytest.approx(want.get("lee_step", name).value, rel=1e-4)
    with pytest.raises(LieDerivError, match="wrong unit"):
        LocalEquivarianceError("translation_x", steps="translation_x=1deg")


def test_outputs_whose_finite_action_is_unknown():
    found = measure(
        lambda x: x, waves(), "translation_x", SCALE,
        output=liederiv.Custom(lambda action, y: torch.zeros(1, *y.shape)),
    )  # fmt: skip
    (row,) = [s for s in found.scores if s.metric == "reach"]
    assert row.status == "not applicable"
    assert "does not say how finite transforms act" in row.reason


class Picky(nn.Module):
    """A network that is particular about its batches, or about its outputs."""

    def __init__(self, most=99, mix=0.0, levels=0.0):
        super().__init__()
        self.most, self.mix, self.levels = most, mix, levels

    def forward(self, x):
        if len(x) > self.most:
            raise RuntimeError("too many at once")
        y = amplitude(x)
        y = y + self.mix * y.mean()
        return (y * self.levels).round() / self.levels if self.levels else y


def test_no_pass_is_larger_than_a_model_takes():
    how = dict(scheme="fourier", **INVARIANT)
    x = waves(4)
    found = measure(Picky(most=2).eval(), [x[:2], x[2:]], "translation_x", "lee_step", **how)
    want = measure(amplitude, x, "translation_x", "lee_step", **how).scores[0]
    assert found.scores[0].value == pytest.approx(want.value, rel=1e-5)


@pytest.mark.parametrize("metric", ["lee_step", "sampled"])
def test_rows_that_depend_on_each_other_are_refused_without_a_derivative_too(metric):
    def found(**more):
        return measure(
            Picky(mix=0.5).eval(), waves(4), "translation_x", metric, **INVARIANT, **more
        )

    with pytest.raises(liederiv.ModelError, match="rows of the model's output depend"):
        found()
    assert "measured" in {s.status for s in found(batch_size=1).scores}


def test_what_has_no_derivative_is_measured_over_steps(tmp_path):
    """Beside metrics of the derivative, which say that there is none; no limit on these is kept."""
    found = measure(Picky(levels=8).eval(), waves(24), "translation_x", SCALE,
                    scheme="fourier", **INVARIANT)  # fmt: skip
    assert found.get("lee", "translation_x").status == "not applicable"
    value = found.get("lee_step", "translation_x@1px").value
    want = sinusoid(x=waves(24)).get("lee_step", "translation_x@1px").value
    assert value == pytest.approx(want, rel=0.1)
    verdicts = judge_limits(found, parse_limits("translation_x=1e9,translation_x@1px=1e9"))
    assert [v.passed for v in verdicts] == [False, True]
    assert found.provenance.representation.startswith("Invariant()")


def test_steps_as_long_as_the_image_are_said():
    how = dict(scheme="fourier", **INVARIANT)
    for steps, said in (("translation=7px", False), ("translation=8px", True)):
        found = measure(amplitude, waves(), "translation_x", "lee_step", steps=steps, **how)
        assert any("by half of themselves" in w for w in found.provenance.warnings) is said


def test_grids_without_a_domain_are_refused():
    for shape in ((2, 3, 16), (2, 3, 4, 4, 4)):
        with pytest.raises(LieDerivError, match=r"\[B, C, H, W\]"):
            measure(lambda x: x.flatten(1).mean(1), torch.rand(shape), "translation_x", "scale")
