"""`measure`: definitions of the rows, preconditions, provenance, files."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from cases import band_limited, formula_images, formula_network
from tolerances import COMPUTED, assert_close, close
from torch import nn

import liederiv
from liederiv import (
    FeatureMap,
    ImageError,
    LieDerivError,
    ModelError,
    NotDifferentiableError,
    UnknownLayoutError,
    lie_derivative,
    measure,
)
from liederiv.actions import ImageAction
from liederiv.checks import check_derivative
from liederiv.derivatives import SCHEMES
from liederiv.measurement.comparison import compare

X = formula_images()


def four_images() -> torch.Tensor:
    return torch.cat([X, X.flip(-1) * 0.7])


def test_lee_is_its_definition():
    f, x = formula_network(), four_images()
    m = measure(f, x, "translation,rotation", "lee")
    L = lie_derivative(f, x, "translation,rotation").double()
    P = lie_derivative(nn.Sequential(f, nn.Softmax(-1)), x, "translation,rotation").double()
    for k, name in enumerate(("translation_x", "translation_y", "rotation")):
        want = L[k].square().sum(-1).mean() / 10
        assert math.isclose(m.get("lee", name, "logits").value, want, rel_tol=1e-6)
        assert math.isclose(m.get("mean_abs", name, "probs").value, P[k].abs().mean(), rel_tol=1e-5)
    both = m.get("lee", "translation", "probs")
    assert math.isclose(both.value, P[:2].square().mean(), rel_tol=1e-5)
    assert both.unit == "prob²/px²"
    assert both.ci_low < both.value < both.ci_high
    assert math.isclose(np.mean(both.per_image), both.value)


def test_relative_lee_of_a_linear_map_is_its_analytic_value():
    """For f(x) = ⟨a, x⟩, E(J r)² over noise of norm n is |a|² n² / dim."""
    torch.manual_seed(0)
    a = torch.randn(1, 8, 8, dtype=torch.float64)
    x = band_limited((3, 1, 8, 8))

    def f(z):
        return (z * a).sum((1, 2, 3))[:, None]

    from liederiv.metrics.local import LocalBatch, linearise

    action = ImageAction(liederiv.resolve_generators("rotation"), 8, 8)
    local = LocalBatch.of(linearise(f, x, action, directions=400, seeds=[0, 1, 2]), x, action)
    v = action.tangents(x)[0]
    want = a.square().sum() * v.flatten(1).square().sum(1) / a.numel()
    # Relative standard error of the mean of 400 squared normals: √(2/400) = 7 %.
    assert torch.allclose(local.compared["noise"][0], want, rtol=0.3)
    assert_close(local.squared[0], (v * a).sum((1, 2, 3)).square(), COMPUTED)


def test_same_spectrum_noise_keeps_spectrum_and_colour():
    from liederiv.metrics.directions import same_spectrum, seeded_noise

    x = band_limited((2, 3, 12, 16))
    out = same_spectrum(x[None], seeded_noise(x, [0, 1])[0])[0]
    assert torch.allclose(torch.fft.fft2(out).abs(), torch.fft.fft2(x).abs(), atol=1e-9)
    gram = torch.einsum("bchw,bdhw->bcd", x, x)
    assert torch.allclose(torch.einsum("bchw,bdhw->bcd", out, out), gram, atol=1e-9)
    assert (out - x).norm() > 0.5 * x.norm()


def test_blur_direction_is_the_derivative_of_a_gaussian_blur():
    from liederiv.metrics.directions import blur

    x = band_limited((1, 1, 32, 32), band=0.15)
    k = torch.fft.fftfreq(32, dtype=torch.float64) * 2 * torch.pi
    decay = -(k[:, None] ** 2 + k[None] ** 2) / 2  # d/dσ² of exp(−σ² k²/2)
    want = torch.fft.ifft2(torch.fft.fft2(x) * decay).real
    # Second differences against the true Laplacian: relative error (k h)²/12 below 2 %.
    assert (blur(x, "fourier") - want).norm() < 0.02 * want.norm()


def test_batches_and_batch_size_do_not_change_results():
    f, x = formula_network(), four_images()
    whole = measure(f, x, "rotation", "lee,relative").to_dataframe()
    parts = measure(f, [x[:1], x[1:]], "rotation", "lee,relative").to_dataframe()
    small = measure(f, x, "rotation", "lee,relative", batch_size=1).to_dataframe()
    for other in (parts, small):
        np.testing.assert_allclose(other.value.astype(float), whole.value.astype(float), rtol=1e-4)


def test_reference_and_floor_are_at_rounding_level():
    m = measure(formula_network(), four_images())
    assert 0 <= m.get("reference", "translation").value < 1e-10
    score = m.get("lee", "rotation", "logits")
    assert 0 < score.floor < 1e-5 * score.value  # how far it moves when the images' rounding does
    double = measure(formula_network().double(), four_images().double())
    assert double.get("reference", "translation").value < 1e-26


def test_dense_prediction_is_equivariant_end_to_end():
    """A circular fully convolutional network: error 0; a positional one: flagged."""
    torch.manual_seed(0)
    net = nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular").double().eval()
    x = band_limited((2, 3, 16, 24), band=2.0)
    m = measure(net, x, "translation", "lee,relative", scheme="fourier")
    assert m.provenance.representation == "FeatureMap(layout='NCHW', channels=None) (recognised)"
    assert m.get("lee", "translation", "output").value < 1e-25
    ramp = torch.linspace(0, 1, 24, dtype=torch.float64)
    m = measure(lambda z: net(z) * ramp, x, "translation", "relative", scheme="fourier")
    assert m.get("relative_norm", "translation_x").value > 1e-3
    assert m.get("relative_norm", "translation_y").value < 1e-25
    m = measure(net, x, "translation", "lee", output=FeatureMap("NCHW"), output_type="probs")
    assert m.get("lee", "translation", "probs").unit == "prob²/px²"
    assert "declared" in m.provenance.representation


def test_finite_metrics_and_labels():
    f, x = formula_network(), four_images()
    labels = f(x).argmax(1)
    m = measure(f, [(x, labels)], "rotation", "discrete,decisions,sampled")
    assert m.get("accuracy", "none").value == 1
    assert m.get("discrete", "rot90").status == "measured"
    assert m.get("eq_t", "integer translation, ±0.125 of the size").unit == "dB"
    assert m.get("sampled_error", "rotation, ±0.1963 rad").unit == "prob²"
    none = measure(f, x, "rotation", "accuracy").get("accuracy", "none")
    assert (none.status, none.value) == ("not applicable", None)
    wide = measure(f, x[..., :28], "rotation", "discrete").get("discrete", "rot90")
    assert (wide.status, wide.value) == ("not applicable", None)
    assert "square" in wide.reason


class Dropout(nn.Module):
    def forward(self, x):
        return torch.nn.functional.dropout(x.mean((2, 3)), training=True)


def test_preconditions_are_reported():
    f = formula_network()
    with pytest.raises(ModelError, match=r"in training mode \(8 modules.*call model.eval\(\)"):
        measure(formula_network().train(), X)
    with pytest.raises(ModelError, match="the model is stochastic: two passes"):
        measure(Dropout().eval(), X)
    with pytest.raises(ModelError, match=r"dtype torch.float32, but the images have torch.float64"):
        measure(f, X.double())
    with pytest.raises(ImageError, match=r"batches has dtype torch.uint8"):
        measure(f, (X * 100).byte())
    with pytest.raises(ImageError, match="batches holds no images"):
        measure(f, [])
    with pytest.raises(ModelError, match="the model returns a dict, not one tensor"):
        measure(lambda x: {"a": x}, X)
    with pytest.raises(UnknownLayoutError, match="declare it"):
        measure(lambda x: x[..., :5, :7], X)
    with pytest.raises(LieDerivError, match="metric 'leee' is unknown"):
        measure(f, X, metrics="leee")
    with pytest.raises(LieDerivError, match="output_type='prob' is unknown"):
        measure(f, X, output_type="prob")


class Detached(nn.Module):
    def forward(self, x):
        return x.detach().mean((2, 3)) * (1 + 0 * x.mean())


def lee_of(f, x, generator):
    """mean (Δf/Δt)² by float64 differences along the tangent, written without the engine."""
    v, h = ImageAction(liederiv.resolve_generators(generator), *x.shape[-2:]).tangents(x)[0], 1e-6
    return float(((f(x + h * v) - f(x - h * v)) / (2 * h)).square().mean())


class HalfDetached(nn.Module):
    def forward(self, x):
        return (x.detach() * x.flip(-1) + x).mean((2, 3))


@pytest.mark.parametrize("model", [Detached().eval(), HalfDetached().eval()])
def test_what_the_model_computes_is_differentiated_not_what_torch_recorded(model):
    x = torch.randn(2, 3, 8, 8)
    m = measure(model, x, "shear_x", "lee")
    want = lee_of(model, x.double(), "shear_x")
    assert want > 1e-3
    assert math.isclose(m.get("lee", "shear_x", "logits").value, want, rel_tol=1e-4)
    assert m.provenance.engine == "finite-differences"
    assert any("differs from a central difference by" in w for w in m.provenance.warnings)
    assert "of central differences in" in m.provenance.verification
    with pytest.raises(NotDifferentiableError, match=r"no engine passes its checks \(vmap: "):
        measure(model, x, "shear_x", "lee", engine="vmap")


def test_nan_is_reported_not_averaged():
    def f(x):
        y = x.mean((2, 3))
        return torch.where(y[:, :1] > 0.2, torch.full_like(y, float("nan")), y)

    x = torch.zeros(3, 3, 8, 8)
    x[1] = 1.0
    m = measure(f, x, "rotation", "lee")
    row = m.get("lee", "rotation", "logits")
    assert (row.status, row.value) == ("failed", None)
    assert "1 of 3 images (first: number 1)" in row.reason


def test_nan_derivative_is_neither_agreement_nor_a_cut():
    """sqrt has a finite value and an infinite slope at 0: 0 · ∞ is NaN in the chain rule."""
    x = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    x[..., 4:] = 1.0
    action = ImageAction(liederiv.resolve_generators("translation_x"), 8, 8)
    result = check_derivative(lambda z: z.abs().sqrt().sum((2, 3)), x, action)
    assert math.isnan(result.worst)


def test_model_that_cannot_run_in_double_says_what_its_floor_holds():
    weight = torch.eye(3)
    x = torch.randn(2, 3, 8, 8)
    m = measure(lambda z: z.mean((2, 3)) @ weight, x, "rotation", "lee")
    assert (
        0
        < m.get("lee", "rotation", "logits").floor
        < 1e-4 * m.get("lee", "rotation", "logits").value
    )
    assert any("does not run in float64" in note for note in m.provenance.warnings)
    assert "central differences in float32" in m.provenance.verification


def test_interrupted_run_keeps_what_it_has():
    def batches():
        yield X
        raise KeyboardInterrupt

    m = measure(formula_network(), batches(), "rotation", "lee")
    assert m.provenance.num_images == 2
    assert "stopped after 2 images: interrupted" in m.provenance.warnings


def test_a_batch_that_is_interrupted_leaves_nothing_behind():
    """Values per image stay aligned with their names and clusters."""
    f, calls = formula_network(), []

    def g(x):
        calls.append(len(x))
        if len(calls) > 40:
            raise KeyboardInterrupt
        return f(x)

    metrics = "lee,relative,reference,sampled_error"
    m = measure(g, four_images(), "rotation", metrics, batch_size=1, clusters="abcd",
                image_names="abcd", verify=False)  # fmt: skip
    count = m.provenance.num_images
    assert 0 < count < 4
    assert {len(s.per_image) for s in m.scores} == {count}
    assert m.image_names == tuple("abcd"[:count])
    assert f"stopped after {count} images: interrupted" in m.provenance.warnings


def test_accuracy_of_some_batches_is_not_taken_for_that_of_all():
    f, x = formula_network(), four_images()
    labels = f(x).argmax(1)
    for batches in ([(x[:2], labels[:2]), x[2:]], [x[:2], (x[2:], labels[2:])]):
        for metrics in ("lee", "lee,accuracy"):
            row = measure(f, batches, "rotation", metrics, clusters="abcd").get("accuracy", "none")
            assert (row.status, row.value, row.per_image) == ("not applicable", None, ())
            assert row.reason == "known for 2 of 4 inputs only"


def test_saving_and_reading(tmp_path):
    m = measure(formula_network(), four_images(), "rotation", "lee,relative", image_names="abcd")
    data = json.loads(m.save(tmp_path / "m.json").read_text())
    assert data["schema_version"] == 1
    assert {"model", "weights", "scheme", "num_images", "seed", "versions"} <= set(data)
    keys = {"metric", "transform", "value", "ci_low", "ci_high", "unit", "status"}
    assert all(keys <= set(row) for row in data["results"])
    assert pd.read_csv(m.save(tmp_path / "m.csv")).equals(m.to_dataframe()) or len(
        pd.read_csv(tmp_path / "m.csv")
    ) == len(m.scores)
    frame = pd.read_parquet(m.save(tmp_path / "m.parquet"))
    rows = frame[(frame.metric == "relative_norm") & (frame.output == "probs")]
    value = rows["value"].sum() / rows["denominator"].sum()
    assert math.isclose(value, m.get("relative_norm", "rotation", "probs").value, rel_tol=1e-9)
    assert list(rows["image"]) == list("abcd")
    with pytest.raises(LieDerivError, match=r"ends in \.txt; use one of \.json"):
        m.save(tmp_path / "m.txt")
    with pytest.raises(LieDerivError, match="cannot write"):
        m.save(tmp_path / "nowhere" / "m.json")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.csv", "m.json", "m.parquet"]


def test_get_names_what_there_is():
    m = measure(formula_network(), X, "rotation", "lee")
    with pytest.raises(LieDerivError, match=r"2 scores fit metric='lee'.*lee/rotation/logits"):
        m.get("lee", "rotation")


def test_model_is_left_as_it_was():
    model = formula_network()
    weights = [p.clone() for p in model.parameters()]
    flags = [(m.training, len(m._forward_hooks)) for m in model.modules()]
    state = torch.get_rng_state()
    measure(model, X, "rotation")
    assert torch.equal(state, torch.get_rng_state())
    assert flags == [(m.training, len(m._forward_hooks)) for m in model.modules()]
    for before, after in zip(weights, model.parameters(), strict=True):
        assert torch.equal(before, after)
        assert after.requires_grad
        assert after.grad is None


def test_paired_comparison():
    f, x = formula_network(), four_images()
    a = measure(f, x, "rotation", "lee,relative")
    twice = measure(lambda z: 2 * f(z), x, "rotation", "lee,relative", output_type="logits")
    once = measure(f, x, "rotation", "lee,relative", output_type="logits")
    rows = {d.metric: d for d in compare(once, twice)}
    assert math.isclose(rows["lee"].b, 4 * rows["lee"].a, rel_tol=1e-5)
    assert rows["lee"].significant
    assert abs(rows["relative_norm"].difference) < 1e-6 * rows["relative_norm"].a
    assert all(not d.significant and d.difference == 0 for d in compare(a, a))
    with pytest.raises(LieDerivError, match="different images"):
        compare(a, measure(f, x[:3], "rotation", "lee"))


def test_images_with_an_output_of_zero_do_not_count_for_discrete_checks():
    def f(x):
        return x[:, :, 3, 4].clamp_min(0)

    x = torch.cat([four_images(), -torch.ones(1, 3, 32, 32)])
    rows = [measure(f, v, "rotation", "discrete", output_type="output") for v in (x, x[:4])]
    rows = [m.get("discrete", "rot90") for m in rows]
    assert rows[0].value == rows[1].value > 0
    assert rows[0].reason.startswith("without 1 of 5 inputs: the output is 0 there")
    row = measure(f, x[4:], "rotation", "discrete", output_type="output").scores[0]
    assert (row.status, row.value) == ("not applicable", None)


def test_differences_in_decibels_have_intervals_in_decibels():
    f, x = formula_network(), four_images()

    def g(x):
        return 2 * f(x)

    options = {"output_type": "logits", "dynamic_range": 10.0}
    one, other = (measure(v, x, "rotation", "eq_t", **options) for v in (f, g))
    (row,) = compare(one, other)  # twice the error on the same range: −6.02 dB for every image
    assert row.difference == pytest.approx(-20 * math.log10(2), abs=1e-4)
    assert (row.ci_low, row.ci_high) == pytest.approx((row.difference,) * 2, abs=1e-4)
    assert row.significant
    assert row.better == "A"  # of decibels more is better
    (row,) = compare(other, one)
    assert row.better == "B"
    plain = [measure(v, x, "rotation", "lee,blur_response", **options) for v in (f, g)]
    better = {d.metric: (d.significant, d.better) for d in compare(*plain)}
    assert better["lee"] == better["mean_abs"] == (True, "A")
    assert better["blur_response"] == (True, "")  # more of it is neither better nor worse


def test_sampled_transforms_are_the_same_whatever_the_batch_size():
    """Each transform draws from its own source, so no other one's draws come in between."""
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = [
        measure(lambda x: x[:, :, 2, 3], images, "rotation", "sampled_error", batch_size=n)
        for n in (1, 3)
    ]
    for a, b in zip(*(m.scores for m in found), strict=True):
        assert a.transform == b.transform
        assert a.per_image == pytest.approx(b.per_image, rel=1e-6)


