r"""The structure function S(h): how much an output changes over a step of finite size.

    S(h) = E ‖ρ_{h/2}⁻¹ f(T_{h/2} x) − ρ_{−h/2}⁻¹ f(T_{−h/2} x)‖² / dim,    LEE(h) = S(h) / h²

tends to LEE as h → 0. The difference is the integral of L f along the orbit, so on an orbit whose
points are alike, with
C(s) = E⟨L(t), L(t + s)⟩/dim, LEE(h) = (2/h²) ∫₀ʰ (h − s) C(s) ds.
Two forward passes for each step, no derivative.

The finite transforms are those of `Domain.transform`: images are interpolated, and continued beyond
their border, by the same scheme whose slopes the tangents are. ρ⁻¹ acts on the whole output, as in
L f, so what the continuation puts in at the border is part of the error.

What rounding adds to S(h) does not shrink with h. It is estimated from what inputs do that are
moved by their own rounding (by more where that shows nothing: a small response on a large constant
is rounded to the steps of the constant), and from the precision of the output. Steps of which it
makes up more than a millionth, so that squares are right to a thousandth, are measured again in
float64 where the model runs in it, which shows in the response being proportional to what moves x
between 1e-10 and 1e-7 of its size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

from liederiv.actions import Action
from liederiv.base_representation import Representation, class_axis
from liederiv.differentiation.calls import PlainFunction, add, noise_like, norm, within_rounding
from liederiv.differentiation.models import watched
from liederiv.domains import Domain, domain_of
from liederiv.errors import LieDerivError, UnknownLayoutError
from liederiv.metrics.finite import act_finite, evaluate
from liederiv.steps import Step

__all__ = ["StepBatch", "change_between", "ends_of", "step_responses", "why_no_steps"]

_SHARE_OF_ROUNDING = 1e-6  # of an item's square, or of a hundredth of the mean one
_GROWTH, _TRIALS = 3.0, 12  # of moved inputs until the output changes at all
_LINEAR = (3e-4, 3e-3)  # ratio of the responses to 1e-10 and 1e-7 of x in a model that is wide
_ALL = ("noise", "spectrum")


@dataclass(frozen=True)
class StepBatch:
    """What the items of one batch do over steps, for one output type.

    Attributes:
        plan: J_k steps of each of the K generators, ascending.
        squared: ‖change of the output‖²/dim, beyond what ρ says, float64 [J_k, B] for each.
        rounding: what rounding adds to that, likewise.
        moved: squared norms of the displacement of the input, likewise.
        compared: the same as ``squared`` along displacements of the same size, by name: ``noise``
            (Gaussian), ``spectrum`` (the displacement with scrambled phases); NaN at steps that are
            not chosen; names that make no sense on these inputs are missing.
        lee: ‖L f‖²/dim, float64 [K, B]; None where no derivative was measured.
    """

    plan: tuple[tuple[Step, ...], ...]
    squared: tuple[Tensor, ...]
    rounding: tuple[Tensor, ...]
    moved: tuple[Tensor, ...]
    compared: Mapping[str, tuple[Tensor, ...]]
    lee: Tensor | None = None

    @staticmethod
    def join(parts: Sequence[StepBatch]) -> StepBatch:
        """Over the items of several batches."""
        first = parts[0]

        def joined(read: Callable[[StepBatch], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
            return tuple(torch.cat(v, -1) for v in zip(*map(read, parts), strict=True))

        names = [n for n in first.compared if all(n in p.compared for p in parts)]
        lee = [p.lee for p in parts if p.lee is not None]
        return StepBatch(
            first.plan,
            joined(lambda p: p.squared),
            joined(lambda p: p.rounding),
            joined(lambda p: p.moved),
            {n: joined(lambda p, n=n: p.compared[n]) for n in names},  # type: ignore[misc]
            torch.cat(lee, -1) if len(lee) == len(parts) else None,
        )


def ends_of(domain: Domain, action: Action, step: Step) -> tuple[Any, Any]:
    """T_{h/2} and T_{−h/2}, of an action of one generator that is bound to the input."""
    half = torch.tensor([[step.t / 2]], dtype=torch.float64)
    return domain.transform(action, half), domain.transform(action, -half)


def change_between(
    rho: Representation, ends: tuple[Any, Any], ahead: Tensor, back: Tensor
) -> Tensor:
    """ρ_{h/2}⁻¹ f(T_{h/2} x) − ρ_{−h/2}⁻¹ f(T_{−h/2} x), entry by entry, with its graph.

    Args:
        rho: how the output transforms.
        ends: see `ends_of`.
        ahead: f(T_{h/2} x).
        back: f(T_{−h/2} x).
    """
    # ρ_t⁻¹ is ρ_{−t}: each end's output moves as the other's input has.
    change: Tensor = act_finite(rho, ends[1], ahead) - act_finite(rho, ends[0], back)
    return change


def why_no_steps(x: Any, action: Action, representation: Representation, y: Tensor) -> str:
    """Why finite steps cannot be measured; empty if they can.

    Args:
        x: one item.
        action: K generators, bound to it.
        representation: of the output.
        y: the output for x.
    """
    domain = domain_of(x)
    for k in range(len(action)):
        try:
            still = domain.transform(action.take(slice(k, k + 1)), torch.zeros(1, 1).double())
            act_finite(representation, still, y)
        except (UnknownLayoutError, LieDerivError) as error:
            return str(error)
    return ""


def step_responses(
    f: Callable[[Any], Tensor],
    x: Any,
    action: Action,
    plan: Sequence[Sequence[Step]],
    representation: Representation,
    kinds: Sequence[str] = ("output",),
    *,
    compare: bool = True,
    seed: int = 0,
    cap: int = 1,
) -> dict[str, StepBatch]:
    """What the items of x do over the steps, by output type.

    Args:
        f: the model; one output tensor, batch first.
        x: images [B, C, H, W] or another kind of input.
        action: K generators bound to x.
        plan: J_k steps of each, ascending.
        representation: of the output.
        kinds: output types; ``probs`` is after the softmax over the classes.
        compare: whether to measure displacements of the same size beside the chosen steps.
        seed: of these.
        cap: items per pass: several steps share one where it is more than the batch.
    """
    runner = _Runner(f, x, action, representation, tuple(kinds), cap)
    seeds = domain_of(x).seeds(x, seed, "step")
    found = [runner.along(k, steps, seeds if compare else None) for k, steps in enumerate(plan)]
    batches = {}
    for kind in kinds:
        own = [one[kind] for one in found]
        batches[kind] = StepBatch(
            tuple(tuple(steps) for steps in plan),
            squared=tuple(o["squared"] for o in own),
            rounding=tuple(o["rounding"] for o in own),
            moved=tuple(o["moved"] for o in own),
            compared={n: tuple(o[n] for o in own) for n in _ALL if all(n in o for o in own)},
        )
    return batches


class _Runner:
    """One batch, the model in its own precision and, where needed, in float64."""

    def __init__(
        self,
        f: Callable[[Any], Tensor],
        x: Any,
        action: Action,
        rho: Representation,
        kinds: tuple[str, ...],
        cap: int,
    ) -> None:
        self.f, self.x, self.action, self.rho, self.kinds = f, x, action, rho, kinds
        self.domain, self.cap = domain_of(x), cap
        with watched(f) as roots:
            self.y = evaluate(f, x)
        self.plain = PlainFunction(f, roots)
        self.means = partial(self.domain.means, action=action, representation=rho)
        self._rounding: dict[bool, dict[str, Tensor]] = {}
        self.wide = False

    def along(self, k: int, steps: Sequence[Step], seeds: Any) -> dict[str, dict[str, Tensor]]:
        """All of one generator's steps: by output type, then by quantity, [J, B]."""
        action = self.action.take(slice(k, k + 1))
        rows: list[dict[str, dict[str, Tensor]]] = []
        self.wide = False
        descending = list(reversed(steps))
        while len(rows) < len(descending):
            count = max(1, self.cap // (2 * len(self.x))) if isinstance(self.x, Tensor) else 1
            group = descending[len(rows) : len(rows) + count]
            found = self._group(action, group, seeds)
            if not self.wide and self._drowned(found) and self._runs_wide:
                self.wide = True  # and for all that are smaller
                found = self._group(action, group, seeds)
            rows += found
        rows.reverse()
        return {kind: _stacked([row[kind] for row in rows]) for kind in self.kinds}

    @cached_property
    def _runs_wide(self) -> bool:
        """Whether float64 makes the model more precise: some fix float32 inside."""
        if self.x.dtype == torch.float64 or not self.plain.runs_wide(self.x):
            return False
        x = self.x.double()
        here, *moved = (
            self.plain.wide_leaves(add(x, noise_like(x, 0), size * norm(x) / _entries(x)))[0]
            for size in (0.0, 1e-10, 1e-7)
        )
        small, large = (float((y.double() - here).norm()) for y in moved)
        return large > 0 and _LINEAR[0] <= small / large <= _LINEAR[1]

    def _drowned(self, rows: Sequence[dict[str, dict[str, Tensor]]]) -> bool:
        """Whether rounding makes up too much of some step."""
        for one in (one for row in rows for one in row.values()):
            size = one["squared"].clamp_min(one["squared"].mean() / 100)
            if (one["rounding"] > _SHARE_OF_ROUNDING * size).any():
                return True
        return False

    def _group(
        self, action: Action, steps: Sequence[Step], seeds: Any
    ) -> list[dict[str, dict[str, Tensor]]]:
        """Some steps in one pass, and their comparisons."""
        x = self.x.double() if self.wide else self.x
        action = self.domain.rebind(action, x)
        ends = [ends_of(self.domain, action, step) for step in steps]
        pairs = [tuple(end.on_input(x) for end in pair) for pair in ends]
        outputs = self._outputs([z for pair in pairs for z in pair])
        rows = []
        for i, (step, (ahead, back)) in enumerate(zip(steps, pairs, strict=True)):
            plus, minus = outputs[2 * i : 2 * i + 2]
            moved = tree_map(lambda a, b: a - b, ahead, back)
            size = self._size(moved, len(x))
            beside = {}
            if step.chosen and seeds is not None:
                drawn = self.domain.step_noise(x, moved, action, seeds)
                beside = {name: self._change(x, v) for name, v in drawn.items()}
            rows.append(
                {
                    kind: {
                        "squared": self._squares(
                            change_between(
                                self.rho, ends[i], self._of(kind, plus), self._of(kind, minus)
                            )
                        ),
                        "rounding": self._noise()[kind],
                        "moved": size,
                        **{name: change[kind] for name, change in beside.items()},
                    }
                    for kind in self.kinds
                }
            )
        return rows

    def _outputs(self, inputs: Sequence[Any]) -> list[Tensor]:
        """The outputs for each, in as few passes as may be."""
        if len(inputs) > 1 and isinstance(inputs[0], Tensor) and self._fits(len(inputs)):
            try:
                return list(self._call(torch.cat(list(inputs))).split(len(self.y)))
            except Exception:  # some take no more than they are given, or memory is short
                self.cap = len(self.x)  # what is wrong with them otherwise shows one by one
        return [self._call(z) for z in inputs]

    def _fits(self, count: int) -> bool:
        return count * len(self.x) <= self.cap and len(self.y) == len(self.x)

    def _call(self, x: Any) -> Tensor:
        if not self.wide:
            return evaluate(self.f, x)
        (y,) = self.plain.wide_leaves(x)
        return y

    def _change(self, x: Any, v: Any) -> dict[str, Tensor]:
        """How much the output changes from x − v/2 to x + v/2."""
        return self._changes(*self._outputs([add(x, v, 0.5), add(x, v, -0.5)]))

    def _noise(self) -> dict[str, Tensor]:
        """What rounding adds to a squared change, from inputs that it cannot tell apart."""
        if self.wide not in self._rounding:
            x = self.x.double() if self.wide else self.x
            here, moved = self._outputs([x, within_rounding(x, 0)])
            found = self._changes(here, moved)
            size = torch.finfo(x.dtype).eps * norm(x) / _entries(x)
            for _ in range(_TRIALS):
                if all((v > 0).all() for v in found.values()):
                    break
                size *= _GROWTH
                more = self._changes(here, self._call(add(x, noise_like(x, 1), size)))
                found = {k: torch.where(v > 0, v, more[k]) for k, v in found.items()}
            # Two outputs, each rounded to a grid of eps |y|: a variance of a twelfth of its square.
            grid = torch.finfo(here.dtype).eps * here.double()
            own = {k: self._squares(grid) / 6 for k in self.kinds if k != "probs"}
            self._rounding[self.wide] = {
                k: torch.maximum(v, own[k]) if k in own else v for k, v in found.items()
            }
        return self._rounding[self.wide]

    def _changes(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        """Squared difference of two outputs for the same input, by output type."""
        return {k: self._squares(self._of(k, a) - self._of(k, b)) for k in self.kinds}

    def _of(self, kind: str, y: Tensor) -> Tensor:
        """The output as it is measured, in float64."""
        return y.double().softmax(class_axis(y, self.rho)) if kind == "probs" else y.double()

    def _squares(self, change: Tensor) -> Tensor:
        """Mean square over the entries of each item, float64 [B], on the CPU."""
        return self.means(change.double().square()[None])[0].cpu()

    def _size(self, moved: Any, items: int) -> Tensor:
        """Squared norm of each item's displacement, float64 [B]."""
        return torch.stack(
            [
                sum(
                    (v.double().square().sum().cpu() for v in tree_flatten(moved[b : b + 1])[0]),
                    torch.zeros((), dtype=torch.float64),
                )
                for b in range(items)
            ]
        )


def _entries(x: Any) -> float:
    """Root of the number of entries, by which a norm becomes a root mean square."""
    return float(max(1, sum(v.numel() for v in tree_flatten(x)[0]))) ** 0.5


def _stacked(rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Quantities of all steps, [J, B]; NaN where one was not measured."""
    names = dict.fromkeys(name for row in rows for name in row)
    missing = torch.full_like(rows[0]["squared"], float("nan"))
    return {name: torch.stack([row.get(name, missing) for row in rows]) for name in names}
