"""Tensors that share memory inside a network, state beside the arguments: numbers stay right."""

import copy
import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from liederiv import ModelError, lie_derivative
from liederiv.analysis import attribute

GENERATORS = "translation,rotation"


class Net(nn.Module):
    """A stem, something awkward that ends in tokens or a map, a classifier."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 4, stride=4)
        self.norm = nn.LayerNorm(12)
        self.act = nn.GELU()
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        z = self.middle(self.stem(x))
        return self.head(z.mean((2, 3) if z.ndim == 4 else 1))


class Wrapped(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args):
        return self.function(*args)


class FlattenedTokens(Net):
    def __init__(self):
        super().__init__()
        self.tokens = Wrapped(lambda z: z.flatten(2).transpose(1, 2))

    def middle(self, z):
        return self.act(self.norm(self.tokens(z)))


class Chunks(Net):
    def __init__(self):
        super().__init__()
        self.split = Wrapped(lambda z: z.chunk(2, 1))
        self.pair = Wrapped(lambda a, b: torch.cat([torch.tanh(a) * b, a * torch.sigmoid(b)], 1))

    def middle(self, z):
        a, b = self.split(z)
        return self.act(self.pair(a, b))


class Expanded(Net):
    """A slot that is an expanded view: its elements share memory among themselves."""

    def __init__(self):
        super().__init__()
        self.mean = Wrapped(lambda z: z.mean(1, keepdim=True).expand_as(z))
        self.square = Wrapped(torch.square)

    def middle(self, z):
        return self.act(z * self.square(self.mean(z)))


class TwoNames(Net):
    """Two slots of one tensor: a module returns a view of everything that it took."""

    def __init__(self):
        super().__init__()
        self.same = Wrapped(lambda z: z[:])
        self.again = Wrapped(lambda z: z.view(z.shape))
        self.square = Wrapped(torch.square)

    def middle(self, z):
        y = self.same(z)
        return self.act(self.square(self.again(y)) + self.square(z))


class SwappedHalves(Net):
    """Gradients of one slot that begin at one address with different strides."""

    class Learns(Wrapped):
        def __init__(self, function):
            super().__init__(function)
            self.unused = nn.Parameter(torch.zeros(()))  # else it is taken for a reordering

    def __init__(self):
        super().__init__()
        self.turn = self.Learns(lambda z: z.transpose(2, 3))
        self.keep = self.Learns(lambda z: z.view_as(z))

    def middle(self, z):
        z = self.act(z)
        ramp = torch.linspace(0.0, 1.0, z.shape[-1], dtype=z.dtype)
        return ((self.turn(z) + self.keep(z)) * ramp).square()


class FunctionalInPlace(Net):
    def __init__(self):
        super().__init__()
        self.block = Wrapped(lambda z: F.relu(z * 2, inplace=True))
        self.conv = nn.Conv2d(12, 12, 3, padding=1)

    def middle(self, z):
        y = self.conv(self.block(z))
        y += z
        return self.act(y).mul_(0.5)


VIEWS = (FlattenedTokens, Chunks, Expanded, TwoNames, SwappedHalves, FunctionalInPlace)


def build(network):
    torch.manual_seed(0)
    return network().double().eval()


def images(count=1, size=16):
    random = torch.Generator().manual_seed(3)
    return torch.randn(count, 3, size, size, dtype=torch.float64, generator=random)


def inclusive(a, path):
    return a.inclusive[[i for i, e in enumerate(a.entries) if e.path == path]]


@pytest.mark.parametrize("network", VIEWS, ids=lambda n: n.__name__)
def test_asked_for_alone_every_module_contributes_the_same(network):
    model, x = build(network), images()
    whole = attribute(model, x, GENERATORS, output_type="logits", probes="exact")
    paths = [e.path for e in whole.entries[1:] if e.status == "measured"]
    assert len(paths) >= 3
    for path in dict.fromkeys(paths):
        alone = attribute(
            model, x, GENERATORS, output_type="logits", probes="exact", modules=[path]
        )
        np.testing.assert_allclose(inclusive(alone, path), inclusive(whole, path), rtol=1e-8)
    assert whole.witness is not None
    assert whole.witness.checked == len(paths)
    assert whole.witness.disagreement < 1e-10


@pytest.mark.parametrize("network", VIEWS, ids=lambda n: n.__name__)
def test_the_profile_is_the_lie_derivative_of_the_network_up_to_there(network):
    model, x = build(network), images()
    a = attribute(model, x, GENERATORS, output_type="logits")
    stem = lie_derivative(model.stem, x, GENERATORS, output="NCHW")
    rows = [r for r in a.profile if (a.entries[r.entry].path, r.role) == ("stem", "output")]
    np.testing.assert_allclose(rows[0].lie_norm[:, 0], stem.flatten(1).norm(dim=1), rtol=1e-10)

    def upto(x):  # the last activation takes the map or the tokens
        kept = []
        handle = model.act.register_forward_hook(lambda m, args, out: kept.append(out.clone()))
        model(x)
        handle.remove()
        return kept[-1] if kept[-1].ndim == 4 else kept[-1].mT.unflatten(2, (4, 4))

    act = lie_derivative(upto, x, GENERATORS, output="NCHW")
    rows = [r for r in a.profile if (a.entries[r.entry].path, r.role) == ("act", "output")]
    np.testing.assert_allclose(rows[0].lie_norm[:, 0], act.flatten(1).norm(dim=1), rtol=1e-10)


class LeftInAnAttribute(Net):
    """One module reads what another one left behind, past all arguments."""

    class Writer(nn.Module):
        def forward(self, z):
            self.kept = torch.tanh(z)
            return z * 2

    class Reader(nn.Module):
        def __init__(self, writer):
            super().__init__()
            self.__dict__["writer"] = writer

        def forward(self, z):
            return torch.sin(z) * self.writer.kept

    def __init__(self):
        super().__init__()
        self.writer = self.Writer()
        self.reader = self.Reader(self.writer)

    def middle(self, z):
        return self.act(self.reader(self.act(self.writer(z))))


def test_modules_with_paths_besides_their_arguments_are_absorbed():
    model, x = build(LeftInAnAttribute), images()
    a = attribute(model, x, GENERATORS, output_type="logits", probes="exact")
    status = {e.path: (e.status, e.reason) for e in a.entries}
    assert status["writer"][0] == status["reader"][0] == "not measured"
    assert "used elsewhere" in status["writer"][1]
    assert "not among its arguments" in status["reader"][1]
    assert status["act"][0] == "measured"
    np.testing.assert_allclose(np.nansum(a.shares(), 0), 1)


class WritesToItsInput(Net):
    """The tensor that a module overwrites is read again by its caller."""

    def __init__(self):
        super().__init__()
        self.block = Wrapped(lambda z: z.sin_().cos())

    def middle(self, z):
        y = self.block(z)
        return self.act(y + z)


def test_a_module_that_writes_to_what_others_read_is_absorbed():
    model, x = build(WritesToItsInput), images()
    lie = lie_derivative(model, x, GENERATORS)
    a = attribute(model, x, GENERATORS, output_type="logits", probes="exact")
    block = next(e for e in a.entries if e.path == "block")
    assert (block.status, "in place" in block.reason) == ("not measured", True)
    np.testing.assert_allclose(a.lie_norm_squared[:, 0], lie.square().sum((1, 2)), rtol=1e-10)
    np.testing.assert_allclose(np.nansum(a.shares(), 0), 1)


class FirstInPlace(Net):
    def forward(self, x):
        x -= 0.5
        return super().forward(x)

    def middle(self, z):
        return self.act(z)


def test_a_first_operation_in_place():
    model, x = build(FirstInPlace), images()
    before = x.clone()
    a = attribute(model, x, GENERATORS, output_type="logits", probes="exact")
    assert torch.equal(x, before)
    assert a.closure_error < 1e-9


class Keeps(Net):
    """Leaves activations in attributes, also inside lists, and counts its calls in a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.features, self.last = [], {}

    def middle(self, z):
        self.calls += 1
        self.map = z.square()
        self.features = [z, self.map]
        self.last = {"map": (self.map, 3)}
        return self.act(z)


