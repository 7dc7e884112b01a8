"""`measure` on point clouds: analytic scores, comparisons, finite metrics, batches, errors."""

import math

import pytest
import torch
from point_networks import LinearForms, Pairs, cloud_mean, cloud_sum, clouds
from torch import nn

from liederiv import ImageError, LieDerivError, ModelError, PointCloud, measure
from liederiv.metrics.sampled import equivariance_error
from liederiv.points import permute_within_clouds

W = torch.tensor([[1.0, 2.0, 3.0], [0.0, -1.0, 0.5]], dtype=torch.float64)


class Frozen(nn.Module):
    """A network in eval mode with a declared output."""

    def __init__(self, function, output="scalars"):
        super().__init__()
        self.function, self.output_representation = function, output
        self.eval()

    def forward(self, c):
        return self.function(c)


def test_lee_of_linear_forms_is_analytic():
    """‖L_b Σ w·p‖²/dim = n² |w_b|²/2, and over the group its mean; per cloud, then averaged."""
    cloud = clouds((4, 2))
    scores = measure(LinearForms(W).eval(), cloud, "translation,scale", "lee,relative")
    for axis, column in zip("xyz", W.T, strict=True):
        want = column.square().mean() * torch.tensor([16.0, 4.0])
        row = scores.get("lee", f"translation_{axis}")
        assert row.per_image == pytest.approx(want.tolist(), rel=1e-12)
        assert row.value == pytest.approx(float(want.mean()), rel=1e-12)
        assert row.unit == "output²/length²"
    whole = scores.get("lee", "translation")
    assert whole.value == pytest.approx(float(W.square().mean()) * 10, rel=1e-12)
    y = LinearForms(W)(cloud).detach()
    assert scores.get("lee", "scale").value == pytest.approx(float(y.square().mean()), rel=1e-12)


def test_relative_norm_compares_with_noise_of_equal_norm():
    """Σ p reacts coherently to a shift of n points, and to noise of that norm as to n/3 of them."""
    cloud = clouds((400,), velocity=False)
    w = torch.eye(3, dtype=torch.float64)
    scores = measure(LinearForms(w).eval(), cloud, "translation_x", "relative_norm")
    row = scores.get("relative_norm", "translation_x")
    # Lie: n²/3. Noise r of |r|² = n over 3n numbers: each Σ r_i has variance n·n/(3n) = n/3.
    noise = row.per_image_denominator[0]
    assert row.per_image[0] == pytest.approx(400**2 / 3)
    assert 0.1 * 400 / 3 < noise < 4 * 400 / 3
    missing = measure(LinearForms(w).eval(), cloud, "translation_x", "relative")
    for name in ("relative_spectrum", "blur_response"):
        row = missing.get(name, "any")
        assert row.status == "not applicable"
        assert "no spectrum" in row.reason


def test_noise_moves_only_what_the_motion_moves():
    """Translations leave velocities alone, so noise beside them must, too."""
    f = Frozen(lambda c: c.vectors["velocity"][:, 0])
    scores = measure(f, clouds(), "translation_x,rotation_x", "lee,relative_norm")
    row = scores.get("relative_norm", "translation_x")  # 0 over 0
    assert (row.status, row.value) == ("not applicable", None)
    assert row.reason == "the output reacts neither to the transform nor to noise of its size"
    assert scores.get("relative_norm", "rotation_x").per_image_denominator[0] > 0


def test_outputs_per_point_are_averaged_over_each_cloud():
    f = Frozen(lambda c: c.pos)  # positions, taken for scalars
    scores = measure(f, clouds((5, 3, 1)), "translation_x", "lee")
    assert scores.get("lee", "translation_x").per_image == pytest.approx([1 / 3] * 3)
    weights = torch.arange(1.0, 10.0, dtype=torch.float64)
    g = Frozen(lambda c: c.pos * c.scalars["w"])
    cloud = clouds((5, 3, 1)).with_fields(scalars={"w": weights})
    row = measure(g, cloud, "translation_y", "lee").get("lee", "translation_y")
    want = [float(weights[s].square().mean()) / 3 for s in (slice(5), slice(5, 8), slice(8, 9))]
    assert row.per_image == pytest.approx(want)


