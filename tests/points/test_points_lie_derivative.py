"""Lie derivatives on point clouds: laws of the group, analytic values, dense Jacobians."""

import math

import pytest
import torch
from laws import assert_alike, assert_generates, assert_group, assert_identity
from point_networks import LinearForms, Pairs, cloud_mean, clouds
from tolerances import EXACT
from torch import nn
from torch.func import jacfwd
from torch.utils._pytree import tree_flatten

from liederiv import (
    GENERATORS,
    Custom,
    LieDerivError,
    PointCloud,
    UnknownLayoutError,
    lie_derivative,
    lie_derivative_with_output,
    resolve_generators,
)
from liederiv.metrics.finite import act_finite
from liederiv.points import (
    POINTS,
    PointAction,
    PointModel,
    PointTransform,
    Positions,
    Scalars,
    Vectors,
)
from liederiv.transforms import transform

KINDS = ("energy", "charges", "forces", "positions", "dipole")


def action(names, cloud) -> PointAction:
    return PointAction(resolve_generators(names, catalogue=POINTS[cloud.dim]), cloud)


# The group.


@pytest.mark.parametrize(("dim", "name"), [(d, n) for d in (2, 3) for n in POINTS[d].generators])
def test_one_parameter_group(dim, name):
    cloud = clouds(dim=dim)
    assert_identity(cloud, name)
    assert_group(cloud, name, 0.3, 0.4)
    assert_generates(cloud, name)


def test_one_parameter_for_each_cloud():
    cloud = clouds()
    t = torch.tensor([0.1, -2.0, 0.5])
    moved = transform(cloud, "rotation_y", t)
    for b in range(3):
        assert_alike(moved[b], transform(cloud[b], "rotation_y", float(t[b])))
    with pytest.raises(LieDerivError, match="t has 2 entries for 3 clouds"):
        transform(cloud, "rotation_y", t[:2])


def _bracket(first: str, second: str, cloud: PointCloud) -> torch.Tensor:
    """[X, Y] as vector fields on the positions."""
    X, Y = action(first, cloud), action(second, cloud)
    A, B = X.affine[0], Y.affine[0]
    linear = B[:, :3] @ A[:, :3] - A[:, :3] @ B[:, :3]
    shift = B[:, :3] @ A[:, 3] - A[:, :3] @ B[:, 3]
    return cloud.pos @ linear.T + shift


@pytest.mark.parametrize(
    ("first", "second", "result", "sign"),
    [
        ("rotation_x", "rotation_y", "rotation_z", -1),
        ("rotation_y", "rotation_z", "rotation_x", -1),
        ("rotation_z", "rotation_x", "rotation_y", -1),
        ("rotation_z", "translation_x", "translation_y", -1),
        ("rotation_z", "translation_y", "translation_x", 1),
        ("rotation_x", "translation_y", "translation_z", -1),
        ("scale", "translation_y", "translation_y", -1),
    ],
)
def test_commutators(first, second, result, sign):
    """Of vector fields ξ = Ap + a, η = Bp + b: ξ·∇η − η·∇ξ = (BA − AB) p + Ba − Ab."""
    cloud = clouds()
    want = sign * action(result, cloud).tangents(cloud).pos[0]
    assert (_bracket(first, second, cloud) - want).abs().max() < 1e-14
    # The same from finite motions: exp(-sY) exp(-sX) exp(sY) exp(sX) = 1 + s² [X, Y] + …, where a
    # later motion stands to the left, so that fields commute as [ξ, η] and not as matrices do.
    s = 1e-3
    moved = cloud
    for name, t in ((first, s), (second, s), (first, -s), (second, -s)):
        moved = transform(moved, name, t)
    slope = (moved.pos - cloud.pos) / s**2
    assert (slope - want).abs().max() < 10 * s


def test_scale_commutes_with_rotations():
    cloud = clouds()
    one = transform(transform(cloud, "scale", 0.3), "rotation_x", 0.4)
    assert_alike(one, transform(transform(cloud, "rotation_x", 0.4), "scale", 0.3))


# Networks.


