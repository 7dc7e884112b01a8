"""EQ-T, EQ-T_frac and EQ-R against hand computation and operators written apart from ours."""

import math

import numpy as np
import pytest
import torch
from cases import formula_images, formula_network
from sampling_cases import blob, circular_net, drawn, images
from torch import nn

from liederiv import LieDerivError, TokenGrid, measure, resolve_generators
from liederiv.actions import ImageAction
from liederiv.metrics.band_limited import (
    BandLimitedRotation,
    LanczosShift,
    PseudoRotation,
    band_filter,
)
from liederiv.metrics.eq import (
    NoWholeShiftError,
    eq_r,
    eq_r_relative,
    eq_t,
    eq_t_relative,
)
from liederiv.metrics.sampled import SampledMetric
from liederiv.transforms import FiniteTransform


def db(mse: float, peak: float) -> float:
    return 10 * math.log10(peak**2 / mse) if mse else math.inf


def move(names: str, t: list[float], height: int, width: int) -> FiniteTransform:
    action = ImageAction(resolve_generators(names), height, width)
    return FiniteTransform(action, torch.tensor([t], dtype=torch.float64))


# --- the published operators, written with loops ------------------------------------------------


def lanczos(x: float) -> float:
    return float(np.sinc(x) * np.sinc(x / 3)) if abs(x) < 3 else 0.0


def test_fractional_shifts_are_lanczos_interpolation_inside():
    z = images(1, 2, 14, 18)
    element = LanczosShift(move("translation", [1.3, -2.6], 14, 18))
    found, inside = element.on_map(z)[0].numpy(), element.valid(14, 18)[0, 0].numpy()
    for i, j in ((6, 7), (9, 4), (7, 12)):
        u, v = i - 2.6, j + 1.3
        rows = [math.floor(u) + k for k in range(-2, 4)]
        columns = [math.floor(v) + k for k in range(-2, 4)]
        a, b = (np.array([lanczos(p - k) for k in ks]) for p, ks in ((u, rows), (v, columns)))
        patch = z[0][:, rows][:, :, columns].numpy()
        want = np.einsum("i,cij,j->c", a / a.sum(), patch, b / b.sum())
        np.testing.assert_allclose(found[:, i, j], want, rtol=1e-12)
    # Six samples around each position: floor − 2 … floor + 3.
    want = [[2 <= math.floor(i - 2.6) <= 10 and 2 <= math.floor(j + 1.3) <= 14 for j in range(18)]
            for i in range(14)]  # fmt: skip
    assert (inside == np.array(want)).all()


def filter_by_fft(M: np.ndarray) -> np.ndarray:
    """Two oriented sincs convolved, times two oriented windows convolved, on a raster of 1/4 px."""
    q = np.arange(-256, 256) / 4
    x = np.stack(np.meshgrid(q, q))
    y = np.einsum("ij,jhw->ihw", M, x)

    def window(v):
        return (np.sinc(v / 3) * (abs(v) < 3)).prod(0)

    def convolved(a, b):
        return np.fft.fftshift(np.fft.ifft2(np.fft.fft2(a) * np.fft.fft2(b)).real)

    sincs = convolved(np.sinc(x).prod(0), np.sinc(y).prod(0))
    table = (sincs * convolved(window(x), window(y)))[256 - 24 : 256 + 24, 256 - 24 : 256 + 24]
    table[0] = table[:, 0] = 0  # the filter ends at 23/4 px
    phases = table.reshape(12, 4, 12, 4)
    return (phases / phases.sum((0, 2), keepdims=True)).reshape(48, 48)[1:, 1:]


