"""Engines and guards, on modules named for their awkward feature."""

import subprocess
import sys
import warnings

import pytest
import torch
from patience import PATIENCE
from tolerances import COMPUTED, assert_close
from torch import nn
from torch.utils.checkpoint import checkpoint

from liederiv import (
    ForwardModeWarning,
    LieDerivError,
    NotDifferentiableError,
    forward_mode,
    lie_derivative_with_output,
    pushforward,
)
from liederiv.differentiation import double_backward_jvp


class SineWithoutForwardFormula(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0].cos()


class CustomFunction(nn.Module):
    def forward(self, x):
        return SineWithoutForwardFormula.apply(x)


class InPlaceFirst(nn.Module):
    def forward(self, x):
        return x.mul_(2).sin_()


class InPlaceAdd(nn.Module):
    def forward(self, x):
        y = x.cos()
        y += x
        return y * x


class FunctionalReLU(nn.Module):
    def forward(self, x):
        return torch.relu(x) * torch.nn.functional.relu(x + 1, inplace=True)


class FusedAttention(nn.Module):
    def forward(self, x):
        q = x.flatten(2).mT
        return torch.nn.functional.scaled_dot_product_attention(q, 2 * q, q.sin())


class MultiheadFastPath(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
        self.layer = layer.double().eval()

    def forward(self, x):
        return self.layer(x.flatten(2).mT)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 3, batch_first=True).double()

    def forward(self, x):
        return self.lstm(x.flatten(2).mT)[0]


class DataDependent(nn.Module):
    def forward(self, x):
        return x.sin() if float(x.detach().sum()) > -1e9 else x.cos()


class ReentrantCheckpoint(nn.Module):
    def forward(self, x):
        return checkpoint(torch.sin, x, use_reentrant=True)


class SharedModule(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1).double()

    def forward(self, x):
        return self.conv(torch.tanh(self.conv(x)))


class TupleOutput(nn.Module):
    def forward(self, x):
        return x.sin(), {"mean": x.mean((2, 3))}


CASES = [
    CustomFunction,
    InPlaceFirst,
    InPlaceAdd,
    FunctionalReLU,
    FusedAttention,
    MultiheadFastPath,
    Recurrent,
    DataDependent,
    ReentrantCheckpoint,
    SharedModule,
    TupleOutput,
]


def leaves(tree):
    return torch.utils._pytree.tree_flatten(tree)[0]


@pytest.mark.filterwarnings("ignore::liederiv.ForwardModeWarning")
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.__name__)
def test_agrees_with_finite_differences(case):
    torch.manual_seed(0)
    f = case().eval()
    x, v = torch.randn(2, 2, 4, 5, 5, dtype=torch.float64)
    kept = x.clone()
    y, jv, _ = pushforward(f, x, torch.stack([v, 2 * v]))
    assert torch.equal(x, kept)
    h = 1e-6
    up, down = f(x + h * v), f(x - h * v)
    for value, out, d, a, b in zip(
        leaves(f(x.clone())), *map(leaves, (y, jv, up, down)), strict=True
    ):
        assert_close(out, value)
        assert (d[0] - (a - b) / (2 * h)).norm() < 1e-7 * d[0].norm()
        assert_close(d[1], 2 * d[0], COMPUTED)
        assert not d.requires_grad


@pytest.mark.parametrize(
    ("case", "engine", "where"),
    [
        (CustomFunction, "double-backward", r"module 0 \(CustomFunction\)"),
        (DataDependent, "vmap", None),
        (ReentrantCheckpoint, "vmap", None),
    ],
)
def test_fallbacks_name_module_and_engine(case, engine, where):
    f = nn.Sequential(case(), nn.Flatten()).eval()
    x = torch.randn(1, 4, 5, 5)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        used = pushforward(f, x, torch.randn(2, 1, 4, 5, 5))[2]
    assert used == engine
    messages = [str(w.message) for w in caught if w.category is ForwardModeWarning]
    assert len(messages) == (where is not None)
    if where is not None:
        with pytest.warns(ForwardModeWarning, match=where + ".*Using the " + engine):
            pushforward(f, x, torch.randn(2, 1, 4, 5, 5))


def test_error_of_the_model_itself_is_not_hidden():
    f = nn.Linear(3, 4).eval()
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes"):
        pushforward(f, torch.randn(1, 2), torch.randn(1, 1, 2))


def test_detached_output_is_refused_by_the_double_backward_engine():
    with pytest.raises(NotDifferentiableError, match="no derivative reaches the model's output"):
        double_backward_jvp(lambda x: x.detach().sin(), torch.randn(2), torch.randn(1, 2))


def test_bad_arguments():
    x = torch.randn(1, 2)
    with pytest.raises(LieDerivError, match="engine='magic' is unknown; choose one of vmap"):
        pushforward(torch.sin, x, x[None], engine="magic")
    with pytest.raises(LieDerivError, match="chunk_size=-1 must be at least 1"):
        pushforward(torch.sin, x, x[None], chunk_size=-1)


def switches() -> tuple:
    return (
        torch.backends.mha.get_fastpath_enabled(),
        torch.backends.cuda.flash_sdp_enabled(),
        torch.backends.cuda.mem_efficient_sdp_enabled(),
        torch.backends.cuda.math_sdp_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.is_grad_enabled(),
        len(warnings.filters),
        torch.utils.checkpoint.CheckpointFunction.__name__,
    )


def test_everything_is_switched_back_on_every_exit():
    before = switches()
    with forward_mode():
        assert not torch.backends.mha.get_fastpath_enabled()
        assert not torch.backends.cuda.flash_sdp_enabled()
    assert switches() == before

    def fail(x):
        raise RuntimeError("stop here")

    with pytest.raises(RuntimeError, match="stop here"):
        pushforward(fail, torch.randn(2), torch.randn(1, 2))
    assert switches() == before


def test_hooks_are_gone_after_a_fallback():
    f = nn.Sequential(CustomFunction()).eval()
    with pytest.warns(ForwardModeWarning):
        pushforward(f, torch.randn(1, 3), torch.randn(1, 1, 3))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in f.modules())


def test_autocast_of_the_caller_does_not_reach_the_measurement():
    f = nn.Linear(4, 4).eval()
    x, v = torch.randn(2, 4), torch.randn(1, 2, 4)
    want = pushforward(f, x, v)[1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(pushforward(f, x, v)[1], want)


def test_chunks_shrink_until_memory_suffices():
    sizes = []

    def hungry(x):
        sizes.append(1)
        if len(sizes) < 3:
            raise torch.OutOfMemoryError("out of memory")
        return x.sin()

    x, v = torch.randn(3), torch.randn(8, 3)
    jv = pushforward(hungry, x, v)[1]
    assert_close(jv, v * x.cos(), COMPUTED)
    assert len(sizes) == 2 + 4  # 8, then 4 failed; 8 tangents in chunks of 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_agrees_with_the_cpu():
    torch.manual_seed(0)
    f = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    f = f.double().eval()
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    cpu = lie_derivative_with_output(f, x, "all").value
    cuda = lie_derivative_with_output(f.cuda(), x.cuda(), "all").value
    assert_close(cuda.cpu(), cpu, COMPUTED)


def test_the_first_derivative_of_a_process_warns_of_nothing():
    """torch scripts its own formulas then, and warns that scripting is deprecated."""
    code = (
        "import torch, liederiv, warnings; warnings.simplefilter('error', FutureWarning);"
        "liederiv.lie_derivative(torch.nn.Flatten(), torch.rand(1, 3, 8, 8), 'rotation')"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (found.returncode, found.stderr) == (0, "")
