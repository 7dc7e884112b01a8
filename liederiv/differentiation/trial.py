"""One batch with its witness: engines are run until one passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from liederiv.actions import Action
from liederiv.differentiation.calls import PlainFunction, noise_like, norm
from liederiv.differentiation.differences import combined
from liederiv.differentiation.engines import ENGINES, RECOVERABLE, in_chunks
from liederiv.differentiation.guards import forward_mode
from liederiv.differentiation.jobs import Job, Pushforward, first_line
from liederiv.differentiation.models import (
    ModePolicy,
    as_it_was,
    evaluated,
    in_training,
    kept_weights,
    own_buffers,
    random_states,
    watched,
)
from liederiv.differentiation.neighbours import Neighbour, neighbours
from liederiv.differentiation.verification import Known, remember
from liederiv.differentiation.witness import Finding, Witness
from liederiv.domains import Domain, domain_of
from liederiv.errors import ModelError

__all__ = ["Trial", "combination", "mode_of"]

_TOSSES = 8  # further calls of a model that draws random numbers
_SEED = 20221004  # of the signs in the combination of tangents


def combination(action: Action, item: Any, tangents: Any = None) -> tuple[Tensor, Any]:
    """ε_k / ‖X_k x‖ and the sum of the tangents with these weights; they are made if not given."""
    source = torch.Generator().manual_seed(_SEED)
    signs = torch.randint(0, 2, (len(action),), generator=source) * 2.0 - 1
    tangents = action.tangents(item) if tangents is None else tangents
    leaves = tree_flatten(tangents)[0]
    sizes = torch.tensor([norm([v[k] for v in leaves]) for k in range(len(action))])
    weights = torch.where(sizes > 0, signs / sizes.clamp_min(1e-300), 0.0).double()
    return weights, combined(tangents, weights)


def mode_of(roots: Sequence[nn.Module], mode: ModePolicy) -> ExitStack:
    """Eval mode for a while, where that is the policy."""
    stack = ExitStack()
    if mode == "eval":
        stack.enter_context(evaluated(roots))
    return stack


def refuse_other_mode(function: PlainFunction, item: Any, value: Any) -> None:
    """Raise `ModelError` if modules are in training mode and compute something else in eval mode.

    Args:
        function: with the modules behind it.
        item: an input.
        value: f(item), in the mode in which the modules are.
    """
    training = in_training(function.roots)
    if not training:
        return
    with evaluated(function.roots):
        settled = function.leaves(item)
    probe = Witness(function, item, item, value)
    if not probe.is_rounding(probe.primal_gap(settled)):
        raise ModelError(
            f"the model is in training mode ({len(training)} modules, first: "
            f"{type(training[0]).__name__}), where it computes something else than in eval mode; "
            "call model.eval() first."
        )


class Trial:
    """One batch with its witness: runs engines until one passes.

    Args:
        f: see `liederiv.differentiation.verified_pushforward`.
        x: see there.
        tangents: see there.
        action: see there.
        chunk_size: see there.
        mode: see there.
        derivatives: whether those at the other items are looked at, too.
    """

    def __init__(
        self,
        f: Callable[[Any], Any],
        x: Any,
        tangents: Any,
        action: Action,
        chunk_size: int | None,
        mode: ModePolicy,
        *,
        derivatives: bool = True,
    ) -> None:
        self.f, self.x, self.action, self.mode = f, x, action, mode
        self.domain: Domain = domain_of(x)
        self.separable = self.domain.separable(x)
        self.number, self.item, self.weights, direction = self._moving_item()
        chance = random_states(x)
        with kept_weights(f), watched(f, mode) as found:
            value = self._alone()
        draws = random_states(x) != chance
        self.watched, self.roots = found, tuple(found)
        self.function = PlainFunction(f, self.roots)
        self.job = Job(f, x, tangents, chunk_size, self.roots)
        self._check_rows(value, self.item)
        self._check_mode(value)
        # Seen between the item alone and the batch, so that a function of its history is found out.
        self.others = self._others(derivatives)
        self.witness = Witness(self.function, self.item, direction, value)
        self.witness.elsewhere = [other.item for other in self.others]
        for _ in range(_TOSSES if draws else 0):  # a coin may fall alike a few times
            self.witness.refuse_chance()

    def _alone(self) -> Any:
        """F at the item alone, seen for the first time."""
        plain = PlainFunction(self.f, ())
        try:
            return plain(self.item)
        except RECOVERABLE as error:
            if len(self.x) > 1:
                plain(self.x)  # an error of the model itself surfaces as such
                raise ModelError(
                    f"the model does not run on one {self.domain.item} alone ({first_line(error)})"
                    ", so nobody can tell whether its rows depend on each other; let it take any "
                    "number, or pass verify=False."
                ) from error
            raise

    def verdict(self, engine: str | None) -> Pushforward:
        """The products of the first engine that passes.

        Raises:
            LieDerivError: see `verified_pushforward`.
        """
        self.witness.allow_coarse = engine == ENGINES[-1]
        with mode_of(self.roots, self.mode):
            for candidate in self.job.candidates(engine):
                found = self.job.run(candidate)
                if found is None:
                    continue
                finding = self._examine(candidate, found)
                if not finding.complaint and found.cuts:
                    finding = self._examine_others(candidate, found, finding)
                elif not finding.complaint:
                    finding = self._objection(candidate, found) or finding
                if finding.complaint:
                    self.job.complaints[candidate] = finding.complaint
                    continue
                self._leave()
                self.job.tell(candidate, stacklevel=4)
                return self._accept(found, finding, engine)
        raise self.job.refusal()

    def _accept(self, found: Pushforward, finding: Finding, engine: str | None) -> Pushforward:
        unchecked = list(finding.unchecked)
        if self.function.why_single and finding.derivative is not None:
            unchecked.append(f"float64 ({self.function.why_single})")
        if not self.separable:
            unchecked.append("rows (which belong to which cloud is not known)")
        if not self.roots:
            unchecked.append("mode and weights (no module was found behind the function)")
        verification = replace(
            found.verification,
            primal=finding.primal,
            derivative=finding.derivative,
            resolution=finding.resolution,
            precision=finding.precision if finding.derivative is not None else "",
            rows=1 + min(len(self.others), 1) if self.separable else 0,
            glances=len(self.others) if finding.derivative is not None and not found.cuts else 0,
            cuts=found.cuts,
            items=len(self.x) if found.cuts and self.separable else 1,
            unchecked=tuple(unchecked),
            passed_over=next(iter(self.job.complaints.values()), ""),
        )
        if not finding.vacuous and not found.cuts:
            remember(self.f, self.x, self.action, engine, Known.of(verification, self.roots))
        return replace(found, verification=verification)

    def _leave(self) -> None:
        """Leave the attributes that a call adds to the model, if it computes the same with them."""
        other = noise_like(self.item, _SEED)
        with self.watched.left_behind() as any_left:
            if not any_left:
                return
            with_them = self.function.leaves(other)
        without = Witness(self.function, other, other, self.function(other))
        if without.is_rounding(without.primal_gap(with_them)):
            self.watched.leave()

    def _moving_item(self) -> tuple[int, Any, Tensor, Any]:
        """The first item that the generators move: its number, itself, ε_k/‖X_k x‖ and Σ."""
        if not self.separable:
            weights, direction = combination(self.action, self.x)
            return 0, self.x.detach(), weights, direction
        for number in range(len(self.x)):
            item = self.x[number : number + 1].detach()
            weights, direction = combination(self.domain.rebind(self.action, item), item)
            if weights.any():
                break
        return number, item, weights, direction

    def _rows(self, leaf: Tensor, number: int, dim: int = 0) -> Tensor:
        if not self.separable:
            return leaf
        index = self.domain.rows_of(self.x, leaf.shape[dim], number).to(leaf.device)
        return leaf.index_select(dim, index)

    def _examine(self, engine: str, found: Pushforward) -> Finding:
        self._check_rows(found.y, self.x)
        return self._examine_item(engine, found, self.number, self.witness, self.weights)

    def _examine_item(
        self, engine: str, found: Pushforward, number: int, witness: Witness, weights: Tensor
    ) -> Finding:
        """Let a witness judge what the engine says of its item."""
        y, jv = self._at(found, number, weights)
        exact = engine != ENGINES[-1]
        finding = witness.examine(y, jv, self._again(engine) if exact else None)
        if finding.primal is not None and finding.complaint and finding.derivative is None:
            witness.refuse_chance()
            self._refuse_mixing(witness, number)
        return finding

    def _at(
        self, found: Pushforward, number: int, weights: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The rows of one item in f(x) and in J v, the products combined by weights."""
        K = len(self.action)
        y = [self._rows(v, number) for v in tree_flatten(found.y)[0]]
        jv = [
            torch.tensordot(weights.to(v.device), self._rows(v[:K], number, 1).double(), 1)
            for v in tree_flatten(found.jv)[0]
        ]
        return y, jv

    def _objection(self, engine: str, found: Pushforward) -> Finding | None:
        """What is certainly wrong with another item; None if nothing is.

        Raises:
            ModelError: if an item's rows are not those of the item alone.
        """
        for place, other in enumerate(self.others):
            y, jv = self._at(found, other.number, other.weights)
            suspicious = other.is_suspicious(y, jv)
            if not suspicious and (place or other.is_rounding(y, jv)):
                continue
            witness = self._witness_at(other.item, other.direction, y)
            if not suspicious:
                continue
            other.refuse_history(self.function)
            objection = self._examine_item(engine, found, other.number, witness, other.weights)
            if objection.is_certain:
                return objection
        return None

    def _examine_others(self, engine: str, found: Pushforward, first: Finding) -> Finding:
        """Examine every other item as the first one was: the model decides about derivatives.

        Returns:
            what is certainly wrong with one of them; else the worst that was found.
        """
        worst, unsettled = first, 0
        for number in range(len(self.x) if self.separable else 0):
            if number == self.number:
                continue
            item = self.x[number : number + 1].detach()
            weights, direction = self._combination_at(number, item)
            witness = self._witness_at(item, direction, self._at(found, number, weights)[0])
            finding = self._examine_item(engine, found, number, witness, weights)
            if finding.is_certain:
                return finding
            unsettled += bool(finding.complaint)
            if not finding.complaint and (finding.derivative or 0.0) > (worst.derivative or 0.0):
                worst = finding
        if unsettled:
            why = f"the derivative at {unsettled} items (no difference there is sharp enough)"
            worst = replace(worst, unchecked=(*worst.unchecked, why))
        return replace(worst, vacuous=first.vacuous and worst.vacuous)

    def _witness_at(self, item: Any, direction: Any, rows: list[Tensor]) -> Witness:
        """Of another item, whose rows in the batch must be those of the item alone."""
        witness = Witness(self.function, item, direction, self.function(item))
        self._refuse_difference(witness, rows)
        return witness

    def _again(self, engine: str) -> Callable[[Callable[[Any], Any], Any, Any], list[Tensor]]:
        def run(f: Callable[[Any], Any], x: Any, v: Any) -> list[Tensor]:
            with forward_mode(), as_it_was(self.roots):
                own = own_buffers(f, self.roots)
                _, jv = in_chunks(engine, own, x, tree_map(lambda t: t[None], v), 1)
            return [w[0] for w in tree_flatten(jv)[0]]

        return run

    def _check_rows(self, y: Any, x: Any) -> None:
        """Every tensor of the output must have one row per item (or per point)."""
        wanted = self.domain.rows(x)
        for leaf in tree_flatten(y)[0]:
            if leaf.ndim == 0 or len(leaf) not in wanted:
                expected = " or ".join(str(n) for n in dict.fromkeys(wanted))
                raise ModelError(
                    f"the model returns shape {list(leaf.shape)} for {len(x)} {self.domain.item}"
                    f"{'s' * (len(x) > 1)}; it must have one row per {self.domain.item}, first "
                    f"({expected}): put the batch axis first."
                )

    def _check_mode(self, value: Any) -> None:
        """A model in training mode must compute what it does in eval mode."""
        if self.mode in ("compare", "refuse"):
            refuse_other_mode(self.function, self.item, value)

    def _refuse_mixing(self, witness: Witness, number: int) -> None:
        """Raise `ModelError` if an item's rows depend on the other items."""
        if len(self.x) == 1 or not self.separable:
            return
        together = self.function.leaves(self.x)
        gap = witness.primal_gap([self._rows(v, number) for v in together])
        if not witness.is_rounding(gap):
            raise self._mixing(gap)

    def _refuse_difference(self, alone: Witness, rows: list[Tensor]) -> None:
        """Raise `ModelError` if an item's rows in the batch are not those of the item alone."""
        gap = alone.primal_gap(rows)
        if not alone.is_rounding(gap):
            alone.refuse_chance()
            raise self._mixing(gap)

    def _mixing(self, gap: float) -> ModelError:
        item = self.domain.item
        return ModelError(
            f"the rows of the model's output depend on the other {item}s of the batch (the same "
            f"{item} alone differs by {gap:.1e} relative): batch statistics, or a batch axis that "
            f"is not the first; measure one {item} at a time (batch_size=1), or mend the model."
        )

    def compare_rows(self, together: Any) -> None:
        """Judge f(x), computed without an engine, by items alone.

        Raises:
            ModelError: if its rows are not those of the items, or change from call to call.
        """
        self._check_rows(together, self.x)
        self._refuse_mixing(self.witness, self.number)
        for other in self.others[:1]:
            alone = Witness(self.function, other.item, other.item, other.seen)
            rows = [self._rows(v, other.number) for v in tree_flatten(together)[0]]
            self._refuse_difference(alone, rows)
        self.witness.refuse_chance()

    def _others(self, derivatives: bool) -> list[Neighbour]:
        """More items of the batch, each alone."""
        if len(self.x) == 1 or not self.separable:
            return []
        found = []
        for number in neighbours(len(self.x), self.number)[: None if derivatives else 1]:
            item = self.x[number : number + 1].detach()
            weights, direction = self.weights, tree_map(torch.zeros_like, item)
            if derivatives:
                weights, direction = self._combination_at(number, item)
            found.append(Neighbour.see(self.function, number, item, weights, direction))
        return found

    def _combination_at(self, number: int, item: Any) -> tuple[Tensor, Any]:
        """`combination` of the tangents at one item, which for images have been made already."""
        bound, known = self.domain.rebind(self.action, item), None
        if isinstance(self.x, Tensor):
            known = self.job.tangents[: len(bound), number : number + 1]
        return combination(bound, item, known)
