"""An independent check: networks made of e3nn's equivariant operations measure zero."""

import e3nn
import pytest
import torch
from e3nn import o3
from e3nn.nn import FullyConnectedNet
from point_networks import clouds
from torch import nn

from liederiv import lie_derivative_with_output, measure
from liederiv.analysis import attribute
from liederiv.metrics.sampled import equivariance_error


@pytest.fixture(autouse=True)
def in_double_precision_and_without_scripts():
    """e3nn keeps its coupling constants in the dtype in which a network is built."""
    before, dtype = e3nn.get_optimization_defaults(), torch.get_default_dtype()
    e3nn.set_optimization_defaults(jit_script_fx=False)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(dtype)
    e3nn.set_optimization_defaults(**before)


class TwoLayers(nn.Module):
    """Two tensor-product convolutions over all pairs, through features up to degree 2."""

    def __init__(self, output, irreps):
        super().__init__()
        torch.manual_seed(0)
        self.sh = o3.Irreps.spherical_harmonics(2)
        hidden = o3.Irreps("3x0e + 2x1o + 1x2e")
        self.first = o3.FullyConnectedTensorProduct(
            "1x0e + 1x1o", self.sh, hidden, shared_weights=False
        )
        self.second = o3.FullyConnectedTensorProduct(hidden, self.sh, irreps, shared_weights=False)
        self.first_radial = FullyConnectedNet([2, 8, self.first.weight_numel], torch.tanh)
        self.second_radial = FullyConnectedNet([2, 8, self.second.weight_numel], torch.tanh)
        self.output_representation = output

    def forward(self, c):
        same = c.batch[:, None] == c.batch[None]
        i, j = (same & ~torch.eye(len(c.batch), dtype=torch.bool)).nonzero().T
        offset = c.pos[j] - c.pos[i]
        square = offset.square().sum(1, keepdim=True)
        radial = torch.cat([torch.exp(-square), 1 / (1 + square)], 1)
        Y = o3.spherical_harmonics(self.sh, offset, True, "component")
        x = torch.cat([c.scalars["charge"], c.vectors["velocity"][:, 0]], 1)
        for conv, weights in ((self.first, self.first_radial), (self.second, self.second_radial)):
            message = conv(x[j], Y, weights(radial))
            x = message.new_zeros(len(c.pos), message.shape[1]).index_add(0, i, message)
        return x


CASES = [("scalars", "2x0e"), ("vectors", "1x1o")]


@pytest.mark.parametrize(("output", "irreps"), CASES)
def test_lie_derivatives_vanish_to_rounding(output, irreps):
    net = TwoLayers(output, irreps).eval()
    found = lie_derivative_with_output(net, clouds(), "all")
    size = found.output.norm()
    assert size > 0.1
    assert found.value[:6].norm() < 1e-13 * size
    assert found.value[6].norm() > 0.1 * size  # no network of distances is blind to scale
    if output == "vectors":  # and the check can fail: as scalars, they are not invariant
        wrong = lie_derivative_with_output(net, clouds(), "rotation", output="scalars")
        assert wrong.value.norm() > 0.1 * size


@pytest.mark.parametrize(("output", "irreps"), CASES)
def test_finite_rotations_agree(output, irreps):
    net = TwoLayers(output, irreps).eval()
    error = equivariance_error(net, clouds(), "rotation", num_samples=2)
    assert error.value < 1e-24


def test_relative_error_in_double_precision():
    net = TwoLayers("vectors", "1x1o").eval()
    scores = measure(net, clouds(), "rotation,scale", "lee,relative_norm")
    assert scores.get("relative_norm", "rotation").value < 1e-24
    assert scores.get("relative_norm", "scale").value > 1e-3


def test_constants_rounded_to_single_precision_are_found_out():
    torch.set_default_dtype(torch.float32)
    net = TwoLayers("vectors", "1x1o").double().eval()
    found = lie_derivative_with_output(net, clouds(), "rotation")
    assert 1e-10 < found.value.norm() / found.output.norm() < 1e-6


def test_attribution_does_not_take_irreps_for_scalars():
    net = TwoLayers("vectors", "1x1o").eval()
    a = attribute(net, clouds((4,)), "rotation,scale")
    assert a.closure_error < 1e-10
    status = {e.path: e.status for e in a.entries}
    assert status["first"] == status["second"] == "not measured"
    assert status["first_radial"] == "exactly zero"
