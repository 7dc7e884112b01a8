"""Alias-free counterparts: analytic values, laws, sampling phase, forward mode."""

import pytest
import torch
from cases import band_limited
from timm.layers import Conv2dSame
from timm.layers.pool2d_same import MaxPool2dSame
from torch import nn

from liederiv import lie_derivative
from liederiv.analysis.aliasing.alias_free import AliasFreeActivation, AliasFreeMaxPool, Filtered
from liederiv.analysis.layers.layouts import Layout
from liederiv.differentiation import double_backward_jvp, pushforward

F64 = torch.float64
# Remaining share ‖L σ_AF‖/‖L σ‖ on random 32 × 32 maps for factors 2, 4, 8, 16.
SHARES = {
    "relu": (nn.ReLU(), (0.21, 0.066, 0.023, 0.008)),
    "gelu": (nn.GELU(), (0.062, 6e-4, 1e-7, 1e-7)),
    "silu": (nn.SiLU(), (0.032, 1e-4, 1e-7, 1e-7)),
}


def noise(*shape, seed=0):
    return torch.randn(shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def lie(f, x, scheme="fourier", generator="translation"):
    return lie_derivative(f, x, generator, scheme=scheme, output="NCHW")


@pytest.mark.parametrize("name", SHARES)
def test_remaining_share_of_an_activation_falls_with_the_factor(name):
    act, wanted = SHARES[name]
    x = noise(4, 1, 32, 32)
    whole = lie(act, x).norm()
    for factor, want in zip((2, 4, 8, 16), wanted, strict=True):
        left = lie(AliasFreeActivation(act, factor, "periodic"), x).norm() / whole
        if want > 1e-5:
            # Random maps: 10 % for the sample, and another 15 % for two printed digits.
            assert 0.7 * want < left < 1.2 * want
        else:
            assert left < 1e-6


def test_odd_grids_work_as_well():
    x, act = noise(2, 1, 15, 21), nn.GELU()
    assert lie(AliasFreeActivation(act, 8, "periodic"), x).norm() < 1e-6 * lie(act, x).norm()


@pytest.mark.parametrize("n", [9, 12])
def test_mirrored_is_periodic_on_the_mirrored_map(n):
    x = noise(2, 1, n, n + 1)
    doubled = torch.cat([x, x.flip(-1)], -1)
    doubled = torch.cat([doubled, doubled.flip(-2)], -2)
    want = AliasFreeActivation(nn.GELU(), 3, "periodic")(doubled)[..., :n, : n + 1]
    assert torch.allclose(AliasFreeActivation(nn.GELU(), 3, "mirror")(x), want, atol=1e-12)


def test_factor_one_is_the_activation_itself():
    x = noise(1, 2, 8, 8)
    assert torch.equal(AliasFreeActivation(nn.ReLU(), 1)(x), x.relu())


@pytest.mark.parametrize("boundary", ["periodic", "mirror"])
def test_where_the_activation_is_linear_nothing_changes(boundary):
    x = 10 + band_limited((1, 2, 16, 16))
    y = AliasFreeActivation(nn.ReLU(), 4, boundary)(x)
    assert torch.allclose(y, x, atol=1e-12)


def test_tokens_and_channels_last_are_the_same_maps_in_another_order():
    x = noise(2, 3, 4, 6)
    want = AliasFreeActivation(nn.GELU(), 3)(x)
    last = AliasFreeActivation(nn.GELU(), 3, layout=Layout("NHWC"))(x.movedim(1, -1))
    assert torch.allclose(last.movedim(-1, 1), want, atol=1e-12)
    prefix = noise(2, 1, 3, seed=1)
    tokens = torch.cat([prefix, x.flatten(2).mT], 1)
    layout = Layout("NLC", (4, 6), prefix=1)
    out = AliasFreeActivation(nn.GELU(), 3, layout=layout)(tokens)
    assert torch.allclose(out[:, 1:].mT.unflatten(2, (4, 6)), want, atol=1e-12)
    assert torch.allclose(out[:, :1], nn.GELU()(prefix))


def test_an_activation_that_works_in_place_leaves_its_input_alone():
    layout = Layout("NLC", (4, 4), prefix=1)
    x = noise(1, 17, 3)
    before = x.clone()
    AliasFreeActivation(nn.ReLU(inplace=True), 2, layout=layout)(x)
    assert torch.equal(x, before)


def test_decimation_has_the_known_error():
    """The squared error of h ↦ A h for a Fourier series, bin by bin."""
    n, v = 16, torch.tensor([0.6, -0.8], dtype=F64)
    h = torch.fft.fft2(noise(n, n)) / n**2
    k = torch.fft.fftfreq(n, 1 / n, dtype=F64)
    keep = (k.abs() != n // 2) & (k.abs() != n // 4)  # no mode without a slope on either grid
    h = h * (keep[:, None] & keep)
    x = (torch.fft.ifft2(h) * n**2).real
    alias = k - 8 * torch.round(k / 8)
    terms = v[0] * (alias - k) + v[1] * (alias - k)[:, None]
    bins = torch.zeros(8, 8, dtype=torch.complex128)
    index = alias.long() % 8
    bins.index_put_((index[:, None].expand(n, n), index.expand(n, n)), h * terms, accumulate=True)
    want = (2 * torch.pi / n) ** 2 * bins.abs().square().sum()
    L = lie(lambda z: z[..., ::2, ::2], x[None, None])
    got = (v[0] * L[0] + v[1] * L[1]).square().mean()
    assert want > 1e-3
    assert torch.allclose(got, want, rtol=1e-10)


def test_decimating_a_band_limited_map_has_no_error():
    x = band_limited((1, 1, 16, 16), band=0.5)
    assert lie(lambda z: z[..., ::2, ::2], x).abs().max() < 1e-12


def circular_conv(stride, kernel=3, seed=0):
    torch.manual_seed(seed)
    padding = kernel // 2
    conv = nn.Conv2d(
        2, 3, kernel, stride=stride, padding=padding, padding_mode="circular", dtype=F64
    )
    return conv.eval()


@pytest.mark.parametrize("stride", [2, 4])
def test_a_strided_convolution_after_an_ideal_low_pass_has_no_error(stride):
    x, conv = noise(1, 2, 32, 32), circular_conv(stride)
    assert lie(conv, x).abs().max() > 0.1
    repaired = Filtered(conv, (stride, stride), "low_pass", "periodic")
    assert lie(repaired, x).abs().max() < 1e-11
    blurred = Filtered(conv, (stride, stride), "blur", "periodic")
    assert 0.01 < lie(blurred, x).norm() / lie(conv, x).norm() < 0.6


def test_low_pass_in_front_is_low_pass_behind_the_dense_layer():
    x, conv = noise(1, 2, 32, 32), circular_conv(2)
    dense = circular_conv(1)
    dense.load_state_dict(conv.state_dict())
    behind = Filtered(nn.Identity(), (2, 2), "low_pass", "periodic")(dense(x))[..., ::2, ::2]
    assert torch.allclose(Filtered(conv, (2, 2), "low_pass", "periodic")(x), behind, atol=1e-12)


@pytest.mark.parametrize("boundary", ["periodic", "mirror"])
@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(2, 3, 3, stride=2, padding=1),
        nn.Conv2d(2, 3, 2, stride=2),
        nn.Conv2d(2, 3, 7, stride=4, padding=3),
        Conv2dSame(2, 3, 3, stride=2),
        nn.AvgPool2d(2),
    ],
    ids=lambda m: type(m).__name__,
)
def test_the_low_pass_does_not_move_the_samples(layer, boundary):
    """What lies inside the coarser band comes through exactly, so no phase is added."""
    layer = layer.double().eval()
    stride = layer.stride if isinstance(layer.stride, tuple) else (layer.stride,) * 2
    n, k = 16, torch.arange(2, dtype=F64)  # frequencies below 1/8 cycles per pixel
    u = torch.arange(n, dtype=F64)
    if boundary == "mirror":
        waves = torch.cos(torch.pi * k[:, None] * (u + 0.5) / n)
    else:
        waves = torch.cos(2 * torch.pi * k[:, None] * u / n + 0.3)
    x = torch.einsum("cab,ah,bw->chw", noise(2, 2, 2), waves, waves)[None]
    assert torch.allclose(Filtered(layer, stride, "low_pass", boundary)(x), layer(x), atol=1e-12)


