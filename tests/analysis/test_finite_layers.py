"""EQ-T and EQ-R of single modules: exact zeros, an independent computation, and what is refused."""

import math

import pytest
import torch
from torch import nn

from liederiv.analysis import measure_finite
from liederiv.errors import LieDerivError


def circular(cin, cout, stride=1, kernel=3):
    return nn.Conv2d(
        cin, cout, kernel, stride, kernel // 2, padding_mode="circular", dtype=torch.float64
    )


def network(*layers):
    torch.manual_seed(0)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).double().eval()


@pytest.fixture
def images():
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)).double()


def test_what_commutes_with_whole_pixels_is_exact_and_only_that(images):
    model = network(circular(3, 4), nn.ReLU(), circular(4, 4, stride=2), nn.GELU())
    found = measure_finite(model, images, scheme="fourier")
    for path in ("0", "1", "2", "3", "4"):
        assert found.get(path, "eq_t_relative").value > 250, path
    # A ReLU's kinks and a stride alias; a convolution moves with the periodic signal, a point at
    # the Nyquist frequency aside. The average over all positions does not notice translations.
    assert 5 < found.get("1", "eq_t_frac_relative").value < 60
    assert 5 < found.get("2", "eq_t_frac_relative").value < 60
    assert found.get("0", "eq_t_frac_relative").value > found.get("1", "eq_t_frac_relative").value
    assert found.get("0", "eq_r_relative").value < 60


def test_pointwise_linear_maps_commute_with_everything(images):
    model = network(nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5))
    found = measure_finite(model, images)
    for metric in ("eq_t_relative", "eq_t_frac_relative", "eq_r_relative"):
        for path in ("0", "1"):
            assert found.get(path, metric).value > 250, (path, metric)


def test_agrees_with_rolling_by_hand(images):
    """One whole-pixel shift of a zero-padded convolution, by slicing instead of resampling."""
    model = network(nn.Conv2d(3, 4, 3, padding=1))
    conv = model[0]
    found = measure_finite(
        model, images[:1], "eq_t_relative", scheme="fourier", num_samples=1, seed=3
    )
    value = found.get("0", "eq_t_relative").error[0]
    with torch.no_grad():
        y = conv(images[:1])
        candidates = []
        for dx in range(-2, 3):
            for dy in range(-2, 3):
                moved = torch.roll(images[:1], (-dy, -dx), (2, 3))
                gap = (conv(moved) - torch.roll(y, (-dy, -dx), (2, 3))).square()
                rows = slice(max(0, -dy), 16 - max(0, dy))
                columns = slice(max(0, -dx), 16 - max(0, dx))
                mean = gap[:, :, rows, columns].mean() / (y.amax() - y.amin()) ** 2
                candidates.append((float(mean), (dx, dy)))
    close = [shift for mean, shift in candidates if abs(mean - value) <= 1e-9 * value]
    assert value > 1e-5
    assert len(close) == 1
    assert close[0] != (0, 0)


def test_tokens_move_and_prefix_tokens_stay():
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2).eval()
    found = measure_finite(model, torch.rand(1, 3, 64, 64), scheme="fourier", num_samples=2)
    assert found.get("patch_embed", "eq_t_relative").value > 100  # shifts by whole patches
    assert found.get("patch_embed", "eq_t_frac_relative").value < 60
    assert found.get("blocks.0.mlp.fc1", "eq_r_relative").value > 100
    row = found.get("blocks.0", "eq_r_relative")
    assert row.output_layout == "NLC 1+4×4"
    assert 5 < row.value < 100
    assert "blocks.0.attn.q_norm" in dict(found.skipped)


def test_a_pooled_output_is_compared_as_it_is(images):
    model = network(circular(3, 4), nn.Softplus())
    row = measure_finite(model, images, "eq_t_relative", scheme="fourier").get("", "eq_t_relative")
    assert row.output_layout == "vector"
    assert row.value > 250


def test_whole_shifts_are_never_nothing():
    from liederiv.actions import ImageAction
    from liederiv.analysis.layers.finite import _Draws
    from liederiv.generators import resolve_generators

    actions = (ImageAction(resolve_generators(g), 16, 8) for g in ("translation", "rotation"))
    draws = _Draws(*actions, num_samples=4000, max_fraction=1 / 8, seed=0)
    shifts = {tuple(s) for s in draws._whole(8, 16).int().tolist()}
    assert shifts == {(x, y) for x in range(-1, 2) for y in range(-2, 3)} - {(0, 0)}


class Fails(nn.Module):
    """Raises when its input is not the one it saw first."""

    def forward(self, x):
        if self.seen is not None and not torch.equal(self.seen, x.detach()):
            raise RuntimeError("moved")
        self.seen = x.detach().clone()
        return x * 1

    seen = None


def test_hooks_are_gone_after_a_failure(images):
    model = network(nn.Conv2d(3, 4, 3), Fails())
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(RuntimeError, match="moved"):
        measure_finite(model, images, "eq_t_relative")
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"metrics": "eq_x"}, "metrics='eq_x' is unknown"),
        ({"num_samples": 0}, "num_samples=0"),
        ({"max_fraction": 1.5}, "max_fraction=1.5"),
        ({"modules": ["nope"]}, "nope"),
    ],
)
def test_bad_arguments(images, wrong, message):
    with pytest.raises(LieDerivError, match=message):
        measure_finite(network(nn.ReLU()), images, **wrong)


def test_constant_outputs_are_undefined_not_perfect(images):
    class Zero(nn.Module):
        def forward(self, x):
            return x * 0

    found = measure_finite(network(nn.Conv2d(3, 4, 1), Zero()), images, "eq_t_relative")
    assert math.isnan(found.get("1", "eq_t_relative").value)


def test_dataframe(images):
    frame = measure_finite(network(nn.ReLU()), images, "eq_t_relative").to_dataframe()
    assert set(frame["unit"]) == {"dB"}
    assert list(frame["path"]) == ["", "0", "1"]


@pytest.mark.parametrize("kernel", [3, 5])
def test_a_stride_without_padding_commutes_with_shifts_by_its_stride(kernel):
    """31 pixels become 15 or 14, one for every two: a pixel of the map is two of the image."""
    conv = nn.Conv2d(3, 3, kernel, stride=2, groups=3, bias=False)
    nn.init.zeros_(conv.weight).data[..., kernel // 2, kernel // 2] = 1.0
    net = nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    x = torch.rand(1, 3, 31, 31)
    found = measure_finite(net, x, "eq_t_relative", scheme="bspline", num_samples=6, margin=1.0)
    assert found.get("0", "eq_t_relative").value > 100
