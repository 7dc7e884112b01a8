"""How finite transforms move outputs: derivative at t = 0, group law, layouts, refusals."""

import math

import pytest
import torch
from cases import band_limited
from tolerances import assert_close

from liederiv import (
    CovectorChannels,
    Custom,
    FeatureMap,
    Invariant,
    Irreps,
    ModelError,
    Representation,
    TokenGrid,
    UnknownLayoutError,
    VectorChannels,
    generator,
)
from liederiv.actions import ImageAction
from liederiv.generators import GROUPS
from liederiv.metrics.finite import act_finite, evaluate, valid
from liederiv.transforms import FiniteTransform

H, W = 32, 48  # the outputs below are 4 times coarser: 8 × 12


def weighted(action, y):
    return torch.stack([(k + 1) * y for k in range(len(action))])


REPRESENTATIONS = {
    "invariant": (Invariant(), (2, 5)),
    "NCHW": (FeatureMap(), (2, 3, 8, 12)),
    "NHWC": (FeatureMap("NHWC"), (2, 8, 12, 3)),
    "vectors": (FeatureMap(channels=VectorChannels()), (2, 4, 8, 12)),
    "covectors NHWC": (FeatureMap("NHWC", CovectorChannels()), (2, 8, 12, 4)),
    "irreps": (FeatureMap(channels=Irreps((0, 1, 2))), (2, 5, 8, 12)),
    "tokens": (TokenGrid((8, 12), 2), (2, 98, 3)),
    "tokens NCL": (TokenGrid((8, 12), 1, "NCL"), (2, 3, 97)),
    "custom": (Custom(weighted, lambda g, y: y * g.t.exp()), (2, 5)),
}


def element(name: str, t: float | list[float], scheme: str = "bspline") -> FiniteTransform:
    action = ImageAction([generator(name)], H, W, scheme)
    return FiniteTransform(action, torch.as_tensor(t, dtype=torch.float64).reshape(-1, 1))


