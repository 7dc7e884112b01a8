r"""Other items of a batch at a glance: one pass each, alone and a small step away.

f(x + h v) of an item alone is f(x) + h J v of its rows in the batch, up to curvature, kinks and
rounding. One pass so tells of both that rows do not depend on other items, and that no image is cut
off whose derivative nobody else looked at: a model may detach where it is confident, or dark. What
does not agree is no verdict; it has the item examined as the first one was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from liederiv.differentiation.calls import PlainFunction, add, norm
from liederiv.differentiation.witness import PRIMAL_TOLERANCE
from liederiv.errors import ModelError

__all__ = ["Neighbour", "neighbours"]

_MOST = 4  # with the four passes at the first item no more than eight of one item in all
_STEP = {torch.float64: 1e-6}  # ‖h v‖ / ‖x‖: beyond rounding, and before kinks and curvature
_SINGLE_STEP = 1e-3  # the same where rounding is that of float32, or coarser
_CUT = 0.25  # of what the output moves by; kinks and float32 miss a tenth of it in random networks
_ROUNDING = 100.0  # eps of the output that one pass may be off by


def neighbours(count: int, first: int) -> list[int]:
    """Items to look at besides one of them: the last, and what lies evenly between."""
    others = [n for n in range(count) if n != first]
    if len(others) <= _MOST:
        return others[::-1]
    spread = torch.linspace(len(others) - 1, 0, _MOST).round().long().tolist()
    return [others[n] for n in spread]


@dataclass(frozen=True)
class Neighbour:
    """One item, and what a call of it alone gave.

    Attributes:
        number: its place in the batch.
        item: it, as a batch of one.
        weights: of the tangents in the direction v, float64 [K].
        direction: v, like the item; zero where nothing moves it.
        h: the step along v.
        seen: the tensors of f(item + h v).
    """

    number: int
    item: Any
    weights: Tensor
    direction: Any
    h: float
    seen: list[Tensor]

    @classmethod
    def see(
        cls, function: PlainFunction, number: int, item: Any, weights: Tensor, direction: Any
    ) -> Neighbour:
        """Call the function once."""
        step = _STEP.get(tree_flatten(item)[0][0].dtype, _SINGLE_STEP)
        speed = norm(direction)
        h = step * (norm(item) or 1.0) / speed if speed else 0.0
        seen = function.leaves(add(item, direction, h) if h else item)
        return cls(number, item, weights, direction, h, seen)

    def _gaps(self, y: Sequence[Tensor], jv: Sequence[Tensor]) -> list[tuple[float, float, float]]:
        """‖f(x + h v) − (y + h J v)‖, what moved, and ‖y‖, for each tensor of the output."""
        found = []
        for seen, here, slope in zip(self.seen, y, jv, strict=True):
            if seen.shape != here.shape:
                found.append((float("inf"), 0.0, 0.0))
                continue
            moved, predicted = seen.double() - here.double(), self.h * slope.double()
            gap, size = float((moved - predicted).norm()), float(here.double().norm())
            found.append((gap, max(float(moved.norm()), float(predicted.norm())), size))
        return found

    def is_rounding(self, y: Sequence[Tensor], jv: Sequence[Tensor]) -> bool:
        """Whether the item alone agrees with its rows as closely as rounding lets it."""
        tolerance = PRIMAL_TOLERANCE.get(tree_flatten(self.item)[0][0].dtype, 1e-4)
        return all(gap <= tolerance * size for gap, _, size in self._gaps(y, jv))

    def is_suspicious(self, y: Sequence[Tensor], jv: Sequence[Tensor]) -> bool:
        """Whether J v misses a large part of what the output moves by."""
        eps = [torch.finfo(v.dtype).eps for v in self.seen]
        gaps = zip(self._gaps(y, jv), eps, strict=True)
        return not all(
            gap <= _CUT * moved + _ROUNDING * rounding * size
            for (gap, moved, size), rounding in gaps
        )

    def refuse_history(self, function: PlainFunction) -> None:
        """Raise `ModelError` if the same call has another result now."""
        now = function.leaves(add(self.item, self.direction, self.h) if self.h else self.item)
        for a, b in zip(now, self.seen, strict=True):
            # Two passes may differ by what `liederiv.checks.preflight` leaves to rounding: 1e-3.
            if a.shape != b.shape or not torch.allclose(a, b, rtol=1e-3, atol=1e-6, equal_nan=True):
                raise ModelError(
                    "the model is stochastic, or keeps something from call to call: the same input "
                    "has another output after other calls; make it a function of its input."
                )
