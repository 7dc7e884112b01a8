"""Is this model fit to be measured? Preconditions before a run, and an independent derivative."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from liederiv.actions import Action
from liederiv.differentiation import ForwardModeWarning, verified_pushforward
from liederiv.differentiation.calls import PlainFunction
from liederiv.differentiation.engines import RECOVERABLE
from liederiv.differentiation.models import (
    ModePolicy,
    kept_randomness,
    kept_weights,
    plain_model,
    watched,
)
from liederiv.domains import domain_of
from liederiv.errors import LieDerivError, ModelError
from liederiv.names import OUTPUT_TYPES

__all__ = [
    "DerivativeCheck",
    "check_derivative",
    "check_placement",
    "check_type",
    "preflight",
]


def check_type(output_type: str) -> None:
    """Refuse what is no output type.

    Raises:
        LieDerivError: with those that there are.
    """
    if output_type not in OUTPUT_TYPES:
        raise LieDerivError(
            f"output_type={output_type!r} is unknown; choose from {', '.join(OUTPUT_TYPES)}."
        )


def preflight(
    f: Callable[[Any], Any], x: Any, *, tolerance: float = 1e-3, mode: ModePolicy = "refuse"
) -> Any:
    """Check that f can be measured at x: mode, device, dtype, determinism.

    The modules are found behind functions too. Gradients are on, as models that differentiate
    inside need them, and what two passes leave in the modules is put back.

    Args:
        f: model or function.
        x: images [B, C, H, W] or point clouds; two forward passes are made on the first one.
        tolerance: largest relative difference between two passes that rounding may explain.
        mode: what to do about modules in training mode.

    Returns:
        f(x[:1]), detached.

    Raises:
        ModelError: naming what is wrong and what to do about it.
    """
    domain = domain_of(x)
    domain.check(x, f"{domain.item}s")
    f = plain_model(f)
    if isinstance(f, nn.Module):
        check_placement(f, x, domain.item)
    one = x[:1].detach()
    with kept_randomness(x):
        first, second = (_once(f, one, mode, x.detach()) for _ in range(2))
    for a, b in zip(tree_flatten(first)[0], tree_flatten(second)[0], strict=True):
        if isinstance(a, Tensor) and a.layout != torch.strided:
            raise ModelError(f"the model's output is a {a.layout} tensor; return out.to_dense().")
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


def _once(f: Callable[[Any], Any], x: Any, mode: ModePolicy, batch: Any) -> Any:
    """F at one item; what it leaves in the modules is put back."""
    with kept_weights(f), watched(f, mode):
        plain = PlainFunction(f, ())
        try:
            return plain.anything(x)
        except RECOVERABLE as error:
            if len(batch) == 1:
                raise
            plain.anything(batch)  # an error of the model itself surfaces as such
            item = domain_of(x).item
            raise ModelError(
                f"the model does not run on one {item} alone ({str(error)[:160]}), so nobody can "
                "tell whether its rows depend on each other; let it take any number."
            ) from error


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


@dataclass(frozen=True)
class DerivativeCheck:
    """Agreement of a model's derivatives with central differences.

    Attributes:
        errors: relative error ‖J v − Δf/2h‖/‖J v‖ per generator name; NaN where it could not be
            found.
        engine: which engine differentiated.
        precision: of the differences, ``float64`` or ``float32``.
        passed_over: why engines in front of this one were not used; else empty.
    """

    errors: dict[str, float]
    engine: str
    precision: str
    passed_over: str = ""

    @property
    def worst(self) -> float:
        """The largest relative error."""
        return max(self.errors.values())


def check_derivative(f: Callable[[Any], Any], x: Any, action: Action) -> DerivativeCheck:
    """Let the witness compare J_f(x)·(X x) with central differences, generator by generator.

    Args:
        f: the model.
        x: one image [1, C, H, W] or point cloud.
        action: the generators, bound to x.

    Raises:
        LieDerivError: if no engine has the derivative of what f computes.
    """
    errors, engines, precision, passed_over = {}, [], "", ""
    for k, g in enumerate(action.generators):
        one = action.take(slice(k, k + 1))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ForwardModeWarning)
            found = verified_pushforward(f, x, one.tangents(x), one).verification
        errors[g.name] = float("nan") if found.derivative is None else found.derivative
        engines.append(found.engine)
        precision = found.precision or precision
        passed_over = passed_over or found.passed_over
    return DerivativeCheck(errors, ", ".join(dict.fromkeys(engines)), precision, passed_over)
