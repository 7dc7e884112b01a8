"""`torch.autograd.Function` of one's own: old style, one-sided, or with a derivative that is wrong.

The derivative meant is that of the function computed, whatever ``backward`` or ``jvp`` say.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from ..awkward import Small


def _slope(x: Tensor) -> Tensor:
    s = x.sigmoid()
    return s + x * s * (1 - s)


class _OldSwish(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * _slope(ctx.saved_tensors[0])


class _OnceSwish(_OldSwish):
    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * _slope(ctx.saved_tensors[0])


class _OnceSwishRetained(_OldSwish):
    """Computes its slope without a graph, by hand."""

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        with torch.no_grad():
            return g * _slope(ctx.saved_tensors[0])


class _SetupSwish(Function):
    """The new style, without a jvp."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x * x.sigmoid()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * _slope(ctx.saved_tensors[0])


class _VmapSwish(_SetupSwish):
    generate_vmap_rule = True


class _RightJvp(_VmapSwish):
    @staticmethod
    def jvp(ctx: Any, t: Tensor) -> Tensor:
        return t * _slope(ctx.saved_tensors[0])


class _WrongJvp(_VmapSwish):
    @staticmethod
    def jvp(ctx: Any, t: Tensor) -> Tensor:
        return 2 * t * _slope(ctx.saved_tensors[0])


class _ZeroJvp(_VmapSwish):
    @staticmethod
    def jvp(ctx: Any, t: Tensor) -> Tensor:
        return torch.zeros_like(t)


class _NoneJvp(_VmapSwish):
    @staticmethod
    def jvp(ctx: Any, t: Tensor) -> None:
        return None


class _WrongBackward(_VmapSwish):
    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g

    @staticmethod
    def jvp(ctx: Any, t: Tensor) -> Tensor:
        return t


class _WrongVmap(_SetupSwish):
    """A batching rule that forgets the nonlinearity."""

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor) -> Any:
        return x, in_dims[0]

    @staticmethod
    def jvp(ctx: Any, t: Tensor) -> Tensor:
        return t * _slope(ctx.saved_tensors[0])


class _Reversal(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return -g


class _Scaled(_Reversal):
    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 0.1 * g


class _Clipped(_Reversal):
    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g.clamp(-1e-4, 1e-4)


class _Blocked(_Reversal):
    @staticmethod
    def backward(ctx: Any, g: Tensor) -> None:
        return None


class _Zeroed(_Reversal):
    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return torch.zeros_like(g)


class _InPlaceSine(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x.clone())
        ctx.mark_dirty(x)
        return x.sin_()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * ctx.saved_tensors[0].cos()


class _Gated(Function):
    """A product whose backward forgets the gate."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor) -> Tensor:
        ctx.save_for_backward(gate)
        return x * gate

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return g * ctx.saved_tensors[0], None


class _NonDifferentiable(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Any:
        norm = x.square().mean((1, 2, 3), keepdim=True)
        ctx.mark_non_differentiable(norm)
        return x.clone(), norm

    @staticmethod
    def backward(ctx: Any, g: Tensor, _: Any) -> Tensor:
        return g


class _Recomputed(Function):
    """Checkpointing by hand: backward runs forward again with a graph of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        with torch.enable_grad():
            x = ctx.saved_tensors[0].detach().requires_grad_()
            return torch.autograd.grad(x * x.sigmoid(), x, g)[0]


class _RecomputedTwice(_Recomputed):
    """The same with create_graph, cut from x all the same."""

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        with torch.enable_grad():
            x = ctx.saved_tensors[0].detach().requires_grad_()
            return torch.autograd.grad(x * x.sigmoid(), x, g, create_graph=True)[0]


class _Applied(Small):
    function: Any = None

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.function.apply(self.c(x)))


class OldStyleFunction(_Applied):
    needed = frozenset({"lie_derivative", "measure", "metric", "assert_equivariant"})
    function = _OldSwish


class OnceDifferentiable(_Applied):
    function = _OnceSwish


class BackwardUnderNoGrad(_Applied):
    function = _OnceSwishRetained


class BackwardThatRecomputes(_Applied):
    function = _Recomputed


class BackwardThatRecomputesWithAGraph(_Applied):
    function = _RecomputedTwice


class JvpMissing(_Applied):
    function = _SetupSwish


class JvpMissingWithBatchingRule(_Applied):
    function = _VmapSwish


class JvpRight(_Applied):
    needed = frozenset({"lie_derivative", "measure", "metric", "assert_equivariant"})
    function = _RightJvp


class JvpTwiceTooLarge(_Applied):
    function = _WrongJvp


class JvpZero(_Applied):
    function = _ZeroJvp


class JvpNone(_Applied):
    function = _NoneJvp


class JvpAndBackwardBothWrong(_Applied):
    """Engines agree with each other, not with the function."""

    function = _WrongBackward


class BatchingRuleWrong(_Applied):
    function = _WrongVmap


class GradientReversal(_Applied):
    function = _Reversal


class GradientScaling(_Applied):
    function = _Scaled


class GradientClipping(_Applied):
    function = _Clipped


class GradientBlocked(_Applied):
    function = _Blocked


class GradientZeroed(_Applied):
    function = _Zeroed


class GradientReversalInABranch(Small):
    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x).tanh()
        return self.head(h + _Reversal.apply(h**2))


class OnceDifferentiableInABranch(Small):
    """Double backward takes the branch for unused."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        return self.head(h.tanh() + _OnceSwish.apply(h))


class FunctionThatMarksDirty(_Applied):
    function = _InPlaceSine


class GateWithoutGradient(Small):
    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        return self.head(_Gated.apply(h, h.mean((2, 3), keepdim=True).sigmoid()))


class OutputMarkedNonDifferentiable(Small):
    def forward(self, x: Tensor) -> Tensor:
        h, norm = _NonDifferentiable.apply(self.c(x))
        return self.head(h / (0.3 + norm))


class TensorHookThatChangesGradients(Small):
    """`register_hook` acts on gradients alone."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        if h.requires_grad:
            h.register_hook(lambda g: 3 * g)
        return self.head(h.tanh())


class BackwardHookThatChangesGradients(Small):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.Tanh()
        self.act.register_full_backward_hook(lambda m, i, o: (0.5 * i[0],))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.c(x)))
