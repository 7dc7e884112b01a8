"""Output representations: sign conventions, steerable maps, recognition."""

import math
from pathlib import Path

import pytest
import torch
from cases import band_limited
from safetensors.torch import load_file
from tolerances import COMPUTED, assert_close
from torch import nn

from liederiv import (
    CovectorChannels,
    Custom,
    FeatureMap,
    Invariant,
    Irreps,
    TokenGrid,
    UnknownLayoutError,
    VectorChannels,
    get_scheme,
    lie_derivative,
    resolve_generators,
)
from liederiv.actions import ImageAction
from liederiv.metrics.discrete import QuarterTurn
from liederiv.metrics.finite import act_finite
from liederiv.representations import recognise, resolve
from liederiv.transforms import FiniteTransform


def gradient(z: torch.Tensor) -> torch.Tensor:
    """The gradient field of a scalar map: [B, 1, H, W] to [B, 2, H, W], spectrally."""
    fourier = get_scheme("fourier")
    Dh = fourier.derivative(z.shape[-2], z.dtype)
    Dw = fourier.derivative(z.shape[-1], z.dtype)
    return torch.cat([z @ Dw.T, Dh @ z], 1)


def bump(size: int = 48) -> torch.Tensor:
    u = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    y, x = torch.meshgrid(u, u, indexing="ij")
    return torch.exp(-((x - 2) ** 2 + (y + 3) ** 2 + 0.3 * x * y) / 18)[None, None]


def test_gradient_of_an_image_is_a_covector_field_under_every_affine_generator():
    """An exactly equivariant steerable map scores 0 where the trivial action charges it."""
    z = bump()
    args = (gradient, z, "spatial")
    right = lie_derivative(*args, scheme="fourier", output=FeatureMap(channels=CovectorChannels()))
    wrong = lie_derivative(*args, scheme="fourier", output="NCHW")
    for k, g in enumerate(resolve_generators("spatial")):
        assert right[k].norm() < 1e-5 * gradient(z).norm(), g.name
        charged = wrong[k].norm() / gradient(z).norm()
        assert charged < 1e-5 if g.group == "translation" else charged > 0.5, g.name


def test_vectors_and_covectors_agree_on_rotations_only():
    z = bump()
    vector = FeatureMap(channels=VectorChannels())
    L = lie_derivative(gradient, z, "rotation,scale", scheme="fourier", output=vector)
    assert L[0].norm() < 1e-5 * gradient(z).norm()
    assert L[1].norm() > gradient(z).norm()


def test_order_one_irrep_is_a_vector_and_order_two_the_traceless_hessian():
    z = bump()
    one = FeatureMap(channels=Irreps((1,)))
    L = lie_derivative(gradient, z, "rotation", scheme="fourier", output=one)
    assert L.norm() < 1e-5 * gradient(z).norm()

    def hessian(x: torch.Tensor) -> torch.Tensor:
        g = gradient(x)
        gx, gy = gradient(g[:, :1]), gradient(g[:, 1:])
        return torch.cat([x, gx[:, :1] - gy[:, 1:], 2 * gx[:, 1:]], 1)

    both = FeatureMap(channels=Irreps((0, 2)))
    L = lie_derivative(hessian, z, "rotation", scheme="fourier", output=both)
    assert L.norm() < 1e-5 * hessian(z).norm()
    wrong = FeatureMap(channels=Irreps((0, 1)))
    L = lie_derivative(hessian, z, "rotation", scheme="fourier", output=wrong)
    assert L.norm() > 0.1 * hessian(z).norm()


def harmonic_layer(order: int, up: bool) -> nn.Module:
    """Convolution with (cos mφ, sin mφ) r^m exp(−r²/2σ²), φ counterclockwise on the screen or not.

    Written from the law of the fields alone: k(R p) = R_m k(p) for such a kernel, so that turning
    the image by θ turns the field by mθ in the sense in which φ grows.
    """
    u = torch.arange(-16, 17, dtype=torch.float64)
    down, right = torch.meshgrid(u, u, indexing="ij")
    phi = torch.atan2(-down if up else down, right)
    r = (down**2 + right**2).sqrt()
    radial = (r / 2.5) ** order * torch.exp(-(r**2) / 12.5)
    kernel = torch.stack([(order * phi).cos() * radial, (order * phi).sin() * radial])
    layer = nn.Conv2d(1, 2, 33, padding=16, bias=False).double()
    layer.weight.data = kernel[:, None]
    return layer.eval().requires_grad_(False)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("up", [True, False])
