"""Layerwise attribution of networks on point clouds: declared layouts, fibers, closure."""

import math

import numpy as np
import pytest
import torch
from point_networks import Pairs, cloud_mean, clouds
from torch import nn

from liederiv import (
    ImageError,
    ModelError,
    UnknownLayoutError,
    lie_derivative,
    resolve_generators,
)
from liederiv.analysis import attribute, measure_aliasing
from liederiv.model_zoo import load, load_clouds
from liederiv.points import POINTS, Fiber, Joined, PointAction, PointModel, Scalars, Vectors


class RelativePositions(nn.Module):
    """Messages that see relative positions: invariant to translations, not to rotations."""

    output_representation = "scalars"

    def __init__(self, declare=True):
        super().__init__()
        torch.manual_seed(0)
        self.basis = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 4))
        if declare:
            self.basis.input_representation = "vectors"
        self.embed = nn.Linear(1, 4)
        self.mix = nn.Sequential(nn.Linear(4, 4), nn.GELU())
        self.readout = nn.Linear(4, 2)

    def forward(self, c):
        i, j = (c.batch[:, None] == c.batch[None]).nonzero().T
        kernel = self.basis(c.pos[j] - c.pos[i])
        messages = self.embed(c.scalars["charge"])[j] * kernel
        features = messages.new_zeros(len(c.pos), 4).index_add(0, i, messages)
        return self.readout(cloud_mean(self.mix(features), c))


class Oriented(nn.Module):
    """A velocity's components along O orientations, channels mixed, a nonlinearity, the mean."""

    output_representation = "scalars"

    def __init__(self, n=12):
        super().__init__()
        torch.manual_seed(0)
        i = torch.arange(n, dtype=torch.float64)
        z = 1 - (2 * i + 1) / n
        angle, r = math.pi * (1 + 5**0.5) * i, (1 - z**2).sqrt()
        self.register_buffer("fiber_grid", torch.stack([r * angle.cos(), r * angle.sin(), z], 1))
        self.mix = nn.Linear(1, 5)
        self.act = nn.GELU()
        self.norm = nn.LayerNorm(5)
        self.readout = nn.Linear(5, 2)

    def forward(self, c):
        lifted = (c.vectors["velocity"] @ self.fiber_grid.T).mT
        features = self.norm(self.act(self.mix(lifted)))
        return self.readout(features).mean(1)


def entry(a, path):
    (found,) = [i for i, e in enumerate(a.entries) if e.path == path]
    return found


def test_the_module_that_sees_components_is_charged():
    model, cloud = RelativePositions().double().eval(), clouds((4, 3), seed=2)
    a = attribute(model, cloud, "translation,rotation", probes="exact")
    assert a.closure_error < 1e-10
    lie = lie_derivative(model, cloud, "translation,rotation")
    assert np.allclose(a.lie_norm_squared, lie.square().sum(2).detach().numpy(), atol=1e-20)
    assert a.lie_norm_squared[:3].max() < 1e-20
    share = a.exclusive_projection[:, 3:] / a.lie_norm_squared[3:]
    assert np.allclose(share[entry(a, "basis.0")], 1.0, atol=1e-8)
    others = [i for i, e in enumerate(a.entries) if e.counted and e.path != "basis.0"]
    assert np.abs(share[others]).max() < 1e-8
    row = a.entries[entry(a, "basis.0")]
    assert (row.input_layout, row.output_layout) == ("vectors", "scalars")
    assert a.entries[entry(a, "mix.1")].reason == "acts on scalars"
    assert a.scheme == "exact"


def test_what_is_not_declared_is_absorbed_by_the_parent():
    model, cloud = RelativePositions(declare=False).double().eval(), clouds((4, 3), seed=2)
    a = attribute(model, cloud, "rotation", probes="exact")
    assert a.closure_error < 1e-10
    assert a.entries[entry(a, "basis.0")].status == "not measured"
    assert a.entries[entry(a, "basis.0")].reason == "input layout unknown"
    share = a.exclusive_projection / a.lie_norm_squared
    assert np.allclose(share[0], 1.0, atol=1e-8)


def test_functions_of_orientation():
    """The harmonic generator charges what mixes orientations, and says how well it fits."""
    model, cloud = Oriented().double().eval(), clouds((4, 2))
    a = attribute(model, cloud, "rotation", probes="exact")
    assert a.closure_error < 1e-10
    assert a.entries[entry(a, "mix")].reason == "acts on channels"
    assert a.entries[entry(a, "act")].input_layout == "fiber 12"
    assert {e.status for e in a.entries if e.path in ("act", "norm")} == {"measured"}
    total = np.nansum(a.exclusive_projection, 0)
    assert np.allclose(total, a.lie_norm_squared, rtol=1e-8)
    rows = {(a.entries[r.entry].path, r.role): r for r in a.profile}
    # The bias and the lifted velocity are of degree 0 and 1; what a GELU makes of them is not.
    assert rows["act", "input"].fit_residual.max() < 1e-12
    assert 0 < rows["act", "output"].fit_residual.max() < 1
    frame = a.profile_dataframe().set_index(["module", "tensor"])["fit_residual"]
    want = rows["act", "output"].fit_residual.mean()
    assert frame["act", "output"].unique() == pytest.approx([want])
    # ℓ = 0 where features transform exactly.
    moved = rows["act", "input"]
    assert moved.lie_norm.max() < 1e-12 * moved.action_norm.max()


