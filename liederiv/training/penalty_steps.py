r"""The penalty at a step of finite size: S(h)/h² with its graph.

See `liederiv.metrics.structure_function`.

    S(h) = E ‖ρ_{h/2}⁻¹ f(T_{h/2} x) − ρ_{−h/2}⁻¹ f(T_{−h/2} x)‖² / dim

Divided by h², it tends to ‖L f‖²/dim as h → 0, and is in the same unit whatever h is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from liederiv.actions import Action
from liederiv.checks import preflight
from liederiv.differentiation import Verification, sound_numerics
from liederiv.differentiation.calls import norm
from liederiv.differentiation.differentiate import check_batch
from liederiv.differentiation.models import evaluated, kept_randomness
from liederiv.differentiation.verification import Known, recall, remember
from liederiv.domains import Domain
from liederiv.errors import LieDerivError
from liederiv.generators import Catalogue, Generator
from liederiv.steps import Step, Steps, plan_of, step_label

__all__ = ["check_moves", "check_passes", "step_sizes"]

_ROUNDINGS, _ROUNDINGS_OF_HALVES = 100.0, 30.0
"""By how many roundings a step must move the input at least; of half precision, where that many
would be more than the input, fewer, at the price of a few per cent."""


def step_sizes(
    step: Steps, generators: Sequence[Generator], catalogue: Catalogue | None = None
) -> tuple[Step, ...]:
    """One step for each generator, from ``"rotation=10deg"`` or a mapping like it.

    Transforms that are not named take 1 px, 1 degree, 1 %.

    Raises:
        LieDerivError: for what is no step, more than one for a transform, a wrong unit, or a
            transform that is not among the generators.

    Example:
        >>> from liederiv.generators import resolve_generators
        >>> generators = resolve_generators("translation_x,rotation")
        >>> [s.label for s in step_sizes("rotation=10deg", generators)]
        ['1px', '10deg']
    """
    try:
        plan = plan_of(generators, [()] * len(generators), step, catalogue)
    except LieDerivError as error:  # whose messages speak of steps=, which takes several
        said = re.sub(r"^steps\b", "step", str(error))
        said = said.replace("SIZE,SIZE", "SIZE").replace("0.5px,1px", "1px")
        raise LieDerivError(said) from None
    for g, steps in zip(generators, plan, strict=True):
        if len(steps) != 1:
            raise LieDerivError(
                f"step gives {g.name} {len(steps)} sizes ({', '.join(s.label for s in steps)}); a "
                "penalty takes one for each transform, so choose one, or add up two penalties."
            )
    return tuple(steps[0] for steps in plan)


def check_passes(model: nn.Module, x: Any, action: Action) -> None:
    """Whether the change from pass to pass is the motion's, once per model and size of input.

    Args:
        model: to be trained; examined in eval mode.
        x: the batch.
        action: the generators, bound to it.

    Raises:
        ModelError: for a stochastic model, or one whose rows depend on each other.
    """
    purpose = "passes"  # under which the outcome is remembered
    if recall(model, x, action, purpose) is None:
        with evaluated((model,)), sound_numerics(), kept_randomness(x):
            preflight(model, x)
            check_batch(model, x, action)
        remember(model, x, action, purpose, Known.of(Verification(purpose), (model,)))


def check_moves(domain: Domain, action: Action, step: Step, x: Any, moved: Any, y: Tensor) -> None:
    """Refuse a step whose effect rounding would hide.

    Args:
        domain: of x.
        action: one generator, bound to x.
        step: h.
        x: the input.
        moved: T_{h/2} x − T_{−h/2} x.
        y: the output, which may have less precision.

    Raises:
        LieDerivError: if x moves by hardly more than rounding makes of it.
    """
    size, dtype = norm(x), _coarsest(x, y)
    roundings = _ROUNDINGS if torch.finfo(dtype).bits >= 32 else _ROUNDINGS_OF_HALVES
    least = roundings * torch.finfo(dtype).eps * size
    gone = norm(moved)
    if gone >= least:
        return
    # What a unit of the parameter, a pixel or a radian, does not move either is blank.
    if norm(tree_map(lambda v: v[0], action.tangents(x))) > least:
        raise LieDerivError(
            f"step={step_label(action.generators[0].name, step)} moves the {domain.item}s by "
            f"{gone / size:.1g} of their norm, hardly more than rounding in {dtype}; take another "
            "step, more precision, or method='lie' without a step."
        )


def _coarsest(x: Any, y: Tensor) -> torch.dtype:
    """The dtype of the fewest digits among input and output."""
    seen = [v.dtype for v in (*tree_flatten(x)[0], y) if v.is_floating_point()]
    return max(seen, key=lambda dtype: torch.finfo(dtype).eps)
