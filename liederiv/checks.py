"""Is this model fit to be measured? Preconditions before a run, and an independent derivative."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from liederiv.actions import Action
from liederiv.domains import domain_of
from liederiv.errors import LieDerivError, ModelError, NotDifferentiableError
from liederiv.forward_mode import forward_mode, pushforward

__all__ = [
    "DerivativeCheck",
    "check_derivative",
    "check_placement",
    "difference_error",
    "double_copy",
    "preflight",
    "refuse_cut_derivative",
]

_STEPS = (1e-5, 1e-7)

F = TypeVar("F", bound=Callable[..., Any])


def preflight(f: Callable[[Any], Any], x: Any, *, tolerance: float = 1e-3) -> Any:
    """Check that f can be measured at x: mode, device, dtype, determinism, finite output.

    Args:
        f: model or function.
        x: images [B, C, H, W] or point clouds; two forward passes are made on the first one.
        tolerance: largest relative difference between two passes that rounding may explain.

    Returns:
        f(x[:1]).

    Raises:
        ModelError: naming what is wrong and what to do about it.
    """
    domain = domain_of(x)
    domain.check(x, f"{domain.item}s")
    if isinstance(f, nn.Module):
        _check_mode(f)
        check_placement(f, x, domain.item)
    one = x[:1]
    with torch.no_grad(), forward_mode():
        state = torch.get_rng_state()
        first = f(one.clone())
        second = f(one.clone())
        torch.set_rng_state(state)
    for a, b in zip(tree_flatten(first)[0], tree_flatten(second)[0], strict=True):
        if not isinstance(a, Tensor) or not a.is_floating_point() or not a.isfinite().all():
            continue  # what is wrong with these is said with the result
        gap = float((a - b).norm() / a.norm().clamp_min(1e-30))
        if gap > tolerance:
            raise ModelError(
                f"the model is stochastic: two passes over the same {domain.item} differ by "
                f"{gap:.1e} relative; switch off dropout, stochastic depth or sampling "
                "(model.eval() does, unless they are called with training=True)."
            )
    return first


def _check_mode(model: nn.Module) -> None:
    training = [name or "the model" for name, m in model.named_modules() if m.training]
    if training:
        raise ModelError(
            f"the model is in training mode ({len(training)} modules, first: {training[0]}); "
            "call model.eval() first, since batch norm and dropout differ in training."
        )


def check_placement(model: nn.Module, x: Any, item: str) -> None:
    """Raise `ModelError` unless a model is on the device and of the dtype of its inputs.

    Args:
        model: one without floating parameters fits everywhere.
        x: images or point clouds.
        item: what one of them is called.
    """
    parameter = next((p for p in model.parameters() if p.is_floating_point()), None)
    if parameter is None:
        return
    if parameter.device != x.device:
        raise ModelError(
            f"the model is on {parameter.device}, but the {item}s are on {x.device}; move one of "
            "them with .to(device)."
        )
    if parameter.dtype != x.dtype:
        raise ModelError(
            f"the model has dtype {parameter.dtype}, but the {item}s have {x.dtype}; convert one "
            f"of them: model.float() or {item}s.double()."
        )


def double_copy(f: F) -> F:
    """F in float64: a converted deep copy of a module, a plain function as it is."""
    return copy.deepcopy(f).double() if isinstance(f, nn.Module) else f


@dataclass(frozen=True)
class DerivativeCheck:
    """Agreement of forward-mode derivatives with central finite differences, in float64.

    Attributes:
        errors: relative error ‖J v − Δf/2h‖/‖J v‖ per generator name, at the best step and
            beyond what rounding explains.
        engine: which engine differentiated.
    """

    errors: dict[str, float]
    engine: str

    @property
    def worst(self) -> float:
        """The largest relative error."""
        return max(self.errors.values())


def check_derivative(
    f: Callable[[Any], Any],
    x: Any,
    action: Action,
    *,
    steps: Sequence[float] = _STEPS,
) -> DerivativeCheck:
    """Compare J_f(x)·(X x) with (f(x + h X x) − f(x − h X x)) / 2h in float64.

    Args:
        f: the model in float64 (see `double_copy`).
        x: float64 images [B, C, H, W] or point clouds.
        action: the generators, bound to x.
        steps: see `difference_error`.

    Raises:
        LieDerivError: if the output is not one tensor.
    """
    tangents = action.tangents(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        y, jv, engine = pushforward(f, x, tangents)
    if not isinstance(y, Tensor):
        raise LieDerivError("the model must return one tensor to be checked; wrap it.")
    errors = {
        g.name: difference_error(f, x, tree_map(lambda leaf, k=k: leaf[k], tangents), jv[k], steps)
        for k, g in enumerate(action.generators)
    }
    return DerivativeCheck(errors, engine)


def difference_error(
    f: Callable[[Any], Any], x: Any, v: Any, derivative: Tensor, steps: Sequence[float] = _STEPS
) -> float:
    """Relative error of a derivative J_f(x)·v against a central finite difference.

    Args:
        f: the model in float64.
        x: float64 images [B, C, H, W] or point clouds.
        v: a tangent of x.
        derivative: what is to be checked, like f(x).
        steps: sizes of h ‖v‖ relative to ‖x‖; the best counts. A large step crosses kinks of the
            network, a small one suffers from rounding; a wrong derivative fits none.
    """
    speed = _norm(v)
    if not speed:  # a flat image: nothing moves
        return math.inf if derivative.any() else 0.0
    unit = (_norm(x) or 1.0) / speed
    with torch.no_grad(), forward_mode():
        return min(_relative_error(f, x, v, derivative, step * unit) for step in steps)


def refuse_cut_derivative(error: float, generator: str) -> None:
    """Raise `NotDifferentiableError` if a derivative has nothing to do with the function.

    Args:
        error: of `check_derivative`.
        generator: along which it was found.
    """
    if error > 0.999:
        raise NotDifferentiableError(
            f"the model's derivative along {generator} disagrees entirely with a finite difference "
            f"(relative error {error:.2f}): a detach, no_grad or rounding inside the model "
            "cuts it; remove it, or measure sampled metrics instead."
        )


def _norm(x: Any) -> float:
    """Norm over all tensors of an input."""
    return math.sqrt(sum(float(v.double().square().sum()) for v in tree_flatten(x)[0]))


def _relative_error(f: Callable[[Any], Any], x: Any, v: Any, derivative: Tensor, h: float) -> float:
    """‖J v − Δf/2h‖ relative to the larger of the two, beyond what rounding of f explains."""
    up, down = (f(tree_map(lambda a, b, s=s: a + s * b, x, v)) for s in (h, -h))
    difference = (up - down) / (2 * h)
    rounding = 64 * torch.finfo(x.dtype).eps * up.norm() / h
    gap = ((derivative - difference).norm() - rounding).clamp_min(0)
    scale = torch.maximum(derivative.norm(), difference.norm())
    if not gap.isfinite():
        return math.inf
    return float(gap / scale) if gap > 0 else 0.0
