"""Attribution against dense Jacobians, published values, analytic cases; the caller's state."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from awkward_networks import EXPECTED, BatchReordering, Toy, build, dense_contribution
from cases import band_limited, formula_images, formula_network
from torch import nn

from liederiv import LieDerivError, ModelError, generator, lie_derivative
from liederiv.actions import ImageAction
from liederiv.analysis import attribute
from liederiv.generators import resolve_generators

GENERATORS = "translation_x,rotation,saturation"
NETWORKS = pytest.mark.parametrize("network", EXPECTED, ids=lambda n: n.__name__)


def images(count=1, seed=0, shape=(3, 12, 16)):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(count, *shape, dtype=torch.float64, generator=random)


def entry_of(a, path, call=0):
    return next(i for i, e in enumerate(a.entries) if (e.path, e.call_index) == (path, call))


def probabilities(model):
    return lambda x: model(x).softmax(-1)


@cache
def exact(network):
    """Attribution of two images, which several tests only read."""
    return attribute(build(network), images(2), GENERATORS, output_type="probs", probes="exact")


@NETWORKS
def test_every_contribution_equals_the_dense_jacobians(network):
    model, x = build(network), images(2)[:1]
    action = ImageAction(resolve_generators(GENERATORS), 12, 16)
    lie = lie_derivative(probabilities(model), x, GENERATORS)[:, 0]
    a = exact(network)
    checked = 0
    for i, entry in enumerate(a.entries):
        if i == 0 or entry.path not in EXPECTED[network] or entry.status != "measured":
            continue
        layout = EXPECTED[network][entry.path]
        c = dense_contribution(model, x, action, entry.path, entry.call_index, layout)
        scale = float(lie.square().sum(1).max())
        np.testing.assert_allclose(
            a.inclusive[i, :, 0], c.square().sum(1), rtol=1e-9, atol=1e-13 * scale
        )
        np.testing.assert_allclose(
            a.inclusive_projection[i, :, 0], (c * lie).sum(1), rtol=1e-9, atol=1e-13 * scale
        )
        checked += 1
    paths = {e.path for e in a.entries[1:] if e.status == "measured"}
    assert paths == set(EXPECTED[network])
    assert checked >= len(EXPECTED[network])


@NETWORKS
def test_closes_at_every_level(network):
    a = exact(network)
    assert a.closure_error < 1e-9
    np.testing.assert_allclose(np.nansum(a.shares(), 0), 1, rtol=1e-9)
    np.testing.assert_allclose(np.nansum(a.exclusive_projection, 0), a.lie_norm_squared, rtol=1e-9)
    counted = [i for i, e in enumerate(a.entries) if e.counted]
    for i in counted:
        inside = [j for j in a.walk(i) if a.entries[j].counted]
        np.testing.assert_allclose(
            a.exclusive_projection[inside].sum(0),
            a.inclusive_projection[i],
            rtol=1e-9,
            atol=1e-12 * a.lie_norm_squared.max(),
        )


@NETWORKS
def test_closes_in_single_precision(network):
    a = attribute(build(network).float(), images().float(), GENERATORS)
    assert a.closure_error < 1e-4


def test_totals_are_the_lie_derivative_of_the_callers_model():
    model, x = build(BatchReordering), images(3)
    lie = lie_derivative(probabilities(model), x, GENERATORS)
    a = attribute(model, x, GENERATORS, output_type="probs")
    np.testing.assert_allclose(a.lie_norm_squared, lie.square().sum(-1), rtol=1e-10)
    np.testing.assert_allclose(list(a.totals.values()), lie.square().sum(-1).mean(1), rtol=1e-10)


def test_windows_are_absorbed_by_the_module_around_them():
    a = exact(BatchReordering)
    inside = [e for e in a.entries if e.path.startswith("inside")]
    assert {e.status for e in inside} == {"not measured"}
    assert np.isnan(a.inclusive[entry_of(a, "inside")]).all()
    root = a.shares()[0] + a.shares()[entry_of(a, "stem")]
    np.testing.assert_allclose(root, 1, rtol=1e-9)


def test_modules_called_twice_have_two_entries():
    a = exact(next(n for n in EXPECTED if n.__name__ == "SharedModule"))
    assert [e.call_index for e in a.entries if e.path == "conv"] == [0, 1]


def test_modules_never_called_say_so():
    a = exact(next(n for n in EXPECTED if n.__name__ == "NeverCalled"))
    row = a.entries[entry_of(a, "unused")]
    assert row.status == "not called"
    assert np.isnan(a.inclusive[entry_of(a, "unused")]).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_published_values(reference, dtype):
    generators = [
        generator("translation_x", unit="grid"),
        generator("rotation"),
        generator("scale"),
    ]
    net, x = formula_network().to(dtype), formula_images(dtype)
    a = attribute(net, x, generators, scheme="bilinear", output_type="probs", probes="exact")
    assert [e.class_name for e in a.entries[1:]] == reference["layers"]
    for k, name in enumerate(("translation", "rotation", "scale")):
        expected = np.array(reference["layerwise_squared_norm"][name]).T
        np.testing.assert_allclose(a.exclusive[1:, k], expected, rtol=1e-3)


def test_exactly_equivariant_network_has_no_violation():
    """Circular linear layers before the mean: every entry is zero, containers too."""
    torch.manual_seed(0)
    circular = {"padding": 1, "padding_mode": "circular"}
    body = nn.Sequential(nn.Conv2d(3, 6, 3, **circular), nn.Conv2d(6, 6, 3, **circular))
    net = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))
    net, x = net.double().eval(), band_limited((2, 3, 16, 12))
    a = attribute(net, x, "translation", scheme="fourier", probes="exact")
    moved = attribute(net, x, "translation", scheme="bspline", probes="exact")
    assert np.nanmax(moved.inclusive) > 1e-8  # the check can fail
    assert np.nanmax(a.inclusive) < 1e-24
    assert np.nanmax(a.exclusive) < 1e-24
    assert a.closure_error < 1e-9
    for row in a.profile:
        if row.layout != "vector":
            assert (row.lie_norm < 1e-11 * row.action_norm).all()


def test_known_violation_of_a_positional_weight():
    """y = w·z, then the mean: δ = w·∂z − ∂(w·z), pushed forward as a mean: −mean(∂(w·z) − w·∂z)."""

    class Window(nn.Module):
        def forward(self, z):
            n = z.shape[-1]
            return z * torch.cos(2 * math.pi * torch.arange(n, dtype=z.dtype) / n)

    n, m = 16, 8
    column = 2 * math.pi * torch.arange(n, dtype=torch.float64) / n
    x = torch.stack([column.cos(), column.sin()]).reshape(1, 2, 1, n).expand(1, 2, m, n)
    net = nn.Sequential(Window(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    a = attribute(
        net, x.contiguous(), "translation_x", scheme="fourier", output_type="logits", probes="exact"
    )
    # z = (cos, sin), w = cos: mean(w z') = (2π/n) (−mean cos sin, mean cos²) = (0, π/n), and the
    # translation of the mean is zero; so the window contributes (0, π/n) and nothing else does.
    i = entry_of(a, "0")
    np.testing.assert_allclose(a.exclusive[i, 0, 0], (math.pi / n) ** 2, rtol=1e-12)
    np.testing.assert_allclose(np.delete(a.exclusive[:, 0, 0], i)[:2], 0, atol=1e-28)
    np.testing.assert_allclose(a.totals["translation_x"], (math.pi / n) ** 2, rtol=1e-12)


def test_feature_map_output():
    """With a map as output the root's share is L f of the map, and random probes are unbiased."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.GELU(), nn.Conv2d(4, 2, 3, padding=1))
    net, x = net.double().eval(), images(shape=(3, 8, 8))
    lie = lie_derivative(net, x, "translation", output="NCHW")
    exact = attribute(net, x, "translation", output="NCHW", probes="exact")
    np.testing.assert_allclose(exact.lie_norm_squared[:, 0], lie.square().sum((1, 2, 3, 4)))
    np.testing.assert_allclose(np.nansum(exact.shares(), 0), 1)
    draws = [
        attribute(net, x, "translation", output="NCHW", probes=8, seed=s).inclusive[1:, :, 0]
        for s in range(20)
    ]
    error = np.std(draws, 0) / 20**0.5
    assert (np.abs(np.mean(draws, 0) - exact.inclusive[1:, :, 0]) < 4 * error + 1e-20).all()


