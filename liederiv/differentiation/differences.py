r"""Central differences: the derivative of what a function computes, whatever it is made of.

D(h) = (f(x + h v) − f(x − h v)) / 2h. Every figure comes with its resolution ‖D(h) − D(h/2)‖, in
which rounding (it grows as h falls), curvature and kinks (they grow with h) all show. Steps are
given relative to the input: h ‖v‖ = step · ‖x‖. Richardson's (4 D(h/2) − D(h)) / 3 removes the
curvature's leading term.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from liederiv.differentiation.calls import PlainFunction, add, norm

__all__ = ["DifferenceQuotient", "Differences", "combined", "difference_jvp", "steps_for"]

_STEPS = {
    # float64: little crosses a kink within 1e-8, and rounding stays below 1e-6 of the response.
    # Larger steps are for functions whose precision is lower than it looks.
    torch.float64: (1e-8, 1e-6, 1e-4, 1e-3, 1e-2, 0.03, 0.1, 0.3),
    torch.float32: (1e-3, 3e-4, 1e-2, 0.03, 0.1, 0.3),
}
_LAST_DIGITS = 16.0  # eps: what a sum of some numbers may be off by
_SETTLED = 1e-4  # relative resolution with which a step is taken without trying others


def steps_for(dtype: torch.dtype) -> tuple[float, ...]:
    """Relative steps worth trying for inputs of that precision, the best first."""
    return _STEPS[dtype]


class DifferenceQuotient:
    """Differences of one function along one direction at one step.

    Args:
        function: from an input to a list of tensors.
        x: the input.
        v: direction, like x.
        step: ‖h v‖ / ‖x‖.
    """

    def __init__(
        self, function: Callable[[Any], list[Tensor]], x: Any, v: Any, step: float
    ) -> None:
        self._f, self._x, self._v = function, x, v
        speed = norm(v)
        self.h = step * (norm(x) or 1.0) / speed if speed else step

    @cached_property
    def _ends(self) -> tuple[list[Tensor], list[Tensor]]:
        return self._f(add(self._x, self._v, self.h)), self._f(add(self._x, self._v, -self.h))

    @cached_property
    def value(self) -> list[Tensor]:
        """D(h), float64."""
        return _quotient(*self._ends, 2 * self.h)

    @cached_property
    def halved(self) -> list[Tensor]:
        """D(h/2)."""
        h = self.h / 2
        up, down = self._f(add(self._x, self._v, h)), self._f(add(self._x, self._v, -h))
        return _quotient(up, down, 2 * h)

    @cached_property
    def jump(self) -> list[Tensor]:
        """D₊(h) − D₋(h), the difference of the slopes on both sides: not zero at a kink."""
        here = self._f(self._x)
        sides = zip(*self._ends, here, strict=True)
        return [(up.double() + down.double() - 2 * y.double()) / self.h for up, down, y in sides]

    @cached_property
    def is_still(self) -> bool:
        """Whether f has the very same value at both ends."""
        return all(torch.equal(a, b) for a, b in zip(*self._ends, strict=True))

    @property
    def is_rounding(self) -> bool:
        """Whether f differs at both ends by its last digits only."""
        return all(
            float((a.double() - b.double()).norm())
            <= _LAST_DIGITS * torch.finfo(a.dtype).eps * float(a.double().norm())
            for a, b in zip(*self._ends, strict=True)
        )


def _quotient(up: list[Tensor], down: list[Tensor], width: float) -> list[Tensor]:
    return [(a.double() - b.double()) / width for a, b in zip(up, down, strict=True)]


@dataclass(frozen=True)
class Differences:
    """J v by finite differences.

    Attributes:
        y: f(x).
        jv: like f(x), with a leading axis of K.
        errors: root mean square error per entry of the output, estimated, float64 [K].
    """

    y: Any
    jv: Any
    errors: Tensor


def difference_jvp(f: PlainFunction, x: Any, tangents: Any) -> Differences:
    """J_f(x)·v for K tangents v from 4 K forward passes, in float64 where f runs in it.

    Args:
        f: the function.
        x: primal.
        tangents: like x, every tensor with a leading axis of K.
    """
    y = f(x)
    y_leaves, spec = tree_flatten(y)
    function, wide = f.widest(x)
    dtype = tree_flatten(wide)[0][0].dtype
    leaves, x_spec = tree_flatten(tangents)
    columns: list[list[Tensor]] = []
    errors: list[float] = []
    for k in range(len(leaves[0])):
        v = tree_unflatten([t[k].to(dtype) for t in leaves], x_spec)
        if not norm(v):
            columns.append([torch.zeros_like(leaf, dtype=torch.float64) for leaf in y_leaves])
            errors.append(0.0)
            continue
        best, error = _best(function, wide, v)
        columns.append(best)
        errors.append(error)
    jv = [
        torch.stack(column).to(leaf.dtype)
        for column, leaf in zip(zip(*columns, strict=True), y_leaves, strict=True)
    ]
    found = torch.tensor(errors, dtype=torch.float64)
    return Differences(y, tree_unflatten(jv, spec), found)


def _best(function: Callable[[Any], list[Tensor]], x: Any, v: Any) -> tuple[list[Tensor], float]:
    """Richardson's value and its root mean square error per entry, at the step of the least."""
    best: tuple[list[Tensor], float] | None = None
    steps = steps_for(tree_flatten(x)[0][0].dtype)
    for step in steps:
        quotient = DifferenceQuotient(function, x, v, step)
        if quotient.is_still and step != steps[-1]:
            continue  # too small a step for this function to notice
        pairs = list(zip(quotient.value, quotient.halved, strict=True))
        value = [(4 * half - whole) / 3 for whole, half in pairs]
        entries = math.sqrt(max(sum(d.numel() for d in value), 1))
        error = norm([half - whole for whole, half in pairs]) / entries
        if best is None or error < best[1]:
            best = value, error
        if error <= _SETTLED * norm(value) / entries:
            break
    assert best is not None
    return best


def combined(tangents: Any, weights: Tensor) -> Any:
    """Σ_k w_k v_k of tangents with a leading axis of K."""
    return tree_map(lambda t: torch.tensordot(weights.to(t), t, dims=1), tangents)
