"""Small networks, each named for what is awkward about it, and attribution the long way."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from liederiv.actions import ImageAction
from liederiv.analysis import Layout


class Toy(nn.Module):
    """A stem convolution, something awkward, then mean pooling and a linear classifier."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Linear(4, 6)

    def forward(self, x):
        return self.head(self.middle(self.stem(x)).mean((2, 3)))


class SharedModule(Toy):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.act = nn.GELU()

    def middle(self, z):
        return self.conv(self.act(self.conv(self.act(z))))


class InPlaceAdd(Toy):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.act = nn.Tanh()

    def middle(self, z):
        z = self.act(z)
        y = self.conv(z)
        y += z
        return self.act(y)


class InPlaceActivation(Toy):
    def __init__(self):
        super().__init__()
        self.act = nn.SiLU(inplace=True)
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def middle(self, z):
        return self.act(self.conv(self.act(z)))


class InPlaceOnView(Toy):
    """A module returns a view, which is then written to."""

    class Slice(nn.Module):
        def forward(self, z):
            return torch.sin(z)[:, :4]

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.slice = self.Slice()

    def middle(self, z):
        y = self.slice(z)
        y *= torch.linspace(0.5, 1.0, y.shape[-1], dtype=y.dtype)
        return y.square()


class FunctionalActivation(Toy):
    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1))

    def middle(self, z):
        return F.gelu(self.block(F.gelu(z)))


class NeverCalled(Toy):
    def __init__(self):
        super().__init__()
        self.unused = nn.Conv2d(4, 4, 3)
        self.act = nn.GELU()

    def middle(self, z):
        return self.act(z)


class SeveralInputs(Toy):
    """A module with two tensor inputs, one of them a keyword, and a constant."""

    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, a, power, *, gate):
            return self.conv(a) * torch.sigmoid(gate) ** power

    def __init__(self):
        super().__init__()
        self.gate = self.Gate()
        self.act = nn.GELU()

    def middle(self, z):
        return self.gate(self.act(z), 2, gate=z)


class TupleOutput(Toy):
    """Returns two tensors of which one is computed from the other, and a list."""

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, z):
            y = self.conv(z)
            return y, [y.square()]

    def __init__(self):
        super().__init__()
        self.two = self.Two()
        self.act = nn.GELU()

    def middle(self, z):
        a, (b,) = self.two(self.act(z))
        return self.act(a) + b


