"""What is derived from a configuration, and that measurement agrees with it."""

import itertools

import pytest
import torch
from rapidash_cases import random_cloud
from rapidash_study.table import (
    MOTIONS,
    decay_exponent,
    lie_errors,
    orientation_curve,
    symmetry_table,
    table_frame,
    with_orientations,
)

from liederiv import lie_derivative
from liederiv.errors import ModelError
from liederiv.model_zoo import load, load_clouds
from liederiv.model_zoo.rapidash import RapidashConfig
from liederiv.model_zoo.rapidash.inputs import RapidashInputs, RapidashOnClouds
from liederiv.model_zoo.rapidash.symmetry import effective_equivariance
from liederiv.model_zoo.rapidash.variants import VARIANTS
from liederiv.model_zoo.sources.rapidash_models import training_records
from liederiv.points import PointCloud

EXACT, FAR = 1e-9, 1e-3
FEATURES = ("coords", "velocity", "pose")


def random_model(
    dim: int, equivariance: str, num_ori: int, scalars, vectors, output: str
) -> RapidashOnClouds:
    """A small network with random weights and these inputs, in float64."""
    inputs = RapidashInputs((("charge", 1),), scalars, vectors)
    scalar = output == "scalars" or not num_ori
    config = RapidashConfig(
        input_dim=sum(inputs.width(dim)),
        hidden_dim=5,
        output_dim=(2 if output == "scalars" else dim) if scalar else 0,
        output_dim_vec=0 if scalar else 1,
        num_layers=2,
        num_ori=num_ori,
        dim=dim,
        equivariance=equivariance,
        edge_types="knn-4",
    )
    torch.set_default_dtype(torch.float64)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(1)
            return RapidashOnClouds(config, inputs, output).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(torch.float32)


def cloud_of(dim: int) -> PointCloud:
    c = random_cloud((6, 5), dim)
    pose = torch.linalg.qr(
        torch.randn(11, dim, dim, generator=torch.Generator().manual_seed(2)).double()
    ).Q
    vectors = {"velocity": c["vec"], "pose": pose}
    return PointCloud(c["pos"], c["batch"], scalars={"charge": c["x"]}, vectors=vectors)


CASES = [
    (dim, equivariance, 0, scalars, (), output)
    for dim, equivariance, scalars, output in itertools.product(
        (2, 3), ("Tn", "SEn"), ((), ("coords",), ("velocity",)), ("scalars", "vector")
    )
] + [
    (3, equivariance, 4, scalars, vectors, output)
    for equivariance, scalars, vectors, output in itertools.product(
        ("Tn", "SEn"),
        ((), ("coords",), ("velocity",)),
        (("velocity",), ("coords", "pose"), ("fixed_pose",)),
        ("scalars", "vector"),
    )
]


@pytest.mark.parametrize(("dim", "equivariance", "num_ori", "scalars", "vectors", "output"), CASES)
def test_measurement_agrees_with_what_is_derived(
    dim, equivariance, num_ori, scalars, vectors, output
):
    model = random_model(dim, equivariance, num_ori, scalars, vectors, output)
    derived = effective_equivariance(model.config, model.inputs, output)
    errors = lie_errors(model, cloud_of(dim)).relative
    for motion in MOTIONS:
        rule = getattr(derived, motion)
        if rule == "exact":
            assert errors[motion] < EXACT
        else:
            assert errors[motion] > FAR
    assert (derived.translation == "broken") == ("coordinates" in " ".join(derived.reasons))


@pytest.mark.parametrize(
    ("equivariance", "scalars", "vectors", "output"),
    [
        ("SEn", (), ("velocity",), "vector"),
        ("SEn", (), ("velocity", "pose"), "scalars"),
        ("SEn", (), ("coords", "velocity"), "vector"),
        ("Tn", (), ("velocity",), "vector"),
        ("SEn", ("velocity",), ("velocity",), "vector"),
        ("SEn", (), ("velocity", "fixed_pose"), "scalars"),
    ],
)
def test_only_what_is_derived_as_up_to_the_grid_vanishes_with_more_orientations(
    equivariance, scalars, vectors, output
):
    model = random_model(3, equivariance, 8, scalars, vectors, output)
    derived = effective_equivariance(model.config, model.inputs, output)
    cloud = cloud_of(3)
    few, more, many = (
        lie_errors(with_orientations(model, n), cloud).relative["rotation"] for n in (8, 64, 256)
    )
    if derived.rotation == "grid":
        assert many < more / 2 < few / 6
    else:
        assert derived.rotation == "broken"
        assert many > 0.75 * more


