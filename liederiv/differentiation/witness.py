r"""The witness: is this derivative that of what this very model computes?

Before a model's first number, on one item x of the input (design of the checks):

1. *Primal.* f(x) inside the engine is f(x) outside, to rounding.
2. *Derivative.* For a random combination v = Σ ε_k X_k x / ‖X_k x‖ of all tangents, J v of the
   engine against central differences, in float64 where the modules can run in it. Relative to ‖J v‖
   for each tensor of the output, beyond what the difference itself is uncertain by. Where nearly
   nothing is left of J v (an invariant model), relative to the response to noise.
3. *Rows.* f(x) has as many rows as x, and each row is that of its item run alone.
4. *As it was.* What a call leaves in the modules is put back (`liederiv.differentiation.models`).

J v is taken from the engine's own result for the whole batch, so what is verified is what is used.
float32 rounding and kinks that it crosses may move J v by percents in deep networks; where the
first comparison fails, the same engine is asked in float64: a fault stays there, rounding goes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

from liederiv.differentiation.calls import PlainFunction, noise_like, norm, within_rounding
from liederiv.differentiation.differences import DifferenceQuotient, steps_for
from liederiv.differentiation.engines import RECOVERABLE
from liederiv.errors import LieDerivError, ModelError, NotDifferentiableError

__all__ = ["PRIMAL_TOLERANCE", "Finding", "Witness"]

PRIMAL_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}
"""Largest ‖f inside − f‖ / ‖f‖ that is taken for rounding without a further look."""

TOLERANCE = 5e-3
"""Largest error of J v relative to its norm, beyond what the difference leaves open."""

_GLANCE = 3e-3  # relative step at which float32 differences of smooth networks are best
_KINKED = ("relu", "hard", "maxpool", "threshold", "shrink")
_CERTAIN = 0.01  # a difference known so well (relative) settles the question
_RESOLVED = 0.1  # one known less well proves nothing
_LEAST = 1e-3  # responses below this share of that to noise are judged relative to this share
_NOTHING = 1e-5  # of what the output changes by when it follows the input: no response
_FLAT = 1e-4  # a slope over small steps below this share of that over large ones: a staircase
_SPREAD = 4.0  # how far beyond its typical size a random deviation may lie
_LARGE_STEP = 1e-2  # relative to the input: a slope over such steps is no derivative
_UNREST = 0.25  # of ‖J v‖: where rounding moves it further, float32 is no precision to measure in


@dataclass(frozen=True)
class Finding:
    """What the witness says of one engine's result.

    Attributes:
        complaint: what is wrong with it; empty if nothing.
        primal: see `liederiv.differentiation.verification.Verification`.
        derivative: see there; None if it could not be checked.
        resolution: see there.
        unchecked: what could not be checked, and why.
        vacuous: whether nothing moved, so that any derivative would have passed.
        precision: of the differences that settled it, ``float64`` or ``float32``.
    """

    complaint: str = ""
    primal: float | None = None
    derivative: float | None = None
    resolution: float | None = None
    unchecked: tuple[str, ...] = ()
    vacuous: bool = False
    precision: str = ""

    @property
    def is_certain(self) -> bool:
        """Whether something is wrong, and known to be: at a kink two slopes are right."""
        known = self.resolution is None or self.resolution <= _RESOLVED
        return bool(self.complaint) and known


class Witness:
    """Knows f on one item of a batch without any engine, and judges engines by it.

    Attributes:
        elsewhere: other inputs, for telling a constant from a staircase.

    Args:
        function: f as its user calls it.
        item: one item of the input, as a batch of one.
        direction: the random combination v of the tangents there, like the item.
        value: f(item), outside any engine.
        seed: of the noise that responses are compared with.
        allow_coarse: whether the slope of a staircase, over steps of a percent of the input and
            more, may stand for a derivative.
    """

    def __init__(
        self,
        function: PlainFunction,
        item: Any,
        direction: Any,
        value: Any,
        seed: int = 0,
        *,
        allow_coarse: bool = False,
    ) -> None:
        self.allow_coarse = allow_coarse
        self.elsewhere: list[Any] = []
        self.function, self.item, self.direction = function, item, direction
        self.value = [v.detach() for v in tree_flatten(value)[0]]
        self._seed = seed
        self._quotients: dict[tuple[bool, float], DifferenceQuotient] = {}

    @property
    def dtype(self) -> torch.dtype:
        """Of the input."""
        return tree_flatten(self.item)[0][0].dtype

    @property
    def precision(self) -> torch.dtype:
        """Of the differences."""
        return torch.float64 if self.wide else self.dtype

    @cached_property
    def wide(self) -> bool:
        """Whether differences are taken in float64; the first of them finds it out."""
        if self.dtype == torch.float64:
            return True
        first = self._make(steps_for(torch.float64)[0], self.direction, wide=True)
        self._quotients[True, steps_for(torch.float64)[0]] = first
        return self.function.runs_wide(self.item, lambda: first.value)

    def _make(self, step: float, v: Any, *, wide: bool) -> DifferenceQuotient:
        if not wide or self.dtype == torch.float64:
            return DifferenceQuotient(self.function.leaves, self.item, v, step)
        x, v = self.item.double(), tree_map(Tensor.double, v)
        return DifferenceQuotient(self.function.wide_leaves, x, v, step)

    def quotient(self, step: float) -> DifferenceQuotient:
        """The difference along v at one step, computed once."""
        key = self.wide, step
        if key not in self._quotients:
            self._quotients[key] = self._make(step, self.direction, wide=self.wide)
        return self._quotients[key]

    @cached_property
    def sensitivity(self) -> list[float]:
        """Size of the response to Gaussian noise of v's norm, per tensor of the output.

        0 where no difference is sharp enough: what is not known excuses nothing.
        """
        noise = noise_like(self.item, self._seed)
        scale = norm(self.direction) / (norm(noise) or 1.0)
        noise = tree_map(lambda n: n * scale, noise)
        found, doubts = [0.0] * len(self.value), [float("inf")] * len(self.value)
        for step in steps_for(self.precision):
            response = self._make(step, noise, wide=self.wide)
            if response.is_still:
                continue
            for i, (d, half) in enumerate(zip(response.value, response.halved, strict=True)):
                size, doubt = float(d.norm()), float((d - half).norm())
                if doubt <= min(doubts[i], _RESOLVED * size):
                    found[i], doubts[i] = size, doubt
            if all(d <= _CERTAIN * size for d, size in zip(doubts, found, strict=True)):
                break
        return found

    def primal_gap(self, y: Sequence[Tensor]) -> float:
        """‖y − f(x)‖ / ‖f(x)‖, of the tensor of the output where it is largest."""
        gaps = [0.0]
        for a, b in zip(y, self.value, strict=True):
            if a.shape != b.shape or a.dtype != b.dtype:
                return float("inf")
            same = torch.where(a == b, torch.zeros_like(a), a - b)  # ∞ − ∞ is no difference
            if b.isnan().any():  # NaN where the model has it
                same = torch.where(a.isnan() & b.isnan(), torch.zeros_like(a), same)
            size = float(b.double().nan_to_num().norm())
            gap = float(same.double().norm())
            gaps.append(gap / size if size else (0.0 if gap == 0 else float("inf")))
        return max(gaps, key=lambda g: float("inf") if g != g else g)

    def is_rounding(self, gap: float) -> bool:
        """Whether a relative difference of outputs is what rounding makes of them."""
        if gap <= PRIMAL_TOLERANCE.get(self.dtype, 1e-4):
            return True
        moved = self.function.leaves(within_rounding(self.item, self._seed + 1))
        # What the input's own rounding does, tenfold; where that is no longer small against the
        # output, it would excuse anything.
        return gap <= 10 * self.primal_gap(moved) < 0.1

    def refuse_chance(self) -> None:
        """Raise `ModelError` if a second call has another result than the first."""
        again = self.primal_gap(self.function.leaves(self.item))
        if not self.is_rounding(again):
            raise ModelError(
                f"the model is stochastic: two passes over the same input differ by {again:.1e} "
                "relative; switch off dropout, stochastic depth or sampling (model.eval() does, "
                "unless they are called with training=True)."
            )

    def examine(
        self,
        y: Sequence[Tensor],
        jv: Sequence[Tensor],
        again: Again | None,
        uncertainty: float = 0.0,
    ) -> Finding:
        """Judge f(x) and J v as an engine found them.

        Args:
            y: f(item), the tensors of the output.
            jv: J v along the direction, likewise.
            again: see `Again`; None for finite differences, which are at their best already.
            uncertainty: relative error that the engine states itself.

        Raises:
            NotDifferentiableError: if f is constant between jumps.
        """
        gap = self.primal_gap(y)
        if not self.is_rounding(gap):
            seen = f"inside the engine the model computes something else (by {gap:.1%})"
            return Finding(seen, gap)
        if not norm(self.direction):
            why = "the derivative (no generator moves this input)"
            return Finding("", gap, unchecked=(why,), vacuous=True)
        if not all(v.isfinite().all() for v in self.value):
            why = "the derivative (the output is not finite)"
            return Finding("", gap, unchecked=(why,), vacuous=True)
        agreed = None if self._is_kinked else self._at_a_glance(jv)
        if agreed is not None:
            return Finding("", gap, agreed, agreed, precision=_name(self.dtype))
        found = self._settle(jv, uncertainty)
        found = replace(found, precision=_name(self.precision))
        if found.complaint and again is not None and self.dtype != torch.float64 and self.wide:
            found = self._in_double(jv, again)
        if not found.complaint and not self.allow_coarse:
            self._refuse_staircase(jv)
        return replace(found, primal=gap)

    def _refuse_staircase(self, jv: Sequence[Tensor]) -> None:
        """Raise `NotDifferentiableError` if f answers nothing but large changes of its input.

        Where J v is nothing, differences along v are nothing too, for invariant functions and for
        those that are constant between jumps. Along noise these differ.
        """
        share = norm(self.direction) / (norm(self.item) or 1.0)
        sizes = [_NOTHING * share * float(v.double().nan_to_num().norm()) for v in self.value]
        if not all(float(j.norm()) <= size for j, size in zip(jv, sizes, strict=True)):
            return
        noise = noise_like(self.item, self._seed)
        small, *_ = steps_for(self.precision)
        near, far = (
            [float(d.norm()) for d in self._make(step, noise, wide=self.wide).value]
            for step in (small, _LARGE_STEP)
        )
        if any(b > 0 and a < _FLAT * b for a, b in zip(near, far, strict=True)):
            raise NotDifferentiableError(_JUMPS)

    @cached_property
    def _is_kinked(self) -> bool:
        """Whether modules that bend are seen, so that only small steps in float64 tell anything."""
        names = {type(m).__name__.lower() for r in self.function.roots for m in r.modules()}
        return any(kink in name for name in names for kink in _KINKED)

    def _at_a_glance(self, jv: Sequence[Tensor]) -> float | None:
        """The error against one difference in the model's own precision, if it is small already.

        Two plain forward passes, which suffice for most smooth networks; float64 costs several
        times as much. What does not agree proves nothing yet.
        """
        if self.dtype == torch.float64:
            return None
        glance = self._make(_GLANCE, self.direction, wide=False)
        return None if glance.is_still else self._agreement(jv, glance)

    def _settle(self, jv: Sequence[Tensor], uncertainty: float = 0.0) -> Finding:
        """J v against the difference that is known best."""
        best: tuple[float, DifferenceQuotient] | None = None
        still, chosen = False, 0.0
        for step in steps_for(self.precision):
            quotient = self.quotient(step)
            agreed = None if still else self._agreement(jv, quotient)
            if agreed is not None:
                return Finding(derivative=agreed, resolution=agreed)
            if quotient.is_still:
                still = True
                continue
            resolution = max(self._doubt(i, jv[i], quotient) for i in range(len(jv)))
            if best is None or resolution < best[0]:
                best, chosen = (resolution, quotient), step
            if resolution <= _CERTAIN:
                break
        if best is None or (still and best[1].is_rounding and not any(map(norm, jv))):
            return self._motionless(jv)
        rough = any(v.dtype in (torch.float16, torch.bfloat16) for v in self.value)
        coarse = chosen >= _LARGE_STEP and not (self.allow_coarse or rough)
        if coarse or (still and best[0] > _RESOLVED):  # nothing, then jumps
            raise NotDifferentiableError(_JUMPS)
        return self._judge(jv, *best, uncertainty)

    def _agreement(self, jv: Sequence[Tensor], quotient: DifferenceQuotient) -> float | None:
        """The largest relative error, where it is so small that nothing else need be known."""
        errors = [0.0]
        for j, d in zip(jv, quotient.value, strict=True):
            size = max(float(j.norm()), float(d.norm()))
            gap = float((j.double() - d).norm())
            if not gap <= TOLERANCE * size or not size:
                return None
            errors.append(gap / size)
        return max(errors)

    def _motionless(self, jv: Sequence[Tensor]) -> Finding:
        """What no step along v changes: a direction without effect, a constant, or a staircase."""
        if any(float(v.norm()) != 0 for v in jv):
            return Finding(
                "the derivative is not zero, but the output stays the very same", None, 1.0
            )
        noise = noise_like(self.item, self._seed)
        first = self._make(steps_for(self.precision)[0], noise, wide=self.wide)
        if not first.is_still or any(float(j.norm()) > 0 for j in first.jump):
            return Finding(derivative=0.0, resolution=0.0)
        far = [tree_map(lambda a, n, c=c: a + c * n, self.item, noise) for c in (3, -3, 30)]
        for x in (*self.elsewhere, *far, tree_map(torch.neg, self.item)):
            if self.primal_gap(self.function.leaves(x)) > PRIMAL_TOLERANCE.get(self.dtype, 1e-4):
                raise NotDifferentiableError(_JUMPS)
        return Finding(derivative=0.0, resolution=0.0, vacuous=True)

    def _size(self, i: int, jv: Tensor, quotient: DifferenceQuotient, doubt: float) -> float:
        """What errors of one tensor of the output are relative to."""
        scale = max(
            float(jv.norm()) if jv.isfinite().all() else 0.0, float(quotient.value[i].norm())
        )
        if scale and doubt <= _CERTAIN * scale and scale > self._unseen(i):
            return scale
        return max(scale, _LEAST * self.sensitivity[i], self._unseen(i)) or 1.0

    def _unseen(self, i: int) -> float:
        """Responses that the output's own precision cannot show, were v as large as the input."""
        value = self.value[i]
        share = norm(self.direction) / (norm(self.item) or 1.0)
        return torch.finfo(value.dtype).eps * float(value.double().nan_to_num().norm()) * share

    def _doubt(self, i: int, jv: Tensor, quotient: DifferenceQuotient) -> float:
        """Relative uncertainty of a difference, for one tensor of the output."""
        doubt = float((quotient.value[i] - quotient.halved[i]).norm())
        return doubt / self._size(i, jv, quotient, doubt) if doubt else 0.0

    def _judge(
        self,
        jv: Sequence[Tensor],
        resolution: float,
        quotient: DifferenceQuotient,
        uncertainty: float,
    ) -> Finding:
        """J v against one difference, the tensor of the output that is worst."""
        worst = 0.0
        for i, (j, d, half) in enumerate(zip(jv, quotient.value, quotient.halved, strict=True)):
            doubt = float((d - half).norm())
            size = self._size(i, j, quotient, doubt)
            error = float((j.double() - half).norm()) / size
            allowed = TOLERANCE + uncertainty + 2 * doubt / size
            if not error <= allowed or doubt > _RESOLVED * size:
                kink = float(quotient.jump[i].norm()) / size
                resolution = max(resolution, kink)
                if not j.isfinite().all() and resolution > _RESOLVED:
                    why = "the derivative (it is not finite, and the function has a kink here)"
                    return Finding(unchecked=(why,), vacuous=True)
                if not j.isfinite().all():
                    return Finding(_NOT_FINITE, None, error, resolution)
                # At a kink either one-sided slope is right, half the jump from the central one;
                # three quarters leave a margin.
                if not error <= allowed + 0.75 * kink or resolution > _RESOLVED:
                    sided = kink > max(_RESOLVED, 4 * doubt / size)
                    return Finding(_differs(error, resolution, sided), None, error, resolution)
            worst = max(worst, error)
        return Finding(derivative=worst, resolution=resolution)

    def _in_double(self, jv: Sequence[Tensor], again: Again) -> Finding:
        """Whether a disagreement is float32's: the engine in float64, and its unrest in float32."""
        x, v = self.item.double(), tree_map(Tensor.double, self.direction)
        try:
            with self.function.double() as f:
                exact = again(f, x, v)
        except (*RECOVERABLE, LieDerivError) as error:
            return Finding(f"the engine does not run in float64: {str(error)[:160]}")
        found = self._settle(exact)
        if found.complaint:
            return found
        here = again(self.function.f, self.item, self.direction)
        moved = again(self.function.f, within_rounding(self.item, self._seed + 1), self.direction)
        for i, (j, e, a, b) in enumerate(zip(jv, exact, here, moved, strict=True)):
            size = max(float(e.norm()), _LEAST * self.sensitivity[i]) or 1.0
            unrest = float((a - b).norm()) / size
            gap = float((j.double() - e.double()).norm()) / size
            if not gap <= TOLERANCE + _SPREAD * unrest:
                return Finding(
                    f"in {_name(self.dtype)} the recorded derivative is off by {gap:.0%}"
                )
            if unrest > _UNREST:
                return Finding(
                    f"rounding of the input moves the derivative by {unrest:.0%} in "
                    f"{_name(self.dtype)}; convert model and input to float64"
                )
        return found


Again = Callable[[Callable[[Any], Any], Any, Any], list[Tensor]]
"""``(f, x, v) -> J_f(x)·v``: the same engine once more, on other precision or input."""

_JUMPS = (
    "the model's output has no slope at this input: small changes leave it constant or make it "
    "jump (rounding, quantisation or argmax inside, or a very fast oscillation); measure metrics "
    "of finite transforms instead (metrics='sampled')."
)


_NOT_FINITE = "the derivative that torch records is not finite, where the function has one"


def _differs(error: float, resolution: float, sided: bool) -> str:
    if sided:
        return (
            f"the function has kinks right at this input (its slopes on both sides differ by "
            f"{resolution:.0%})"
        )
    if resolution > _RESOLVED:
        return f"no central difference is sharp enough to judge it by (known to {resolution:.0%})"
    return (
        f"the derivative that torch records differs from a central difference by {error:.0%} "
        f"(which is known to {resolution:.0e})"
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