class Residual(Toy):
    """A container whose input also runs past its inner modules."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, padding=1)
            self.act = nn.GELU()

        def forward(self, z):
            return z + self.act(self.conv(z)) * z

    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(self.Block(), self.Block())

    def middle(self, z):
        return self.blocks(z)


class BatchReordering(Toy):
    """Windows move to the batch axis and back, as in Swin; inside, nothing may be recognised."""

    def __init__(self):
        super().__init__()
        self.inside = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.GELU())

    def middle(self, z):
        B, C, H, W = z.shape
        z = z.reshape(B, C, 2, H // 2, 2, W // 2).permute(0, 2, 4, 1, 3, 5).flip(1)
        z = self.inside(z.reshape(B * 4, C, H // 2, W // 2)).reshape(B, 2, 2, C, H // 2, W // 2)
        return z.flip(1).permute(0, 3, 1, 4, 2, 5).reshape(B, C, H, W)


class Tokens(nn.Module):
    """A patch embedding, a class token, attention and an MLP that share a norm."""

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv, self.softmax = nn.Linear(8, 24), nn.Softmax(-1)

        def forward(self, z):
            q, k, v = self.qkv(z).chunk(3, -1)
            return self.softmax(q @ k.mT / 8**0.5) @ v

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, stride=4)
        self.position = nn.Parameter(torch.randn(1, 13, 8) / 4)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.norm = nn.LayerNorm(8)
        self.attention = self.Attention()
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.head = nn.Linear(8, 6)

    def forward(self, x):
        z = self.patch(x).flatten(2).mT
        z = torch.cat([self.token.expand(len(z), -1, -1), z], 1) + self.position
        z = z + self.attention(self.norm(z))
        z = z + self.mlp(self.norm(z))
        return self.head(z[:, 0])


MAP, VECTOR = Layout("NCHW", (12, 16)), Layout("vector")
TOKENS = Layout("NLC", (3, 4), 1)

# per network: layouts (inputs, outputs) of the measured calls, by hand; images are 12 × 16
EXPECTED = {
    SharedModule: {"stem": MAP, "conv": MAP, "act": MAP},
    InPlaceAdd: {"stem": MAP, "conv": MAP, "act": MAP},
    InPlaceActivation: {"stem": MAP, "conv": MAP, "act": MAP},
    InPlaceOnView: {"stem": MAP, "slice": MAP},
    FunctionalActivation: {"stem": MAP, "block": MAP, "block.0": MAP},
    NeverCalled: {"stem": MAP, "act": MAP},
    SeveralInputs: {"stem": MAP, "gate": MAP, "gate.conv": MAP, "act": MAP},
    TupleOutput: {"stem": MAP, "two": MAP, "two.conv": MAP, "act": MAP},
    Residual: {
        **{"stem": MAP, "blocks": MAP, "blocks.0": MAP, "blocks.0.conv": MAP, "blocks.0.act": MAP},
        **{"blocks.1": MAP, "blocks.1.conv": MAP, "blocks.1.act": MAP},
    },
    BatchReordering: {"stem": MAP},
    Tokens: {
        **{"patch": (MAP, Layout("NCHW", (3, 4))), "norm": TOKENS, "attention": TOKENS},
        **{"mlp": TOKENS, "mlp.1": TOKENS},
    },
}


def build(network, seed=0):
    torch.manual_seed(seed)
    return network().double().eval()


def dense_contribution(model, x, action: ImageAction, path, index, layout):
    """J_{out←y} (J_M G_z z − G_y y) for one call, by Jacobians and injected perturbations.

    Nothing here telescopes: M is differentiated locally along G_z z, and the Jacobian from M's
    outputs to the softmax is that of a perturbation added to them in a forward hook.
    """
    before, after = layout if isinstance(layout, tuple) else (layout, layout)
    module = model.get_submodule(path)
    args, kwargs, out = _at_call(model, module, index, x)
    leaves, spec = tree_flatten((args, kwargs))
    moving = [i for i, v in enumerate(leaves) if isinstance(v, torch.Tensor)]

    def local(*tensors):
        filled = list(leaves)
        for i, t in zip(moving, tensors, strict=True):
            filled[i] = t.clone()
        a, k = tree_unflatten(filled, spec)
        return tuple(tree_flatten(module(*a, **k))[0])

    z = tuple(leaves[i] for i in moving)
    y = tree_flatten(out)[0]

    def injected(*extra):
        seen = [0]

        def add(m, a, result):
            seen[0] += 1
            if seen[0] - 1 != index:
                return None
            parts, shape = tree_flatten(result)
            return tree_unflatten([v + e for v, e in zip(parts, extra, strict=True)], shape)

        handle = module.register_forward_hook(add)
        try:
            return model(x.clone()).softmax(-1)[0]
        finally:
            handle.remove()

    rows = []
    jacobians = torch.autograd.functional.jacobian(
        injected, tuple(torch.zeros_like(v) for v in y), vectorize=False
    )
    for k in range(len(action)):
        one = ImageAction(action.generators[k : k + 1], action.height, action.width, action.scheme)
        tangents = tuple(before.act(one, v)[0].contiguous() for v in z)
        _, pushed = torch.autograd.functional.jvp(local, z, tangents)
        deltas = [p - after.act(one, v)[0] for p, v in zip(pushed, y, strict=True)]
        rows.append(sum(J.flatten(1) @ d.flatten() for J, d in zip(jacobians, deltas, strict=True)))
    return torch.stack(rows)


def _at_call(model, module, index, x):
    """Arguments and result of one call of one module."""
    found = []

    def before(m, args, kwargs):
        found.append([tree_map(_copy, args), tree_map(_copy, kwargs), None])

    def after(m, args, out):
        found[-1][2] = tree_map(_copy, out)

    handles = [
        module.register_forward_pre_hook(before, with_kwargs=True),
        module.register_forward_hook(after),
    ]
    with torch.no_grad():
        model(x.clone())
    for handle in handles:
        handle.remove()
    return found[index]


def _copy(v):
    return v.detach().clone() if isinstance(v, torch.Tensor) else v