@pytest.mark.slow
def test_standard_error_is_that_of_repeated_draws():
    model, x = build(Toy.__subclasses__()[0]), images()
    model.head = nn.Linear(4, 200).double().eval()
    runs = [attribute(model, x, "rotation", probes=6, seed=s) for s in range(60)]
    i = entry_of(runs[0], "act")
    spread = np.std([r.inclusive[i, 0, 0] for r in runs], ddof=1)
    claimed = np.mean([r.inclusive_error[i, 0, 0] for r in runs])
    assert 0.6 < spread / claimed < 1.5
    assert all(r.closure_error < 1e-9 for r in runs)


def test_generators_can_be_measured_in_turns(monkeypatch):
    model, x, whole = build(BatchReordering), images(2), exact(BatchReordering)
    monkeypatch.setattr("liederiv.analysis.layers.attribution._TANGENT_BYTES", 1)
    monkeypatch.setattr("liederiv.analysis.layers.contributions._GRADIENT_BYTES", 1)
    turns = attribute(model, x, GENERATORS, output_type="probs", probes="exact")
    np.testing.assert_allclose(turns.exclusive, whole.exclusive, rtol=1e-9, atol=1e-25)


def test_only_the_modules_asked_for():
    model = build(next(n for n in EXPECTED if n.__name__ == "Residual"))
    a = attribute(model, images(), GENERATORS, modules=["blocks.1"])
    assert [e.path for e in a.entries if e.counted] == ["", "blocks.1"]
    np.testing.assert_allclose(np.nansum(a.shares(), 0), 1)
    everything = attribute(model, images(), GENERATORS)
    i, j = entry_of(a, "blocks.1"), entry_of(everything, "blocks.1")
    np.testing.assert_allclose(a.inclusive[i], everything.inclusive[j], rtol=1e-9)
    with pytest.raises(LieDerivError, match=r"modules=\['nowhere'\] are not in the model"):
        attribute(model, images(), GENERATORS, modules=["nowhere"])