@pytest.mark.parametrize("kind", ["energy", "charges", "forces", "positions", "dipole"])
def test_equivariant_networks_measure_zero(kind):
    model = Pairs(kind).double().eval()
    scores = measure(model, clouds(), "rigid,scale", "lee,relative_norm,sampled_error,discrete")
    for name in ("translation", "rotation"):
        assert scores.get("lee", name).value < 1e-24
        (sampled,) = [
            s for s in scores.scores if s.metric == "sampled_error" and s.transform.startswith(name)
        ]
        assert sampled.value < 1e-24
    assert scores.get("lee", "scale").value > 1e-6
    for name in ("mirror_x", "mirror_y", "mirror_z", "permutation", "alone"):
        assert scores.get("discrete", name).value < 1e-24
    origin = scores.provenance
    assert (origin.scheme, origin.inputs, origin.num_images) == ("exact", "clouds", 3)
    assert origin.representation.endswith("(declared)")


def test_float32_has_a_floor():
    f = Frozen(lambda c: (c.pos @ W.T.to(c.pos)).sin())
    row = measure(f, clouds(dtype=torch.float32), "rotation", "lee").get("lee", "rotation")
    assert 0 < row.floor < 1e-5 * row.value  # how far it moves when the points' rounding does


def test_reference_is_at_rounding_level():
    scores = measure(Pairs().double().eval(), clouds(), "translation", "reference")
    row = scores.get("reference", "rigid")
    assert row.value < 1e-24
    scores = measure(Pairs().eval(), clouds((1, 1), dtype=torch.float32), "scale", "reference")
    row = scores.get("reference", "rigid")  # blind to clouds of one point
    assert (row.status, row.value) == ("not applicable", None)


def test_a_point_at_the_centre_does_not_rotate():
    """Left out of the ratio beside others, and no ratio at all where there are only such."""
    points = clouds((4, 1, 3), velocity=False)
    pos = points.pos.clone()
    pos[4] = 0
    cloud = points.with_fields(pos=pos)
    f = Frozen(lambda c: cloud_sum(c.pos @ W.T.to(c.pos), c))
    row, rest = (
        measure(f, c, "rotation", "lee,relative_norm").get("relative_norm", "rotation")
        for c in (cloud, cloud[[0, 2]])
    )
    assert row.value == pytest.approx(rest.value, rel=1e-12)
    assert (row.ci_low, row.ci_high) == pytest.approx((rest.ci_low, rest.ci_high), rel=1e-12)
    assert row.per_image[1] == row.per_image_denominator[1] == 0
    assert row.reason == "without the 1 of 3 inputs that it does not move"
    alone = measure(f, cloud[1], "rotation,translation", "lee,relative_norm")
    assert alone.get("lee", "rotation").value == 0
    assert alone.get("relative_norm", "rotation").status == "not applicable"
    assert alone.get("relative_norm", "translation").status == "measured"


def test_the_same_whatever_the_batches():
    model, cloud = Pairs("forces").double().eval(), clouds((5, 3, 4, 2))
    metrics = "lee,relative_norm,sampled_error,discrete"
    whole = measure(model, cloud, "scale,rotation", metrics, batch_size=4)
    single = measure(model, [cloud[b] for b in range(4)], "scale,rotation", metrics)
    for a, b in zip(whole.scores, single.scores, strict=True):
        assert (a.metric, a.transform) == (b.metric, b.transform)
        assert a.per_image == pytest.approx(b.per_image, rel=1e-9, abs=1e-24)


def test_sampled_errors_see_what_the_derivative_holds_fixed():
    """The nearest neighbour is piecewise constant: no derivative, but a finite change."""

    def farthest_along_x(c):
        return (c.pos[:, :1] > 0.1).to(c.pos) + 0 * c.pos[:, :1]

    f = Frozen(farthest_along_x)
    cloud = clouds((40,))
    scores = measure(f, cloud, "rotation", "lee,sampled_error")
    row = scores.get("lee", "rotation")
    assert (row.status, row.value) == ("not applicable", None)
    assert "no slope at this input" in row.reason
    assert scores.get("sampled_error", "rotation, uniform over SO(3)").value > 0.1


def test_sampled_error_of_a_given_size():
    """E |w·t|² for t uniform in ±h along x is w_x² h²/3 per point."""
    f, cloud = Frozen(lambda c: cloud_mean(c.pos @ W.T, c)), clouds((4, 2))
    found = equivariance_error(f, cloud, "translation_x", half_range=0.3, num_samples=400)
    want = float(W[:, 0].square().mean()) * 0.09 / 3
    assert found.per_image.tolist() == pytest.approx([want] * 2, rel=0.15)
    assert found.transform == "translation_x, ±0.3 length"
    with pytest.raises(LieDerivError, match="sampled one group at a time"):
        equivariance_error(f, cloud, "all")