def test_irreps_turn_from_x_to_y_wherever_y_points(order, up):
    f, z = harmonic_layer(order, up), bump(64)
    y = "up" if up else "down"
    size = f(z).norm()

    def error(channels: Irreps) -> float:
        rho = FeatureMap(channels=channels)
        return float(lie_derivative(f, z, "rotation", scheme="fourier", output=rho).norm() / size)

    assert error(Irreps((order,), y)) < 1e-4
    assert error(Irreps((-order,), "down" if up else "up")) < 1e-4  # the same, said otherwise
    assert error(Irreps((order,), "down" if up else "up")) == pytest.approx(2 * order, rel=1e-3)
    turn = QuarterTurn(64, 64, 1)
    rho = FeatureMap(channels=Irreps((order,), y))
    want = f(turn.on_input(z))
    assert (act_finite(rho, turn, f(z)) - want).norm() < 1e-6 * want.norm()
    action = ImageAction(resolve_generators("rotation"), 64, 64, "fourier")
    t = FiniteTransform(action, torch.tensor([[0.4]], dtype=torch.float64))
    want = f(t.on_input(z))
    assert (act_finite(rho, t, f(z)) - want).norm() < 1e-3 * want.norm()


@pytest.fixture(scope="module")
def escnn_layer() -> dict[str, torch.Tensor]:
    """Orders 0 to 3 of escnn's `rot2dOnR2`, recorded by data/record_escnn.py."""
    return load_file(Path(__file__).parents[1] / "data" / "escnn_layer.safetensors")


