"""Contributions to a step add up to the change of the output, and are the modules' own."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from liederiv import LieDerivError
from liederiv.analysis import attribute
from liederiv.analysis.layers import steps
from liederiv.transforms import transform


def network(act=nn.GELU, stride=2, seed=0):
    torch.manual_seed(seed)
    return (
        nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1, stride=stride, padding_mode="circular"),
            act(),
            nn.Conv2d(6, 8, 3, padding=1, padding_mode="circular"),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 4),
        )
        .double()
        .eval()
    )


def photographs(count=2, size=16):
    source = torch.Generator().manual_seed(2)
    return F.avg_pool2d(torch.rand(count, 3, size + 2, size + 2, generator=source), 3, 1).double()


def change(net, x, name, size, scheme="bspline"):
    """f half a step ahead minus f half a step behind, and nothing else."""
    with torch.no_grad():
        ends = [net(transform(x, name, t, scheme)) for t in (size / 2, -size / 2)]
    return ends[0] - ends[1]


@pytest.mark.parametrize(("name", "size"), [("translation_x", 1.0), ("rotation", 0.1)])
@pytest.mark.parametrize(("act", "tolerance"), [(nn.GELU, 0.01), (nn.ReLU, 0.05)])
def test_shares_add_up_to_the_change_of_the_output(name, size, act, tolerance):
    net, x = network(act), photographs()
    a = attribute(net, x, name, output_type="logits", step=size, step_tolerance=tolerance)
    want = change(net, x, name, size).square().sum(1)
    assert a.lie_norm_squared[0] == pytest.approx(want.numpy(), rel=1e-6)
    assert np.nansum(a.exclusive_projection[:, 0], 0) == pytest.approx(want.numpy(), rel=tolerance)
    assert a.quadrature_error <= tolerance
    assert a.closure_error < 1e-6
    assert a.steps == (size,)


def test_small_steps_are_the_derivative():
    net, x = network(), photographs()
    step = attribute(net, x, "translation", output_type="logits", step=1e-3)
    point = attribute(net, x, "translation", output_type="logits")
    # A module's share along the step's own direction, which here is L f itself.
    assert step.shares() == pytest.approx(point.shares(), abs=2e-3, nan_ok=True)


def test_what_each_of_two_branches_changes_is_its_share():
    """A sum of two networks: each contributes its own change, projected on the whole change."""

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = network(seed=1), network(nn.Tanh, seed=2)

        def forward(self, x):
            return self.a(x) + self.b(x)

    net, x = Both().eval(), photographs()
    a = attribute(net, x, "rotation", output_type="logits", step=0.2, step_tolerance=0.01)
    whole = change(net, x, "rotation", 0.2)
    found = dict(zip([e.path for e in a.entries], a.shares(exclusive=False)[:, 0], strict=True))
    for name in ("a", "b"):
        own = (change(getattr(net, name), x, "rotation", 0.2) * whole).sum() / whole.square().sum()
        assert found[name] == pytest.approx(float(own), abs=0.01)


def test_maps_are_moved_back():
    conv = nn.Conv2d(3, 2, 3, padding=1, padding_mode="circular").double().eval()
    net, x = nn.Sequential(conv).eval(), photographs()
    a = attribute(net, x, "translation_x", scheme="fourier", output="NCHW", step=1.0)
    assert float(a.lie_norm_squared.max()) < 1e-20  # it is equivariant, so nothing changes


def test_a_small_reach_takes_more_points():
    net, x = network(), photographs(1)
    slow = attribute(net, x, "translation_x", output_type="logits", step=0.01)
    fast = attribute(net, x, "translation_x", output_type="logits", step=8.0)
    assert slow.num_probes[0] < fast.num_probes[0]


@pytest.mark.parametrize("step", [0.0, -1.0, float("nan"), True, "1"])
def test_impossible_steps_are_refused(step):
    with pytest.raises(LieDerivError, match=r"step=.* must be a positive number, in px"):
        attribute(network(), photographs(), "translation", step=step)


def test_a_generator_without_a_size_is_named():
    with pytest.raises(LieDerivError, match="has no size for rotation"):
        attribute(network(), photographs(), "rotation", step={"translation": 1.0})


def by_hand(net, place, x, size, points=65):
    """A module's share: f with that module's action alone swapped, along the orbit.

    g(M(T_s z)) − g(T_s M(z)) for the features z before M of T_t x and the rest g of the network is
    what M does not commute with; its derivative at s = 0, by differences, is summed over t.
    """
    t = torch.linspace(-size / 2, size / 2, points, dtype=torch.float64)
    many, s = x.expand(points, -1, -1, -1), 1e-4

    def on_orbit(t):
        return net[:place](transform(many, "translation_x", t))

    def moved(z, end):
        # A pixel of the map is as many of the image as its grid is coarser.
        return transform(z, "translation_x", end * z.shape[-1] / x.shape[-1])

    def inside(end):
        # The image itself moves as the orbit does, interpolated once.
        return net[place](moved(on_orbit(t), end) if place else on_orbit(t + end))

    with torch.no_grad():
        after, z = net[place + 1 :], net[place](on_orbit(t))
        swapped = [after(inside(end)) - after(moved(z, end)) for end in (s, -s)]
    whole = change(net, x, "translation_x", size)
    c = ((swapped[0] - swapped[1]) / (2 * s) * whole).sum(1)
    return float(torch.trapezoid(c, t) / whole.square().sum())


def assert_allocated(net, x, size=1.0):
    """Shares are those of the very modules, which their sum does not see."""
    a = attribute(net, x, "translation_x", output_type="logits", step=size, step_tolerance=0.01)
    found = dict(zip([e.path for e in a.entries], a.shares()[:, 0], strict=True))
    for place in (0, 1, 2):
        assert found[str(place)] == pytest.approx(by_hand(net, place, x, size), abs=0.01)


def test_a_share_is_what_swapping_the_modules_action_changes():
    assert_allocated(network(), photographs(1))


def test_a_share_given_to_another_module_is_noticed(monkeypatch):
    honest = steps.measure_along

    def fault(*given):
        along, reverse = honest(*given)
        return along.roll(1), reverse  # adds up as before

    monkeypatch.setattr(steps, "measure_along", fault)
    with pytest.raises(AssertionError):
        assert_allocated(network(), photographs(1))


def test_a_wrong_weight_of_the_integral_is_noticed(monkeypatch):
    monkeypatch.setattr(steps.torch, "trapezoid", lambda rows, dx, dim: dx * rows.sum(dim))
    a = attribute(network(), photographs(1), "translation_x", output_type="logits", step=1.0)
    assert a.missing[0] > 0.01  # of ends that count twice, not of the integrand
    assert a.quadrature_error > 0.01


def test_what_the_integral_does_not_tell_has_no_share(monkeypatch):
    monkeypatch.setattr(steps, "_MOST", steps._FEWEST)
    net, x = network(nn.ReLU), photographs()
    a = attribute(net, x, "translation_x,rotation", output_type="logits",
                  step={"translation": 8.0, "rotation": 1e-3})  # fmt: skip
    assert a.known.tolist() == [False, False] or a.known.tolist() == [False, True]
    assert np.isnan(a.shares()[:, 0]).all()
    frame = a.to_dataframe()
    assert frame.loc[frame["generator"] == "translation_x", "share"].isna().all()
    assert set(frame["step"]) == {8.0, 1e-3}
