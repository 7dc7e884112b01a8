"""Is the gradient of a derivative right? What a loss made of J v needs of torch, checked once.

Reverse mode through forward mode takes formulas of formulas; where one of them is wrong, the loss
is right and training goes elsewhere. So the gradient in the weights of ⟨r, J v⟩, r random, is
compared with its central difference along a random direction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from liederiv.differentiation.calls import PlainFunction
from liederiv.differentiation.engines import RECOVERABLE
from liederiv.errors import NotDifferentiableError

__all__ = ["Product", "check_gradient"]

Product = Callable[[Callable[[Any], Any], Any, Any], tuple[Any, Any]]
"""``(f, x, v) -> f(x), J_f(x)·v``, with their graphs."""

# Relative changes of the weights, in float64. J v of a network with kinks jumps where a weight
# moves a unit across one; small steps cross few, and a wrong gradient fits none of them.
_STEPS = (1e-8, 1e-10, 1e-6)
_TOLERANCE = 1e-2  # wrong formulas are off by tens of per cent (docs/method.md: 50 to 80 %)


def check_gradient(function: PlainFunction, x: Any, v: Any, product: Product) -> str:
    """Compare the gradient of ⟨r, J v⟩ with differences in the weights.

    Args:
        function: the model, with the modules behind it.
        x: input, in the model's precision.
        v: tangent, likewise.
        product: see `Product`.

    Returns:
        why it could not be checked; empty if it was.

    Raises:
        NotDifferentiableError: if the gradient cannot be taken, or is another one.
    """
    if not function.runs_wide(x):
        return f"the gradient (the model does not run in float64: {function.why_single})"
    x, v = x.double(), tree_map(Tensor.double, v)
    with function.double() as f:
        weights = [p for r in function.roots for p in r.parameters() if p.requires_grad]
        if not weights:
            return "the gradient (no weight is trained)"
        source = torch.Generator().manual_seed(0)
        moves = [_move(p, source) for p in weights]
        value = _along(product(f, x, v)[1])
        if not value.requires_grad:
            return "the gradient (none reaches the weights)"
        try:
            gradients = torch.autograd.grad(
                value, weights, allow_unused=True, materialize_grads=True
            )
        except RECOVERABLE as error:
            raise NotDifferentiableError(
                "the gradient of the model's derivative cannot be taken "
                f"({str(error).splitlines()[0][:160]}); use method='finite'."
            ) from error
        errors = [
            _error(gradients, moves, _difference(f, x, v, product, weights, moves, step))
            for step in _STEPS[:1]
        ]
        for step in _STEPS[1:]:
            if min(errors) <= _TOLERANCE:
                break
            found = _difference(f, x, v, product, weights, moves, step)
            errors.append(_error(gradients, moves, found))
    if min(errors) <= _TOLERANCE:
        return ""
    raise NotDifferentiableError(
        f"the gradient that torch makes of the model's derivative is off by {min(errors):.0%}; use "
        "method='finite', or write the operation at fault in elementary ones."
    )


def _error(gradients: tuple[Tensor, ...], moves: list[Tensor], difference: float) -> float:
    """Of the slope along the moves, relative to what it is along usual ones."""
    terms = [(g.conj() * m).real for g, m in zip(gradients, moves, strict=True)]
    slope = sum(float(t.sum()) for t in terms)
    typical = sum(float(t.square().sum()) for t in terms) ** 0.5
    size = max(abs(slope), abs(difference), typical)
    return abs(slope - difference) / size if size else 0.0


def _along(jv: Any) -> Tensor:
    """⟨r, J v⟩ over all tensors of the output, the same r each time."""
    source = torch.Generator().manual_seed(1)
    first, *rest = [
        (w * torch.randn(w.shape, dtype=torch.float64, generator=source).to(w)).sum()
        for w in tree_flatten(jv)[0]
    ]
    return sum(rest, first)


def _move(p: nn.Parameter, source: torch.Generator) -> Tensor:
    """A random change of a weight of its own size."""
    noise = torch.randn(p.shape, dtype=torch.float64, generator=source).to(p)
    scale = p.detach().abs().square().mean().sqrt()
    return noise * torch.where(scale > 0, scale, torch.ones_like(scale))


def _difference(
    f: Callable[[Any], Any],
    x: Any,
    v: Any,
    product: Product,
    weights: list[nn.Parameter],
    moves: list[Tensor],
    h: float,
) -> float:
    kept = [p.detach().clone() for p in weights]
    ends = []
    try:
        for sign in (1, -1):
            with torch.no_grad():
                for p, value, move in zip(weights, kept, moves, strict=True):
                    p.copy_(value + sign * h * move)
            ends.append(float(_along(product(f, x, v)[1]).detach()))
    finally:
        with torch.no_grad():
            for p, value in zip(weights, kept, strict=True):
                p.copy_(value)
    return (ends[0] - ends[1]) / (2 * h)
