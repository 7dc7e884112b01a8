r"""A witness for attribution: the violations of some modules, computed directly.

Contributions are read off inner products that telescope: they add up to L f whatever ℓ is, so
their sum says nothing about the single ones. Here δ_M = J_M G_z z − G_y M(z) of a module *alone*,
run again on what entered it, is differentiated forwards and contracted with the gradients g_y at
its outputs. Along random combinations of generators (ε) and of probes (ξ),

    Σ_kp ε_k ξ_p ⟨u_p, c_M,k⟩  =  ⟨g_y, Σ_k ε_k δ_M,k⟩

with g_y the gradient of Σ_p ξ_p ⟨u_p, out⟩. So one local derivative with one tangent, and one
backward pass in all, test a module for all generators and probes. G z is computed by code of its
own, see `direct_action`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from liederiv.actions import Action
from liederiv.differentiation import pushforward
from liederiv.errors import LieDerivError, ModelError

from .capture import Plan, Recording, Replay, same
from .direct_action import direct_action
from .layouts import Layout
from .results import Witness

__all__ = ["Statement", "Telescoped", "refuse_contradictions", "summary", "testify"]

Replays = Callable[[Sequence[int]], dict[int, Replay]]

TOLERANCE = 1e-3  # largest disagreement, in units of the contribution
_LARGEST = 8  # modules that are always checked
_RANDOM = 8  # others
_SMALL = 1e-2  # contributions below this share of the largest one count as that large
_ROUNDINGS = 8  # how many times the rounding of one inner product may explain


@dataclass(frozen=True)
class Statement:
    """What the witness says about one call.

    Attributes:
        call: its number.
        telescoped: what the attribution gives along the random combination.
        direct: what the local derivative gives; NaN if it could not be taken.
        disagreement: |telescoped − direct|, relative to the contribution's size.
        rounding: what rounding may explain of it.
        reason: why it could not be checked; empty if it was.
    """

    call: int
    telescoped: float
    direct: float
    disagreement: float
    rounding: float
    reason: str = ""

    @property
    def contradicts(self) -> bool:
        """Whether the two disagree, whatever the reason."""
        return self.disagreement > TOLERANCE

    @property
    def rounded(self) -> bool:
        """Whether rounding may explain the disagreement."""
        return self.disagreement <= self.rounding


@dataclass(frozen=True)
class Telescoped:
    """What there is to be checked, for one image or cloud.

    Attributes:
        plan: the calls.
        measured: numbers of the calls.
        inner: ⟨u, c⟩, float64 [E, K, P]; the whole model first.
        lies: ℓ(z) per slot, [K, n].
        recording: the backward graph from which the inner products came.
        probes: [P, D].
    """

    plan: Plan
    measured: Sequence[int]
    inner: Tensor
    lies: dict[int, Tensor]
    recording: Recording
    probes: Tensor


def testify(
    found: Telescoped, action: Action, speeds: Tensor, replay: Replays, seed: int
) -> list[Statement]:
    """Check the largest contributions and some others at random.

    Args:
        found: by the attribution.
        action: the K generators, bound to the input.
        speeds: ‖X_k x‖ [K]; all generators count alike.
        replay: runs the network and keeps single calls.
        seed: of the random choices.
    """
    random = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (len(action),), generator=random).double() * 2 - 1
    epsilon = torch.where(speeds > 0, signs / speeds.clamp_min(1e-300), torch.zeros(()))
    xi = torch.randn(len(found.probes), dtype=torch.float64, generator=random)
    inner = found.inner.cpu() * epsilon[:, None] * xi
    sizes = inner.square().sum((1, 2)).sqrt()
    calls = _choose(found.measured, sizes, random)
    gradients = _gradients(found, xi, calls)
    smallest = _SMALL * float(sizes[[0, *found.measured]].max())
    kept = replay(calls)
    return [
        _check(found, action, epsilon, kept[i], gradients[i], inner[i], smallest) for i in calls
    ]


def _choose(measured: Sequence[int], sizes: Tensor, random: torch.Generator) -> list[int]:
    ranked = sorted(measured, key=lambda i: -float(sizes[i]))
    rest = ranked[_LARGEST:]
    drawn = torch.randperm(len(rest), generator=random)[:_RANDOM].tolist()
    return sorted([*ranked[:_LARGEST], *(rest[j] for j in drawn)])


_Gradients = dict[tuple[int, int], Tensor]  # by slot and sign


def _gradients(found: Telescoped, xi: Tensor, calls: Sequence[int]) -> dict[int, _Gradients]:
    """At all edges of some calls, of the random combination of the probes."""
    edges = [e for e in found.recording.edges if e.call in set(calls)]
    out = found.recording.out
    u = (xi.to(found.probes.device) @ found.probes.double()).to(out)
    grads = torch.autograd.grad(
        out, [e.edge for e in edges], u, retain_graph=True, allow_unused=True
    )
    by_call: dict[int, _Gradients] = {i: {} for i in calls}
    for edge, g in zip(edges, grads, strict=True):
        if g is not None:
            here, key = by_call[edge.call], (edge.slot, edge.sign)
            here[key] = here[key] + g if key in here else g
    return by_call


def _check(
    found: Telescoped,
    action: Action,
    epsilon: Tensor,
    replay: Replay,
    gradients: _Gradients,
    inner: Tensor,
    smallest: float,
) -> Statement:
    """One call.

    Args:
        found: by the attribution.
        action: the K generators.
        epsilon: their weights [K].
        replay: the call.
        gradients: at its edges.
        inner: its weighted inner products [K, P].
        smallest: size of a contribution that matters.
    """
    number, telescoped = found.plan.calls.index(replay.call), float(inner.sum())
    layouts = found.plan.layouts
    before = [
        _move(layouts[slot], action, z, epsilon)
        for slot, z in zip(replay.slots, replay.inputs, strict=True)
    ]
    try:
        y, jv = _derivative(replay, before)
    except _FAILURES as error:
        reason = f"alone it fails ({type(error).__name__}: {str(error).splitlines()[:1]})"
        return Statement(number, telescoped, float("nan"), 0.0, 0.0, reason)
    if not same(replay.results, y):
        reason = "alone it computes something else"
        return Statement(number, telescoped, float("nan"), 0.0, 0.0, reason)
    direct, noise = 0.0, 0.0

    def size(slot: int) -> float:  # of Σ_k ε_k ℓ_k
        return float((epsilon.to(found.lies[slot]) @ found.lies[slot]).norm())

    slots = [slot for _, slot in replay.call.outputs]
    found_at = dict(zip(slots, zip(y, jv, strict=True), strict=True))  # a tensor may return twice
    for slot, (value, pushed) in found_at.items():
        after = _move(layouts[slot], action, value, epsilon)
        g = gradients.get((slot, 1))
        if g is not None:
            delta = pushed.double() - after.double()
            direct += float((g.double() * delta).sum())
            noise += float(g.norm()) * float(pushed.norm() + 2 * after.norm() + size(slot))
    for slot, moved in zip(replay.slots, before, strict=True):
        if (slot, -1) in gradients:
            noise += float(gradients[slot, -1].norm()) * float(moved.norm() + size(slot))
    scale = max(float(inner.norm()), abs(direct), smallest) or 1.0
    eps = _ROUNDINGS * torch.finfo(y[0].dtype).eps
    return Statement(
        number, telescoped, direct, abs(telescoped - direct) / scale, eps * noise / scale
    )


_FAILURES = (
    *(LieDerivError, RuntimeError, TypeError, ValueError, AttributeError),
    *(LookupError, AssertionError),
)


def _move(layout: Layout | None, action: Action, z: Tensor, weights: Tensor) -> Tensor:
    assert layout is not None
    return direct_action(layout, action, z, weights).to(z.dtype)


def _derivative(replay: Replay, tangents: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """The module's outputs and their derivative along one tangent of its inputs."""
    stacked = [v[None] for v in tangents]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a slower engine is no news here
        try:  # plain formulas first: one tangent needs no others
            y, jv, _ = pushforward(replay, replay.inputs, stacked, engine="loop")
        except LieDerivError:
            y, jv, _ = pushforward(replay, replay.inputs, stacked)
    return y, [v[0] for v in jv]


