"""`PointCloud`: what is accepted, what is refused in one sentence, batches, the pytree."""

import math

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from liederiv import LieDerivError, PointCloud, PointCloudError, resolve_generators
from liederiv.points import POINTS


def two_clouds(dtype=torch.float32) -> PointCloud:
    """Three and two points, interleaved, with every kind of field."""
    pos = torch.arange(15, dtype=dtype).reshape(5, 3)
    return PointCloud(
        pos,
        torch.tensor([0, 1, 0, 1, 0]),
        scalars={"charge": pos[:, :1] ** 2, "type": torch.tensor([1, 6, 1, 8, 1])},
        vectors={"velocity": -pos, "frame": torch.eye(3, dtype=dtype).expand(5, 3, 3)},
        graph={"label": torch.tensor([3, 4])},
        edge_index=torch.tensor([[0, 2, 1], [2, 4, 3]]),
        edge_scalars={"bond": torch.tensor([[1.0], [2.0], [3.0]])},
    )


def test_missing_axes_are_filled_in_and_one_cloud_is_the_default():
    cloud = PointCloud(
        torch.zeros(4, 2), scalars={"m": torch.ones(4)}, vectors={"v": torch.ones(4, 2)}
    )
    assert len(cloud) == 1
    assert cloud.dim == 2
    assert cloud.scalars["m"].shape == (4, 1)
    assert cloud.vectors["v"].shape == (4, 1, 2)
    assert cloud.sizes.tolist() == [4]


P = torch.arange(12.0).reshape(4, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pos": [[0.0, 0.0, 0.0]]}, "pos must be a tensor"),
        ({"pos": P[None]}, r"pos has shape \[1, 4, 3\]"),
        ({"pos": torch.zeros(4, 4)}, r"pos has shape \[4, 4\]"),
        ({"pos": torch.zeros(0, 3)}, "pos holds no points"),
        ({"pos": P.long()}, r"int64; derivatives need float32 or float64.*pos\.float\(\)"),
        ({"pos": P.half()}, "float16; derivatives need"),
        ({"pos": P.where(P != 7, math.nan)}, "pos is NaN or infinite, first in row 2"),
        ({"pos": P, "batch": torch.zeros(3, dtype=torch.long)}, r"each of the 4 points.*\[3\]"),
        ({"pos": P, "batch": torch.zeros(4)}, "batch has dtype torch.float32.*int64"),
        ({"pos": P, "batch": torch.tensor([0, 0, 2, 2])}, "cloud 1 of 3 has no points"),
        ({"pos": P, "batch": torch.tensor([0, 0, -1, 0])}, "number the clouds from 0"),
        ({"pos": P, "scalars": P}, "scalars must map names to tensors, not be a Tensor"),
        ({"pos": P, "scalars": {"m": 1.0}}, r"scalars\['m'\] is a float"),
        (
            {"pos": P, "scalars": {"m": torch.ones(3, 1)}},
            r"scalars\['m'\] has shape \[3, 1\].*N = 4",
        ),
        ({"pos": P, "scalars": {"m": P.double()}}, r"scalars\['m'\] has dtype torch.float64"),
        (
            {"pos": P, "vectors": {"v": P[:, :2]}},
            r"vectors\['v'\] has shape \[4, 1, 2\].*\[N, c, 3\]",
        ),
        ({"pos": P, "vectors": {"v": P[:2]}}, r"vectors\['v'\] has shape \[2, 1, 3\]"),
        ({"pos": P, "vectors": {"v": P.long()}}, r"vectors\['v'\] has dtype torch.int64"),
        ({"pos": P, "vectors": {"v": P / 0}}, r"vectors\['v'\] is NaN or infinite"),
        ({"pos": P, "graph": {"t": torch.ones(4)}}, r"graph\['t'\] has shape \[4\].*1 rows"),
        ({"pos": P, "scalars": {"m": P}, "vectors": {"m": P}}, "field 'm', a name that is taken"),
        ({"pos": P, "scalars": {"batch": P}}, "field 'batch', a name that is taken"),
        ({"pos": P, "edge_index": torch.tensor([0, 1])}, r"tensor \[2, E\] of points; found \[2\]"),
        ({"pos": P, "edge_index": torch.tensor([[0], [4]])}, "from 0 to 4, but there are 4"),
        ({"pos": P, "edge_scalars": {"b": P}}, "without edge_index"),
        (
            {
                "pos": P,
                "batch": torch.tensor([0, 0, 1, 1]),
                "edge_index": torch.tensor([[0], [2]]),
            },
            "joins points of different clouds",
        ),
    ],
)
def test_what_is_refused(arguments, message):
    with pytest.raises(PointCloudError, match=message):
        PointCloud(**arguments)