# --- images that a transform does not move ------------------------------------------------------


def flat(*colour: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """One image of one colour; the values are those of black after ImageNet's normalisation."""
    colour = colour or (-2.117904, -2.035714, -1.804444)
    return torch.tensor(colour, dtype=dtype)[None, :, None, None].expand(1, 3, 32, 32).clone()


@pytest.mark.parametrize("scheme", list(SCHEMES))
@pytest.mark.parametrize("size", [(7, 7), (32, 32), (224, 161)])
def test_flat_images_and_maps_stand_still_exactly(scheme, size):
    action = ImageAction(liederiv.resolve_generators("spatial"), *size, scheme)
    x = flat()[..., :1, :1].expand(1, 3, *size).clone()
    assert (action.tangents(x) == 0).all()
    assert (action.on_map(x.movedim(1, -1), channels_last=True) == 0).all()
    contrast = ImageAction(liederiv.resolve_generators("contrast"), *size, scheme)
    assert (contrast.tangents(x[:, :1].expand(1, 3, *size)) == 0).all()


def test_what_is_constant_does_not_blur_a_derivative():
    """D annihilates constants: a large offset costs no digits beyond those of x itself."""
    x = band_limited((1, 3, 32, 32)).float()
    action = ImageAction(liederiv.resolve_generators("rotation"), 32, 32)
    exact = action.tangents((x + 1000).double() - 1000)
    assert (action.tangents(x + 1000).double() - exact).norm() < 3e-6 * exact.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_black_images_have_no_relative_error(dtype):
    f, x = formula_network().to(dtype), flat(dtype=dtype).expand(3, -1, -1, -1).clone()
    m = measure(f, x, "translation,rotation,scale,saturation", "lee,relative,reference")
    for row in m.scores:
        moves = row.transform in ("saturation", "blur")
        if row.metric == "blur_response" or (row.metric in ("lee", "mean_abs") and not moves):
            assert row.value == 0
        elif not moves:
            assert (row.status, row.value, row.per_image) == ("not applicable", None, ())
            assert "moves none of the inputs" in row.reason
    zero = torch.zeros(2, 3, 32, 32, dtype=dtype)
    m = measure(f, zero, "saturation", "relative_norm")
    row = m.get("relative_norm", "saturation", "probs")
    assert (row.status, row.value) == ("not applicable", None)


def test_black_images_among_others_are_left_out_of_ratios_only():
    f, x = formula_network(), four_images()
    mixed = torch.cat([x[:2], flat(), x[2:], flat(0.5, 0.5, 0.5)])
    clusters = ["a", "b", "x", "c", "d", "y"]
    whole = measure(f, mixed, "translation,rotation", "lee,relative,reference", clusters=clusters)
    without = measure(f, x, "translation,rotation", "lee,relative,reference",
                      clusters=["a", "b", "c", "d"])  # fmt: skip
    for row in without.scores:
        found = whole.get(row.metric, row.transform, row.output)
        share = 4 / 6 if row.metric in ("lee", "mean_abs", "blur_response") else 1
        if row.metric == "reference":
            assert found.value < 1e-10  # rounding, which is another in another batch
            continue
        assert found.value == pytest.approx(share * row.value, rel=1e-4), row.metric
        if share == 1:
            assert found.ci_high == pytest.approx(row.ci_high, rel=1e-3)
            assert found.reason == "without the 2 of 6 inputs that it does not move"
            assert found.per_image_denominator[2] == found.per_image[2] == 0
    again = compare(whole, whole)
    assert all(d.difference == d.ci_low == d.ci_high == 0 for d in again if d.status == "measured")


def test_stripes_count_for_the_translation_that_moves_them():
    """translation_y leaves them alone; the group's ratio is that of translation_x."""
    f, x = formula_network().double(), four_images().double()[..., :1, :].expand(-1, -1, 32, -1)
    m = measure(f, x.clone(), "translation", "relative_norm", output_type="logits")
    assert m.get("relative_norm", "translation_y").status == "not applicable"
    x_only = m.get("relative_norm", "translation_x")
    assert m.get("relative_norm", "translation").value == close(x_only.value)


def test_an_output_that_ignores_noise_but_breaks_the_symmetry_has_no_finite_ratio():
    """A fixed pattern, declared a map: L f = −X f, and J = 0."""
    pattern = band_limited((1, 3, 16, 16))

    def f(x):
        return pattern.expand(len(x), -1, -1, -1) + 0 * x

    x = band_limited((2, 3, 16, 16), seed=1)
    m = measure(f, x, "rotation", "lee,relative_norm", output=FeatureMap(), verify=False)
    assert m.get("lee", "rotation").value > 0
    row = m.get("relative_norm", "rotation")
    assert (row.status, row.value) == ("failed", None)
    assert "the ratio is infinite" in row.reason


def test_images_that_are_not_finite_are_refused():
    x = four_images()
    x[2, 0, 3, 4] = math.nan
    with pytest.raises(ImageError, match=r"infinite pixels in 1 of 4 images \(first: number 2"):
        measure(formula_network(), x)
    with pytest.raises(ImageError, match="batches has NaN or infinite pixels in 4 of 4"):
        lie_derivative(formula_network(), x / 0, "rotation")
