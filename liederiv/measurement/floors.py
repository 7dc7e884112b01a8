"""How far a local score can be trusted: what rounding does to it, and to the point it is at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from liederiv.actions import Action
from liederiv.differentiation import ENGINES, forward_mode
from liederiv.differentiation.calls import PlainFunction, within_rounding
from liederiv.differentiation.differences import difference_jvp
from liederiv.differentiation.engines import in_chunks
from liederiv.differentiation.models import as_it_was, watched
from liederiv.domains import domain_of

__all__ = ["Floor", "rounding_floor"]

_DRAWS = 2  # of the input's own rounding


@dataclass(frozen=True)
class Floor:
    """What rounding contributes to local scores, from one image: [K] per generator.

    Attributes:
        squared: of ‖L f‖²/dim.
        absolute: of mean |L f|.
    """

    squared: NDArray[np.float64]
    absolute: NDArray[np.float64]

    @staticmethod
    def between(single: Tensor, double: Tensor) -> Floor:
        """Error of Lie derivatives [K, 1, …] computed in float32, against float64."""
        gap = (single.double() - double).flatten(1)
        return Floor(gap.square().mean(1).cpu().numpy(), gap.abs().mean(1).cpu().numpy())

    @staticmethod
    def movement(here: Tensor, moved: Tensor) -> Floor:
        """By how much the scores differ between two points that rounding cannot tell apart.

        The error of a derivative adds up over many kinks that are each crossed or not: it need not
        show in ‖L₃₂ − L₆₄‖, which is taken at one point, and it enters the score to first order.
        """
        a, b = here.double().flatten(1), moved.double().flatten(1)
        lee = (a.square().mean(1) - b.square().mean(1)).abs()
        return Floor(lee.cpu().numpy(), (a.abs().mean(1) - b.abs().mean(1)).abs().cpu().numpy())

    @staticmethod
    def of_differences(lie: Tensor, errors: Tensor) -> Floor:
        """What an error of root mean square e per entry does: 2 e √LEE + e² and e."""
        e = errors.cpu()
        lee = 2 * e * lie.double().flatten(1).square().mean(1).sqrt().cpu() + e.square()
        return Floor(lee.numpy(), e.numpy())

    def __or__(self, other: Floor) -> Floor:
        """The larger of two, generator by generator."""
        lee = np.maximum(self.squared, other.squared)
        return Floor(lee, np.maximum(self.absolute, other.absolute))


LieValues = Callable[[Any, Tensor, Tensor], dict[str, Tensor]]
"""``(x, f(x), J X x) -> L f`` by output type, [K, 1 or points, …]."""


def rounding_floor(
    f: Callable[[Any], Any],
    x: Any,
    action: Action,
    lie_values: LieValues,
    engine: str,
    chunk_size: int,
) -> tuple[dict[str, Floor], str]:
    """The floor of the local scores at one item, by output type.

    It holds the error of float32 against float64 at the same point, how far the scores move when x
    moves by its own rounding (units of a network that sit next to a kink cross it), and the error
    of finite differences, where these were needed.

    Args:
        f: the model.
        x: one item.
        action: K generators bound to inputs like x.
        lie_values: see `LieValues`.
        engine: the verified one.
        chunk_size: tangents per pass.

    Returns:
        floors, and why float64 has no part in them (empty where it has).
    """
    with watched(f) as roots:
        PlainFunction(f, ())(x)
    measure = _Measure(PlainFunction(f, roots), roots, action, lie_values, engine, chunk_size)
    here, floors = measure(x)
    for seed in range(_DRAWS):
        moved, _ = measure(within_rounding(x, seed))
        floors = {k: v | Floor.movement(here[k], moved[k]) for k, v in floors.items()}
    if x.dtype == torch.float64 or engine == ENGINES[-1]:
        return floors, ""
    if not measure.function.runs_wide(x):
        return floors, measure.function.why_single
    with measure.function.double() as wide:
        exact, _ = replace(measure, function=PlainFunction(wide, ()))(x.double())
    return {k: v | Floor.between(here[k], exact[k]) for k, v in floors.items()}, ""


@dataclass(frozen=True)
class _Measure:
    """L f of one item by a known engine, and what the engine says of its own error."""

    function: PlainFunction
    roots: Sequence[nn.Module]
    action: Action
    lie_values: LieValues
    engine: str
    chunk_size: int

    def __call__(self, x: Any) -> tuple[dict[str, Tensor], dict[str, Floor]]:
        tangents = domain_of(x).rebind(self.action, x).tangents(x)
        errors = torch.zeros(len(self.action), dtype=torch.float64)
        if self.engine == ENGINES[-1]:
            found = difference_jvp(self.function, x, tangents)
            y, jv, errors = found.y, found.jv, found.errors
        else:
            with forward_mode(), as_it_was(self.roots):
                y, jv = in_chunks(self.engine, self.function.f, x, tangents, self.chunk_size)
        lie = self.lie_values(x, y, jv)
        return lie, {k: Floor.of_differences(v, errors) for k, v in lie.items()}
