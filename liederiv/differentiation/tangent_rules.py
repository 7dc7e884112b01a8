r"""Leaner tangent formulas for the layers where networks spend their time.

Forward mode in torch treats every input of an operator as if it had a tangent: a convolution also
convolves with an all-zero tangent of its weight and adds that, an activation evaluates its slope
again for each of K tangents, normalisations go through half a dozen passes. Within
`tangent_rules()` the functions below use the formula of the case at hand instead: weights are
constant, slopes and statistics come from the primal once for all K tangents. The results are the
same to rounding (tested against the plain formulas), whatever has a tangent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["frozen_batch_norm", "tangent_rules"]


class _Bilinear(torch.autograd.Function):
    """y = op(x, w) + b for an operation that is linear in x and in w: convolution, linear."""

    generate_vmap_rule = True

    @staticmethod
    def forward(op: Callable[..., Tensor], x: Tensor, w: Tensor, b: Any, *settings: Any) -> Tensor:
        return op(x, w, b, *settings)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.op, x, w, _, *settings = inputs
        ctx.settings = settings
        ctx.set_materialize_grads(False)
        ctx.save_for_forward(x, w)

    @staticmethod
    def jvp(ctx: Any, _op: None, dx: Any, dw: Any, db: Any, *_: None) -> Tensor:
        x, w = ctx.saved_tensors
        parts = []
        if dx is not None:
            parts.append(ctx.op(dx, w, None, *ctx.settings))
        if dw is not None or db is not None:
            weight = torch.zeros_like(w) if dw is None else dw
            parts.append(ctx.op(x, weight, db, *ctx.settings))
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]


class _Pointwise(torch.autograd.Function):
    """y = σ(x) elementwise: the slope σ'(x) is computed once, from the primal."""

    generate_vmap_rule = True

    @staticmethod
    def forward(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return function(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.function, x = inputs
        ctx.save_for_forward(x)

    @staticmethod
    def jvp(ctx: Any, _function: None, dx: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        slope = torch.func.jvp(ctx.function, (x,), (torch.ones_like(x),))[1]
        return dx * slope


class _BatchNorm(torch.autograd.Function):
    """Batch norm with given statistics: affine in x per channel; the rest may depend on x too."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, mean: Tensor, var: Tensor, w: Any, b: Any, eps: float) -> Tensor:
        return F.batch_norm(x, mean, var, w, b, False, 0.0, eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, mean, var, w, _, ctx.eps = inputs
        ctx.shape = (-1, *[1] * (x.ndim - 2))
        ctx.set_materialize_grads(False)
        ctx.save_for_forward(x, mean, var, w)

    @staticmethod
    def jvp(ctx: Any, dx: Any, dmean: Any, dvar: Any, dw: Any, db: Any, *_: Any) -> Tensor:
        x, mean, var, w = ctx.saved_tensors
        inverse = (var + ctx.eps).rsqrt()
        gain = inverse if w is None else inverse * w
        parts = [] if dx is None else [dx * gain.view(ctx.shape)]
        if dmean is not None:
            parts.append((-dmean * gain).view(ctx.shape))
        slopes = [] if dvar is None else [-0.5 * inverse.pow(2) * gain * dvar]
        slopes += [] if dw is None else [inverse * dw]
        parts += [(x - mean.view(ctx.shape)) * slope.view(ctx.shape) for slope in slopes]
        if db is not None:
            parts.append(db.view(ctx.shape))
        return sum(parts[1:], parts[0]).expand(x.shape)


class _LayerNorm(torch.autograd.Function):
    """y = x̂ w + b: dy = (dx − mean(dx) − x̂ mean(x̂ dx)) w / std + x̂ dw + db."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, shape: tuple[int, ...], w: Any, b: Any, eps: float) -> Tensor:
        return F.layer_norm(x, shape, w, b, eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, shape, w, _, ctx.eps = inputs
        ctx.axes = tuple(range(-len(shape), 0))
        ctx.set_materialize_grads(False)
        ctx.save_for_forward(x, w)

    @staticmethod
    def jvp(ctx: Any, dx: Any, _shape: None, dw: Any, db: Any, *_: Any) -> Tensor:
        x, w = ctx.saved_tensors
        var, mean = torch.var_mean(x, ctx.axes, correction=0, keepdim=True)
        inverse = (var + ctx.eps).rsqrt()
        unit = (x - mean) * inverse
        parts = []
        if dx is not None:
            centred = dx - dx.mean(ctx.axes, keepdim=True)
            overlap = (unit * dx).mean(ctx.axes, keepdim=True)
            gain = inverse if w is None else inverse * w
            parts.append(torch.addcmul(centred, unit, overlap, value=-1) * gain)
        if dw is not None:
            parts.append(unit * dw)
        if db is not None:
            parts.append(db.expand(x.shape))
        return sum(parts[1:], parts[0])


class _Attention(torch.autograd.Function):
    """O = P V, P = softmax(Q Kᵀ): dO = (P ∘ dS) V − rowsum(P ∘ dS) ∘ O + P dV, dS from Q and K."""

    generate_vmap_rule = True

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, bias: Any) -> Tensor:
        scores = q @ k.mT
        return (scores if bias is None else scores + bias).softmax(-1) @ v

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.set_materialize_grads(False)
        ctx.save_for_forward(*inputs, output)

    @staticmethod
    def jvp(ctx: Any, dq: Any, dk: Any, dv: Any, dbias: Any) -> Tensor:
        q, k, v, bias, out = ctx.saved_tensors
        scores = q @ k.mT
        p = (scores if bias is None else scores + bias).softmax(-1)
        parts = [] if dq is None else [dq @ k.mT]
        if dk is not None:
            parts.append(q @ dk.mT)
        if dbias is not None:
            parts.append(dbias)
        result = [] if dv is None else [p @ dv]
        if parts:
            u = p * sum(parts[1:], parts[0])
            result.append(u @ v - u.sum(-1, keepdim=True) * out)
        return sum(result[1:], result[0])


_POINTWISE: Mapping[Callable[..., Tensor], tuple[Callable[..., Tensor], tuple[str, ...]]] = {
    F.relu: (F.relu, ("inplace",)),
    torch.relu: (F.relu, ()),
    torch.relu_: (F.relu, ()),
    F.relu6: (F.relu6, ("inplace",)),
    F.gelu: (F.gelu, ()),
    F.silu: (F.silu, ("inplace",)),
    F.hardswish: (F.hardswish, ("inplace",)),
    F.hardsigmoid: (F.hardsigmoid, ("inplace",)),
    F.hardtanh: (F.hardtanh, ("min_val", "max_val", "inplace")),
    F.leaky_relu: (F.leaky_relu, ("negative_slope", "inplace")),
    F.elu: (F.elu, ("alpha", "inplace")),
    F.mish: (F.mish, ("inplace",)),
    F.softplus: (F.softplus, ("beta", "threshold")),
    torch.sigmoid: (torch.sigmoid, ()),
    torch.tanh: (torch.tanh, ()),
}
"""Activations, what computes them out of place, and their positional arguments after the input."""

_IN_PLACE = {torch.relu_}
_CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)


class _TangentRules(TorchFunctionMode):
    """Route calls with positional or keyword arguments to the rules; all others pass."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        rule = _RULES.get(func)
        if rule is not None:
            result = rule(func, args, kwargs)
            if result is not None:
                return result
        return func(*args, **kwargs)


def _pointwise(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    plain, names = _POINTWISE[func]
    if len(args) > 1 + len(names) or "out" in kwargs:
        return None
    settings = {**kwargs, **dict(zip(names, args[1:], strict=False))}
    x = args[0] if args else settings.pop("input")
    if not isinstance(x, Tensor) or not x.is_floating_point():
        return None
    if any(isinstance(v, Tensor) for v in settings.values()):
        return None
    in_place = settings.pop("inplace", False) or func in _IN_PLACE
    out = _Pointwise.apply(lambda z: plain(z, **settings), x)
    # Whoever asks for the operation in place may read the result through the input, or a view.
    return x.copy_(out) if in_place else out


def _bind(
    args: tuple[Any, ...], kwargs: dict[str, Any], names: tuple[str, ...], *defaults: Any
) -> tuple[Any, ...]:
    """Positional and keyword arguments in the order of names, missing ones from the defaults."""
    values: dict[str, Any] = {}
    values.update(zip(names[len(names) - len(defaults) :], defaults, strict=True))
    values.update(zip(names, args, strict=False))
    values.update(kwargs)
    return tuple(values[name] for name in names)


def _convolution(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    x, w, b, *settings = _bind(args, kwargs, names, None, 1, 0, 1, 1)
    return _Bilinear.apply(func, x, w, b, *settings)


def _linear(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    x, w, b = _bind(args, kwargs, ("input", "weight", "bias"), None)
    return _Bilinear.apply(func, x, w, b)


def frozen_batch_norm(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...] | None:
    """(x, mean, var, weight, bias, eps) of a call of `F.batch_norm` in eval mode, else None."""
    names = (
        "input",
        "running_mean",
        "running_var",
        "weight",
        "bias",
        "training",
        "momentum",
        "eps",
    )
    defaults = (None, None, False, 0.1, 1e-5)
    x, mean, var, w, b, training, _, eps = _bind(args, kwargs, names, *defaults)
    if training or mean is None or var is None:
        return None
    return x, mean, var, w, b, eps


def _batch_norm(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    found = frozen_batch_norm(args, kwargs)
    return None if found is None else _BatchNorm.apply(*found)


def _layer_norm(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    names = ("input", "normalized_shape", "weight", "bias", "eps")
    x, shape, w, b, eps = _bind(args, kwargs, names, None, None, 1e-5)
    return _LayerNorm.apply(x, tuple(shape), w, b, eps)


def _attention(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
    q, k, v, mask, dropout, causal, scale, gqa = _bind(
        args, kwargs, names, None, 0.0, False, None, False
    )
    if dropout or causal or gqa or (mask is not None and not mask.is_floating_point()):
        return None
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    return _Attention.apply(q * factor, k, v, mask)


_RULES: dict[Any, Callable[..., Tensor | None]] = {
    **dict.fromkeys(_POINTWISE, _pointwise),
    **dict.fromkeys(_CONVOLUTIONS, _convolution),
    F.linear: _linear,
    F.batch_norm: _batch_norm,
    F.layer_norm: _layer_norm,
    F.scaled_dot_product_attention: _attention,
}


@contextmanager
def tangent_rules() -> Iterator[None]:
    """Use the lean formulas inside; for forward mode without a backward pass only."""
    with _TangentRules():
        yield