def test_irreps_of_escnn_have_y_upwards(escnn_layer):
    def f(z: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv2d(z, escnn_layer["weight"], padding=6)

    assert_close(f(escnn_layer["image"]), escnn_layer["output"])
    for y, low, high in (("up", 0.0, 0.02), ("down", 0.5, 10.0)):
        rho = FeatureMap(channels=Irreps((0, 1, 2, 3), y=y))
        L = lie_derivative(f, bump(64), "rotation", scheme="fourier", output=rho)
        assert low <= L.norm() / f(bump(64)).norm() < high


def test_irreps_of_escnn_are_its_own_matrices(escnn_layer):
    """Where `rotation` turns an image counterclockwise on the screen, so do escnn's fibres."""
    spot = torch.zeros(1, 1, 41, 41, dtype=torch.float64)
    spot[..., 20, 35] = 1  # right of the middle
    action = ImageAction(resolve_generators("rotation"), 41, 41, "bilinear")
    quarter = FiniteTransform(action, torch.tensor([[math.pi / 2]], dtype=torch.float64))
    assert divmod(int(quarter.on_input(spot).flatten().argmax()), 41) == (5, 20)  # above it

    velocity = torch.tensor(resolve_generators("rotation")[0].linear, dtype=torch.float64)
    for angle, theirs in zip(escnn_layer["angles"], escnn_layer["fibre_matrices"], strict=True):
        ours = Irreps((0, 1, 2, 3), y="up").matrices(angle * velocity[None], 7)[0].matrix_exp()
        assert_close(ours, theirs)


def test_irreps_refuse_what_they_do_not_define():
    z = bump()
    with pytest.raises(UnknownLayoutError, match="shears, stretches or hyperbolic"):
        lie_derivative(gradient, z, "shear_x", output=FeatureMap(channels=Irreps((1,))))
    with pytest.raises(UnknownLayoutError, match=r"Irreps\(y='north'\) must be 'down'"):
        Irreps((1,), y="north")
    with pytest.raises(UnknownLayoutError, match="describes 3 channels, but the map has 2"):
        lie_derivative(gradient, z, "rotation", output=FeatureMap(channels=Irreps((0, 1))))
    with pytest.raises(UnknownLayoutError, match=r"needs \(x, y\) pairs"):
        lie_derivative(lambda x: x, z, "rotation", output=FeatureMap(channels=VectorChannels()))


def patches(x: torch.Tensor) -> torch.Tensor:
    """Means of 4 × 4 patches as tokens [B, N, C], after one prefix token."""
    tokens = torch.nn.functional.avg_pool2d(x, 4).flatten(2).mT
    return torch.cat([x.mean((2, 3))[:, None], tokens], 1)


def test_tokens_move_like_the_map_they_are_and_the_prefix_stays():
    x = band_limited((2, 3, 16, 24), band=0.2)
    action = ImageAction(resolve_generators("spatial"), 16, 24)
    y = patches(x)
    for rho in (TokenGrid((4, 6), prefix=1), TokenGrid((4, 6), prefix=1, layout="NCL")):
        z = y if rho.layout == "NLC" else y.mT
        moved = rho.act(action, z)
        moved = moved if rho.layout == "NLC" else moved.mT
        want = action.on_map(torch.nn.functional.avg_pool2d(x, 4))
        assert moved[:, :, 0].abs().max() == 0
        assert torch.allclose(moved[:, :, 1:].mT.unflatten(-1, (4, 6)), want, atol=1e-13)


def test_custom_representation():
    x = band_limited((1, 2, 8, 8))
    twice = Custom(lambda action, y: 2 * action.on_map(y))
    L = lie_derivative(lambda z: z, x, "translation", output=twice)
    plain = ImageAction(resolve_generators("translation"), 8, 8).tangents(x)
    assert_close(L, -plain, COMPUTED)
    with pytest.raises(UnknownLayoutError, match=r"returned shape \[1, 2, 8, 8\]"):
        lie_derivative(lambda z: z, x, "rotation", output=Custom(lambda a, y: y))


@pytest.mark.parametrize(
    ("shape", "want"),
    [
        ((2, 1000), Invariant()),
        ((2,), Invariant()),
        ((2, 512, 7, 7), FeatureMap("NCHW")),
        ((2, 7, 7, 512), FeatureMap("NHWC")),
        ((2, 21, 224, 224), FeatureMap("NCHW")),
        ((2, 2048, 1, 1), FeatureMap("NCHW")),
    ],
)
def test_unambiguous_shapes_are_recognised(shape, want):
    found = resolve("auto", torch.zeros(shape), (224, 224))
    assert (found.representation, found.status) == (want, "recognised")


@pytest.mark.parametrize(
    "shape",
    [
        (2, 7, 7, 7),  # NCHW or NHWC
        (2, 3, 197, 197),  # attention maps
        (2, 512, 7, 14),  # another aspect ratio
        (2, 197, 384),  # tokens, if the model declares a grid of patches
        (2, 196, 384),
        (2, 384, 196),  # tokens last
        (2, 224, 224),  # a map without channels
        (2, 256, 256),  # the same of another image, or 16 × 16 tokens
        (2, 100, 4),  # boxes
        (2, 4, 4),  # matrices
        (2, 100, 256),  # object queries
        (2, 64, 512),  # latents: 8 × 8 would be patches of 28
        (2, 3, 4, 5, 6),
    ],
)
def test_other_shapes_stay_unknown(shape):
    assert len(recognise(shape, (224, 224))) != 1
    with pytest.raises(UnknownLayoutError, match="is unknown"):
        resolve("auto", torch.zeros(shape), (224, 224))


def test_declared_layouts_are_checked_against_the_tensor():
    action = ImageAction(resolve_generators("rotation"), 224, 224)
    with pytest.raises(UnknownLayoutError, match="describes 196 tokens in layout NLC"):
        TokenGrid((14, 14)).act(action, torch.zeros(1, 197, 8))
    with pytest.raises(UnknownLayoutError, match="needs a tensor of 4 axes"):
        FeatureMap().act(action, torch.zeros(1, 197, 8))