@pytest.mark.parametrize("kind", KINDS)
def test_equivariant_networks_have_no_lie_derivative(kind):
    found = lie_derivative_with_output(Pairs(kind).double(), clouds(), "rigid")
    scale = found.pushforward.abs().max() if kind in ("forces", "positions", "dipole") else 1.0
    assert found.value.abs().max() < 1e-12 * max(float(scale), 1.0)
    assert found.value.shape == (6, *found.output.shape)
    assert found.representation[0].status == "declared"


@pytest.mark.parametrize("name", ["translation_x", "rotation_y", "scale"])
@pytest.mark.parametrize("kind", KINDS)
def test_derivative_of_the_finite_transform(kind, name):
    """L f = d/dt ρ_{−t} f(T_t x), with ρ and T finite; the scale breaks every one of them."""
    f, cloud, h = Pairs(kind).double(), clouds(), 1e-5

    def pulled_back(t):
        y = f(transform(cloud, name, t))
        back = PointTransform.exp(action(name, cloud), torch.tensor([[-t]], dtype=torch.float64))
        rho = {"vectors": Vectors(), "positions": Positions(), "scalars": Scalars()}
        return act_finite(rho[f.output_representation], back, y)

    want = (pulled_back(h) - pulled_back(-h)) / (2 * h)
    got = lie_derivative(f, cloud, name)[0]
    assert (got - want).abs().max() < 1e-7 * (1 + want.abs().max())
    if name == "scale":
        assert got.abs().max() > 1e-2


def test_analytic_values_of_linear_forms():
    """y = Σ w·p: L_translation y = n w_i, L_rotation y = Σ w·(A p), L_scale y = y."""
    w = torch.tensor([[1.0, 2.0, 3.0], [0.0, -1.0, 0.5]], dtype=torch.float64)
    cloud = clouds((4, 2))
    f = LinearForms(w)
    got = lie_derivative(f, cloud, "translation,rotation_z,scale")
    sizes = cloud.sizes.double()[:, None]
    for i in range(3):
        assert torch.allclose(got[i], sizes * w[:, i])
    turned = torch.stack([-cloud.pos[:, 1], cloud.pos[:, 0], 0 * cloud.pos[:, 2]], 1)
    for b in range(2):
        assert torch.allclose(got[3, b], turned[cloud.batch == b].sum(0) @ w.T)
    assert torch.allclose(got[4], f(cloud))


