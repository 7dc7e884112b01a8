r"""The charged N-body system: five particles that attract and repel each other, simulated here.

Unit masses, charges ±1, Coulomb forces c_i c_j r_ij / ‖r_ij‖³; from the positions and velocities
after a run-in the network predicts the positions 1000 steps (one unit of time) later. Source of the
benchmark: Satorras, Hoogeboom & Welling, "E(n) Equivariant Graph Neural Networks", ICML 2021,
appendix, after Fuchs et al. 2020 and Kipf et al. 2018.

The integrator is velocity Verlet in float64. Where particles come closer than 0.1 the force of the
pair stays at its value there, so that steps need not shrink; a force along r that depends on ‖r‖
alone keeps energy, momentum and angular momentum, and commutes with rotations. (The benchmark's own
simulator clips the x, y and z components separately, which singles out the axes.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from liederiv.errors import ModelError

__all__ = ["NBodyState", "align", "energy", "initial_state", "integrate"]

CLOSEST = 0.1  # below this distance the force of a pair grows no further
SPEED = 0.5  # of every particle at the start
CHUNK = 100  # systems that are advanced together: what a processor's cache holds


@dataclass(frozen=True)
class NBodyState:
    """S systems of n particles, float64.

    Attributes:
        pos: [S, n, 3].
        velocity: [S, n, 3], units of length per unit of time.
        charge: [S, n], +1 or −1.
    """

    pos: Tensor
    velocity: Tensor
    charge: Tensor

    def __len__(self) -> int:
        return len(self.pos)


def initial_state(systems: int, particles: int = 5, seed: int = 0) -> NBodyState:
    """Normal positions, random directions of motion at equal speed, random charges.

    The first systems of a seed are the same however many are asked for.

    Args:
        systems: how many, S.
        particles: n in each.
        seed: which ones.

    Example:
        >>> few, many = initial_state(2, seed=3), initial_state(9, seed=3)
        >>> torch.equal(few.pos, many.pos[:2])
        True
    """
    if systems < 1 or particles < 1:
        raise ModelError(
            f"`systems`={systems} and `particles`={particles} must both be at least 1."
        )
    generator = torch.Generator().manual_seed(seed)
    draws = [
        torch.randn(7 * particles, dtype=torch.float64, generator=generator) for _ in range(systems)
    ]
    z = torch.stack(draws).reshape(systems, particles, 7)
    direction = z[..., 3:6] / z[..., 3:6].norm(dim=-1, keepdim=True)
    charge = torch.where(z[..., 6] > 0, 1.0, -1.0).double()
    return NBodyState(z[..., :3].contiguous(), SPEED * direction, charge)


def integrate(
    state: NBodyState, steps: int, dt: float = 0.001, progress: str | None = None
) -> NBodyState:
    """Advance all systems at once by velocity Verlet.

    Args:
        state: where they are.
        steps: number of steps.
        dt: length of a step, in units of time.
        progress: label of a progress bar, None for none.
    """
    parts = []
    starts = tqdm(range(0, len(state), CHUNK), desc=progress, disable=progress is None)
    for first in starts:
        part = slice(first, first + CHUNK)
        chunk = NBodyState(state.pos[part], state.velocity[part], state.charge[part])
        parts.append(_verlet(chunk, steps, dt))
    pos, velocity = torch.cat([p.pos for p in parts]), torch.cat([p.velocity for p in parts])
    return NBodyState(pos, velocity, state.charge)


def _verlet(state: NBodyState, steps: int, dt: float) -> NBodyState:
    particles = state.pos.shape[1]
    send, receive = torch.triu_indices(particles, particles, 1)
    incidence = _incidence(send, receive, particles)
    strength = state.charge[:, send] * state.charge[:, receive]

    def acceleration(pos: Tensor) -> Tensor:
        apart = pos[:, send] - pos[:, receive]
        distance = apart.norm(dim=-1)
        reach = distance.clamp(min=CLOSEST)
        # Two particles in one place have no direction: 0 · strength / 1e-12, no force.
        size = strength / (reach.square() * distance.clamp(min=1e-12))
        return incidence @ (size[..., None] * apart)

    pos, velocity = state.pos, state.velocity
    force = acceleration(pos)
    for _ in range(steps):
        velocity = velocity + 0.5 * dt * force
        pos = pos + dt * velocity
        force = acceleration(pos)
        velocity = velocity + 0.5 * dt * force
    return NBodyState(pos, velocity, state.charge)


def _incidence(send: Tensor, receive: Tensor, particles: int) -> Tensor:
    """[n, pairs]: +1 where a pair pushes a particle along its separation, −1 against it."""
    pairs = torch.arange(len(send))
    matrix = torch.zeros(particles, len(send), dtype=torch.float64)
    matrix[send, pairs] = 1.0
    matrix[receive, pairs] = -1.0
    return matrix


def energy(state: NBodyState) -> Tensor:
    """Kinetic and potential energy of each system, [S]."""
    send, receive = torch.triu_indices(state.pos.shape[1], state.pos.shape[1], 1)
    distance = (state.pos[:, send] - state.pos[:, receive]).norm(dim=-1)
    inside = 2 / CLOSEST - distance / CLOSEST**2
    potential = torch.where(distance > CLOSEST, 1 / distance, inside)
    strength = state.charge[:, send] * state.charge[:, receive]
    return 0.5 * state.velocity.square().sum((1, 2)) + (strength * potential).sum(1)


def align(pos: Tensor) -> Tensor:
    """The rotation that turns each system into its principal axes.

    Axes in order of decreasing spread about the mean, the first two pointing where the third
    moment is positive, the third making them right-handed.

    Args:
        pos: [S, n, 3].

    Returns:
        Rotations [S, 3, 3], rows the axes: ``pos @ R.mT`` is aligned.
    """
    centred = pos - pos.mean(1, keepdim=True)
    axes = torch.linalg.eigh(centred.mT @ centred).eigenvectors.flip(-1).mT
    skew = (centred @ axes.mT).pow(3).sum(1)
    first, second = (axes * torch.where(skew < 0, -1.0, 1.0)[..., None])[:, :2].unbind(1)
    return torch.stack((first, second, torch.linalg.cross(first, second)), 1)
