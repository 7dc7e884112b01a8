r"""Contributions to a finite step: the attribution at the size of a motion that somebody makes.

With F(t) = ρ_t⁻¹ f(T_t x), a step of size h changes the output by

    Δ = F(h/2) − F(−h/2) = ∫ ρ_t⁻¹ (L f)(T_t x) dt  over the step,

and at every t the contributions of all modules add up to L f, so their integrals add up to Δ: as
integrated gradients do along a path. Along Δ itself one backward pass per t has them all,

    share of M = ∫ ⟨ρ_t⁻ᵀ Δ, c_M(T_t x)⟩ dt / ‖Δ‖².

The integral is a trapezoid sum whose points are doubled until neither the whole nor any module's
share changes by more than a tolerance; a derivative that reaches no further than a fraction of the
step needs as many points as that fraction says. Δ comes from two plain forward passes, so the sum
of the shares is a check and not an identity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

from liederiv.actions import Action
from liederiv.differentiation.calls import PlainFunction
from liederiv.domains import domain_of
from liederiv.errors import LieDerivError
from liederiv.generators import Generator, by_generator

from .contributions import Setting, measure_along
from .results import Attribution

__all__ = ["StepContributions", "StepSpec", "measure_step", "over_steps", "step_sizes"]

StepSpec = float | Mapping[str, float]
"""One size for all generators in their own units, or one per name or group of generators."""

_FEWEST, _MOST = 4, 64  # intervals of the step
_NUDGE = 1e-4  # of the step: differences of the moved image that make its speed, in float64


def step_sizes(step: StepSpec, generators: tuple[Generator, ...]) -> tuple[float, ...]:
    """The size of the step for each generator.

    Args:
        step: see `StepSpec`.
        generators: K of them.

    Raises:
        LieDerivError: for sizes that are not positive, or a generator without one.

    Example:
        >>> from liederiv.generators import resolve_generators
        >>> step_sizes({"translation": 1.0, "rotation": 0.02}, resolve_generators("rotation"))
        (0.02,)
    """
    sizes = by_generator(step, generators)
    for g, size in zip(generators, sizes, strict=True):
        if size is None:
            raise LieDerivError(
                f"step={step!r} has no size for {g.name}; name it or its group, {g.group}."
            )
        if isinstance(size, bool) or not isinstance(size, int | float) or not 0 < size < 1e6:
            raise LieDerivError(
                f"step={size!r} must be a positive number, in {g.unit} of {g.name}."
            )
    return tuple(float(size) for size in sizes if size is not None)


@dataclass(frozen=True)
class StepContributions:
    """Of one image and one generator, for E calls.

    Attributes:
        along: ∫⟨ρ_t⁻ᵀ Δ, c⟩ dt of each call without the measured calls inside, float64 [E].
        error: how far each moved when the points were doubled for the last time, [E].
        change: ‖Δ‖².
        closure: the largest gap between forward and reverse mode, relative to ‖Δ‖² per step.
        points: of the step.
    """

    along: Tensor
    error: Tensor
    change: float
    closure: float
    points: int

    @property
    def worst(self) -> float:
        """Quadrature error of the worst call, or of their sum, relative to ‖Δ‖²."""
        if not self.change:
            return 0.0
        gap = abs(float(self.along.sum()) - self.change)
        return max(float(self.error.max()), gap) / self.change


def measure_step(
    setting: Setting, action: Action, x: Any, size: float, tolerance: float
) -> StepContributions:
    """Contributions of all calls to one step of one image or cloud.

    Args:
        setting: what to measure.
        action: one generator, bound to x.
        x: one image or cloud, in the model's precision.
        size: h, in the generator's unit.
        tolerance: quadrature error, relative to ‖Δ‖², at which no more points are added.
    """
    path = _Path(setting, action, x, size)
    intervals, along = _FEWEST, path.integral(_FEWEST)
    found = path.read(along, torch.full_like(along, float("inf")))
    while found.worst > tolerance and intervals < _MOST:
        intervals *= 2
        finer = path.integral(intervals)
        found = path.read(finer, (finer - found.along).abs())
    return found


def over_steps(
    attribution: Attribution,
    sizes: Sequence[float],
    images: Sequence[Sequence[StepContributions]],
) -> Attribution:
    """The same calls with what they contribute to steps.

    Args:
        attribution: of the derivative.
        sizes: of the steps, K.
        images: for each image what was found for each generator.
    """
    counted = np.array([e.counted for e in attribution.entries])
    shape = attribution.exclusive.shape
    exclusive = np.full(shape, np.nan)
    change, gaps, closure = (np.zeros(shape[1:]) for _ in range(3))
    for b, row in enumerate(images):
        for k, found in enumerate(row):
            exclusive[: len(found.along), k, b] = found.along.numpy()
            change[k, b], gaps[k, b], closure[k, b] = found.change, found.worst, found.closure
    exclusive[~counted] = np.nan
    inclusive = np.full(shape, np.nan)
    for i in np.flatnonzero(counted):
        inclusive[i] = np.nansum(exclusive[list(attribution.walk(int(i)))], axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        squares = [np.square(v) / change for v in (inclusive, exclusive)]
    return replace(
        attribution,
        inclusive=squares[0],
        exclusive=squares[1],
        inclusive_error=np.zeros(shape),
        exclusive_error=np.zeros(shape),
        inclusive_projection=inclusive,
        exclusive_projection=exclusive,
        lie_norm_squared=change,
        closure=closure,
        covered=np.full(shape[1:], np.nan),
        num_probes=tuple(sum(v.points for v in row) for row in images),
        steps=tuple(sizes),
        quadrature=gaps,
    )


class _Path:
    """t ↦ T_t x for one generator, and what the output becomes along it."""

    def __init__(self, setting: Setting, action: Action, x: Any, size: float) -> None:
        self.setting, self.action, self.x, self.size = setting, action, x, size
        self.domain, self.wide = domain_of(x), x.double()
        ends = [self._output(t) for t in (size / 2, -size / 2)]
        self.change = ends[0] - ends[1]
        self._seen: dict[int, tuple[Tensor, float]] = {}

    def integral(self, intervals: int) -> Tensor:
        """The trapezoid sum of what calls contribute along Δ, float64 [E]."""
        places = range(0, _MOST + 1, _MOST // intervals)
        for j in (j for j in places if j not in self._seen):
            along, reverse = self.at((j / _MOST - 0.5) * self.size)
            self._seen[j] = along, abs(float(along.sum() - reverse))
        rows = torch.stack([self._seen[j][0] for j in places])
        return torch.trapezoid(rows, dx=self.size / intervals, dim=0)

    def read(self, along: Tensor, error: Tensor) -> StepContributions:
        """An integral and its error, with what is known of the whole."""
        change = float(self.change.square().sum())
        gap = max(gap for _, gap in self._seen.values()) * self.size
        closure = gap / change if change else 0.0
        return StepContributions(along, error, change, closure, len(self._seen))

    def element(self, t: float, x: Any) -> Any:
        """T_t for x."""
        bound = self.domain.rebind(self.action, x)
        return self.domain.transform(bound, torch.tensor([[t]], dtype=torch.float64))

    def moved(self, t: float) -> Any:
        """T_t x in float64."""
        return self.element(t, self.wide).on_input(self.wide)

    def _like(self, z: Any) -> Any:
        leaves = tree_flatten(self.x)[0]
        return tree_map(lambda v: v.to(leaves[0].dtype), z)

    def _output(self, t: float) -> Tensor:
        """ρ_t⁻¹ f(T_t x), float64 [D]."""
        function = PlainFunction(lambda z: self.setting.reader(self.setting.model(z)), ())
        y = function(self._like(self.moved(t))).double()
        return self.setting.reader.move(self.element(-t, self.wide), y)

    def at(self, t: float) -> tuple[Tensor, Tensor]:
        """⟨ρ_t⁻ᵀ Δ, c⟩ of all calls at one point, and their sum in reverse mode."""
        z, h = self.moved(t), _NUDGE * self.size
        speed = tree_map(lambda a, b: (a - b)[None] / (2 * h), self.moved(t + h), self.moved(t - h))
        back = self.element(-t, self.wide)
        with torch.enable_grad():
            y = torch.zeros_like(self.change, requires_grad=True)
            out = self.setting.reader.move(back, y)
            (u,) = torch.autograd.grad(out, y, self.change)
        z = self._like(z)
        bound = self.domain.rebind(self.action, z)
        return measure_along(self.setting, bound, z, self._like(speed), u)