def test_discrete_checks_see_handedness_order_and_batch():
    def handed(c):
        v = c.vectors["velocity"][:, 0]
        return torch.linalg.cross(c.pos, v)

    scores = measure(Frozen(handed, "vectors"), clouds(), "rotation", "lee,discrete")
    assert scores.get("lee", "rotation").value < 1e-24
    assert scores.get("discrete", "mirror_x").value == pytest.approx(4.0)
    first = Frozen(lambda c: c.pos[:1].expand(len(c), -1).clone())
    scores = measure(first, clouds(), "scale", "discrete")
    assert scores.get("discrete", "permutation").value > 0.1
    assert scores.get("discrete", "alone").value > 0.1


def test_permutation_takes_edges_along():
    cloud = clouds((3, 2))
    with_edges = cloud.with_fields(
        edge_index=torch.tensor([[0, 1, 3], [1, 2, 4]]), edge_scalars={"bond": torch.ones(3, 1)}
    )
    moved, order = permute_within_clouds(with_edges, seed=1)
    assert (order != torch.arange(5)).all(), "no point stays where it is"
    assert order[:3].sort().values.tolist() == [0, 1, 2]
    for old, new in zip(with_edges.edge_index, moved.edge_index, strict=True):
        assert torch.equal(with_edges.pos[old], moved.pos[new])


def test_classifier_with_labels():
    cloud = clouds((4, 4, 4))
    scores = measure(
        Frozen(lambda c: LinearForms(W)(c).detach() * 0 + cloud_mean(c.pos[:, :2], c)),
        [(cloud, torch.tensor([0, 1, 0]))],
        "rotation",
        "lee,effective_invariance",
        output_type="probs,logits",
    )
    assert 0 <= scores.get("accuracy", "none").value <= 1
    assert 0 < scores.get("effective_invariance", "rotation, uniform").value < 1
    assert scores.get("lee", "rotation", "probs").unit == "prob²/rad²"


def test_vectors_have_no_probabilities():
    with pytest.raises(ModelError, match="output_type='probs' needs scores of classes"):
        measure(Pairs("forces").double().eval(), clouds(), output_type="probs")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"batches": clouds(), "unit": "grid"}, LieDerivError, "unit='grid' counts half-widths"),
        (
            {"batches": clouds(), "transforms": "shear"},
            LieDerivError,
            "'shear' is unknown for point",
        ),
        ({"batches": [torch.zeros(3)]}, ImageError, "batches must be a non-empty tensor"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        measure(Pairs().double().eval(), **arguments)


def test_images_after_clouds_end_the_measurement():
    batches = [clouds(), torch.zeros(1, 3, 8, 8)]
    scores = measure(LinearForms(W).eval(), batches, "scale", "lee")
    assert scores.provenance.num_images == 3
    assert "after 3 clouds: batches must be a PointCloud, not a Tensor" in str(scores.provenance)


def test_a_model_in_another_dtype_or_mode_is_refused():
    with pytest.raises(ModelError, match=r"float32, but the clouds have .*clouds\.double\(\)"):
        measure(Pairs().eval(), clouds())
    with pytest.raises(ModelError, match="training mode"):
        measure(Pairs().double(), clouds())


def test_clouds_whose_output_is_not_finite_are_named():
    cloud = PointCloud(torch.tensor([[1.0, 0, 0], [0.0, 0, 0]]), torch.tensor([0, 1]))
    f = Frozen(lambda c: 1 / c.pos[:, :1])
    row = measure(f, cloud, "scale", "lee", verify=False).get("lee", "scale")
    assert row.status == "failed"
    assert "1 of 2 clouds (first: number 1)" in row.reason


def test_a_detach_is_found_out():
    model = Frozen(lambda c: cloud_mean(c.pos.detach() + 0 * c.pos, c))
    m = measure(model, clouds(), "scale", "lee")
    centres = torch.stack([clouds()[b].pos.mean(0) for b in range(len(clouds()))])
    want = float(centres.square().mean())
    assert math.isclose(m.get("lee", "scale").value, want, rel_tol=1e-6)
    assert m.provenance.engine == "finite-differences"