@pytest.mark.filterwarnings("ignore::liederiv.differentiation.ForwardModeWarning")
def test_a_model_that_keeps_activations_can_be_copied_before_and_after():
    model, x = build(Keeps), images()
    model(x.clone().requires_grad_())  # attributes with a graph, which deepcopy refuses
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(model)
    a = attribute(model, x, GENERATORS, output_type="logits")
    assert a.closure_error < 1e-9
    with torch.no_grad():
        model(x)
    calls = model.calls.clone()
    attribute(model, x, GENERATORS, output_type="logits")
    copy.deepcopy(model)
    torch.save(model.state_dict(), io.BytesIO())
    assert not any(v.requires_grad for v in (model.map, *model.features))
    assert model.calls - calls <= 4  # passes over the caller's own model, not over the copy


class Checkpointed(Net):
    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(12, 12, 3, padding=1), nn.GELU())

    def middle(self, z):
        if self.saves:
            return checkpoint(self.block, z, use_reentrant=False)
        return self.block(z)


def test_checkpointing_without_reentrance():
    model, x = build(Checkpointed), images()
    found = []
    for saves in (True, False):
        model.saves = saves
        found.append(attribute(model, x, GENERATORS, output_type="logits", probes="exact"))
    assert [e.path for e in found[0].entries] == [e.path for e in found[1].entries]
    np.testing.assert_allclose(found[0].inclusive, found[1].inclusive, rtol=1e-10)
    calls = []
    model.saves = True
    handle = model.block.register_forward_pre_hook(lambda *_: calls.append(1))
    model(x.requires_grad_()).sum().backward()
    handle.remove()
    assert len(calls) == 2  # the model itself checkpoints as before


class SharedBehindTheCopy(Net):
    """Copies of arguments change what the model computes, wherever they are made."""

    class Doubles(nn.Module):
        def forward(self, z, scratch):
            scratch["seen"] = z
            return z.view(z.shape)

    def __init__(self):
        super().__init__()
        self.doubles = self.Doubles()

    def middle(self, z):
        scratch = {}
        y = self.doubles(z, scratch)
        return self.act(y * scratch.get("seen", 0.0))


def test_what_copies_change_and_nothing_explains_is_refused():
    with pytest.raises(ModelError, match="writes in place to tensors that several modules share"):
        attribute(build(SharedBehindTheCopy), images(), GENERATORS, output_type="logits")