def test_clouds_of_a_batch_can_be_taken_and_joined_again():
    cloud = two_clouds()
    one, other = cloud[0], cloud[1]
    assert one.pos.tolist() == cloud.pos[[0, 2, 4]].tolist()
    assert one.edge_index.tolist() == [[0, 1], [1, 2]]
    assert other.edge_scalars["bond"].tolist() == [[3.0]]
    assert other.graph["label"].tolist() == [4]
    swapped = PointCloud.collate([other, one])
    assert swapped.batch.tolist() == [0, 0, 1, 1, 1]
    assert swapped.edge_index.tolist() == [[0, 2, 3], [1, 3, 4]]
    again = swapped[[1, 0]]
    assert again.pos.tolist() == [*one.pos.tolist(), *other.pos.tolist()]
    assert again.scalars["type"].tolist() == [[1], [1], [1], [6], [8]]
    assert [len(c.pos) for c in cloud] == [3, 2]
    assert cloud[np.int64(1)].pos.tolist() == cloud[torch.tensor(1)].pos.tolist()
    assert len(cloud[-1:]) == len(cloud[torch.tensor([1])]) == 1


@pytest.mark.parametrize("which", [[], [0, 0]])
def test_no_cloud_and_a_cloud_twice_are_refused(which):
    with pytest.raises(PointCloudError, match="each once"):
        two_clouds()[which]


def test_only_like_clouds_are_joined():
    with pytest.raises(PointCloudError, match="different fields"):
        PointCloud.collate([two_clouds()[0], PointCloud(P)])
    with pytest.raises(PointCloudError, match="clouds is empty"):
        PointCloud.collate([])


def test_pytree_leaves_are_what_moves_and_floating_scalars():
    cloud = two_clouds()
    leaves, spec = tree_flatten(cloud)
    assert [tuple(v.shape) for v in leaves] == [(5, 3), (5, 1), (5, 1, 3), (5, 3, 3)]
    back = tree_unflatten(leaves, spec)
    assert list(back.scalars) == ["charge", "type"]
    assert back.scalars["type"] is cloud.scalars["type"]
    assert len(back) == 2
    assert tree_flatten(two_clouds())[1] == spec
    assert tree_flatten(cloud[0])[1] != spec
    doubled = tree_map(lambda v: 2 * v, cloud)
    assert torch.equal(doubled.vectors["velocity"], 2 * cloud.vectors["velocity"])


def test_forward_mode_goes_through_a_cloud():
    cloud = two_clouds(torch.float64)
    tangent = tree_map(torch.ones_like, cloud)

    def energy(c):
        charged = c.vectors["velocity"] * c.scalars["charge"][..., None]
        return (c.pos**2).sum() + charged.sum()

    _, got = torch.func.jvp(energy, (cloud,), (tangent,))
    want = (
        2 * cloud.pos.sum() + (3 * cloud.scalars["charge"]).sum() + cloud.vectors["velocity"].sum()
    )
    assert torch.allclose(got, want)


def test_conversion_keeps_integers_and_dicts_hold_everything():
    cloud = two_clouds().double()
    assert cloud.dtype == cloud.vectors["velocity"].dtype == torch.float64
    assert cloud.scalars["type"].dtype == cloud.batch.dtype == torch.long
    assert set(cloud.to_dict()) == {
        *("pos", "batch", "edge_index", "charge", "type"),
        *("velocity", "frame", "label", "bond"),
    }
    fresh = cloud.clone()
    fresh.pos.zero_()
    assert cloud.pos.any()


def test_generators_by_name_and_dimension():
    names = [g.name for g in resolve_generators("translation,rotation", catalogue=POINTS[3])]
    assert names == [f"{kind}_{axis}" for kind in ("translation", "rotation") for axis in "xyz"]
    names = [g.name for g in resolve_generators("translation,rotation", catalogue=POINTS[2])]
    assert names == ["translation_x", "translation_y", "rotation"]
    with pytest.raises(LieDerivError, match="'shear_x' is unknown for point clouds in 3-D"):
        resolve_generators("shear_x", catalogue=POINTS[3])