@pytest.mark.parametrize("kind", KINDS)
def test_pushforward_is_the_dense_jacobian(kind):
    f, cloud = Pairs(kind).double(), clouds((3, 2))
    dense = jacfwd(lambda c: f(c))(cloud)
    tangents = action("all", cloud).tangents(cloud)
    got = lie_derivative_with_output(f, cloud, "all").pushforward
    want = 0
    for J, v in zip(tree_flatten(dense)[0], tree_flatten(tangents)[0], strict=True):
        want = want + torch.einsum("...i,ki->k...", J.flatten(got.ndim - 1), v.flatten(1))
    assert torch.allclose(got, want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("engine", ["loop", "double-backward"])
def test_engines_agree(engine):
    f, cloud = Pairs("forces").double(), clouds()
    want = lie_derivative(f, cloud, "all")
    got = lie_derivative_with_output(f, cloud, "all", engine=engine)
    assert got.engine == engine
    assert torch.allclose(got.value, want, atol=1e-12)


def test_an_output_of_several_tensors():
    f = Pairs("forces").double()

    def both(c):
        return {"force": f(c), "mean": cloud_mean(c.pos, c)}

    found = lie_derivative(
        both, clouds(), "rigid", output={"force": "vectors", "mean": "positions"}
    )
    assert found["force"].abs().max() < 1e-12
    assert found["mean"].abs().max() < 1e-12


def test_clouds_of_a_batch_do_not_see_each_other():
    f, cloud = Pairs().double(), clouds()
    whole = lie_derivative(f, cloud, "all")
    for b in range(len(cloud)):
        assert torch.allclose(whole[:, b], lie_derivative(f, cloud[b], "all")[:, 0], atol=1e-12)


def test_order_of_points_does_not_matter():
    f, cloud = Pairs("forces").double(), clouds()
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    mixed = PointCloud(
        cloud.pos[order],
        cloud.batch[order],
        {k: v[order] for k, v in cloud.scalars.items()},
        {k: v[order] for k, v in cloud.vectors.items()},
    )
    want = lie_derivative(f, cloud, "all")[:, order]
    assert torch.allclose(lie_derivative(f, mixed, "all"), want, atol=1e-12)


def test_clouds_of_one_point_in_mixed_order_must_say_their_level():
    cloud = PointCloud(torch.eye(3, dtype=torch.float64), torch.tensor([1, 0, 2]))
    with pytest.raises(UnknownLayoutError, match=r"is ambiguous .* level='graph'"):
        lie_derivative(lambda c: c.pos, cloud, "scale", output="positions")
    got = lie_derivative(lambda c: c.pos, cloud, "scale", output=Positions("node"))
    assert got.abs().max() < 1e-15


def test_duplicate_points_and_a_norm_at_zero():
    """The norm's derivative at 0 is 0 in torch; a cloud of duplicates stays finite."""
    cloud = PointCloud(torch.zeros(4, 3, dtype=torch.float64))

    def f(c):
        return torch.linalg.vector_norm(c.pos[:, None] - c.pos[None], dim=-1)

    got = lie_derivative(f, cloud, "all", output="scalars")
    assert (got == 0).all()


def test_the_cloud_is_not_written_to():
    cloud = clouds()
    before = cloud.clone()

    def in_place(c):
        c.pos.mul_(2)
        c.vectors["velocity"].zero_()
        return c.pos

    lie_derivative(in_place, cloud, "all", output="positions")
    assert_alike(cloud, before, EXACT)


# Declarations.


def test_nothing_is_guessed():
    with pytest.raises(UnknownLayoutError, match=r"shape \[3, 3\] transforms is unknown; declare"):
        lie_derivative(lambda c: cloud_mean(c.pos, c), clouds(), "rotation")


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("NCHW", "declared as 'NCHW', which points do not have"),
        (Vectors("graph"), r"needs 3 rows for 3 clouds of 9 points in all, but the tensor has 9"),
        (Vectors(), r"needs vectors: 3 on the last axis; found \[9, 2\]"),
    ],
)
def test_wrong_declarations(output, message):
    with pytest.raises(UnknownLayoutError, match=message):
        lie_derivative(lambda c: c.pos[:, :2], clouds(), "scale", output=output)


def test_images_have_no_vectors_of_points():
    x = torch.rand(1, 3, 8, 8)
    with pytest.raises(UnknownLayoutError, match="one of point clouds"):
        lie_derivative(lambda x: x.mean((2, 3)), x, "scale", output=Vectors())


def test_generators_of_images_and_of_points_are_kept_apart():
    with pytest.raises(LieDerivError, match="'rotation' does not act on point clouds in 3-D"):
        lie_derivative(Pairs(), clouds(), GENERATORS["rotation"])
    with pytest.raises(LieDerivError, match="'rotation' does not act on point clouds in 3-D"):
        lie_derivative(Pairs(), clouds(), POINTS[2].generators["rotation"])
    with pytest.raises(LieDerivError, match="'rotation_x' does not act on images"):
        lie_derivative(lambda x: x, torch.rand(1, 1, 4, 4), POINTS[3].generators["rotation_x"])


def test_custom_representation():
    """A tensor of second moments turns with both of its indices."""

    def moments(c):
        return cloud_mean(c.pos[:, :, None] * c.pos[:, None], c)

    def act(action, y):
        A = action.affine[:, :, :3].to(y)
        return torch.einsum("kij,bjl->kbil", A, y) + torch.einsum("kij,blj->kbli", A, y)

    got = lie_derivative(moments, clouds(), "rotation,scale", output=Custom(act))
    assert got.abs().max() < 1e-13


def test_adapter_for_networks_that_take_dicts():
    class TakesDict(nn.Module):
        def forward(self, fields):
            return fields["velocity"][:, 0] * fields["charge"]

    model = PointModel(TakesDict(), output="vectors")
    assert lie_derivative(model, clouds(), "all").abs().max() < 1e-14


def test_two_dimensional_clouds():
    f = Pairs("forces").double()
    got = lie_derivative(f, clouds(dim=2), "translation,rotation")
    assert got.shape[0] == 3
    assert got.abs().max() < 1e-13


def test_a_full_turn():
    cloud = clouds()
    assert_alike(transform(cloud, "rotation_x", 2 * math.pi), cloud)