@pytest.mark.parametrize("angle", [0.3, math.pi / 4, 2.0])
def test_rotations_and_pseudo_rotations_are_the_published_filter(angle):
    n = 32
    z = images(1, 1, n, n)
    T = move("rotation", [angle], n, n)
    linear = T.linear(n, n)[0].numpy()  # source offsets per output offset
    table = filter_by_fft(np.linalg.inv(linear))
    np.testing.assert_allclose(band_filter(tuple(np.linalg.inv(linear).flatten())), table,
                               atol=2e-5)  # fmt: skip
    fine = np.zeros((4 * n + 46, 4 * n + 46))  # sample j at 4 j + 23
    for i in range(n):
        for j in range(n):
            fine[4 * i : 4 * i + 47, 4 * j : 4 * j + 47] += float(z[0, 0, i, j]) * table
    R, P = BandLimitedRotation(T), PseudoRotation(T)
    found, inside = R.on_map(z)[0, 0].numpy(), R.valid(n, n)[0, 0].numpy()
    ux, uy = (u.reshape(n, n).numpy() for u in T.sources(n, n))
    assert (inside == ((np.minimum(ux, uy) >= 5.5) & (np.maximum(ux, uy) <= n - 6.5))).all()
    for i, j in np.argwhere(inside)[::7]:
        a, b = 4 * uy[i, j] + 23, 4 * ux[i, j] + 23
        k, m = math.floor(a), math.floor(b)
        s, t = a - k, b - m
        want = ((1 - s) * (1 - t) * fine[k, m] + s * (1 - t) * fine[k + 1, m]
                + (1 - s) * t * fine[k, m + 1] + s * t * fine[k + 1, m + 1])  # fmt: skip
        assert found[i, j] == pytest.approx(want, abs=3e-4)
    taps = filter_by_fft(linear)[3::4, 3::4]
    taps = taps / taps.sum()
    filtered, inside = P.on_map(z)[0, 0].numpy(), P.valid(n, n)[0, 0].numpy()
    assert (np.argwhere(inside).min(0) == 5).all()
    assert (np.argwhere(inside).max(0) == n - 6).all()
    for i, j in np.argwhere(inside)[::7]:
        patch = z[0, 0, i - 5 : i + 6, j - 5 : j + 6].numpy()
        assert filtered[i, j] == pytest.approx(float((patch[::-1, ::-1] * taps).sum()), abs=3e-4)


def test_both_filters_pass_what_is_smooth_and_stop_the_corners_of_the_spectrum():
    n, T = 64, move("rotation", [math.pi / 4], 64, 64)
    R, P = BandLimitedRotation(T), PseudoRotation(T)
    inside = R.valid(n, n) & P.valid(n, n)
    q = torch.arange(n, dtype=torch.float64)

    def wave(kx, ky, x, y):
        return torch.cos(2 * math.pi * (kx * x + ky * y))

    ux, uy = (u.reshape(n, n) for u in T.sources(n, n))
    for k, passes in (((0.1, 0.05), 1.0), ((0.47, 0.47), 0.0)):
        still = wave(*k, q.expand(n, n), q[:, None].expand(n, n))[None, None]
        gap = (R.on_map(still) - passes * wave(*k, ux, uy))[inside]
        assert gap.square().mean().sqrt() < 0.15 * (1 if passes == 0 else 0.1)
        gap = (P.on_map(still) - passes * still)[inside]
        assert gap.square().mean().sqrt() < 0.15 * (1 if passes == 0 else 0.01)


# --- EQ-T ---------------------------------------------------------------------------------------


def test_eq_t_is_infinite_for_an_exactly_equivariant_and_an_exactly_invariant_network():
    x, pointwise = images(3, 3, 16, 24), nn.GELU()
    for scheme in ("bspline", "fourier", "fourier_mirror", "central"):
        for metric in (eq_t(pointwise, x, scheme=scheme, output="NCHW", dynamic_range=2.0),
                       eq_t_relative(pointwise, x, scheme=scheme, output="NCHW")):  # fmt: skip
            assert metric.value == math.inf
            assert (metric.per_image == 0).all()
    net = circular_net()
    exact = eq_t(net, x, scheme="fourier", output="NCHW", dynamic_range=2.0)
    assert exact.value > 280, "rounding of float64 only"
    pooled = eq_t(lambda x: net(x).mean((2, 3)), x, scheme="fourier", dynamic_range=2.0)
    assert pooled.value > 280
    fractional = eq_t_relative(net, x, integer=False, scheme="fourier", output="NCHW")
    assert fractional.value < 60, "GELU aliases"
    assert (exact.name, fractional.name, exact.unit) == ("eq_t", "eq_t_frac_relative", "dB")