def test_contributions_are_those_of_the_definition():
    """c_M = J_{out←y} (J_M G_z z − G_y y), the long way round, for the nonlinearity on a fiber."""
    model, cloud = Oriented().double().eval(), clouds((3,))
    a = attribute(model, cloud, "rotation", probes="exact")
    action = PointAction(resolve_generators("rotation", catalogue=POINTS[3]), cloud)
    fiber = Fiber.on(model.fiber_grid)
    z = model.mix((cloud.vectors["velocity"] @ model.fiber_grid.T).mT).detach()
    y = model.act(z)

    def tail(y):
        return model.readout(model.norm(y)).mean(1)

    for k in range(3):
        pushed = torch.func.jvp(model.act, (z,), (fiber.act(action, z)[k],))[1]
        delta = pushed - fiber.act(action, y)[k]
        c = torch.func.jvp(tail, (y,), (delta,))[1]
        want = float(c.detach().square().sum())
        assert a.inclusive[entry(a, "act"), k, 0] == pytest.approx(want, rel=1e-9)


def test_equivariant_networks_have_nothing_to_attribute():
    a = attribute(Pairs("forces").double().eval(), clouds((4, 2)), "rigid", probes="exact")
    assert a.lie_norm_squared.max() < 1e-24
    assert a.closure_error < 1e-10


def test_clouds_of_different_size_are_measured_one_by_one():
    model = RelativePositions().double().eval()
    cloud = clouds((2, 6, 1))
    whole = attribute(model, cloud, "rotation_y", probes="exact")
    for b in range(3):
        single = attribute(model, cloud[b], "rotation_y", probes="exact")
        found, want = whole.inclusive[..., b], single.inclusive[..., 0]
        assert np.allclose(found, want, equal_nan=True, rtol=1e-9, atol=1e-25)


def test_a_shipped_network_obeys_the_law():
    """Asked for alone, every module contributes what it does among all; its read-out is a view."""
    model, cloud = load("rapidash_tn_r3").model, load_clouds("nbody", 2).clouds
    whole = attribute(model, cloud, "rotation_x", output="vectors")
    measured = [e.path for e in whole.entries[1:] if e.status == "measured"]
    assert {"net", "net.spatial_basis_fn.0", "net.readout"} <= set(measured)
    for path in measured:
        alone = attribute(model, cloud, "rotation_x", output="vectors", modules=[path])
        found, expected = (v.inclusive[entry(v, path), 0] for v in (whole, alone))
        assert np.allclose(found, expected, rtol=1e-3)
    assert np.allclose(whole.inclusive[entry(whole, "net.readout"), 0, 0], 1.636, rtol=1e-3)
    assert whole.witness.checked == len(measured)
    assert whole.witness.disagreement < 1e-3


def test_adapter_and_outputs_per_point():
    net = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 3))
    net[0].input_representation = "positions"
    model = PointModel(net.double(), lambda m, c: m(c.pos), output="vectors").eval()
    cloud = clouds((3, 2))
    a = attribute(model, cloud, "all", probes="exact")
    assert a.closure_error < 1e-10
    total = lie_derivative(model, cloud, "all").square().sum(2)
    per_cloud = torch.zeros(7, 2, dtype=total.dtype).index_add(1, cloud.batch, total)
    assert np.allclose(a.lie_norm_squared, per_cloud.detach().numpy())
    assert a.entries[entry(a, "model.0")].status == "measured"


def test_modules_that_speak_of_irreps_are_not_taken_for_scalars():
    model = RelativePositions().double().eval()
    model.mix[0].irreps_in = "4x1o"
    a = attribute(model, clouds((3,)), "rotation_x")
    assert a.entries[entry(a, "mix.0")].status != "exactly zero"
    assert a.closure_error < 1e-10


def test_channels_of_several_kinds():
    model, cloud = RelativePositions().double().eval(), clouds((4,))
    both = PointModel(
        model,
        lambda m, c: torch.cat([m(c), cloud_mean(c.pos, c)], 1),
        output=Joined.of((2, Scalars()), (3, Vectors())),
    )
    a = attribute(both.eval(), cloud, "rotation", probes="exact")
    alone = attribute(model, cloud, "rotation", probes="exact")
    assert np.allclose(a.lie_norm_squared, alone.lie_norm_squared)


def test_probabilities_of_a_classifier_on_clouds():
    model, cloud = RelativePositions().double().eval(), clouds((4,))
    a = attribute(model, cloud, "rotation", output_type="probs")
    assert a.closure_error < 1e-9
    with pytest.raises(ModelError, match="output_type='probs' needs scores of classes"):
        attribute(Pairs("forces").double().eval(), cloud, "rotation", output_type="probs")


def test_wrong_declarations_are_refused():
    model = RelativePositions().double().eval()
    model.basis.input_representation = "NCHW"
    with pytest.raises(UnknownLayoutError, match="a module declares 'NCHW'"):
        attribute(model, clouds((3,)), "rotation_x")


def test_aliasing_is_a_matter_of_images():
    with pytest.raises(ImageError, match="not PointCloud"):
        measure_aliasing(RelativePositions().double().eval(), clouds((3,)), "rotation_x")
