"""The Rapidash network: reference values, and the laws that any of its variants obeys."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from rapidash_cases import (
    Z_TURN,
    formula_cloud,
    formula_network,
    network,
    random_cloud,
    rotation,
    run,
)

from liederiv.errors import ModelError
from liederiv.model_zoo.rapidash import RapidashConfig

VALUES = json.loads(
    (Path(__file__).parents[1] / "data" / "rapidash_values.json").read_text(encoding="utf-8")
)
EVERY_GRAPH = [
    {"edge_types": "fc"},
    {"edge_types": "knn-3"},
    {"edge_types": "knn-3", "knn_flow": "send"},
    {"edge_types": "r-2"},
    {"edge_types": "r-2", "window": "invariants"},
    {"edge_types": ("knn-4", "fc"), "num_layers": (1, 1), "ratios": (0.4,)},
    {
        "edge_types": ("knn-4", "r-2", "fc"),
        "num_layers": (0, 1, 1),
        "hidden_dim": (4, 6, 5),
        "ratios": (0.5, 0.5),
        "skip_connections": True,
        "layer_scale": 0.5,
    },
]


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm()) if b.numel() else 0.0


def test_reference_values_with_orientations():
    net, cloud = formula_network("SEn", 8, "graph"), formula_cloud()
    want = VALUES["SEn_O8_graph"]

    def f(pos, vec):
        return net(cloud["x"], pos, cloud["batch"], vec)

    tangents = (cloud["pos"] @ Z_TURN.T, cloud["vec"] @ Z_TURN.T)
    (scalar, vector), (ds, dv) = torch.func.jvp(f, (cloud["pos"], cloud["vec"]), tangents)
    assert relative(scalar, torch.tensor(want["scalar"], dtype=torch.float64)) < 1e-12
    assert relative(vector, torch.tensor(want["vector"], dtype=torch.float64)) < 1e-12
    assert float(ds.norm()) == pytest.approx(want["lie_rot_z_scalar_norm"], rel=1e-9)
    lie = dv - vector @ Z_TURN.T
    assert float(lie.norm()) == pytest.approx(want["lie_rot_z_vector_norm"], rel=1e-9)
    assert float(scalar.norm()) == pytest.approx(want["scalar_norm"], rel=1e-12)


def test_reference_values_without_orientations():
    net, cloud = formula_network("Tn", 0, "node"), formula_cloud()
    want = VALUES["Tn_O0_node"]

    def f(pos):
        return net(cloud["x"], pos, cloud["batch"])[0]

    scalar, ds = torch.func.jvp(f, (cloud["pos"],), (cloud["pos"] @ Z_TURN.T,))
    assert relative(scalar, torch.tensor(want["scalar"], dtype=torch.float64)) < 1e-12
    assert float(ds.norm()) == pytest.approx(want["lie_rot_z_scalar_norm"], rel=1e-9)


@pytest.mark.parametrize("settings", EVERY_GRAPH)
@pytest.mark.parametrize(
    ("equivariance", "num_ori"), list(itertools.product(("Tn", "SEn"), (0, 5)))
)
def test_permuting_points_permutes_outputs(settings, equivariance, num_ori):
    net = network(
        equivariance=equivariance, num_ori=num_ori, output_dim_vec=int(num_ori > 0), **settings
    )
    cloud = random_cloud((7, 4, 1, 9))
    order = torch.randperm(21, generator=torch.Generator().manual_seed(1))
    permuted = {k: v[order] for k, v in cloud.items()}
    for got, want in zip(run(net, permuted), run(net, cloud), strict=True):
        assert relative(got, want[order] if len(want) else want) < 1e-11


@pytest.mark.parametrize("settings", EVERY_GRAPH)
@pytest.mark.parametrize("task_level", ["node", "graph"])
@pytest.mark.parametrize("num_ori", [0, 5])
def test_clouds_of_a_batch_do_not_see_each_other(settings, task_level, num_ori):
    net = network(
        task_level=task_level, num_ori=num_ori, output_dim_vec=int(num_ori > 0), **settings
    )
    sizes = (7, 1, 2, 9)
    cloud = random_cloud(sizes)
    together = run(net, cloud)
    alone = []
    for b in range(len(sizes)):
        one = {k: v[cloud["batch"] == b] for k, v in cloud.items()}
        alone.append(run(net, one | {"batch": torch.zeros(sizes[b], dtype=torch.long)}))
    for got, want in zip(together, zip(*alone, strict=True), strict=True):
        assert relative(got, torch.cat(want)) < 1e-11


@pytest.mark.parametrize("settings", EVERY_GRAPH)
@pytest.mark.parametrize(("dim", "num_ori"), [(3, 0), (3, 5), (2, 0), (2, 5)])
def test_translations_change_nothing(settings, dim, num_ori):
    net = network(dim=dim, equivariance="Tn", num_ori=num_ori, **settings)
    cloud = random_cloud((6, 5), dim)
    moved = cloud | {"pos": cloud["pos"] + torch.linspace(-2, 3, dim, dtype=torch.float64)}
    assert relative(run(net, moved)[0], run(net, cloud)[0]) < 1e-10


@pytest.mark.parametrize("settings", EVERY_GRAPH)
@pytest.mark.parametrize("dim", [2, 3])
def test_distances_alone_are_invariant_under_rotation(settings, dim):
    net = network(dim=dim, equivariance="SEn", num_ori=0, **settings)
    cloud = random_cloud((6, 5), dim)
    turned = cloud | {"pos": cloud["pos"] @ rotation(3, dim).T}
    assert relative(run(net, turned)[0], run(net, cloud)[0]) < 1e-10
    broken = network(dim=dim, equivariance="Tn", num_ori=0, **settings)
    assert relative(run(broken, turned)[0], run(broken, cloud)[0]) > 1e-4


@pytest.mark.parametrize("num_ori", [4, 7])
@pytest.mark.parametrize("equivariance", ["Tn", "SEn"])
def test_on_the_circle_the_grids_own_rotations_are_exact(num_ori, equivariance):
    """A turn by 2π/O permutes the orientations: exact for SEn, not for Tn."""
    net = network(dim=2, num_ori=num_ori, equivariance=equivariance, output_dim_vec=2)
    angle = torch.tensor(2 * torch.pi / num_ori, dtype=torch.float64)
    R = torch.stack(
        [torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])]
    )
    cloud = random_cloud((6, 5), 2)
    turned = cloud | {"pos": cloud["pos"] @ R.T, "vec": cloud["vec"] @ R.T}
    (s0, v0), (s1, v1) = run(net, cloud), run(net, turned)
    error = max(relative(s1, s0), relative(v1, v0 @ R.T))
    assert error < 1e-10 if equivariance == "SEn" else error > 1e-3


def test_the_papers_second_invariant_in_2d_is_none():
    cloud = random_cloud((6, 5), 2)
    R = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    turned = cloud | {"pos": cloud["pos"] @ R.T, "vec": cloud["vec"] @ R.T}
    for kind, exact in (("signed", True), ("sum", False)):
        net = network(dim=2, num_ori=4, orthogonal_2d=kind)
        error = relative(run(net, turned)[0], run(net, cloud)[0])
        assert error < 1e-10 if exact else error > 1e-4


def test_octahedral_rotations_of_a_matching_grid_are_exact():
    """Where the grid of orientations is carried into itself, R³ × S² is exact, too."""
    axes = torch.eye(3, dtype=torch.float64)
    net = network(num_ori=6, output_dim_vec=1)
    net.sphere_grid.copy_(torch.cat((axes, -axes)))
    R = torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]], dtype=torch.float64)
    cloud = random_cloud((6, 3))
    turned = cloud | {"pos": cloud["pos"] @ R.T, "vec": cloud["vec"] @ R.T}
    (s0, v0), (s1, v1) = run(net, cloud), run(net, turned)
    assert max(relative(s1, s0), relative(v1, v0 @ R.T)) < 1e-10


@pytest.mark.parametrize("settings", EVERY_GRAPH)
@pytest.mark.parametrize("num_ori", [0, 5])
def test_duplicate_points_have_finite_derivatives(settings, num_ori):
    net = network(num_ori=num_ori, **settings)
    cloud = random_cloud((6, 4))
    cloud["pos"][1:4] = cloud["pos"][0]
    cloud["pos"][6:] = 0.0

    def f(pos):
        return run(net, cloud | {"pos": pos})[0]

    value, slope = torch.func.jvp(f, (cloud["pos"],), (torch.ones_like(cloud["pos"]),))
    assert value.isfinite().all()
    assert slope.isfinite().all()
    assert float(slope.norm() / value.norm()) < 1e-10  # a translation


@pytest.mark.parametrize("settings", EVERY_GRAPH)
@pytest.mark.parametrize("task_level", ["node", "graph"])
def test_no_points_and_single_points(settings, task_level):
    net = network(task_level=task_level, output_dim_vec=1, **settings)
    nothing = {k: v[:0] for k, v in random_cloud((3,)).items()}
    scalar, vector = run(net, nothing)
    assert scalar.shape == (0, 3)
    assert vector.shape == (0, 1, 3)
    singles = run(net, random_cloud((1, 1)))[0]
    assert singles.shape == (2, 3)
    assert singles.isfinite().all()


def test_empty_clouds_at_the_end_give_zero():
    net = network(task_level="graph")
    cloud = random_cloud((3,))
    scalar, _ = net(cloud["x"], cloud["pos"], cloud["batch"], cloud["vec"], num_clouds=2)
    assert scalar.shape == (2, 3)
    assert not scalar[1].any()


def test_messages_vanish_at_the_radius_only_with_the_window_on_the_kernel():
    cloud = random_cloud((2,))
    for window, continuous in (("kernel", True), ("invariants", False)):
        net = network(edge_types="r-1", window=window, num_ori=0)
        outputs = []
        for distance in (1 - 1e-9, 1 + 1e-9):
            pos = torch.tensor([[0.0, 0, 0], [distance, 0, 0]], dtype=torch.float64)
            outputs.append(run(net, cloud | {"pos": pos})[0])
        jump = relative(*outputs)
        assert jump < 1e-7 if continuous else jump > 1e-3


def test_a_lone_point_hears_its_nearest_neighbour_or_only_sends_to_it():
    """Two points close together and one apart: k = 2 counts each point itself."""
    pos = torch.tensor([[0.0, 0, 0], [0.1, 0, 0], [5, 0, 0]], dtype=torch.float64)
    x = torch.ones(3, 2, dtype=torch.float64)
    other = x.clone()
    other[1] = 2.0
    for flow, hears in (("receive", True), ("send", False)):
        net = network(edge_types="knn-2", knn_flow=flow, num_ori=0, num_layers=1)
        change = (net(other, pos)[0] - net(x, pos)[0])[2].norm()
        assert bool(change > 1e-6) == hears


def test_calibration_evens_out_standard_deviations_once_and_only_when_asked():
    net, cloud = network(), random_cloud((9, 6))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    net.train()
    run(net, cloud)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    with torch.no_grad(), net.calibrating():
        run(net, cloud)
    stds = []
    handles = [
        layer.conv.register_forward_hook(
            lambda conv, args, out: stds.append(
                ((out - conv.bias).std(unbiased=False) / args[0].std(unbiased=False)).item()
            )
        )
        for layer in net.layers
    ]
    with torch.no_grad(), net.calibrating():
        run(net, cloud)
    for handle in handles:
        handle.remove()
    assert stds == pytest.approx([1.0, 1.0], rel=1e-9)
    assert all(bool(layer.conv.callibrated) for layer in net.layers)


def test_layer_scale_and_skips_take_part():
    cloud = random_cloud((9,))
    plain = network(layer_scale=1.0)
    scaled = network(layer_scale=0.0)
    embedded = plain.x_embedder(plain.lift(cloud["x"], cloud["vec"]))
    assert relative(run(scaled, cloud)[0], plain.readout(embedded).mean(1)) < 1e-12
    assert relative(run(plain, cloud)[0], run(scaled, cloud)[0]) > 1e-3
    scales = {"num_layers": (1, 1), "ratios": (0.5,)}
    with_skips, without = network(skip_connections=True, **scales), network(**scales)
    assert relative(run(with_skips, cloud)[0], run(without, cloud)[0]) > 1e-3


def test_all_three_engines_agree():
    from liederiv import pushforward

    net, cloud = network(num_ori=4, edge_types="knn-3"), random_cloud((5, 4))
    tangents = torch.stack([cloud["pos"] @ Z_TURN.T, torch.ones_like(cloud["pos"])])
    results = []
    for engine in ("vmap", "loop", "double-backward"):
        _, jv, used = pushforward(
            lambda pos: run(net, cloud | {"pos": pos})[0], cloud["pos"], tangents, engine=engine
        )
        assert used == engine
        results.append(jv)
    assert relative(results[0][0], results[1][0]) < 1e-12
    assert relative(results[0][0], results[2][0]) < 1e-12


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"equivariance": "SO3"}, "`equivariance`='SO3' is unknown"),
        ({"dim": 4}, "`dim`=4"),
        ({"num_ori": 1}, "`num_ori`=1 is no grid"),
        ({"num_ori": 0, "output_dim_vec": 1}, "needs orientations"),
        ({"output_dim": 0}, "both 0"),
        ({"input_dim": 0}, "`input_dim`=0 must be a whole number of at least 1"),
        ({"edge_types": "knn-0"}, "`edge_types` has 'knn-0'"),
        ({"edge_types": "r--1"}, "`edge_types` has 'r--1'"),
        ({"edge_types": "nearest"}, "`edge_types` has 'nearest'"),
        ({"num_layers": (1, 1)}, "`ratios` has 0 entries; 2 scales"),
        ({"num_layers": (1, 1), "ratios": (1.5,)}, "between 0 and 1"),
        ({"num_layers": (1, 1), "ratios": (0.5,), "hidden_dim": (3,)}, "1 entries for 2 scales"),
    ],
)
def test_unsound_configurations(settings, message):
    default = {"input_dim": 2, "hidden_dim": 6, "output_dim": 3, "num_layers": 2}
    with pytest.raises(ModelError, match=message):
        RapidashConfig(**(default | settings))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pos": torch.zeros(4, 2)}, r"`pos` has shape \[4, 2\]"),
        ({"x": torch.zeros(3, 1)}, r"`x` has shape \[3, 1\]; with 4 points"),
        ({"vec": torch.zeros(4, 3)}, r"`vec` has shape \[4, 3\]"),
        ({"x": torch.zeros(4, 2)}, "3 channels together, but the network takes 2"),
        ({"batch": torch.zeros(4)}, "one integer for each"),
        ({"batch": torch.zeros(2, dtype=torch.long)}, "one integer for each"),
    ],
)
def test_mismatched_inputs(change, message):
    cloud = random_cloud((4,)) | change
    with pytest.raises(ModelError, match=message):
        run(network(), cloud)
    with pytest.raises(ModelError, match="no place for vectors"):
        network(num_ori=0)(None, torch.zeros(4, 3), vec=torch.zeros(4, 2, 3))
