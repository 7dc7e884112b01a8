"""The Lie derivative against independent derivations: dense Jacobians, double backward, laws."""

import pytest
import timm
import torch
from cases import band_limited, formula_images, formula_network
from tolerances import COMPUTED, assert_close
from torch import nn
from torch.func import jacrev

from liederiv import (
    SCHEMES,
    FeatureMap,
    ImageError,
    NotDifferentiableError,
    UnknownLayoutError,
    lie_derivative,
    lie_derivative_with_output,
    resolve_generators,
)
from liederiv.actions import ImageAction

PAPER_NAMES = {
    "trans_x_deriv": "translation_x",
    "trans_y_deriv": "translation_y",
    "rot_deriv": "rotation",
    "shear_x_deriv": "shear_x",
    "shear_y_deriv": "shear_y",
    "saturate_err": "saturation",
    "hyper_rotation": "hyperbolic_rotation",
    "scale": "scale",
}


@pytest.mark.parametrize("row", PAPER_NAMES)
def test_bilinear_agrees_with_the_published_code(reference, row):
    f = nn.Sequential(formula_network(), nn.Softmax(-1))
    g = resolve_generators(PAPER_NAMES[row], unit="grid")
    L = lie_derivative(f, formula_images(), g, scheme="bilinear")
    want = torch.tensor(reference["end_to_end_mean_abs"][row])
    assert torch.allclose(L[0].abs().mean(-1), want, rtol=1e-4, atol=0)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_agrees_with_a_dense_jacobian(scheme):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.GELU(), nn.Flatten(), nn.LazyLinear(4)).double()
    x = torch.randn(1, 2, 6, 8, dtype=torch.float64)
    net(x)
    net.eval()
    names = resolve_generators("all")
    J = jacrev(net)(x)[0, :, 0]  # [4, 2, 6, 8]
    want = torch.einsum("ochw,kchw->ko", J, ImageAction(names, 6, 8, scheme).tangents(x)[:, 0])
    got = lie_derivative(net, x, names, scheme=scheme)[:, 0]
    assert_close(got, want, COMPUTED)


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (torch.float32, "resnet18"),
        (torch.float32, "vit_tiny_patch16_224"),
        (torch.float32, "convnext_atto"),
        (torch.float64, "vit_tiny_patch16_224"),
        pytest.param(torch.float64, "resnet18", marks=pytest.mark.slow),
        pytest.param(torch.float64, "convnext_atto", marks=pytest.mark.slow),
    ],
)
def test_engines_agree(dtype, name):
    torch.manual_seed(0)
    kwargs = {"img_size": 64} if "vit" in name else {}
    model = timm.create_model(name, num_classes=10, **kwargs).eval().to(dtype)
    x = torch.randn(2, 3, 64, 64, dtype=dtype)
    names = resolve_generators("translation,rotation,saturation")
    results = [
        lie_derivative_with_output(model, x, names, engine=e, verify=False).value
        for e in ("vmap", "loop", "double-backward")
    ]
    tolerance = 1e-4 if dtype == torch.float32 else 1e-10
    for other in results[1:]:
        assert (other - results[0]).norm() < tolerance * results[0].norm()


def test_chunks_do_not_change_the_result():
    f, x = formula_network().double(), formula_images(torch.float64)
    whole = lie_derivative(f, x, "all")
    for size in (1, 5, 12, 99):
        assert_close(lie_derivative(f, x, "all", chunk_size=size), whole)


def circular_network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 5, 3, padding=1, padding_mode="circular"), nn.Conv2d(5, 4, 1)]
    return nn.Sequential(*layers).double().eval()


def test_exactly_equivariant_map_has_no_error():
    x = band_limited((2, 3, 16, 24), band=2.0)
    L = lie_derivative_with_output(
        circular_network(), x, "translation", scheme="fourier", output="NCHW"
    )
    assert L.value.norm() < 1e-10 * L.pushforward.norm()
    assert L.pushforward.norm() > 1