def by_hand(x: torch.Tensor, a: torch.Tensor, shifts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """f(x) = a ⊙ x: Σ |f(T x) − T f(x)|² = Σ |(a − T a) ⊙ T x|² over pixels that stay inside."""
    H, W = x.shape[-2:]
    squares, counts = np.zeros(len(x)), np.zeros(len(x))
    for b in range(len(x)):
        for dx, dy in shifts[b].astype(int):
            rows, columns = (slice(max(-d, 0), n - max(d, 0)) for d, n in ((dy, H), (dx, W)))
            there = (slice(rows.start + dy, rows.stop + dy),
                     slice(columns.start + dx, columns.stop + dx))  # fmt: skip
            factor = a[0, 0].numpy()[rows, columns] - a[0, 0].numpy()[there]
            squares[b] += float(((factor * x[b, 0].numpy()[there]) ** 2).sum())
            counts[b] += factor.size
    return squares, counts


def test_eq_t_is_one_mean_over_all_pixels_that_stay_inside():
    """As published: sums over images and transforms of errors and of masks, then one quotient."""
    x, a = images(3, 1, 16, 24), images(1, 1, 16, 24, seed=9)
    x[1] *= 5
    shifts = drawn(x, "translation", [3.0, 2.0], 2, seed=3, stream="eq_t", whole=True)
    squares, counts = by_hand(x, a, shifts)
    options = {"seed": 3, "num_samples": 2, "output": "NCHW"}
    metric = eq_t(lambda x: a * x, x, dynamic_range=2.0, **options)
    np.testing.assert_allclose(metric.per_image, squares / counts / 4, rtol=1e-12)
    np.testing.assert_allclose(metric.weight, counts / (2 * 16 * 24), rtol=1e-12)
    assert metric.value == pytest.approx(db(squares.sum() / counts.sum(), 2), abs=1e-9)
    assert abs(metric.value - db((squares / counts).mean(), 2)) > 1e-3, "not a mean of means"
    parts = [eq_t(lambda x: a * x, v, dynamic_range=2.0, **options) for v in x.split(1)]
    assert SampledMetric.join(parts).value == pytest.approx(metric.value, abs=1e-9)
    twice = eq_t(lambda x: a * x, x, dynamic_range=4.0, **options)
    assert twice.value == pytest.approx(metric.value + 20 * math.log10(2), abs=1e-9)


def test_measure_reports_the_same_number_with_weights():
    x, a = images(3, 1, 16, 24), images(1, 1, 16, 24, seed=9)
    metric = eq_t(lambda x: a * x, x, dynamic_range=2.0, output="NCHW")
    m = measure(lambda x: a * x, x, "rotation", "eq_t,eq_r,eq_t_relative", output="NCHW",
                dynamic_range=2.0, batch_size=2, verify=False)  # fmt: skip
    row = m.get("eq_t", "integer translation, ±0.125 of the size")
    assert row.value == pytest.approx(metric.value, abs=1e-9)
    top, bottom = np.array(row.per_image), np.array(row.per_image_denominator)
    assert row.value == pytest.approx(-10 * math.log10(top.sum() / bottom.sum()), abs=1e-9)
    assert row.ci_low < row.value < row.ci_high
    assert "I_max = 2" in row.definition
    assert "the input image moves, not a latent frame" in row.definition
    frame = m.per_image()
    assert set(frame[frame.metric == "eq_t"].unit) == {"1"}, "ratios, before the logarithm"
    relative = m.get("eq_t_relative", "integer translation, ±0.125 of the size")
    assert "range of each image" in relative.definition


def test_whole_shifts_are_whole_on_both_grids():
    """A stride of 4 sees only shifts by multiples of 4 as whole ones."""
    x, pool = images(2, 3, 64, 64), nn.AvgPool2d(4)
    assert eq_t(pool, x, output="NCHW", dynamic_range=1.0).value > 280
    assert eq_t(pool, x, output="NCHW", dynamic_range=1.0, integer=False).value < 60
    finer = nn.Upsample(scale_factor=2)
    assert eq_t(finer, x, output="NCHW", dynamic_range=1.0).value > 280
    coarse = nn.AvgPool2d(32).eval()  # 2 × 2: the largest shift is a quarter of a pixel
    with pytest.raises(NoWholeShiftError, match="in steps of 32 × 32 px"):
        eq_t(coarse, x, output="NCHW", dynamic_range=1.0)
    row = measure(coarse, x, "rotation", "eq_t", output="NCHW", dynamic_range=1.0).scores[0]
    assert (row.status, row.value) == ("not applicable", None)
    tokens = measure(lambda x: nn.AvgPool2d(4)(x).flatten(2).mT, x, "rotation", "eq_t",
                     output=TokenGrid((16, 16)), dynamic_range=1.0)  # fmt: skip
    assert tokens.get("eq_t", "integer translation, ±0.125 of the size").per_image[0] < 1e-28


def test_the_range_of_each_image_makes_the_scale_of_the_output_indifferent():
    x = images(2, 3, 16, 16)
    net = nn.Sequential(circular_net(), nn.Flatten())
    once = eq_t_relative(net, x, output="invariant")
    y = net(x).detach()
    peak = y.amax(1) - y.amin(1)
    fixed = eq_t(net, x, output="invariant", dynamic_range=1.0)
    torch.testing.assert_close(once.per_image * peak**2, fixed.per_image, rtol=1e-12, atol=0)
    ten = eq_t_relative(lambda x: 10 * net(x), x, output="invariant")
    assert ten.value == pytest.approx(once.value, abs=1e-9)
    ten = eq_t(lambda x: 10 * net(x), x, output="invariant", dynamic_range=1.0)
    assert ten.value == pytest.approx(fixed.value - 20, abs=1e-9)
    constant = eq_t_relative(lambda x: torch.zeros(len(x), 4), x)
    assert math.isnan(constant.value), "no range, no ratio: not 0 and not ∞"


def test_images_with_a_constant_output_do_not_count_for_the_relative_variant():
    def f(x):
        y = x[:, :1, 3:5, 2].flatten(1)
        return torch.where(x.amax((1, 2, 3))[:, None] > 0, y, 0 * y)

    x = torch.cat([images(2, 1, 16, 16), torch.zeros(1, 1, 16, 16, dtype=torch.float64)])
    label = "integer translation, ±0.125 of the size"
    options = {"metrics": "eq_t_relative", "output": "invariant", "output_type": "output"}
    rows = [measure(f, v, "rotation", **options).get("eq_t_relative", label) for v in (x, x[:2])]
    assert rows[0].value == pytest.approx(rows[1].value, abs=1e-9)
    assert rows[0].reason == (
        "without 1 of 3 inputs: the output is constant, so it has no range to compare with"
    )
    row = measure(f, x[2:], "rotation", **options).get("eq_t_relative", label)
    assert (row.status, row.value) == ("not applicable", None)
    assert "the output is constant" in row.reason


# --- EQ-R ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("metric", "tolerance"), [(eq_r, 0.02), (eq_r_relative, 1e-6)])
def test_eq_r_is_its_analytic_value_for_a_derivative_taken_as_a_scalar(metric, tolerance):
    """f = ∂x: f(T x) − T f(x) = ((cos θ − 1) ∂x x + sin θ ∂y x)∘R, and the picture is smooth."""
    x = blob(49, 49)
    size, samples = 49, 8

    def f(x):
        return ImageAction(resolve_generators("translation_x"), size, size, "fourier").on_map(x)[0]

    published = metric is eq_r
    options = {"dynamic_range": 1.0} if published else {}
    found = metric(f, x, seed=5, num_samples=samples, scheme="fourier", output="NCHW", **options)
    gx, gy = ImageAction(resolve_generators("translation"), size, size, "fourier").on_map(x)
    q = np.arange(size) - (size - 1) / 2
    straight, turned = (q[-1] - 5, q[-1] - 5.5) if published else (q[-1], q[-1])
    squares, count = 0.0, 0
    for theta in drawn(x, "rotation", [math.pi], samples, seed=5, stream="eq_r")[0, :, 0]:
        squares += float(((math.cos(theta) - 1) * gx + math.sin(theta) * gy).square().sum())
        turned_x = math.cos(theta) * q - math.sin(theta) * q[:, None]
        turned_y = math.sin(theta) * q + math.cos(theta) * q[:, None]
        inside = (abs(turned_x) <= turned) & (abs(turned_y) <= turned)
        count += (inside & (abs(q) <= straight) & (abs(q) <= straight)[:, None]).sum()
    y = f(x)
    peak = 1.0 if published else float(y.max() - y.min())
    want = squares / count / peak**2
    assert float(found.per_image) == pytest.approx(want, rel=tolerance)
    assert eq_r_relative(nn.Identity(), x, output="NCHW").value == math.inf
    # The filters' own accuracy; the input is interpolated, not filtered.
    assert eq_r(nn.Identity(), x, output="NCHW", dynamic_range=1.0).value > 50


def test_maps_without_a_pixel_inside_have_no_eq_r():
    x = images(2, 3, 32, 32)
    pool, metrics = nn.AvgPool2d(4).eval(), "eq_r,eq_r_relative,sampled_error"
    m = measure(pool, x, "rotation", metrics, output="NCHW", dynamic_range=1.0)
    row = m.get("eq_r", "rotation, 0° to 360°")
    assert (row.status, row.value) == ("not applicable", None)
    assert row.reason == "no entry of the output lies far enough inside to be compared"
    assert m.get("eq_r_relative", "rotation, 0° to 360°").value > 0
    m = measure(pool, x, "rotation", "sampled_error", output="NCHW", margin=9)
    assert {s.status for s in m.scores} == {"not applicable"}


# --- arguments ----------------------------------------------------------------------------------


def test_margin_keeps_away_from_the_border_of_a_zero_padded_network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Conv2d(1, 2, 5, padding=2).double().eval()
    x = images(2, 1, 24, 24)
    # 2 pixels of receptive field on each side of a shift of up to 3.
    for margin, low, high in ((0, 0, 40), (2 + 3, 280, math.inf)):
        options = {"output": "NCHW", "margin": margin}
        assert low < eq_t(net, x, dynamic_range=2.0, **options).value <= high
        (row,) = measure(net, x, "rotation", "eq_t", dynamic_range=2.0, **options).scores
        assert low < db(sum(row.per_image) / sum(row.per_image_denominator), 1.0) <= high


def test_what_has_no_range_says_so():
    f, x = formula_network(), formula_images()
    label = "integer translation, ±0.125 of the size"
    probs = measure(f, x, "rotation", "eq_t")
    one = measure(f, x, "rotation", "eq_t", dynamic_range=1.0)
    assert probs.get("eq_t", label).value == one.get("eq_t", label).value
    assert "I_max = 1" in probs.get("eq_t", label).definition
    m = measure(f, x, "rotation", "sampled", output_type="logits")
    for name in ("eq_t", "eq_t_frac", "eq_r"):
        (row,) = [s for s in m.scores if s.metric == name]
        assert (row.status, row.value) == ("not applicable", None)
        assert f"give dynamic_range (2 for pictures in [−1, 1]), or ask for {name}_" in row.reason
        (row,) = [s for s in m.scores if s.metric == f"{name}_relative"]
        assert row.status == "measured"
    given = measure(f, x, "rotation", "eq_t", output_type="logits", dynamic_range=20.0)
    assert given.get("eq_t", label).value > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dynamic_range": 0.0}, "dynamic_range=0.0 must be a positive number"),
        ({"dynamic_range": math.nan}, "dynamic_range=nan must be"),
        ({"margin": -1.0}, "margin=-1.0 must be a number of pixels from 0"),
    ],
)
def test_unsound_settings_are_refused(options, message):
    with pytest.raises(LieDerivError, match=message):
        measure(formula_network(), formula_images(), "rotation", "eq_t", **options)
    if "dynamic_range" in options:
        with pytest.raises(LieDerivError, match="dynamic_range="):
            eq_r(nn.Identity(), images(1, 1, 16, 16), output="NCHW", **options)
