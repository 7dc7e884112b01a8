"""Graphs and farthest points against a plain count over all pairs; grids and invariants."""

import math

import numpy as np
import pytest
import torch
from rapidash_cases import random_cloud, rotation
from scipy.spatial import cKDTree

from liederiv.model_zoo.rapidash import EdgeType, orientation_grid
from liederiv.model_zoo.rapidash.graphs import build_edges, coarsen
from liederiv.model_zoo.rapidash.invariants import PolynomialFeatures, cutoff, safe_norm

SIZES = (9, 1, 6, 2)


def pairs(edges: torch.Tensor) -> set[tuple[int, int]]:
    found = [tuple(e) for e in edges.T.tolist()]
    assert len(set(found)) == len(found)
    return set(found)


def shuffled(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    cloud = random_cloud(SIZES, seed=seed)
    order = torch.randperm(sum(SIZES), generator=torch.Generator().manual_seed(seed))
    return cloud["pos"][order], cloud["batch"][order]


def test_fully_connected_joins_all_of_a_cloud_and_none_of_another():
    pos, batch = shuffled()
    same = (batch[:, None] == batch).nonzero()
    assert pairs(build_edges(pos, batch, EdgeType("fc"))) == pairs(same.T)


def test_radius_graph_is_what_a_tree_finds():
    pos, batch = shuffled()
    want = set()
    for b in range(len(SIZES)):
        index = (batch == b).nonzero()[:, 0].numpy()
        near = cKDTree(pos[index]).query_ball_point(pos[index], 1.5)
        want |= {(index[j], index[i]) for i, found in enumerate(near) for j in found}
    assert pairs(build_edges(pos, batch, EdgeType("radius", radius=1.5))) == want


@pytest.mark.parametrize("k", [1, 4, 20])
def test_nearest_neighbours_are_what_a_tree_finds(k):
    pos, batch = shuffled()
    want = set()
    for b, size in enumerate(SIZES):
        index = (batch == b).nonzero()[:, 0].numpy()
        near = cKDTree(pos[index]).query(pos[index], list(range(1, min(k, size) + 1)))[1]
        want |= {(index[j], index[i]) for i, found in enumerate(near) for j in found}
    assert pairs(build_edges(pos, batch, EdgeType("knn", k=k))) == want


def test_farthest_points_are_what_their_definition_says():
    pos, batch = shuffled()
    found = coarsen(pos, batch, 0.4)
    for b, size in enumerate(SIZES):
        index = (batch == b).nonzero()[:, 0].numpy()
        points = pos[index].numpy()
        chosen = [int(np.linalg.norm(points - points.mean(0), axis=1).argmax())]
        while len(chosen) < max(1, math.ceil(0.4 * size)):
            apart = np.linalg.norm(points[:, None] - points[chosen], axis=-1).min(1)
            chosen.append(int(apart.argmax()))
        assert found.kept[found.batch == b].tolist() == index[chosen].tolist()
    send, receive = found.edges
    assert torch.equal(send, torch.arange(len(pos)))
    assert torch.equal(found.batch[receive], batch)
    kept = pos[found.kept]
    apart = (pos[:, None] - kept).norm(dim=-1)
    apart[batch[:, None] != found.batch] = math.inf
    assert torch.equal(receive, apart.argmin(1))


def test_farthest_points_do_not_depend_on_attitude_place_or_size():
    pos, batch = shuffled()
    pos, batch = pos[batch != 3], batch[batch != 3]  # of two points, both are the farthest
    kept = coarsen(pos, batch, 0.5).kept
    moved = 3.0 * pos @ rotation(5).T + torch.tensor([5.0, -1, 2], dtype=torch.float64)
    assert torch.equal(coarsen(moved, batch, 0.5).kept, kept)


def test_each_of_several_equal_points_is_kept_at_most_once_and_owns_itself():
    pos = torch.zeros(6, 3, dtype=torch.float64)
    found = coarsen(pos, torch.zeros(6, dtype=torch.long), 0.5)
    assert len(set(found.kept.tolist())) == 3
    assert found.edges[1, found.kept].tolist() == [0, 1, 2]


def test_no_points_have_no_edges():
    nothing, none = torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)
    for kind in (EdgeType("fc"), EdgeType("knn", k=3), EdgeType("radius", radius=1.0)):
        assert build_edges(nothing, none, kind).shape == (2, 0)
    assert len(coarsen(nothing, none, 0.5).kept) == 0


@pytest.mark.parametrize("kind", ["fibonacci", "repulsion"])
@pytest.mark.parametrize("count", [4, 8, 33])
def test_grids_on_the_sphere_are_even_and_always_the_same(kind, count):
    grid = orientation_grid(3, count, kind)
    assert torch.allclose(grid.norm(dim=-1), torch.ones(count, dtype=torch.float64))
    assert float(grid.mean(0).norm()) < 0.2
    assert torch.equal(grid, orientation_grid(3, count, kind))


def test_repulsion_finds_the_octahedron():
    gram = orientation_grid(3, 6, "repulsion")
    cosines = (gram @ gram.T).sort().values
    want = torch.tensor([-1.0, 0, 0, 0, 0, 1], dtype=torch.float64)
    assert torch.allclose(cosines, want.expand(6, 6), atol=1e-2)


def test_grid_on_the_circle_starts_at_the_first_axis():
    want = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]], dtype=torch.float64)
    assert torch.allclose(orientation_grid(2, 4), want, atol=1e-15)


def test_polynomial_features_go_up_to_degree_plus_one():
    x = torch.tensor([2.0, 3.0])
    features = PolynomialFeatures(2)
    want = [2, 3, 4, 6, 6, 9, 8, 12, 12, 18, 12, 18, 18, 27]
    assert features(x).tolist() == want
    assert features.width(2) == 14


def test_cutoff_goes_smoothly_from_one_to_zero():
    distance = torch.linspace(0, 2.4, 25, dtype=torch.float64, requires_grad=True)
    window = cutoff(distance, 2.0)
    slope = torch.autograd.grad(window.sum(), distance)[0]
    window = window.detach()
    assert float(window[0]) == 1
    assert not window[20:].any()
    assert (window[:-1] >= window[1:]).all()
    assert float(slope[0]) == 0
    assert abs(float(slope[20])) < 1e-12


def test_safe_norm_is_the_norm_with_derivative_zero_at_zero():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float64)
    value, slope = torch.func.jvp(safe_norm, (x,), (torch.ones_like(x),))
    assert value.tolist() == [[5.0], [0.0]]
    assert slope.tolist() == [[pytest.approx(7 / 5)], [0.0]]
    leaf = x.clone().requires_grad_()
    safe_norm(leaf).sum().backward()
    assert leaf.grad.isfinite().all()