def test_exactly_invariant_vector_has_no_error():
    f = nn.Sequential(circular_network(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    x = band_limited((2, 3, 16, 24), band=2.0)
    L = lie_derivative(f, x, "translation", scheme="fourier")
    X = ImageAction(resolve_generators("translation"), 16, 24, "fourier").tangents(x)
    assert L.norm() < 1e-10 * X.norm()


def test_map_known_not_to_be_equivariant_has_its_analytic_error():
    """f(x) = w(p) x(p): L_ξ f = w ξ·∇x − ξ·∇(w x) = −(ξ·∇w) x, for band-limited w and x."""
    H, W, k = 16, 24, 2
    j = torch.arange(W, dtype=torch.float64)
    w = torch.sin(2 * torch.pi * k * j / W)
    slope = 2 * torch.pi * k / W * torch.cos(2 * torch.pi * k * j / W)
    x = band_limited((2, 1, H, W), band=0.5)
    L = lie_derivative(lambda z: w * z, x, "translation", scheme="fourier", output="NCHW")
    assert (L[0] + slope * x).abs().max() < 1e-12
    assert L[1].abs().max() < 1e-12


def test_subsampling_has_the_error_of_its_aliases():
    """Decimating h by s: ‖L‖² per unit shift is (2π/N)² Σ_b |Σ_{k→b} h_k (alias(k) − k)|² / N_b.

    k runs over the frequencies of N samples, alias(k) over those of N/s; derived from the spectral
    derivative before and after.
    """
    N, s = 16, 2
    x = torch.randn(1, 1, N, N, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = x - (x @ torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(N // 2))[..., None] * (
        torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(N // 2) / N
    )  # the Nyquist mode of the input has no derivative in either scheme
    L = lie_derivative(
        lambda z: z[..., ::s], x, "translation_x", scheme="fourier", output=FeatureMap("NCHW")
    )[0]
    h = torch.fft.fft(x, dim=-1) / N
    k = torch.fft.fftfreq(N, 1 / N, dtype=torch.float64)
    n = N // s
    alias = torch.fft.fftfreq(n, 1 / n, dtype=torch.float64)[torch.arange(N) % n]
    alias = torch.where(alias == -n / 2, torch.zeros_like(alias), alias)  # Nyquist: slope dropped
    bins = torch.zeros(1, 1, N, n, dtype=torch.complex128)
    bins.index_add_(-1, torch.arange(N) % n, h * (alias - k))
    want = (2 * torch.pi / N) ** 2 * bins.abs().square().sum() * n
    assert_close(L.square().sum(), want, COMPUTED)
    low = torch.fft.ifft(torch.fft.fft(x, dim=-1) * (k.abs() < n / 2), dim=-1).real
    assert (
        lie_derivative(
            lambda z: z[..., ::s], low, "translation_x", scheme="fourier", output="NCHW"
        ).norm()
        < 1e-12 * low.norm()
    )


def test_linear_in_the_generator():
    x = formula_images(torch.float64)
    sx, sy, s = lie_derivative(formula_network().double(), x, ["stretch_x", "stretch_y", "scale"])
    assert torch.allclose(sx + sy, s, rtol=1e-9, atol=1e-14)


def test_nested_outputs_keep_their_structure():
    def f(x):
        return {"map": x * 2, "mean": x.mean((2, 3))}

    x = band_limited((2, 3, 8, 8))
    L = lie_derivative(f, x, "translation", output={"map": "NCHW", "mean": "invariant"})
    assert L["map"].shape == (2, 2, 3, 8, 8)
    assert L["mean"].shape == (2, 2, 3)
    assert L["map"].abs().max() < 1e-14


def test_caller_is_left_alone():
    model = formula_network()
    x = formula_images().requires_grad_(True)
    before = [p.clone() for p in model.parameters()]
    state = torch.get_rng_state()
    L = lie_derivative(model, x, "rotation")
    assert not L.requires_grad
    assert x.grad is None
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert torch.equal(state, torch.get_rng_state())


def test_unknown_layout_is_refused_with_the_remedy():
    x = torch.randn(1, 8, 8, 8)
    with pytest.raises(UnknownLayoutError, match="declare it: output='invariant'"):
        lie_derivative(lambda z: z, x, "rotation")
    with pytest.raises(UnknownLayoutError, match="none that is known"):
        lie_derivative(lambda z: z[..., :5, :7], x, "rotation")
    with pytest.raises(
        UnknownLayoutError, match="lists 2 representations, but the model returns 1"
    ):
        lie_derivative(lambda z: z, x, "rotation", output=["NCHW", "NCHW"])
    with pytest.raises(UnknownLayoutError, match="output='conv' is not understood"):
        lie_derivative(lambda z: z, x, "rotation", output="conv")


def test_outputs_without_derivative_are_refused():
    x = torch.randn(1, 3, 8, 8)
    with pytest.raises(NotDifferentiableError, match=r"type torch\.int64, which has no derivative"):
        lie_derivative(lambda z: z.flatten(1).argmax(1), x, "rotation")


def test_integer_images_are_refused():
    with pytest.raises(ImageError, match=r"dtype torch.int64; derivatives need float32 or float64"):
        lie_derivative(lambda z: z, torch.zeros(1, 3, 8, 8, dtype=torch.long), "rotation")
