"""The lean tangent formulas against torch's own, function by function and whole networks."""

import pytest
import timm
import torch
import torch.nn.functional as F
from tolerances import COMPUTED, assert_close
from torch.func import jvp, vmap

from liederiv import forward_mode
from liederiv.differentiation.tangent_rules import tangent_rules

X = torch.randn(2, 4, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
W = torch.randn(3, 4, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
C = torch.rand(4, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) + 0.5


def attention(x, **kwargs):
    q = x.flatten(2).mT
    return F.scaled_dot_product_attention(q, q.sin(), q * q, **kwargs)


FUNCTIONS = {
    "attention": attention,
    "attention scaled": lambda x: attention(x, scale=0.3),
    "attention bias": lambda x: attention(
        x, attn_mask=x.mean((1, 2, 3))[:, None, None] * W[0, 0, 0, 0]
    ),
    "attention bool mask": lambda x: attention(x, attn_mask=torch.ones(36, 36).tril().bool()),
    "attention causal": lambda x: attention(x, is_causal=True),
    "attention constant query": lambda x: F.scaled_dot_product_attention(X, x, x),
    "attention constant value": lambda x: F.scaled_dot_product_attention(x, X, X),
    "attention only value": lambda x: F.scaled_dot_product_attention(X, X, x),
    "conv2d": lambda x: F.conv2d(x, W, C[:3], stride=2, padding=1),
    "conv2d positional": lambda x: F.conv2d(x, W, None, (1, 2), (0, 1)),
    "conv2d string padding": lambda x: F.conv2d(x, W, padding="same"),
    "conv2d grouped": lambda x: F.conv2d(x, W[:, :1].repeat(4, 1, 1, 1)[:4], groups=4),
    "conv2d dynamic weight": lambda x: F.conv2d(x, W * x.mean(), x.sum() * C[:3]),
    "conv2d constant input": lambda x: F.conv2d(X, W * x.mean()),
    "conv1d": lambda x: F.conv1d(x.flatten(2), W[..., 0]),
    "linear": lambda x: F.linear(x.flatten(2).mT, W[..., 0, 0], C[:3]),
    "linear dynamic": lambda x: F.linear(x.mT, x[0, 0], None),
    "batch_norm": lambda x: F.batch_norm(x, C, 2 * C, 3 * C, C),
    "batch_norm keywords": lambda x: F.batch_norm(x, running_mean=C, running_var=C, eps=0.1),
    "layer_norm": lambda x: F.layer_norm(x, (6, 6), x.new_ones(6, 6) * 2, None, 0.3),
    "layer_norm channels": lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (4,), C, C),
    "relu": lambda x: F.relu(x, inplace=True),
    "relu positional": lambda x: F.relu(x * 1, True),
    "relu6": lambda x: F.relu6(3 * x),
    "gelu": lambda x: F.gelu(x),
    "gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": lambda x: F.silu(x),
    "hardswish": lambda x: F.hardswish(2 * x),
    "hardsigmoid": lambda x: F.hardsigmoid(2 * x),
    "hardtanh": lambda x: F.hardtanh(x, -0.3, 0.4),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.3),
    "elu": lambda x: F.elu(x, alpha=0.7),
    "mish": lambda x: F.mish(x),
    "softplus": lambda x: F.softplus(x, beta=2),
    "sigmoid": lambda x: torch.sigmoid(input=x),
    "tanh": lambda x: torch.tanh(x),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function(name):
    f = FUNCTIONS[name]
    tangents = torch.randn(3, *X.shape, dtype=torch.float64)

    def run():
        return vmap(lambda v: jvp(f, (X.clone(),), (v,)), out_dims=(None, 0))(tangents)

    with forward_mode():
        want_y, want = run()
        with tangent_rules():
            y, got = run()
    assert torch.allclose(y, want_y, rtol=1e-12, atol=1e-14)
    assert (got - want).norm() < 1e-12 * want.norm()
    assert want.norm() > 0


@pytest.mark.parametrize(
    "name", ["mobilenetv3_small_050", "vit_tiny_patch16_224", "convnext_atto", "regnety_002"]
)
def test_network(name):
    torch.manual_seed(0)
    small = {"img_size": 64} if "vit" in name else {}
    model = timm.create_model(name, **small).double().eval().requires_grad_(False)
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    v = torch.randn(2, 1, 3, 64, 64, dtype=torch.float64)

    def run():
        return vmap(lambda t: jvp(model, (x,), (t,))[1])(v)

    with torch.no_grad(), forward_mode():
        want = run()
        with tangent_rules():
            got = run()
    assert (got - want).norm() < 1e-9 * want.norm()
    assert want.norm() > 0


def test_training_batch_norm_is_left_to_torch():
    def f(x):
        return F.batch_norm(x, None, None, training=True)

    v = torch.randn_like(X)
    want = jvp(f, (X,), (v,))[1]
    with tangent_rules():
        assert_close(jvp(f, (X,), (v,))[1], want, COMPUTED)


def test_rules_end_with_the_context():
    with tangent_rules():
        pass
    x = X.clone().requires_grad_(True)
    assert type(F.relu(x).grad_fn).__name__ == "ReluBackward0"
