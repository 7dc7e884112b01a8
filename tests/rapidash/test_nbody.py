"""The charged N-body system: known orbits, conserved quantities, order of convergence."""

import itertools
import math

import pytest
import torch
from rapidash_cases import rotation

from liederiv.errors import ModelError
from liederiv.model_zoo.inputs.nbody import NBodyState, align, energy, initial_state, integrate
from liederiv.model_zoo.inputs.nbody_data import nbody_data, random_rotations


def circular_pair(radius: float = 0.5) -> NBodyState:
    """Opposite charges on a circle about their centre: v² / r = 1 / (2r)²."""
    speed = math.sqrt(1 / (4 * radius))
    pos = torch.tensor([[[radius, 0, 0], [-radius, 0, 0]]], dtype=torch.float64)
    velocity = torch.tensor([[[0, speed, 0], [0, -speed, 0]]], dtype=torch.float64)
    return NBodyState(pos, velocity, torch.tensor([[1.0, -1.0]], dtype=torch.float64))


def test_opposite_charges_circle_each_other_in_the_time_that_the_law_says():
    start, steps = circular_pair(), 4000
    period = 2 * math.pi * 0.5 / math.sqrt(0.5)
    end = integrate(start, steps, period / steps)
    assert torch.allclose(end.pos, start.pos, atol=1e-5)
    half = integrate(start, steps // 2, period / steps)
    assert torch.allclose(half.pos, -start.pos, atol=1e-5)


def test_equal_charges_fly_apart_with_the_speed_of_their_energy():
    pos = torch.tensor([[[0.5, 0, 0], [-0.5, 0, 0]]], dtype=torch.float64)
    rest = NBodyState(pos, torch.zeros_like(pos), torch.ones(1, 2, dtype=torch.float64))
    end = integrate(rest, 20_000, 0.001)
    distance = float(end.pos[0, 0, 0] - end.pos[0, 1, 0])
    assert float(end.velocity[0, 0, 0]) == pytest.approx(math.sqrt(1 - 1 / distance), rel=1e-6)


def test_the_error_falls_with_the_square_of_the_step():
    start, time = circular_pair(), 1.0
    exact = integrate(start, 6400, time / 6400).pos
    errors = [
        float((integrate(start, n, time / n).pos - exact).norm()) for n in (50, 100, 200, 400)
    ]
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert orders == pytest.approx([2, 2, 2], abs=0.1)


def test_momentum_angular_momentum_and_energy_are_kept():
    start = initial_state(20, seed=4)
    end = integrate(start, 2000)

    def spin(s: NBodyState) -> torch.Tensor:
        return torch.linalg.cross(s.pos, s.velocity).sum(1)

    assert torch.allclose(end.velocity.sum(1), start.velocity.sum(1), atol=1e-12)
    assert torch.allclose(spin(end), spin(start), atol=1e-11)
    drift = (energy(end) - energy(start)).abs()
    assert float(drift.median()) < 1e-5
    assert float(drift.max()) < 0.02  # of order 1; the close encounters


def test_the_motion_can_be_reversed():
    start = initial_state(5, seed=1)
    end = integrate(start, 500)
    back = integrate(NBodyState(end.pos, -end.velocity, end.charge), 500)
    assert torch.allclose(back.pos, start.pos, atol=1e-9)


def test_the_laws_know_no_direction_and_no_place():
    start, R = initial_state(10, seed=2), rotation(3)
    moved = NBodyState(start.pos @ R.T + 2.0, start.velocity @ R.T, start.charge)
    want = integrate(start, 300).pos @ R.T + 2.0
    assert torch.allclose(integrate(moved, 300).pos, want, atol=1e-9)


def test_systems_do_not_see_each_other():
    start = initial_state(130)
    few = NBodyState(start.pos[99:102], start.velocity[99:102], start.charge[99:102])
    together = integrate(start, 20).pos[99:102]
    assert torch.allclose(integrate(few, 20).pos, together, atol=1e-12)


def test_starts_are_normal_positions_and_equal_speeds():
    start = initial_state(2000)
    assert float(start.pos.std()) == pytest.approx(1.0, abs=0.02)
    assert torch.allclose(start.velocity.norm(dim=-1), torch.tensor(0.5, dtype=torch.float64))
    assert float(start.charge.mean()) == pytest.approx(0.0, abs=0.03)
    assert set(start.charge.unique().tolist()) == {-1.0, 1.0}
    with pytest.raises(ModelError, match="`systems`=0"):
        initial_state(0)


def test_alignment_is_a_rotation_that_does_not_depend_on_attitude():
    pos, R = initial_state(50, seed=5).pos, rotation(8)
    axes = align(pos)
    assert torch.allclose(torch.linalg.det(axes), torch.ones(50, dtype=torch.float64))
    aligned = pos @ axes.mT
    spread = aligned.var(1)
    assert (spread[:, :-1] >= spread[:, 1:]).all()
    turned = pos @ R.T
    assert torch.allclose(turned @ align(turned).mT, aligned, atol=1e-9)


def test_data_are_reproducible_and_aligned_data_are_the_same_motion():
    few, more = nbody_data("test", 3), nbody_data("test", 5)
    assert torch.allclose(few.pos, more[:3].pos, atol=1e-9)
    raw = nbody_data("test", 3, aligned=False)
    axes = align(raw.pos)
    assert torch.allclose(few.target, raw.target @ axes.mT, atol=1e-9)
    assert torch.allclose(few.velocity, raw.velocity @ axes.mT, atol=1e-9)
    turned = few.rotated(random_rotations(3))
    assert torch.allclose(turned.pose @ turned.pos.mT, few.pos.mT, atol=1e-9)


def test_random_rotations_are_rotations_without_preferred_direction():
    R = random_rotations(4000, seed=1)
    assert torch.allclose(R @ R.mT, torch.eye(3, dtype=torch.float64).expand_as(R), atol=1e-12)
    assert torch.allclose(torch.linalg.det(R), torch.ones(4000, dtype=torch.float64))
    assert float(R.mean(0).abs().max()) < 0.04
    trace = R.diagonal(dim1=1, dim2=2).sum(1)
    assert float(trace.mean()) == pytest.approx(0, abs=0.05)  # uniform on SO(3): mean 0, mean² 1
    assert float(trace.square().mean()) == pytest.approx(1, abs=0.06)
