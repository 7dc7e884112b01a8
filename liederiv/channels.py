r"""How the channels of a map turn along: scalars, vectors, covectors, irreps of SO(2).

Convention: (T_t z)(q) = z(φ_t(q)) for scalars. A vector field transforms by pull-back,
v(q) ↦ (dφ_t)⁻¹ v(φ_t(q)), hence X v = ξ·∇v − A v with A = dξ/dq.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from liederiv.errors import UnknownLayoutError

__all__ = ["ChannelAction", "CovectorChannels", "Irreps", "VectorChannels"]


class ChannelAction(ABC):
    """A Lie algebra representation on the channels of a map."""

    @abstractmethod
    def matrices(self, linear: Tensor, channels: int) -> Tensor:
        """Matrices M with X z = ξ·∇z + M z.

        Args:
            linear: A = dξ/dq of K generators, float64 [K, 2, 2].
            channels: number of channels of the map.

        Returns:
            float64 [K, channels, channels].

        Raises:
            UnknownLayoutError: where the representation is not defined.
        """

    def reflection(self, axis: Literal["x", "y"], channels: int) -> Tensor | None:
        """What a mirror image does to the channels; no generator leads there.

        Args:
            axis: the coordinate that changes sign.
            channels: number of channels of the map.

        Returns:
            float64 [channels, channels]; None where it is not defined.
        """
        return None


@dataclass(frozen=True)
class VectorChannels(ChannelAction):
    """Channels are vectors (x, y), (x, y), …: displacements, flows, velocities. M = −A."""

    def matrices(self, linear: Tensor, channels: int) -> Tensor:
        """See `ChannelAction.matrices`."""
        return _repeat_blocks(-linear, channels, "VectorChannels")

    def reflection(self, axis: Literal["x", "y"], channels: int) -> Tensor:
        """See `ChannelAction.reflection`."""
        return _mirrored_pairs(axis, channels)


@dataclass(frozen=True)
class CovectorChannels(ChannelAction):
    """Channels are gradients (∂x, ∂y), …, which transform inversely to vectors. M = Aᵀ."""

    def matrices(self, linear: Tensor, channels: int) -> Tensor:
        """See `ChannelAction.matrices`."""
        return _repeat_blocks(linear.mT, channels, "CovectorChannels")

    def reflection(self, axis: Literal["x", "y"], channels: int) -> Tensor:
        """See `ChannelAction.reflection`."""
        return _mirrored_pairs(axis, channels)


@dataclass(frozen=True)
class Irreps(ChannelAction):
    """Channels are irreducible representations of SO(2), as in steerable networks.

    A field of order m > 0 is two channels (c, s) that turn by the angle mθ, from the first towards
    the second, when the image turns by θ in the sense that turns the axis x towards the axis y.
    Which sense that is depends on where y points, so ``y`` says it. Order 1 is a vector (x, y). A
    negative order turns the other way: it is (c, −s) of the positive one, and
    ``Irreps((−m,), y="down")`` is ``Irreps((m,), y="up")``.

    Attributes:
        orders: rotation order m of each field in channel order. Order 0 takes one channel, any
            other order two.
        y: where the axis y of the fields' components points. ``down`` as pixels are counted, and as
            `VectorChannels` has it: (∂x, ∂y) of an image is of order 1. ``up`` as in e2cnn and
            escnn, whose irreps turn counterclockwise on the screen: declare
            ``[gspace.irrep(0), gspace.irrep(1)]`` as ``Irreps((0, 1), y="up")``.

    A mirror image is no rotation, and irreps of SO(2) do not say what it does to them. Defined for
    translations, rotations and scalings (which leave such fields' channels alone); shears,
    stretches and hyperbolic rotations are refused.
    """

    orders: tuple[int, ...]
    y: Literal["down", "up"] = "down"

    def __post_init__(self) -> None:
        if self.y not in ("down", "up"):
            raise UnknownLayoutError(
                f"Irreps(y={self.y!r}) must be 'down' (as pixels are counted) or 'up' (as in e2cnn "
                "and escnn)."
            )

    def matrices(self, linear: Tensor, channels: int) -> Tensor:
        """See `ChannelAction.matrices`."""
        size = sum(1 if m == 0 else 2 for m in self.orders)
        if size != channels:
            raise UnknownLayoutError(
                f"output=Irreps(orders={self.orders}) describes {size} channels, but the map has "
                f"{channels}; list the order of every field."
            )
        rate = (linear[:, 1, 0] - linear[:, 0, 1]) / 2
        conformal = torch.stack(
            [linear[:, 0, 0] - linear[:, 1, 1], linear[:, 0, 1] + linear[:, 1, 0]]
        )
        if conformal.abs().max() > 1e-12:  # more than rounding of entries of order 1 in float64
            raise UnknownLayoutError(
                "output=Irreps(…) of SO(2) does not say how shears, stretches or hyperbolic "
                "rotations act; measure translation, rotation and scale, or pass a Custom output."
            )
        rate = rate if self.y == "down" else -rate
        out = linear.new_zeros(len(linear), channels, channels)
        c = 0
        for m in self.orders:
            if m:
                out[:, c, c + 1], out[:, c + 1, c] = m * rate, -m * rate
            c += 2 if m else 1
        return out


def _repeat_blocks(block: Tensor, channels: int, name: str) -> Tensor:
    if channels % 2:
        raise UnknownLayoutError(
            f"output={name}() needs (x, y) pairs of channels; the map has {channels}."
        )
    out = block.new_zeros(len(block), channels, channels)
    for c in range(0, channels, 2):
        out[:, c : c + 2, c : c + 2] = block
    return out


def _mirrored_pairs(axis: Literal["x", "y"], channels: int) -> Tensor:
    pair = [-1.0, 1.0] if axis == "x" else [1.0, -1.0]
    return torch.tensor(pair * (channels // 2), dtype=torch.float64).diag()
