"""Sound gradients where torch's own are not.

torch 2.15's CPU kernel for the gradient of batch norm in eval mode returns wrong numbers when the
gradient's memory format differs from the input's (a channels-last gradient of a contiguous map, as
transposes and means over tokens produce; relative error about 1.4, silently). Within
`gradient_rules()` batch norm in eval mode is differentiated as the affine map that it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from liederiv.forward_mode.tangent_rules import frozen_batch_norm

__all__ = ["gradient_rules"]


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