def output(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("scheme", ["bspline", "fourier"])
@pytest.mark.parametrize("name", [*GROUPS["spatial"], "contrast"])
@pytest.mark.parametrize("kind", REPRESENTATIONS)
def test_derivative_at_zero_is_the_representation_of_the_generator(kind, name, scheme):
    representation, shape = REPRESENTATIONS[kind]
    y, t = output(shape), 1e-7  # t/2 · X²y is below 1e-4
    action = ImageAction([generator(name)], H, W, scheme)
    if kind == "irreps" and generator(name).group in ("stretch", "shear", "hyperbolic_rotation"):
        with pytest.raises(UnknownLayoutError, match="does not say how shears"):
            act_finite(representation, element(name, t, scheme), y)
        return
    slope = (act_finite(representation, element(name, t, scheme), y) - y) / t
    torch.testing.assert_close(slope, representation.act(action, y)[0], rtol=1e-4, atol=1e-4)
    if kind not in ("invariant", "custom") and name != "contrast":
        assert representation.act(action, y)[0].norm() > 0.1 * y.norm() * (
            4 / 48 if "translation" in name else 1
        )


@pytest.mark.parametrize("kind", ["NCHW", "vectors", "irreps", "tokens", "custom", "NHWC"])
def test_translations_compose(kind):
    """Exactly, for band-limited maps and the fourier scheme."""
    representation, shape = REPRESENTATIONS[kind]
    y = output(shape)
    if isinstance(representation, TokenGrid):
        y[:, 2:] = band_limited((2, 3, 8, 12), band=0.7).flatten(2).mT
    elif y.ndim == 4:
        maps = band_limited((2, 5, 8, 12), band=0.7)
        y = maps[:, : shape[1]] if kind != "NHWC" else maps[:, :3].movedim(1, -1)
    steps = [element("translation_x", t, "fourier") for t in (1.3, 2.4, 3.7)]
    composed = act_finite(representation, steps[1], act_finite(representation, steps[0], y))
    direct = act_finite(representation, steps[2], y)
    assert_close(composed, direct)
    assert (direct - y).norm() > 0.1 * y.norm()


@pytest.mark.parametrize(
    ("channels", "count"),
    [(VectorChannels(), 4), (CovectorChannels(), 2), (Irreps((0, 1, 2, 3)), 7)],
)
def test_channel_matrices_compose_and_turn_the_right_way(channels, count):
    name = "rotation" if isinstance(channels, Irreps) else "hyperbolic_rotation"
    a, b, both = (element(name, t).on_channels(channels, count)[0] for t in (0.3, 0.9, 1.2))
    torch.testing.assert_close(a @ b, both, rtol=0, atol=1e-13)
    c, s = math.cos(0.3), math.sin(0.3)
    turn = element("rotation", 0.3).on_channels(channels, count)[0]
    pair = turn[1:3, 1:3] if isinstance(channels, Irreps) else turn[:2, :2]
    expected = torch.tensor([[c, s], [-s, c]], dtype=torch.float64)  # the inverse of dφ_t
    torch.testing.assert_close(pair, expected, rtol=0, atol=1e-13)
    if isinstance(channels, Irreps):
        assert abs(turn[3, 4] - math.sin(0.6)) < 1e-13


def test_prefix_tokens_stay_and_each_image_has_its_own_transform():
    representation, shape = REPRESENTATIONS["tokens"]
    y = output(shape)
    moved = act_finite(representation, element("translation_x", [4.0, -8.0]), y)
    assert torch.equal(moved[:, :2], y[:, :2])
    patches, got = y[:, 2:].unflatten(1, (8, 12)), moved[:, 2:].unflatten(1, (8, 12))
    assert torch.equal(got[0, :, :-1], patches[0, :, 1:])
    assert torch.equal(got[1, :, 2:], patches[1, :, :-2])


def test_valid_follows_the_layout():
    g = element("translation_x", [4.0, -8.0])
    for kind, columns in (("NCHW", (3,)), ("NHWC", (2,))):
        representation, shape = REPRESENTATIONS[kind]
        inside = valid(representation, g, output(shape)).expand(shape)
        kept = inside.movedim(columns[0], 1).flatten(2).all(2)
        assert kept.tolist() == [[True] * 11 + [False], [False] * 2 + [True] * 10]
    for kind in ("tokens", "tokens NCL"):
        representation, shape = REPRESENTATIONS[kind]
        inside = valid(representation, g, output(shape)).expand(shape)
        tokens = inside[..., 0] if kind == "tokens" else inside[:, 0]
        assert tokens.sum(1).tolist() == [representation.prefix + 8 * k for k in (11, 10)]
    assert valid(Invariant(), g, output((2, 5))).all()


def test_what_is_not_known_is_refused():
    g = element("rotation", 0.1)
    with pytest.raises(UnknownLayoutError, match="finite="):
        act_finite(Custom(weighted), g, output((2, 5)))
    with pytest.raises(UnknownLayoutError, match=r"returned shape \[2, 1\]"):
        act_finite(Custom(weighted, lambda g, y: y[:, :1]), g, output((2, 5)))
    with pytest.raises(UnknownLayoutError, match="98 tokens"):
        act_finite(TokenGrid((8, 12), 2), g, output((2, 97, 3)))
    with pytest.raises(UnknownLayoutError, match="4 axes"):
        act_finite(FeatureMap(), g, output((2, 5)))

    class Mine(Representation):
        def act(self, action, y):
            return weighted(action, y)

    with pytest.raises(UnknownLayoutError, match="register"):
        act_finite(Mine(), g, output((2, 5)))


def test_evaluate_protects_the_images_and_refuses_other_outputs():
    x = torch.ones(2, 1, 4, 4)
    assert evaluate(lambda x: x.mul_(2).flatten(1), x).mean() == 2
    assert x.mean() == 1
    with pytest.raises(ModelError, match="returns a tuple"):
        evaluate(lambda x: (x, x), x)
    with pytest.raises(ModelError, match="one output per image"):
        evaluate(lambda x: x.mean(0), x)


class Force(torch.nn.Module):
    """The gradient of Σ x³/3 that a model takes inside, in eval mode, without a graph."""

    def forward(self, x):
        x = x.detach().clone().requires_grad_()
        energy = (x.pow(3) / 3).sum()
        return torch.autograd.grad(energy, x)[0].mean((2, 3))


def test_models_that_differentiate_inside_are_evaluated():
    x = band_limited((2, 3, 8, 8))
    y = evaluate(Force().eval(), x)
    torch.testing.assert_close(y, x.square().mean((2, 3)), rtol=1e-12, atol=0)
    weight = torch.nn.Conv2d(3, 2, 1).double()
    assert not evaluate(lambda x: weight(x).mean((2, 3)), x).requires_grad
    assert weight.weight.grad is None


def test_half_precision_outputs_are_moved_in_single_precision():
    """T f(x) must not be rounded to 8 bits, which would be charged to the network."""
    from liederiv.metrics.sampled import squared_errors

    x = band_limited((1, 3, H, W)).float()
    g = element("rotation", [0.3])

    def f(z):
        return z.bfloat16()

    found = squared_errors(f, x, [g], output="NCHW")
    want = f(g.on_input(x)).double() - g.on_map(f(x).double())
    want = want.square()[valid(FeatureMap(), g, x).expand_as(x)].sum()
    assert float(found.total) == pytest.approx(float(want), rel=1e-3)


def test_prefix_tokens_are_no_evidence_without_a_patch_beside_them():
    y = output((1, 98, 3))
    g = element("translation_x", [3.0])
    assert valid(TokenGrid((8, 12), 2), g, y)[:, :2].all()
    assert not valid(TokenGrid((8, 12), 2), g, y, margin=9.0).any()
