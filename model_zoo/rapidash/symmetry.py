"""Which motions a Rapidash network is equivariant under, derived from how it is built and fed.

The rules, from arXiv 2501.01999, sections 3 and 4:

* kernels see differences of positions only, so translations are exact unless coordinates enter as
  scalars or as vectors (a vector from the origin);
* rotations are respected if the kernels see invariants only ("SEn"), no vector enters by its
  components, no fixed frame enters, and a vector output is read from orientations;
* with orientations they are respected as far as sums over the grid do not depend on its attitude:
  the error falls with the number of orientations and is not zero;
* no network here is equivariant under scale.
"""

from __future__ import annotations

from dataclasses import dataclass

from .config import RapidashConfig
from .inputs import FIXED, RapidashInputs

__all__ = ["BROKEN", "EXACT", "GRID", "EffectiveEquivariance", "effective_equivariance"]

EXACT, GRID, BROKEN = "exact", "grid", "broken"


@dataclass(frozen=True)
class EffectiveEquivariance:
    """How each kind of motion fares.

    Attributes:
        dim: dimension of space.
        translation: "exact" or "broken".
        rotation: "exact", "grid" (up to the finite grid of orientations) or "broken".
        scale: "broken".
        reasons: what breaks a symmetry, one clause each.
    """

    dim: int
    translation: str
    rotation: str
    scale: str
    reasons: tuple[str, ...]

    @property
    def name(self) -> str:
        """The group in words: "none", "T(3)", "SO(3) about the origin" or "SE(3)"."""
        n = self.dim
        moves, turns = self.translation != BROKEN, self.rotation != BROKEN
        if moves and turns:
            return f"SE({n})"
        if turns:
            return f"SO({n}) about the origin"
        return f"T({n})" if moves else "none"


def effective_equivariance(
    config: RapidashConfig, inputs: RapidashInputs, output: str = "scalars"
) -> EffectiveEquivariance:
    """Derive the symmetry of a network from its configuration.

    Args:
        config: the network.
        inputs: how it is fed.
        output: "scalars" or "vector", as in `RapidashOnClouds`.

    Example:
        >>> config = RapidashConfig(1, 8, 0, 1, output_dim_vec=1)
        >>> effective_equivariance(config, RapidashInputs(vectors=("velocity",)), "vector").name
        'SE(3)'
    """
    place = [f"coordinates as {kind}" for kind in ("scalars", "vectors")
             if "coords" in getattr(inputs, kind)]  # fmt: skip
    turn = [f"{name} as scalars" for name in inputs.scalars]
    if config.equivariance == "Tn":
        turn.append("kernels that see relative positions")
    if FIXED in inputs.vectors:
        turn.append("a frame that does not turn with the data")
    if output == "vector" and not config.num_ori:
        turn.append("a vector read from scalar channels")
    if config.dim == 2 and config.num_ori and config.orthogonal_2d == "sum":
        turn.append("a second invariant that is none in 2-D")
    turn = [t.replace("coords", "coordinates") for t in turn]
    kept = GRID if config.num_ori else EXACT
    return EffectiveEquivariance(
        config.dim,
        BROKEN if place else EXACT,
        BROKEN if turn else kept,
        BROKEN,
        tuple(dict.fromkeys(place + turn)),
    )
