"""A verification that is remembered must not outlive what it verified.

Each case measures an honest network first, changes something, and measures again: what comes then
must be right for the network as it is now, or refused.
"""

import copy
import gc
import types

import pytest
import torch
from torch import nn

from liederiv import LieDerivError, equivariance_penalty, lie_derivative, measure

from .awkward import Small, photographs
from .fields import names_of
from .truth import Raw, find_truth

pytestmark = pytest.mark.filterwarnings("ignore::liederiv.ForwardModeWarning")


class Now(Raw):
    """The network as it is now, in float64."""

    def __init__(self, net):
        self.cls, self.net, self.step = type(net), copy.deepcopy(net).double(), 2e-6


class Switched(Small):
    """Cuts the derivative of a branch when it is told to."""

    cut = False

    def __init__(self):
        super().__init__()
        self.gate = nn.Parameter(torch.ones(()))
        self.act = nn.Tanh()

    def forward(self, x):
        h = self.act(self.c(x))
        branch = h.detach() if self.cut else h
        return self.head(h + self.gate * branch**2)


class Cutting(nn.Module):
    def forward(self, h):
        return h.tanh() + h.square().detach()


def right_or_refused(net, x, generators="translation,rotation", f=None):
    """Compare `lie_derivative` and `measure` with the truth of the network as it is now."""
    truth = find_truth(Now(net), x, generators, "auto")
    want = torch.cat(truth.lie[""], 1)
    f = net if f is None else f
    try:
        got = lie_derivative(f, x, generators, scheme="fourier").double()
        gap = float((got - want).norm() / want.norm())
        assert gap < 0.02, f"lie_derivative is off by {gap:.0%}"
    except LieDerivError:
        pass
    try:
        found = measure(
            f, x, generators, "lee", scheme="fourier", output_type="logits", resamples=2
        )
    except LieDerivError:
        return
    for name in names_of(generators, x):
        score = found.get("lee", name)
        if score.status == "measured":
            assert score.value == pytest.approx(truth.lee()[name], rel=0.04)


@pytest.fixture
def net():
    built = Switched.build()
    right_or_refused(built, photographs())
    return built


def test_a_switch_is_thrown(net):
    net.cut = True
    right_or_refused(net, photographs())


def test_a_submodule_is_replaced(net):
    net.act = Cutting()
    right_or_refused(net, photographs())


def test_a_hook_is_added(net):
    net.c.register_forward_hook(lambda m, i, o: o + o.detach() ** 2)
    right_or_refused(net, photographs())


def test_the_forward_is_replaced(net):
    net.forward = types.MethodType(_cutting, net)
    right_or_refused(net, photographs())


def _cutting(net, x):
    h = net.c(x)
    return net.head(h.tanh() + h.square().detach())


def test_weights_open_a_branch_that_is_cut():
    """As ReZero and LayerScale do from zero on: the first step of training sees nothing of it."""
    net = Switched.build()
    net.cut = True
    nn.init.zeros_(net.gate)
    right_or_refused(net, photographs())
    nn.init.ones_(net.gate)
    right_or_refused(net, photographs())


def test_weights_open_a_branch_by_loading_them():
    net = Switched.build()
    net.cut = True
    nn.init.zeros_(net.gate)
    right_or_refused(net, photographs())
    net.load_state_dict({k: v + 1 if k == "gate" else v for k, v in net.state_dict().items()})
    right_or_refused(net, photographs())


def test_a_penalty_after_a_branch_was_opened():
    net, x = Switched.build(), photographs()
    net.cut = True
    nn.init.zeros_(net.gate)
    kind = {"scheme": "fourier", "output_type": "logits", "num_generators": None}
    equivariance_penalty(net, x, "translation", num_images=None, **kind)
    nn.init.ones_(net.gate)
    lee = find_truth(Now(net), x, "translation", "auto").lee()
    try:
        value = equivariance_penalty(net, x, "translation", num_images=None, **kind).item()
    except LieDerivError:
        return
    assert value == pytest.approx(sum(lee.values()) / 2, rel=0.05)


class CutsWhatTranslationsKeep(Small):
    """A detached feature that is invariant to translations and moves under rotations."""

    def forward(self, x):
        energy = x.square().mean((2, 3), keepdim=True).detach()
        return self.head(self.c(x).tanh() * energy.mean(1, keepdim=True))


def test_another_generator_than_the_verified_one():
    net = CutsWhatTranslationsKeep.build()
    right_or_refused(net, photographs(), "translation")
    right_or_refused(net, photographs(), "rotation")


class CutsDarkImages(Small):
    def forward(self, x):
        h = self.c(x)
        bright = x.mean((1, 2, 3), keepdim=True) > 0
        return self.head(torch.where(bright, h, h.detach()).tanh())


def test_other_images_than_the_verified_ones():
    net = CutsDarkImages.build()
    right_or_refused(net, photographs()[:1])
    right_or_refused(net, photographs()[1:])


class CutsLargeImages(Small):
    def forward(self, x):
        h = self.c(x)
        return self.head((h.detach() if x.shape[-1] > 10 else h).tanh())


def test_another_size_than_the_verified_one():
    net = CutsLargeImages.build()
    right_or_refused(net, photographs())
    right_or_refused(net, photographs(2, (12, 12)))


class CutsFloat64(Small):
    def forward(self, x):
        h = self.c(x)
        return self.head((h.detach() if x.dtype == torch.float64 else h).tanh())


def test_another_dtype_than_the_verified_one():
    net = CutsFloat64.build()
    right_or_refused(net, photographs())
    right_or_refused(net.double(), photographs(dtype=torch.float64))


def test_a_closure_that_looks_at_another_network(net):
    held = {"net": net}

    def f(x):
        return held["net"](x)

    right_or_refused(net, photographs(), f=f)
    other = Switched.build()
    other.cut = True
    held["net"] = other
    right_or_refused(other, photographs(), f=f)


def test_memory_that_is_used_again():
    """A network may get the address of one that is gone."""
    seen = set()
    for _ in range(5):
        honest = Switched.build()
        right_or_refused(honest, photographs())
        seen.add(id(honest))
        del honest
        gc.collect()
        other = Switched.build()
        other.cut = True
        right_or_refused(other, photographs())
        del other
        gc.collect()


def test_requires_grad_is_taken_off(net):
    """Frozen weights make other operators legal, `out=` among them."""
    net.requires_grad_(False)
    net.act = Squares()
    right_or_refused(net, photographs())


class Squares(nn.Module):
    def forward(self, h):
        y = torch.empty_like(h)
        torch.mul(h, h, out=y)
        return y
