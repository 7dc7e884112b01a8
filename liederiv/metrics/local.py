"""The Lie derivative of one batch, and what the output does along directions to compare with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from liederiv.actions import Action
from liederiv.base_representation import (
    Representation,
    class_axis,
    lie_value,
    softmax_pushforward,
)
from liederiv.differentiation import Verification, sound_numerics, verified_pushforward
from liederiv.differentiation.models import ModePolicy
from liederiv.domains import Comparisons, Domain, domain_of
from liederiv.errors import ModelError
from liederiv.representations import OutputSpec, Resolved, hints_of
from liederiv.resolution import resolve_output

__all__ = [
    "NOT_ONE_TENSOR",
    "Linearised",
    "LocalBatch",
    "as_output",
    "assumed_classes",
    "is_classifier",
    "linearise",
]

NOT_ONE_TENSOR = (
    "the model returns a {kind}, not one tensor; wrap it so that it returns the tensor to be "
    "measured, e.g. lambda x: model(x)['out']."
)


@dataclass(frozen=True)
class Linearised:
    """What one call of the engine says about one batch.

    Attributes:
        y: f(x).
        jv: J_f(x)·(X x) for the K generators, [K, *y.shape].
        others: the comparison directions, if asked for.
        others_jv: J_f(x)·v along those, [M, *y.shape]; empty without.
        resolved: how the group acts on y.
        verification: which engine differentiated, and how that was verified.
        errors: of finite differences: root mean square error per entry of J_f(x)·(X x), float64
            [K]; None for engines that are exact to rounding.
    """

    y: Tensor
    jv: Tensor
    others: Comparisons | None
    others_jv: Tensor
    resolved: Resolved
    verification: Verification
    errors: Tensor | None = None


def linearise(
    f: Callable[[Any], Tensor],
    x: Any,
    action: Action,
    *,
    output: OutputSpec = "auto",
    relative: bool = True,
    directions: int = 2,
    seeds: Sequence[int] = (),
    chunk_size: int | None = None,
    engine: str | None = None,
    verify: bool = True,
    mode: ModePolicy = "compare",
) -> Linearised:
    """Pushforwards along the generators and the comparison directions, in one call of the engine.

    Args:
        f: the model; one output tensor.
        x: images [B, C, H, W] or B point clouds.
        action: K generators, bound to x.
        output: representation of the output.
        relative: whether to add the comparison directions.
        directions: number of noise directions per image or cloud.
        seeds: one per image or cloud, for the noise.
        chunk_size: tangents per forward-mode pass.
        engine: see `liederiv.differentiation`.
        verify: see `liederiv.differentiation.verified_pushforward`.
        mode: see there.

    Raises:
        ModelError: if the output is not one tensor.
        UnknownLayoutError: if it is not known how the group acts on it.
    """
    K, domain = len(action), domain_of(x)
    with sound_numerics():
        tangents = moved = action.tangents(x)
        others = None
        if relative:
            others = domain.comparisons(x, tangents, action, directions, seeds)
            moved = tree_map(lambda *parts: torch.cat(parts), tangents, others.tangents)
        pushed = verified_pushforward(
            f,
            x,
            moved,
            action,
            chunk_size=chunk_size,
            engine=engine,
            verify=verify,
            mode=mode,
        )
    y, jv = pushed.y, pushed.jv
    if not isinstance(y, Tensor):
        raise ModelError(NOT_ONE_TENSOR.format(kind=type(y).__name__))
    resolved = resolve_output(f, x, output, y, action)
    errors = None if pushed.errors is None else pushed.errors[:K]
    return Linearised(y, jv[:K], others, jv[K:], resolved, pushed.verification, errors)


def as_output(kind: str, rho: Representation, y: Tensor, jv: Tensor) -> tuple[Tensor, Tensor]:
    """The output and its pushforwards for an output type: after the softmax for ``probs``."""
    return softmax_pushforward(y, jv, class_axis(y, rho)) if kind == "probs" else (y, jv)


@dataclass(frozen=True)
class LocalBatch:
    """What one batch says for one output type.

    Attributes:
        y: f(x), after the softmax for probabilities.
        lie: L_X f(x), float64 [K, *y.shape].
        compared: mean squared responses ‖J v‖²/dim along other directions by name, and ``moves``,
            see `liederiv.domains.Comparisons`; those that make no sense on this kind of input, or
            were not asked for, are missing.
        means: over the entries of y that belong to each item, [M, *y.shape] → float64 [M, B].
    """

    y: Tensor
    lie: Tensor
    compared: Mapping[str, Tensor]
    means: Callable[[Tensor], Tensor]

    @cached_property
    def squared(self) -> Tensor:
        """‖L_X f‖²/dim per generator and item, float64 [K, B], on the CPU."""
        return self.means(self.lie.square()).cpu()

    @classmethod
    def of(cls, lin: Linearised, x: Any, action: Action, kind: str = "output") -> LocalBatch:
        """From the pushforwards of one batch.

        Args:
            lin: what `linearise` returned.
            x: the batch.
            action: K generators, bound to x.
            kind: ``probs`` (softmax over the class axis), ``logits``, ``features``, ``output``; all
                but the first are the model's output as it is.
        """
        rho = lin.resolved.representation
        means = partial(domain_of(x).means, action=action, representation=rho)
        y, jv = as_output(kind, rho, lin.y, lin.jv)
        lie = lie_value(rho, action, y, jv).double()
        compared: dict[str, Tensor] = {}
        if lin.others is not None:
            _, other = as_output(kind, rho, lin.y, lin.others_jv)
            compared = lin.others.read(means(other.double().square()))
        return cls(y, lie, {name: v.cpu() for name, v in compared.items()}, means)


def is_classifier(domain: Domain, y: Any, model: object = None) -> bool:
    """Whether an output is taken for scores of classes where nobody says what it is.

    Args:
        domain: kind of input.
        y: output for one item.
        model: whose output it is; one that declares no classes (``num_classes`` = 0) has none.
    """
    if not (domain.probabilities and isinstance(y, Tensor) and y.ndim == 2 and y.shape[1] > 1):
        return False
    return hints_of(model).classes != 0


def assumed_classes(model: object, y: Tensor) -> str:
    """What to say of an output [B, n] that is taken for scores of classes; empty if it is declared.

    Args:
        model: may declare its number of classes by an attribute ``num_classes``.
        y: its output.
    """
    if hints_of(model).classes == y.shape[1]:
        return ""
    return (
        f"the output [B, {y.shape[1]}] was taken for scores of {y.shape[1]} classes, since the "
        "model does not declare what it is (num_classes); if it is something else, pass "
        "output_type='output'"
    )
