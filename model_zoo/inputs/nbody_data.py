"""Data sets of the charged N-body system: aligned to principal axes, or turned at random.

The laws of motion and the distribution of starts know no direction, so on the benchmark as it
stands a rotation of the test set changes nothing on average, and a network that has learned
nothing about rotations looks robust. Therefore each system here is turned into the principal axes
of its input positions ("aligned", as scanned objects and skeletons are), and the test asks what a
random rotation does to that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .nbody import align, initial_state, integrate

__all__ = ["BURN_IN", "DT", "HORIZON", "SPLITS", "NBodyData", "nbody_data", "random_rotations"]

BURN_IN = 3000  # steps before the input is taken
HORIZON = 1000  # steps that are predicted
DT = 0.001  # units of time
SPLITS = {"train": (3000, 11), "val": (2000, 22), "test": (2000, 33)}  # systems, seed


@dataclass(frozen=True)
class NBodyData:
    """Inputs and targets of S systems of n particles.

    Attributes:
        pos: input positions [S, n, 3].
        velocity: input velocities [S, n, 3].
        charge: [S, n, 1].
        pose: frame of each system, [S, 3, 3], rows the axes; it turns with the system.
        target: displacement [S, n, 3] over the horizon.
    """

    pos: Tensor
    velocity: Tensor
    charge: Tensor
    pose: Tensor
    target: Tensor

    def __len__(self) -> int:
        return len(self.pos)

    def __getitem__(self, which: slice | Tensor) -> NBodyData:
        return NBodyData(*(getattr(self, k)[which] for k in self.__dataclass_fields__))

    def to(self, dtype: torch.dtype) -> NBodyData:
        """Convert all tensors."""
        return NBodyData(*(getattr(self, k).to(dtype) for k in self.__dataclass_fields__))

    def rotated(self, rotations: Tensor) -> NBodyData:
        """Turn each system by its rotation [S, 3, 3] (or [3, 3]) about the origin."""
        turn = rotations.to(self.pos).mT
        return replace(
            self,
            pos=self.pos @ turn,
            velocity=self.velocity @ turn,
            pose=self.pose @ turn,
            target=self.target @ turn,
        )


def nbody_data(
    split: str = "test", systems: int | None = None, aligned: bool = True, progress: bool = False
) -> NBodyData:
    """Simulate one split of the data set.

    Args:
        split: "train", "val" or "test".
        systems: only the first so many; None takes the split's usual number.
        aligned: turn each system into its principal axes; else leave it as it was simulated.
        progress: show a progress bar.

    Returns:
        float64 data; the same on every machine up to rounding.
    """
    usual, seed = SPLITS[split]
    start = initial_state(systems or usual, seed=seed)
    label = f"simulate {split}" if progress else None
    before = integrate(start, BURN_IN, DT, label)
    after = integrate(before, HORIZON, DT, label)
    pose = torch.eye(3, dtype=torch.float64).expand(len(start), 3, 3)
    target = after.pos - before.pos
    data = NBodyData(before.pos, before.velocity, before.charge[..., None], pose, target)
    return replace(data.rotated(align(before.pos)), pose=pose) if aligned else data


def random_rotations(count: int, seed: int = 0) -> Tensor:
    """Rotations from the uniform distribution on SO(3), as unit quaternions: [count, 3, 3]."""
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(count, 4, dtype=torch.float64, generator=generator)
    a, b, c, d = (q / q.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = [
        torch.stack((1 - 2 * (c * c + d * d), 2 * (b * c - a * d), 2 * (b * d + a * c)), -1),
        torch.stack((2 * (b * c + a * d), 1 - 2 * (b * b + d * d), 2 * (c * d - a * b)), -1),
        torch.stack((2 * (b * d - a * c), 2 * (c * d + a * b), 1 - 2 * (b * b + c * c)), -1),
    ]
    return torch.stack(rows, -2)
