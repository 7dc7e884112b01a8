"""The witness of an attribution sees what closure cannot: each fault is planted once."""

import math

import numpy as np
import pytest
import torch
from test_attribution_memory import Chunks, FlattenedTokens, SwappedHalves, build, images
from torch import nn

from liederiv import ModelError
from liederiv.actions import ImageAction
from liederiv.analysis import Layout, attribute
from liederiv.analysis.layers import contributions
from liederiv.analysis.layers.direct_action import direct_action
from liederiv.generators import resolve_generators
from liederiv.metrics.finite import act_finite
from liederiv.transforms import FiniteTransform

GENERATORS = "translation,rotation"


def measured(network, **kwargs):
    x = kwargs.pop("x", images(2))
    return attribute(network, x, GENERATORS, output_type="logits", probes="exact", **kwargs)


def assert_only_the_witness_sees_it(network, **kwargs):
    """Refused with the witness; without it, closed to rounding."""
    with pytest.raises(ModelError, match=r"module '\w+' is .* by the gradients around it, but"):
        measured(network, **kwargs)
    unseen = measured(network, verify=False, **kwargs)
    assert unseen.closure_error < 1e-9
    assert unseen.witness is None
    np.testing.assert_allclose(np.nansum(unseen.shares(), 0), 1)


@pytest.mark.parametrize("network", [FlattenedTokens, Chunks], ids=lambda n: n.__name__)
def test_subtracting_in_place(network, monkeypatch):
    monkeypatch.setattr(contributions, "beyond", lambda tangent, moved: tangent.sub_(moved))
    assert_only_the_witness_sees_it(build(network))


def test_gradients_taken_for_others(monkeypatch):
    monkeypatch.setattr(contributions, "_memory", lambda g: (g.data_ptr(),))
    assert_only_the_witness_sees_it(build(SwappedHalves))


@pytest.mark.parametrize("kind", ["NCHW", "NLC"])
def test_a_wrong_action_on_one_layout(kind, monkeypatch):
    right = Layout.act

    def wrong(self, action, z):
        moved = right(self, action, z)
        return moved.flip(0) if self.kind == kind and z.shape[1] != 3 else moved

    monkeypatch.setattr(Layout, "act", wrong)
    assert_only_the_witness_sees_it(build(FlattenedTokens))


def test_an_action_at_a_wrong_speed(monkeypatch):
    right = Layout.act
    monkeypatch.setattr(Layout, "act", lambda self, *args: 1.01 * right(self, *args))
    assert_only_the_witness_sees_it(build(FlattenedTokens))


def test_the_wrong_layout_of_one_slot(monkeypatch):
    right = contributions.record_edges

    def swapped(model, reader, plan, calls, x):  # ℓ of one slot stands at another's edges
        recorded = right(model, reader, plan, calls, x)
        edges = recorded.edges
        ends = [i for i, e in enumerate(edges) if e.sign > 0 and plan.sizes[e.slot] == 192]
        a, b = edges[ends[0]], edges[ends[1]]
        edges[ends[0]] = type(a)(a.call, b.slot, a.sign, a.edge)
        return recorded

    monkeypatch.setattr(contributions, "record_edges", swapped)
    assert_only_the_witness_sees_it(build(FlattenedTokens))


def test_outcome():
    network = build(FlattenedTokens)
    a = measured(network)
    names = [e.path for e in a.entries[1:] if e.status == "measured"]
    assert a.witness.checked == a.witness.measured == len(names)
    assert a.witness.disagreement < 1e-10
    assert a.witness.module in names
    assert not a.witness.unchecked
    assert f"{len(names)} of {len(names)} modules differentiated alone" in str(a.witness)


def test_many_modules_are_sampled(monkeypatch):
    layers = [m for _ in range(12) for m in (nn.Conv2d(3, 3, 3, padding=1), nn.Tanh())]
    torch.manual_seed(0)
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).double().eval()
    a = measured(net)
    assert (a.witness.checked, a.witness.measured) == (16, 25)


