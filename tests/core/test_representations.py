"""Output representations: sign conventions, steerable maps, recognition."""

import pytest
import torch
from cases import band_limited

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
from liederiv.representations import recognise, resolve


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


def test_irreps_refuse_what_they_do_not_define():
    z = bump()
    with pytest.raises(UnknownLayoutError, match="shears, stretches or hyperbolic"):
        lie_derivative(gradient, z, "shear_x", output=FeatureMap(channels=Irreps((1,))))
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
    assert torch.allclose(L, -plain)
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
