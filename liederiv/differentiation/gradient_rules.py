"""Sound gradients where torch's own are not.

torch 2.15's CPU kernel for the gradient of batch norm in eval mode returns wrong numbers when the
gradient's memory format differs from the input's (a channels-last gradient of a contiguous map, as
transposes and means over tokens produce; relative error about 1.4, silently). Within
`gradient_rules()` batch norm in eval mode is differentiated as the affine map that it is.

The gradient of a forward-mode derivative through layer norm, instance norm and batch norm by batch
statistics is wrong too (by 50 to 80 %, silently: their formulas take mean and deviation for
constants). Within `elementary_norms()` these are written out in operations that torch
differentiates rightly any number of times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from liederiv.differentiation.tangent_rules import frozen_batch_norm

__all__ = ["elementary_norms", "gradient_rules"]


class _FrozenBatchNorm(torch.autograd.Function):
    """y = (x − mean)·w/√(var + eps) + b per channel; differentiated in x only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mean: Tensor, var: Tensor, w: Any, b: Any, eps: float) -> Any:
        scale = (var + eps).rsqrt() if w is None else w * (var + eps).rsqrt()
        ctx.save_for_backward(scale.view(-1, *[1] * (x.ndim - 2)))
        return F.batch_norm(x, mean, var, w, b, False, 0.0, eps)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (scale,) = ctx.saved_tensors
        return g * scale, None, None, None, None, None


class _GradientRules(TorchFunctionMode):
    """Route batch norms in eval mode to the rule; all others pass."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is F.batch_norm:
            found = frozen_batch_norm(args, kwargs)
            learns = any(isinstance(v, Tensor) and v.requires_grad for v in (found or ())[3:5])
            if found is not None and not learns:
                return _FrozenBatchNorm.apply(*found)
        return func(*args, **kwargs)


@contextmanager
def gradient_rules() -> Iterator[None]:
    """Use the sound formulas inside; for models whose weights need no gradient."""
    with _GradientRules():
        yield


class _ElementaryNorms(TorchFunctionMode):
    """Route normalisations by statistics of their own input to elementary operations."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        written_out = _WRITTEN_OUT.get(func)
        found = None if written_out is None else written_out(*args, **kwargs)
        return func(*args, **kwargs) if found is None else found


def _standardised(x: Tensor, axes: list[int], eps: float) -> Tensor:
    centred = x - x.mean(axes, keepdim=True)
    return centred * (centred.square().mean(axes, keepdim=True) + eps).rsqrt()


def _affine(x: Tensor, w: Any, b: Any) -> Tensor:
    """X w + b with one weight and bias per channel, the second axis."""
    shape = (-1, *[1] * (x.ndim - 2))
    x = x if w is None else x * w.view(shape)
    return x if b is None else x + b.view(shape)


def _layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
) -> Tensor:
    x = _standardised(input, [*range(-len(normalized_shape), 0)], eps)
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _instance_norm(
    input: Tensor,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor | None:
    if not use_input_stats or running_mean is not None:
        return None
    return _affine(_standardised(input, [*range(2, input.ndim)], eps), weight, bias)


def _batch_norm(
    input: Tensor,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor | None:
    if not training or running_mean is not None:
        return None
    axes = [0, *range(2, input.ndim)]
    return _affine(_standardised(input, axes, eps), weight, bias)


_WRITTEN_OUT: dict[Any, Callable[..., Tensor | None]] = {
    F.layer_norm: _layer_norm,
    F.instance_norm: _instance_norm,
    F.batch_norm: _batch_norm,
}


@contextmanager
def elementary_norms() -> Iterator[None]:
    """Use what can be differentiated twice inside."""
    with _ElementaryNorms():
        yield