def test_single_precision_is_retried_in_double():
    """Contributions of modules that almost cancel: float32 keeps few digits of them."""

    class Cancels(nn.Module):
        def forward(self, z):
            return z + 3e5 * (z.sin() - z.flip(3).sin().flip(3))

    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, padding=1), Cancels(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    net = nn.Sequential(*layers).eval()
    a = measured(net, x=images(size=12).float())
    assert a.witness.disagreement < 1e-3


class ToldBefore(nn.Module):
    """What it computes is set by its caller, in an attribute."""

    def forward(self, z):
        return self.function(z)


def test_what_cannot_be_run_alone_is_said():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.act = nn.Conv2d(3, 4, 3, padding=1), ToldBefore()

        def forward(self, x):
            z = self.conv(x)
            self.act.function = torch.tanh
            y = self.act(z)
            self.act.function = torch.sin
            return (y * self.act(z)).mean((2, 3))

    torch.manual_seed(0)
    a = measured(Net().double().eval())
    assert [path for path, _ in a.witness.unchecked] == ["act"]
    assert "something else" in a.witness.unchecked[0][1]
    assert (a.witness.checked, a.witness.measured) == (2, 3)


def test_a_tensor_that_is_returned_twice_counts_once():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x):
            y = self.conv(x).sin()
            return [y, y]

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.twice, self.act = Twice(), nn.Tanh()

        def forward(self, x):
            a, b = self.twice(x)
            return (self.act(a) * b.square()).mean((2, 3))

    torch.manual_seed(0)
    a = measured(Net().double().eval())
    assert a.witness.checked == a.witness.measured == 3
    assert a.witness.disagreement < 1e-10


LAYOUTS = {
    "NCHW": (Layout("NCHW", (12, 16)), (1, 3, 12, 16)),
    "NHWC": (Layout("NHWC", (6, 8)), (1, 6, 8, 3)),
    "NLC": (Layout("NLC", (3, 4), 2), (1, 14, 3)),
    "NCL": (Layout("NCL", (3, 4)), (1, 3, 12)),
    "flat": (Layout("NCHW", (3, 4), flat=True), (1, 36)),
    "part": (Layout("NCHW", (5, 7), extent=(10, 14)), (1, 3, 5, 7)),
    "vector": (Layout("vector"), (1, 5)),
}


@pytest.mark.parametrize("scheme", ["bspline", "fourier", "fourier_mirror", "central", "bilinear"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_the_action_written_twice(name, scheme):
    layout, shape = LAYOUTS[name]
    action = ImageAction(resolve_generators("all"), 12, 16, scheme)
    z = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weights = torch.linspace(-1, 2, len(action), dtype=torch.float64)
    expected = torch.einsum("k,k...->...", weights, layout.act(action, z))
    torch.testing.assert_close(direct_action(layout, action, z, weights), expected)


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_action_is_the_slope_of_finite_motions(name):
    """Of a smooth scheme; that is what neither of the two implementations computes."""
    layout, shape = LAYOUTS[name]
    if name == "vector":
        pytest.skip("nothing moves")
    z = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for k, h in (("translation_x", 1e-4), ("rotation", 1e-5), ("scale", 1e-5)):
        action = ImageAction(resolve_generators(k), 12, 16, "fourier_mirror")
        moved = [
            act_finite(
                layout.representation,
                FiniteTransform(layout.window(action), torch.tensor([[t]], dtype=torch.float64)),
                layout.unflatten(z),
            ).reshape(z.shape)
            for t in (h, -h)
        ]
        slope = (moved[0] - moved[1]) / (2 * h)
        found = direct_action(layout, action, z, torch.ones(1, dtype=torch.float64))
        assert math.isclose(float(found.norm()), float(slope.norm()), rel_tol=1e-5)
        torch.testing.assert_close(found, slope, rtol=1e-5, atol=1e-5 * float(slope.norm()))
