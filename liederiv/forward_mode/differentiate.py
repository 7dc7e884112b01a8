"""J_f(x)·v for many tangents at once: which engine, in which chunks, and whether it is right."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from liederiv.actions import Action
from liederiv.domains import Domain, domain_of
from liederiv.errors import LieDerivError, ModelError, NotDifferentiableError
from liederiv.forward_mode.calls import PlainFunction, noise_like, norm
from liederiv.forward_mode.differences import combined, difference_jvp
from liederiv.forward_mode.engines import (
    ENGINES,
    RECOVERABLE,
    UnreachedError,
    auto_chunk,
    in_chunks,
    untangled,
)
from liederiv.forward_mode.guards import forward_mode, sound_numerics
from liederiv.forward_mode.models import (
    ModePolicy,
    as_it_was,
    evaluated,
    in_training,
    kept_randomness,
    kept_weights,
    own_buffers,
    plain_model,
    random_states,
    root_modules,
    watched,
)
from liederiv.forward_mode.second_order import Product, check_gradient
from liederiv.forward_mode.verification import Known, Verification, recall, remember
from liederiv.forward_mode.witness import Finding, Witness

__all__ = [
    "ForwardModeWarning",
    "Pushforward",
    "forward_engine",
    "pushforward",
    "verified_pushforward",
    "verify_product",
]

_TOSSES = 8  # further calls of a model that draws random numbers
_SEED = 20221004  # of the signs in the combination of tangents


class ForwardModeWarning(UserWarning):
    """Another engine than the first had to be used; the message says which, and why."""


@dataclass(frozen=True)
class Pushforward:
    """The outcome of `verified_pushforward`.

    Attributes:
        y: f(x), detached.
        jv: J v, like y with a leading axis of tangents.
        verification: which engine, and how it was verified.
        errors: of finite differences: root mean square error per entry of the output, estimated,
            float64 [tangents]; None for engines that are exact to rounding.
    """

    y: Any
    jv: Any
    verification: Verification
    errors: Tensor | None = None


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
    x = untangled(x)
    job = _Job(f, x, tangents, chunk_size, root_modules(f))
    with kept_randomness(x):
        for candidate in job.candidates(engine):
            found = job.run(candidate)
            if found is not None:
                job.tell(candidate, stacklevel=3)
                return found.y, found.jv, candidate
    raise job.refusal()


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
    generators, and modules of that mode.

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
            job = _Job(f, x, tangents, chunk_size, known.roots)
            # A function may have come to call other modules than it did.
            seen = nullcontext(known.roots) if isinstance(f, nn.Module) else watched(f)
            with _mode_of(known.roots, mode), seen as called:
                found = job.run(known.verification.engine)
            if found is not None and {*map(id, called)} == {*map(id, known.roots)}:
                return replace(found, verification=known.verification)
        if verify:
            return _Trial(f, x, tangents, action, chunk_size, mode).verdict(engine)
        y, jv, used = pushforward(f, x, tangents, chunk_size=chunk_size, engine=engine)
        return Pushforward(y, jv, Verification.skipped(used))


def forward_engine(f: Callable[[Any], Any], x: Any, action: Action) -> str:
    """The forward-mode engine that the witness passes, for analyses that need the inside of f.

    Args:
        f: the model, in eval mode.
        x: the input; its first two items are looked at.
        action: generators bound to x.

    Raises:
        ModelError: see `verified_pushforward`.
        NotDifferentiableError: if only differences, or two reverse passes, have the derivative.
    """
    one = x[:2].detach()  # two, so that rows that mix are found
    bound = domain_of(x).rebind(action, one)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ForwardModeWarning)
        used = verified_pushforward(f, one, bound.tangents(one), bound, mode="refuse").verification
    if used.engine not in ENGINES[:3]:
        raise NotDifferentiableError(
            f"forward mode does not have the derivative of what this model computes, only the "
            f"{used.engine} engine has ({used.passed_over}), so its layers cannot be told apart; "
            "`measure` gives the whole model's score."
        )
    return used.engine


def verify_product(
    model: nn.Module, x: Any, action: Action, product: Product, purpose: str
) -> None:
    """Let the witness judge somebody else's product J v, and the gradient of it.

    For losses, whose batch norms may normalise by the batch: the derivative is that on the batch as
    a whole, and rows are compared in eval mode. The outcome is remembered as that of
    `verified_pushforward` is.

    Args:
        model: in the mode in which it is differentiated.
        x: the batch.
        action: K generators bound to x.
        product: see `liederiv.forward_mode.second_order.Product`.
        purpose: a name under which the outcome is remembered.

    Raises:
        ModelError: for a stochastic model, or one whose rows are not those of the items.
        NotDifferentiableError: if the product is not the derivative of what the model computes, or
            its gradient in the weights not that of the product.
    """
    with sound_numerics(), kept_randomness(x):
        if recall(model, x, action, purpose) is not None:
            return
        with evaluated((model,)):
            _check_batch(model, x, action)
        some = x[:2].detach()
        function = PlainFunction(model, (model,))
        _, direction = _combination(domain_of(x).rebind(action, some), some)
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
        if finding.vacuous:
            return
        why = check_gradient(function, some, direction, product)
        unchecked = (why,) if why else ()
        found = finding.primal, finding.derivative, finding.resolution
        known = Verification(purpose, *found, unchecked=unchecked)
        remember(model, x, action, purpose, Known.of(known, (model,)))


def _check_batch(model: nn.Module, x: Any, action: Action) -> None:
    """Rows of a model as `_Trial` checks them, without any derivative."""
    trial = _Trial(model, x, action.tangents(x), action, None, "keep")
    together = trial.function(x)
    trial.compare_rows(together)


def _combination(action: Action, item: Any) -> tuple[Tensor, Any]:
    """ε_k / ‖X_k x‖ and the sum of the tangents with these weights."""
    source = torch.Generator().manual_seed(_SEED)
    signs = torch.randint(0, 2, (len(action),), generator=source) * 2.0 - 1
    tangents = action.tangents(item)
    leaves = tree_flatten(tangents)[0]
    sizes = torch.tensor([norm([v[k] for v in leaves]) for k in range(len(action))])
    weights = torch.where(sizes > 0, signs / sizes.clamp_min(1e-300), 0.0).double()
    return weights, combined(tangents, weights)


def _mode_of(roots: Sequence[nn.Module], mode: ModePolicy) -> ExitStack:
    stack = ExitStack()
    if mode == "eval":
        stack.enter_context(evaluated(roots))
    return stack


class _Job:
    """One product J v, by any engine, and what went wrong on the way."""

    def __init__(
        self,
        f: Callable[[Any], Any],
        x: Any,
        tangents: Any,
        chunk_size: int | None,
        roots: Sequence[nn.Module],
    ) -> None:
        self.f, self.x, self.tangents, self.roots = f, x, tangents, tuple(roots)
        self.chunk = auto_chunk(x, len(tree_flatten(tangents)[0][0]), chunk_size)
        self.complaints: dict[str, str] = {}

    def candidates(self, engine: str | None) -> Sequence[str]:
        """Engines to try, in order."""
        if engine is None:
            return ENGINES
        if engine not in ENGINES:
            raise LieDerivError(
                f"engine={engine!r} is unknown; choose one of {', '.join(ENGINES)}."
            )
        return (engine,)

    def run(self, engine: str) -> Pushforward | None:
        """The products by one engine; None, with a complaint, where it cannot."""
        try:
            return self._attempt(engine)
        except torch.OutOfMemoryError:
            if self.chunk == 1:
                raise
            self.chunk //= 2
            return self.run(engine)
        except UnreachedError as error:
            self.complaints[engine] = str(error)
        except LieDerivError:
            raise
        except RECOVERABLE as error:
            PlainFunction(self.f, self.roots)(self.x)  # an error of the model itself surfaces
            self.complaints[engine] = f"{self._failing_module(engine)}: {_first_line(error)}"
        return None

    def _attempt(self, engine: str) -> Pushforward:
        if engine == ENGINES[-1]:
            function = PlainFunction(self.f, self.roots)
            found = difference_jvp(function, self.x, self.tangents)
            return Pushforward(found.y, found.jv, Verification(engine), found.errors)
        with forward_mode(), as_it_was(self.roots):
            try:
                y, jv = in_chunks(engine, self.f, self.x, self.tangents, self.chunk)
            except RuntimeError as error:
                if "mutate a captured Tensor" not in str(error):
                    raise
                own = own_buffers(self.f, self.roots)
                y, jv = in_chunks(engine, own, self.x, self.tangents, self.chunk)
        return Pushforward(y, jv, Verification(engine))

    def tell(self, used: str, stacklevel: int) -> None:
        """Warn that a slower engine had to be used."""
        if used in ENGINES[:2] or not self.complaints:
            return
        why = next(iter(self.complaints.values()))
        exact = "whose error is estimated" if used == ENGINES[-1] else "exact to rounding"
        message = f"{why}. Using the {used} engine, which is slower and {exact}."
        warnings.warn(message.replace("..", "."), ForwardModeWarning, stacklevel=stacklevel + 1)

    def refusal(self) -> LieDerivError:
        """What to raise when no engine has served."""
        seen = "; ".join(f"{engine}: {why}" for engine, why in self.complaints.items())
        return NotDifferentiableError(
            f"no derivative of the model: no engine passes its checks ({seen}). Remove what cuts "
            "or rounds inside the model, or measure metrics of finite transforms "
            "(metrics='sampled')."
        )

    def _failing_module(self, engine: str) -> str:
        """Name the innermost module in whose forward differentiation fails."""
        if not self.roots or engine == ENGINES[-1]:
            return "the function"
        stack: list[str] = []
        with ExitStack() as hooks:
            for name, module in self.roots[0].named_modules():
                if isinstance(module, torch.jit.ScriptModule):
                    continue
                label = f"module {name or '(the whole model)'} ({type(module).__name__})"
                enter = module.register_forward_pre_hook(lambda *_, w=label: stack.append(w))
                leave = module.register_forward_hook(lambda *_: stack.pop() and None)
                hooks.callback(enter.remove)
                hooks.callback(leave.remove)
            try:
                one = tree_map(lambda v: v[:1], self.tangents)
                with forward_mode(), as_it_was(self.roots):
                    in_chunks(engine, self.f, self.x, one, 1)
            except Exception:
                return stack[-1] if stack else "the function"
        return "the backward pass"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]


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


class _Trial:
    """One batch with its witness: runs engines until one passes."""

    def __init__(
        self,
        f: Callable[[Any], Any],
        x: Any,
        tangents: Any,
        action: Action,
        chunk_size: int | None,
        mode: ModePolicy,
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
        self.job = _Job(f, x, tangents, chunk_size, self.roots)
        self._check_rows(value, self.item)
        self._check_mode(value)
        # Seen between the item alone and the batch, so that a function of its history is found out.
        self.other = self._other_item()
        self.witness = Witness(self.function, self.item, direction, value)
        self.witness.elsewhere = [] if self.other is None else [self.other[1].item]
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
                    f"the model does not run on one {self.domain.item} alone ({_first_line(error)})"
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
        with _mode_of(self.roots, self.mode):
            for candidate in self.job.candidates(engine):
                found = self.job.run(candidate)
                if found is None:
                    continue
                finding = self._examine(candidate, found)
                if finding.complaint:
                    self.job.complaints[candidate] = finding.complaint
                    continue
                rows = self._other_rows(found.y)
                self._leave()
                self.job.tell(candidate, stacklevel=4)
                return self._accept(found, finding, rows, engine)
        raise self.job.refusal()

    def _accept(
        self, found: Pushforward, finding: Finding, rows: int, engine: str | None
    ) -> Pushforward:
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
            rows=rows,
            unchecked=tuple(unchecked),
            passed_over=next(iter(self.job.complaints.values()), ""),
        )
        if not finding.vacuous:
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
            weights, direction = _combination(self.action, self.x)
            return 0, self.x.detach(), weights, direction
        for number in range(len(self.x)):
            item = self.x[number : number + 1].detach()
            weights, direction = _combination(self.domain.rebind(self.action, item), item)
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
        y = [self._rows(v, self.number) for v in tree_flatten(found.y)[0]]
        K = len(self.action)
        jv = [
            torch.tensordot(
                self.weights.to(v.device), self._rows(v[:K], self.number, 1).double(), 1
            )
            for v in tree_flatten(found.jv)[0]
        ]
        exact = engine != ENGINES[-1]
        finding = self.witness.examine(y, jv, self._again(engine) if exact else None)
        if finding.primal is not None and finding.complaint and finding.derivative is None:
            self.witness.refuse_chance()
            self._refuse_mixing()
        return finding

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

    def _refuse_mixing(self) -> None:
        """Raise `ModelError` if an item's rows depend on the other items."""
        if len(self.x) == 1 or not self.separable:
            return
        together = self.function.leaves(self.x)
        gap = self.witness.primal_gap([self._rows(v, self.number) for v in together])
        if not self.witness.is_rounding(gap):
            raise ModelError(self._mixing(gap))

    def _mixing(self, gap: float) -> str:
        item = self.domain.item
        return (
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
        self._refuse_mixing()
        self._other_rows(together)
        self.witness.refuse_chance()

    def _other_item(self) -> tuple[int, Witness] | None:
        """One more item alone, if there is one."""
        if len(self.x) == 1 or not self.separable:
            return None
        other = len(self.x) - 1 if self.number < len(self.x) - 1 else 0
        item = self.x[other : other + 1].detach()
        return other, Witness(self.function, item, item, self.function(item))

    def _other_rows(self, y: Any) -> int:
        """Compare the other item alone with its rows; the number of items compared."""
        if self.other is None:
            return 1 if len(self.x) == 1 else 0
        number, alone = self.other
        gap = alone.primal_gap([self._rows(v, number) for v in tree_flatten(y)[0]])
        if not alone.is_rounding(gap):
            alone.refuse_chance()
            raise ModelError(self._mixing(gap))
        return 2
