"""The aliasing report on networks whose answers are known."""

import numpy as np
import pytest
import torch
from cases import band_limited
from timm.layers import BatchNormAct2d
from torch import nn

from liederiv import LieDerivError, ModelError
from liederiv.analysis import attribute
from liederiv.analysis.aliasing.measuring import measure_aliasing

F64 = torch.float64


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def circular(n_in, n_out, stride=1, kernel=3):
    padding = kernel // 2
    return nn.Conv2d(n_in, n_out, kernel, stride, padding, padding_mode="circular", dtype=F64)


def network(*layers, channels=4):
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 6, dtype=F64)]
    return nn.Sequential(*layers, *head).eval()


def noise(*shape, seed=0):
    return torch.randn(shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("act", [nn.ReLU(), nn.GELU(), nn.SiLU()], ids=lambda m: type(m).__name__)
def test_the_aliasing_share_of_an_activation_tends_to_one(act):
    # Squaring after the activation lets single frequencies through to the output.
    net = network(circular(3, 4), act, circular(4, 4), Square())
    x = noise(3, 3, 16, 16)
    left = [
        1
        - measure_aliasing(net, x, scheme="fourier", factor=f, modules=["1"])
        .get("1")
        .aliasing_share()
        for f in (2, 16)
    ]
    # On whole maps 0.008 of ReLU's error is left at 16, and nothing of a smooth activation's; the
    # contribution is one direction of it only, so ReLU gets room.
    assert (np.abs(left[1]) < (0.05 if isinstance(act, nn.ReLU) else 1e-6)).all()
    assert (left[0] > 10 * np.abs(left[1])).all() or isinstance(act, nn.ReLU)
    assert np.abs(left[0]).mean() > 3 * np.abs(left[1]).mean()


class Square(nn.Module):
    def forward(self, z):
        return z.square()


def test_a_band_limited_input_through_a_linear_network_has_no_aliasing_and_no_error():
    net = network(circular(3, 4), circular(4, 4, stride=2), nn.BatchNorm2d(4).double())
    x = band_limited((2, 3, 32, 32), band=0.5)
    report = measure_aliasing(net, x, scheme="fourier")
    assert report.lie_norm_squared.max() < 1e-24
    row = report.get("1")
    assert row.counterpart == "low_pass"
    assert row.aliased_energy < 1e-24
    assert row.above_nyquist < 1e-24
    assert row.error.max() < 1e-24
    assert report.get("0").status == "not applicable"
    assert "affine" in report.get("0").reason


def test_a_strided_convolution_is_all_aliasing_and_none_after_a_low_pass():
    net = network(circular(3, 4, stride=2), Square(), circular(4, 4))
    report = measure_aliasing(net, noise(2, 3, 32, 32), scheme="fourier")
    row = report.get("0")
    assert np.allclose(row.aliasing_share(), 1, atol=1e-9)
    assert 0.1 < row.aliased_energy < 1
    assert 0.6 < row.above_nyquist < 0.9  # white noise: three quarters
    clean = measure_aliasing(net, band_limited((2, 3, 32, 32), band=0.5), scheme="fourier")
    assert clean.get("0").aliased_energy < 1e-24


def test_what_the_border_does_is_its_share():
    net = network(nn.Conv2d(3, 4, 3, padding=1, dtype=F64), Square(), circular(4, 4), Square())
    x = noise(1, 3, 16, 16)
    periodic = measure_aliasing(net, x, scheme="fourier")
    assert np.allclose(periodic.get("0").padding_share(), 1, atol=1e-9)
    assert np.isnan(periodic.get("1").padding_share()).all()
    assert np.isnan(periodic.get("2").padding_share()).all()  # circular already
    # The spline's derivative decays by 0.27 per pixel, so a wide border holds almost everything.
    local = measure_aliasing(net, noise(1, 3, 32, 32), scheme="bspline", border=5)
    assert (local.get("0").boundary_share() > 0.95).all()
    assert (local.get("1").boundary_share() < 0.8).all()


def test_shares_of_a_rounding_error_are_not_numbers():
    """The mean of z² moves with z exactly, since the derivative is skew: nothing to share out."""
    report = measure_aliasing(
        network(circular(3, 4), Square()), noise(1, 3, 16, 16), scheme="fourier"
    )
    assert report.get("1").error.max() < 1e-25
    assert np.isnan(report.get("1").aliasing_share()).all()


@pytest.mark.parametrize("scheme", ["fourier", "fourier_mirror", "bspline"])
def test_the_error_is_the_attributed_one(scheme):
    net = network(circular(3, 4), nn.ReLU(), nn.MaxPool2d(2), BatchNormAct2d(4).double())
    x = noise(2, 3, 8, 8)
    report = measure_aliasing(net, x, "translation,rotation", scheme=scheme)
    whole = attribute(net, x, "translation,rotation", scheme=scheme)
    position = {e.path: i for i, e in enumerate(whole.entries)}
    assert [r.path for r in report.rows] == ["0", "1", "2", "3"]
    for row in report.rows:
        i = position[row.path]
        assert np.allclose(row.error, whole.inclusive[i], rtol=1e-8, atol=1e-30)
        assert np.allclose(row.projection, whole.inclusive_projection[i], rtol=1e-8, atol=1e-30)
    assert np.allclose(report.lie_norm_squared, whole.lie_norm_squared, rtol=1e-9)


def test_an_elementwise_module_is_reported_as_a_whole():
    net = network(circular(3, 4), BatchNormAct2d(4).double())
    report = measure_aliasing(net, noise(1, 3, 16, 16), scheme="fourier")
    assert [r.path for r in report.rows] == ["0", "1"]
    assert report.get("1").counterpart == "alias_free"
    assert ("2", "it is no map from one tensor to one") in report.skipped


def test_tables_and_correlation():
    layers = [circular(3, 4), nn.ReLU(), circular(4, 4), nn.GELU(), circular(4, 4), nn.SiLU()]
    net = network(*layers, circular(4, 4, stride=2), nn.ReLU(), Square())
    report = measure_aliasing(net, noise(2, 3, 16, 16), scheme="fourier", factor=4)
    frame = report.to_dataframe()
    assert len(frame) == 2 * len(report.rows)
    measured = frame[frame["status"] == "measured"]
    # The last square has no error, nor has an activation where nothing changes sign.
    shares = measured["aliasing_share"].dropna()
    assert len(shares) >= 8
    assert shares.between(0.5, 1).all()
    assert frame[frame["status"] != "measured"]["aliasing_share"].isna().all()
    found = report.correlation("translation_y")
    assert found.count == len(measured) // 2
    assert -1 <= found.low <= found.value <= found.high <= 1
    assert all(0.7 < v <= 1 for v in report.explained().values())


def test_the_model_is_left_as_it_is():
    net = network(circular(3, 4), nn.ReLU(inplace=True), circular(4, 4, stride=2))
    x, state = noise(1, 3, 16, 16), torch.get_rng_state()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    kept = x.clone()
    measure_aliasing(net, x, scheme="fourier")
    assert torch.equal(x, kept)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert net[1].inplace
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


def test_bad_arguments_are_refused():
    net, x = network(circular(3, 4), nn.ReLU()), noise(1, 3, 8, 8)
    with pytest.raises(LieDerivError, match="factor=1 must be a whole number, 2 or larger"):
        measure_aliasing(net, x, factor=1)
    with pytest.raises(LieDerivError, match=r"modules=\['nine'\] are not called"):
        measure_aliasing(net, x, modules=["nine"])
    with pytest.raises(LieDerivError, match="path='nine' has no row"):
        measure_aliasing(net, x, modules=["1"]).get("nine")
    with pytest.raises(ModelError, match="training mode"):
        measure_aliasing(net.train(), x)


def test_a_saturated_softmax_has_no_error_and_no_shares():
    """Its Jacobian is zero: there is no direction to look along."""
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 5),
    ).eval()  # fmt: skip
    net[4].weight.data *= 1e6
    x = torch.randn(2, 3, 16, 16)
    assert set(net(x).softmax(1).unique().tolist()) == {0.0, 1.0}
    report = measure_aliasing(net, x, output_type="probs")
    relu = report.get("1")
    assert not report.lie_norm_squared.any()
    assert not relu.error.any()
    assert np.isnan(relu.aliasing_share()).all()
    assert relu.aliased_power.min() > 0


class ToldTwice(nn.Module):
    """A module with a constant second argument, which a counterpart would not be given."""

    class Scaled(nn.Module):
        def forward(self, z, power=1):
            return z.relu() ** power

    def __init__(self):
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 4, 3, padding=1), self.Scaled()

    def forward(self, x):
        return self.act(self.conv(x), 2).mean((2, 3))


def test_modules_with_further_arguments_are_skipped():
    torch.manual_seed(0)
    report = measure_aliasing(ToldTwice().eval(), torch.randn(1, 3, 12, 12), output_type="logits")
    assert [r.path for r in report.rows] == ["conv"]
    assert ("act", "it takes further arguments") in report.skipped