def test_names_of_the_groups():
    def name(scalars=(), vectors=("velocity",), equivariance="SEn", output="vector", dim=3):
        config = RapidashConfig(9, 4, 0, 1, output_dim_vec=1, equivariance=equivariance, dim=dim)
        return effective_equivariance(config, RapidashInputs((), scalars, vectors), output).name

    assert name() == "SE(3)"
    assert name(dim=2) == "SE(2)"
    assert name(vectors=("coords", "velocity")) == "SO(3) about the origin"
    assert name(equivariance="Tn") == "T(3)"
    assert name(scalars=("velocity",)) == "T(3)"
    assert name(vectors=("fixed_pose",)) == "T(3)"
    assert name(scalars=("coords",)) == "none"
    assert name(vectors=("coords",), equivariance="Tn") == "none"


@pytest.fixture(scope="module")
def rows():
    return symmetry_table(systems=16)


def test_trained_variants_have_the_symmetry_that_is_derived(rows):
    assert [r.variant.name for r in rows] == list(VARIANTS)
    for row in rows:
        derived = row.variant.symmetry
        for motion in MOTIONS:
            error = row.errors.relative[motion]
            exact = getattr(derived, motion) == "exact"
            assert error < EXACT if exact else error > FAR, (row.variant.name, motion)


def test_augmentation_brings_rotation_errors_down_but_not_to_zero(rows):
    errors = {r.variant.name: r.errors.relative["rotation"] for r in rows}
    pairs = [(n, f"{n}_aug") for n in errors if f"{n}_aug" in errors]
    assert len(pairs) >= 5
    for plain, augmented in pairs:
        assert FAR < errors[augmented] < errors[plain]


def test_table_frame_has_units_and_one_row_per_variant(rows):
    frame = table_frame(rows)
    assert list(frame["variant"]) == list(VARIANTS)
    assert {"LEE rotation [length²]", "MSE rotated [length²]"} <= set(frame.columns)


def test_rotation_error_of_trained_weights_falls_with_the_number_of_orientations():
    loaded = load("rapidash_sen_r3s2")
    curve = orientation_curve(loaded.model, loaded.variant, (8, 16, 32, 64), systems=8)
    errors = [p.relative for p in curve]
    assert errors == sorted(errors, reverse=True)
    assert 0.5 < decay_exponent(curve) < 2
    assert loaded.model.config.num_ori == 8
    with pytest.raises(ModelError, match="no orientations to change"):
        with_orientations(load("rapidash_tn_r3").model, 8)


def test_more_orientations_are_no_remedy_for_weights_of_another_grid():
    """What the network learned to compensate on its own grid is an error on others."""
    loaded = load("rapidash_sen_r3s2")
    own, fine = orientation_curve(loaded.model, loaded.variant, (8, 64), systems=64)
    assert own.error < fine.error
    assert training_records()["rapidash_sen_r3s2"]["test"]["aligned"] < fine.error


@pytest.mark.parametrize("name", ["rapidash_tn_r3", "rapidash_sen_r3s2_coordvec"])
def test_lie_derivative_is_the_limit_of_finite_rotations(name):
    model = load(name).model.double()
    cloud = load_clouds("nbody", 4).clouds.double()
    A = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 0]], dtype=torch.float64)

    def undone(t: float) -> torch.Tensor:
        R = torch.linalg.matrix_exp(t * A)
        vectors = {k: v @ R.T for k, v in cloud.vectors.items()}
        return model(cloud.with_fields(pos=cloud.pos @ R.T, vectors=vectors)) @ R

    h = 2e-4
    near = (undone(h) - undone(-h)) / (2 * h)
    far = (undone(2 * h) - undone(-2 * h)) / (4 * h)
    want = lie_derivative(model, cloud, "rotation_z")[0]
    assert float(((4 * near - far) / 3 - want).norm() / want.norm()) < 1e-6
