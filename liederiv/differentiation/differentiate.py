"""J_f(x)·v for many tangents at once: which engine, in which chunks, and whether it is right."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from liederiv.actions import Action
from liederiv.differentiation.calls import PlainFunction
from liederiv.differentiation.engines import ENGINES, untangled
from liederiv.differentiation.guards import sound_numerics
from liederiv.differentiation.jobs import ForwardModeWarning, Job, Pushforward
from liederiv.differentiation.models import (
    ModePolicy,
    as_it_was,
    evaluated,
    kept_randomness,
    plain_model,
    root_modules,
    watched,
)
from liederiv.differentiation.second_order import Product, check_gradient
from liederiv.differentiation.trial import Trial, combination, mode_of
from liederiv.differentiation.verification import Known, Verification, forget, recall, remember
from liederiv.differentiation.witness import Witness
from liederiv.domains import domain_of
from liederiv.errors import NotDifferentiableError

__all__ = [
    "ForwardModeWarning",
    "Pushforward",
    "check_batch",
    "forward_engine",
    "inner_pushforward",
    "pushforward",
    "verified_pushforward",
    "verify_product",
]


def pushforward(
    f: Callable[[Any], Any],
    x: Any,
    tangents: Any,
    *,
    chunk_size: int | None = None,
    engine: str | None = None,
) -> tuple[Any, Any, str]:
    """J_f(x)·v for K tangents v by the first engine that runs, unverified.

    Args:
        f: function of x; x and f(x) are tensors or nested dicts, lists and tuples of tensors.
        x: primal; never written to.
        tangents: like x, every tensor with a leading axis of K tangents.
        chunk_size: tangents per pass; None lets memory decide.
        engine: one of `ENGINES` to insist on it; None takes the first that works.

    Returns:
        f(x), the products (like f(x), with a leading axis of K), both detached, and the engine
        that computed them.

    Raises:
        NotDifferentiableError: if f(x) is not floating.
        LieDerivError: if no engine can differentiate f.
    """
    found = _first_that_runs(f, x, tangents, chunk_size, engine)
    return found.y, found.jv, found.verification.engine


def _first_that_runs(
    f: Callable[[Any], Any], x: Any, tangents: Any, chunk_size: int | None, engine: str | None
) -> Pushforward:
    x = untangled(x)
    job = Job(f, x, tangents, chunk_size, root_modules(f))
    with kept_randomness(x):
        for candidate in job.candidates(engine):
            found = job.run(candidate)
            if found is not None:
                job.tell(candidate, stacklevel=4)
                return found
    raise job.refusal()


def inner_pushforward(
    f: Callable[[Any], Any],
    x: Any,
    tangents: Any,
    action: Action,
    model: Callable[[Any], Any],
    *,
    chunk_size: int | None = None,
    engine: str | None = None,
) -> Pushforward:
    """J_f(x)·X x where f reads the inside of a model that `forward_engine` has verified.

    Args:
        f: what a model computes, and what it computes on the way.
        x: one item.
        tangents: X x.
        action: the K generators X, bound to x.
        model: the model itself.
        chunk_size: see `pushforward`.
        engine: the one that was verified; where the model decides about derivatives on x, it is
            verified on x, too, and where it fails there, another is used. None takes the first that
            runs, and verifies nothing.

    Raises:
        NotDifferentiableError: see `forward_engine`.
        LieDerivError: see `pushforward`.
    """
    found = _first_that_runs(f, x, tangents, chunk_size, engine)
    if not found.cuts or engine is None:
        return found
    try:
        forward_engine(model, x, action, engine)
    except NotDifferentiableError:
        other = forward_engine(model, x, action)
        return _first_that_runs(f, x, tangents, chunk_size, other)
    return found


def verified_pushforward(
    f: Callable[[Any], Any],
    x: Any,
    tangents: Any,
    action: Action,
    *,
    chunk_size: int | None = None,
    engine: str | None = None,
    verify: bool = True,
    mode: ModePolicy = "compare",
) -> Pushforward:
    """J_f(x)·v by the first engine that the witness passes.

    The outcome is remembered as long as f lives: for inputs of that size, dtype and device, those
    generators, and modules of that mode; not where f itself decides about derivatives (`cuts`):
    then every item of every input is examined.

    Args:
        f: see `pushforward`.
        x: images or point clouds.
        tangents: see `pushforward`; the first are those of the action.
        action: K generators bound to x.
        chunk_size: see `pushforward`.
        engine: see `pushforward`.
        verify: False takes the first engine that runs, as `pushforward` does.
        mode: what to do about modules in training mode.

    Raises:
        ModelError: for a model in training mode (where it matters), a stochastic one, or one whose
            rows are not those of the items.
        NotDifferentiableError: if no engine has the derivative of what f computes.
    """
    f, x = plain_model(f), untangled(x)
    with sound_numerics(), kept_randomness(x):
        known = recall(f, x, action, engine) if verify else None
        if known is not None and (len(x) == 1 or known.verification.rows > 1):
            job = Job(f, x, tangents, chunk_size, known.roots)
            # A function may have come to call other modules than it did.
            seen = nullcontext(known.roots) if isinstance(f, nn.Module) else watched(f)
            with mode_of(known.roots, mode), seen as called:
                found = job.run(known.verification.engine)
            if found is not None and found.cuts:  # none was met on the inputs that are known
                forget(f)
            elif found is not None and {*map(id, called)} == {*map(id, known.roots)}:
                return replace(found, verification=known.verification)
        if verify:
            return Trial(f, x, tangents, action, chunk_size, mode).verdict(engine)
        y, jv, used = pushforward(f, x, tangents, chunk_size=chunk_size, engine=engine)
        return Pushforward(y, jv, Verification.skipped(used))


def forward_engine(
    f: Callable[[Any], Any], x: Any, action: Action, engine: str | None = None
) -> str:
    """The forward-mode engine that the witness passes, for analyses that need the inside of f.

    Args:
        f: the model, in eval mode.
        x: the input; its first and last item are looked at.
        action: generators bound to x.
        engine: one of `ENGINES` to insist on it.

    Raises:
        ModelError: see `verified_pushforward`.
        NotDifferentiableError: if only differences, or two reverse passes, have the derivative.
    """
    one = _first_and_last(x)  # two, so that rows that mix are found
    bound = domain_of(x).rebind(action, one)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ForwardModeWarning)
        tangents = bound.tangents(one)
        found = verified_pushforward(f, one, tangents, bound, engine=engine, mode="refuse")
    used = found.verification
    if used.engine not in ENGINES[:3]:
        raise NotDifferentiableError(
            f"forward mode does not have the derivative of what this model computes, only the "
            f"{used.engine} engine has ({used.passed_over}), so its layers cannot be told apart; "
            "`measure` gives the whole model's score."
        )
    return used.engine


def verify_product(
    model: nn.Module,
    x: Any,
    action: Action,
    product: Product,
    purpose: str,
    *,
    has_cuts: bool = False,
) -> None:
    """Let the witness judge somebody else's product J v, and the gradient of it.

    For losses, whose batch norms may normalise by the batch: the derivative is that on the batch as
    a whole, and rows are compared in eval mode. The outcome is remembered as that of
    `verified_pushforward` is.

    Args:
        model: in the mode in which it is differentiated.
        x: the batch.
        action: K generators bound to x.
        product: see `liederiv.differentiation.second_order.Product`.
        purpose: a name under which the outcome is remembered.
        has_cuts: whether the model decides about its derivative on this batch: then all of it is
            examined, and nothing remembered.

    Raises:
        ModelError: for a stochastic model, or one whose rows are not those of the items.
        NotDifferentiableError: if the product is not the derivative of what the model computes, or
            its gradient in the weights not that of the product.
    """
    with sound_numerics(), kept_randomness(x):
        if not has_cuts and recall(model, x, action, purpose) is not None:
            return
        with evaluated((model,)):
            check_batch(model, x, action)
        some = x.detach() if has_cuts else _first_and_last(x)
        function = PlainFunction(model, (model,))
        _, direction = combination(domain_of(x).rebind(action, some), some)
        witness = Witness(function, some, direction, function(some))

        def run(f: Callable[[Any], Any], x: Any, v: Any) -> list[list[Tensor]]:
            with as_it_was((model,)):
                return [[w.detach() for w in tree_flatten(t)[0]] for t in product(f, x, v)]

        y, jv = run(model, some, direction)
        finding = witness.examine(y, jv, lambda f, x, v: run(f, x, v)[1])
        if finding.complaint:
            if finding.derivative is None:
                witness.refuse_chance()
            raise NotDifferentiableError(
                f"the penalty would be that of another function: {finding.complaint}; use "
                "method='finite', or mend what cuts it."
            )
        if finding.vacuous or has_cuts:
            return
        why = check_gradient(function, some, direction, product)
        unchecked = (why,) if why else ()
        found = finding.primal, finding.derivative, finding.resolution
        known = Verification(purpose, *found, unchecked=unchecked)
        remember(model, x, action, purpose, Known.of(known, (model,)))


def check_batch(model: Callable[[Any], Any], x: Any, action: Action) -> None:
    """Rows of a model as `Trial` checks them, without any derivative.

    Args:
        model: the function.
        x: a batch.
        action: bound to it.

    Raises:
        ModelError: if the rows of an item depend on the other items, or are not one per item.
    """
    tangents = action.tangents(x)
    trial = Trial(model, x, tangents, action, None, "keep", derivatives=False)
    together = trial.function(x)
    trial.compare_rows(together)


def _first_and_last(x: Any) -> Any:
    return x[:: max(len(x) - 1, 1)].detach()
