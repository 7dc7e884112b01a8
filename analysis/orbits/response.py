r"""What a model answers along the orbit of an input, u(t) = ρ_t⁻¹ f(T_t x), and its derivative.

u stays where it is for an equivariant f. T_t = exp(Σ_k t_k X_k) is the finite transform of the
input's kind, ρ_t that of the output. The derivative is that of this very curve,

    ∂_k u(t) = ρ_t⁻¹ J_f(T_t x) · ∂_k(T_t x) + ∂_k(ρ_t⁻¹) f(T_t x),

which is the Lie derivative L f(x) at t = 0. Elsewhere ∂_k(T_t x) is not X_k of the moved image: an
image is interpolated once, from x, and what its border brings in moves on. So it is taken from T
itself, by central differences in float64 (no network is in them); J_f goes through the witness.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from liederiv.actions import Action
from liederiv.base_representation import class_axis
from liederiv.derivatives import Scheme
from liederiv.differentiation import (
    Pushforward,
    Verification,
    sound_numerics,
    verified_pushforward,
)
from liederiv.differentiation.calls import within_rounding
from liederiv.domains import Domain, domain_of
from liederiv.errors import ModelError, NotDifferentiableError
from liederiv.generators import Generator
from liederiv.metrics.finite import act_finite, evaluate, valid
from liederiv.metrics.local import as_output
from liederiv.representations import Representation

__all__ = ["Linear", "Response"]

_STEP = 1e-5  # of a usual range, for differences of T in float64: errors of 1e-8 relative


@dataclass(frozen=True)
class Linear:
    """A point of the orbit and how the answer moves on from there.

    Attributes:
        u: ρ_t⁻¹ f(T_t x), float64, like the output.
        du: ∂_k u, float64 [K, *u.shape], per unit of t_k.
        errors: root mean square error per entry of du where J was a difference, float64 [K].
        verification: of J.
    """

    u: Tensor
    du: Tensor
    errors: Tensor
    verification: Verification


class Response:
    """u(t) on one batch.

    Args:
        f: the model; one output tensor.
        x: images or clouds.
        rho: how the group acts on f(x).
        kind: ``probs`` (softmax over the axis of classes), or the output as it is.
        scales: a usual range of each generator's t, by name; differences of T take a small part.
    """

    def __init__(
        self,
        f: Callable[[Any], Tensor],
        x: Any,
        rho: Representation,
        kind: str,
        scales: dict[str, float],
    ) -> None:
        self.f, self.x, self.rho, self.kind = f, x.detach(), rho, kind
        self.domain: Domain = domain_of(x)
        self.scales = scales

    def __len__(self) -> int:
        return len(self.x)

    def at(self, action: Action, t: Tensor) -> Tensor:
        """u(t) by one forward pass, float64.

        Args:
            action: K generators bound to x.
            t: [1, K] or [B, K], in their units.
        """
        y = evaluate(self.f, self.domain.transform(action, t).on_input(self.x))
        return self._back(action, t, self._checked(self.read(y), t))

    @cached_property
    def origin(self) -> Tensor:
        """u(0) = f(x), float64."""
        y = self.read(evaluate(self.f, self.x))
        return self._checked(y, torch.zeros(1, 1))

    def floor(self, mask: Tensor | None = None) -> Tensor:
        """What rounding alone changes in f(x): root mean square per item, float64 [B]."""
        moved = self.read(evaluate(self.f, within_rounding(self.x, 0)))
        eps = torch.finfo(self.x.dtype).eps
        return self.size(moved - self.origin, mask) + 2 * eps * self.size(self.origin, mask)

    def verify(self, generators: Sequence[Generator], scheme: str | Scheme) -> Verification:
        """Let the witness judge the derivative here, along more than what will be followed.

        Along a symmetry that the network has, nothing moves and nothing is seen; so all generators
        of the kind of input take part. What is found is remembered for the points of the orbits.

        Args:
            generators: to be followed.
            scheme: interpolation scheme.
        """
        return self._pushed(self.x, self._every(generators, self.x, scheme)).verification

    def linear(self, action: Action, t: Tensor) -> Linear:
        """u(t) and its derivatives along all generators; arguments as for `at`."""
        K = len(action)
        moved = self.domain.transform(action, t).on_input(self.x)
        with sound_numerics():
            own = self._tangents(action, t)
        try:
            pushed = self._pushed(moved, self.domain.rebind(action, moved), own)
        except NotDifferentiableError:
            # Along a symmetry that the network has, rounding alone is seen, and looks like jumps.
            scheme = getattr(action, "scheme", "bspline")
            pushed = self._pushed(moved, self._every(action.generators, moved, scheme), own)
        if not isinstance(pushed.y, Tensor):
            raise ModelError(f"the model returns a {type(pushed.y).__name__}, not one tensor.")
        y, jv = as_output(self.kind, self.rho, pushed.y.double(), pushed.jv[-K:].double())
        u = self._back(action, t, self._checked(y, t))
        zero = self._back(action, t, torch.zeros_like(y))
        steps = self._steps(action)
        du = [
            self._back(action, t, jv[k]) - zero
            + self._slope(lambda s: self._back(action, s, y), t, k, steps[k])
            for k in range(K)
        ]  # fmt: skip
        errors = torch.zeros(K, dtype=torch.float64)
        if pushed.errors is not None:
            errors = pushed.errors[-K:].double().cpu()
        return Linear(u, torch.stack(du), errors, pushed.verification)

    def _every(self, generators: Sequence[Generator], x: Any, scheme: str | Scheme) -> Action:
        """These and all other generators of the kind of input, bound to x."""
        every = {g.name: g for g in generators}
        for name, g in self.domain.catalogue(x).generators.items():
            every.setdefault(name, g)
        return self.domain.bind(tuple(every.values()), x, scheme)

    def _pushed(self, x: Any, action: Action, own: Any = None) -> Pushforward:
        """J_f(x) along the generators and behind them along tangents of ours, verified."""
        with sound_numerics():
            # The witness compares along the action's own tangents, which come first.
            tangents = action.tangents(x)
            if own is not None:
                tangents = tree_map(lambda a, b: torch.cat([a, b.to(a)]), tangents, own)
            return verified_pushforward(
                self.f, x, tangents, action, chunk_size=self.domain.chunk_size(x)
            )

    def read(self, y: Tensor) -> Tensor:
        """The output in float64; probabilities after the softmax."""
        y = y.double()
        return y.softmax(class_axis(y, self.rho)) if self.kind == "probs" else y

    def kept_entries(self, action: Action, ts: Iterable[Tensor]) -> Tensor | None:
        """Entries of the output that come from inside the image at all these t; None means all.

        Raises:
            ModelError: if none is left for some item.
        """
        mask = None
        for t in ts:
            back = self.domain.transform(action, -t)
            here = valid(self.rho, back, self.origin)
            mask = here if mask is None else mask & here
        if mask is None or bool(mask.all()):
            return None
        mask = mask.expand_as(self.origin)
        if not (self._sums(mask) > 0).all():
            raise ModelError(
                "ranges: no place of the output map stays inside the image over the whole orbit of "
                f"{', '.join(g.name for g in action.generators)}; give a smaller range."
            )
        return mask

    def size(self, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """Root mean square per entry of what belongs to each item, float64 [B]."""
        return self.mean(v.square(), mask).sqrt()

    def mean(self, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mean over what belongs to each item, float64 [B].

        Args:
            v: rows as the output has them.
            mask: like v; what counts.
        """
        if mask is None:
            mask = torch.ones_like(v, dtype=torch.bool)
        return self._sums(v.masked_fill(~mask, 0)) / self._sums(mask)

    def inner(self, v: Tensor, w: Tensor, mask: Tensor | None = None) -> Tensor:
        """⟨v, w⟩ of each item, float64 [B]."""
        product = v * w
        return self._sums(product if mask is None else product.masked_fill(~mask, 0))

    def _sums(self, v: Tensor) -> Tensor:
        action = self.domain.bind((), self.x, "bspline")
        return self.domain.sums(v.double()[None], action, self.rho)[0].cpu()

    def _back(self, action: Action, t: Tensor, y: Tensor) -> Tensor:
        """ρ_t⁻¹ y; exp(−Σ t_k X_k) is the inverse of exp(Σ t_k X_k)."""
        return act_finite(self.rho, self.domain.transform(action, -t), y)

    def _tangents(self, action: Action, t: Tensor) -> Any:
        """∂_k(T_t x), float64, like x with a leading axis of K."""
        wide = self.x.double()
        steps = self._steps(action)
        parts = [
            self._slope(lambda s: self.domain.transform(action, s).on_input(wide), t, k, steps[k])
            for k in range(len(action))
        ]
        return tree_map(lambda *v: torch.stack(v), *parts)

    def _steps(self, action: Action) -> list[float]:
        return [_STEP * self.scales[g.name] for g in action.generators]

    @staticmethod
    def _slope(function: Callable[[Tensor], Any], t: Tensor, k: int, h: float) -> Any:
        step = torch.zeros_like(t)
        step[:, k] = h
        ahead, behind = function(t + step), function(t - step)
        return tree_map(lambda a, b: (a - b) / (2 * h), ahead, behind)

    def _checked(self, y: Tensor, t: Tensor) -> Tensor:
        if not y.isfinite().all():
            at: Sequence[float] = [round(v, 6) for v in t[0].tolist()]
            raise ModelError(
                f"the model's output is not finite (NaN or infinite) at t = {at} of the orbit; "
                "check its weights and the normalisation of its input, or give a smaller range."
            )
        return y