@pytest.mark.parametrize("n", [9, 10, 11, 12])
@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(2),
        nn.MaxPool2d(3, 2, 1),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.MaxPool2d(3, 2, 1, ceil_mode=True),
        MaxPool2dSame(3, 2),
    ],
    ids=["2", "3p1", "3ceil", "3p1ceil", "same"],
)
def test_max_pooling_keeps_its_size_and_its_phase(pool, n):
    x = noise(1, 2, n, n + 1)
    want = pool(x)
    for factor, kind in ((1, "low_pass"), (2, "low_pass"), (1, "blur")):
        assert AliasFreeMaxPool(pool, factor, kind)(x).shape == want.shape
    dense = AliasFreeMaxPool(pool, 1).dense(x)[..., ::2, ::2]
    rows, columns = (min(a, b) for a, b in zip(dense.shape[-2:], want.shape[-2:], strict=True))
    assert torch.equal(dense[..., :rows, :columns], want[..., :rows, :columns])


def test_alias_free_max_pooling_loses_its_error_with_the_factor():
    x, pool = band_limited((1, 1, 32, 32)), nn.MaxPool2d(2)
    whole = lie(pool, x).norm()
    left = [
        float(lie(AliasFreeMaxPool(pool, f, boundary="periodic"), x).norm() / whole)
        for f in (1, 4, 16)
    ]
    assert left[0] > 2 * left[1] > 4 * left[2]
    assert left[2] < 0.02


@pytest.mark.parametrize(
    "module",
    [
        AliasFreeActivation(nn.GELU(), 2),
        AliasFreeMaxPool(nn.MaxPool2d(3, 2, 1), 2),
        AliasFreeMaxPool(nn.MaxPool2d(2), 1, "blur"),
        Filtered(nn.Conv2d(2, 2, 3, stride=2, padding=1).double(), (2, 2)),
    ],
    ids=lambda m: type(m).__name__,
)
def test_counterparts_support_forward_mode_under_vmap(module):
    x, v = noise(2, 2, 8, 8), noise(3, 2, 2, 8, 8, seed=1)
    y, jv, engine = pushforward(module, x, v)
    assert engine == "vmap"
    assert torch.allclose(jv, double_backward_jvp(module, x, v)[1], atol=1e-12)
    assert torch.equal(y, module(x))


def test_a_wrapper_shows_the_attributes_of_the_original():
    conv = nn.Conv2d(2, 3, 3, stride=2)
    wrapped = Filtered(conv, (2, 2))
    assert wrapped.weight is conv.weight
    assert wrapped.out_channels == 3
    with pytest.raises(AttributeError, match="no_such"):
        _ = wrapped.no_such