class Failing(Toy):
    def middle(self, z):
        if self.fail:
            raise ValueError("broken on purpose")
        return self.inside(z)


def snapshot(model):
    return {
        "modes": [m.training for m in model.modules()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        "grads": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "requires": [p.requires_grad for p in model.parameters()],
        "inplace": [getattr(m, "inplace", None) for m in model.modules()],
        "weights": [v.clone() for v in model.state_dict().values()],
        "random": torch.get_rng_state(),
    }


def assert_same(a, b):
    for key, values in a.items():
        for u, v in zip(values, b[key], strict=True):
            assert torch.equal(u, v) if isinstance(u, torch.Tensor) else u == v, key


@pytest.mark.parametrize("stage", ["none", "forward", "late"])
def test_the_caller_sees_no_change(stage, monkeypatch):
    network = next(n for n in EXPECTED if n.__name__ == "InPlaceActivation")
    model, x = build(network), images().requires_grad_(True)
    model(x.detach()).sum().backward()
    model.stem.weight.requires_grad_(False)
    before, x_before = snapshot(model), x.detach().clone()
    if stage == "none":
        attribute(model, x, GENERATORS)
    elif stage == "forward":
        calls = [0]

        def sometimes(m, args):
            calls[0] += 1
            if calls[0] > 3:
                raise ValueError("broken on purpose")

        handle = model.conv.register_forward_pre_hook(sometimes)
        with pytest.raises(ValueError, match="broken on purpose"):
            attribute(model, x, GENERATORS)
        handle.remove()
    else:
        monkeypatch.setattr("liederiv.analysis.layers.contributions._contract", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            attribute(model, x, GENERATORS)
    assert_same(before, snapshot(model))
    assert torch.equal(x.detach(), x_before)
    assert x.grad is None


def test_dropout_left_on_is_refused():
    class LeftOn(Toy):
        def middle(self, z):
            return nn.functional.dropout(z, 0.5, training=True)

    with pytest.raises(ModelError, match="stochastic"):
        attribute(build(LeftOn), images(), GENERATORS)
    with pytest.raises(ModelError, match="training mode"):
        attribute(build(BatchReordering).train(), images(), GENERATORS)


def test_a_model_that_relies_on_in_place_modules_is_refused():
    class Relies(Toy):
        def __init__(self):
            super().__init__()
            self.act = nn.ReLU(inplace=True)

        def middle(self, z):
            self.act(z)
            return z

    with pytest.raises(ModelError, match="inplace=True is switched off"):
        attribute(build(Relies), images(), GENERATORS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"probes": "many"}, "probes='many'"),
        ({"probes": 0}, "probes=0"),
        ({"tolerance": 0.0}, "tolerance=0.0"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(LieDerivError, match=message):
        attribute(build(BatchReordering), images(), GENERATORS, **arguments)


def test_tables():
    a = exact(BatchReordering)
    table = a.to_dataframe()
    assert len(table) == 3 * len(a.entries)
    shares = table.groupby("generator")["share"].sum()
    np.testing.assert_allclose(shares, 1)
    each = a.to_dataframe(per_image=True)
    mean = each[each.generator == "rotation"].groupby("module").exclusive.mean()
    np.testing.assert_allclose(
        mean["stem"], table[(table.generator == "rotation") & (table.module == "stem")].exclusive
    )
    np.testing.assert_allclose(a.by("kind").sum(), 1)
    assert "stem [Conv2d]" in a.tree("rotation")
    profile = a.profile_dataframe()
    assert set(profile.module) == {"stem"}
    inputs = profile[(profile.tensor == "input") & (profile.generator == "rotation")]
    np.testing.assert_allclose(inputs.ratio, 0, atol=1e-12)  # the image itself moves exactly


class Transposed(nn.Module):
    """The gradient that reaches a batch norm in front of it lies in memory as tokens do."""

    def forward(self, z):
        return z.flatten(2).mT.square().mean(1)


def test_batch_norm_under_a_channels_last_gradient():
    """torch 2.15's own kernel returns a wrong gradient here; the closure would be about 1."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(8)
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.5, 2)
    stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
    net = nn.Sequential(stem, norm, Transposed(), nn.Linear(8, 5)).double().eval()
    x = torch.randn(1, 3, 16, 16).double()
    assert attribute(net, x, "translation,rotation").closure_error < 1e-9


class Cancels(nn.Module):
    """A small response beside a large one that cancels: float32 keeps few digits of it."""

    def forward(self, z):
        return z.square().mean((2, 3)) + 1e4 * (z.mean((2, 3)) - z.flip(3).mean((3, 2)))


def test_what_float32_cannot_close_is_measured_in_float64():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), Cancels()).eval()
    x = torch.randn(1, 3, 16, 16)
    a = attribute(net, x, "rotation", output_type="logits")
    assert a.closure_error < 1e-4
    assert "float64" in a.engine
    assert next(net.parameters()).dtype == torch.float32