def refuse_contradictions(plan: Plan, statements: Sequence[Statement]) -> None:
    """Raise `ModelError` if the witness says that a contribution is wrong."""
    wrong = [s for s in statements if s.contradicts and not s.rounded]
    if wrong:
        worst = max(wrong, key=lambda s: s.disagreement)
        path = plan.calls[worst.call].path
        raise ModelError(
            f"the contribution of module {path!r} is {worst.telescoped:.4g} by the gradients "
            f"around it, but {worst.direct:.4g} by the derivative of the module alone (along a "
            f"random direction; {len(wrong)} of {len(statements)} modules disagree): its forward "
            "shares memory or state with other modules, or rounds (then pass the model and the "
            "input in float64); let it return new tensors, or leave it out with "
            f"modules=lambda path, module: path != {path!r}."
        )


def summary(plan: Plan, measured: Sequence[int], statements: Sequence[Statement]) -> Witness:
    """What goes into the result."""
    names = {s.call: plan.calls[s.call].path for s in statements}
    checked = [s for s in statements if not s.reason]
    worst = max(checked, key=lambda s: s.disagreement, default=None)
    return Witness(
        checked=len({s.call for s in checked}),
        measured=len(measured),
        disagreement=float("nan") if worst is None else worst.disagreement,
        module="" if worst is None else names[worst.call],
        unchecked=tuple((names[s.call], s.reason) for s in statements if s.reason),
    )
