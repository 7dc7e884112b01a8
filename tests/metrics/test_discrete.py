"""Lattice symmetries: exact networks give rounding only, others their analytic value."""

import pytest
import torch
from tolerances import COMPUTED, assert_close, close
from torch import nn

from liederiv import (
    CovectorChannels,
    FeatureMap,
    Irreps,
    TokenGrid,
    UnknownLayoutError,
    VectorChannels,
    get_scheme,
)
from liederiv.metrics.discrete import (
    DiscreteCheck,
    Flip,
    QuarterTurn,
    Roll,
    discrete_checks,
    lattice_transforms,
)


def images(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def seeded(module: type[nn.Module], *args, symmetric: bool = False, **kwargs) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        layer = module(*args, **kwargs).double()
    if symmetric:
        kernel = layer.weight.detach()
        turned = sum(
            torch.rot90(k, n, (-2, -1)) for k in (kernel, kernel.flip(-1)) for n in range(4)
        )
        layer.weight.data = turned / 8
    return layer


def circular(channels_in: int, channels_out: int, **kwargs) -> nn.Module:
    return seeded(
        nn.Conv2d, channels_in, channels_out, 3, padding=1, padding_mode="circular", **kwargs
    )


def by_name(checks: tuple[DiscreteCheck, ...]) -> dict[str, DiscreteCheck]:
    return {c.transform: c for c in checks}


def rolls(height: int, width: int, *shifts: int) -> tuple[Roll, ...]:
    return tuple(t for t in lattice_transforms(height, width, shifts) if isinstance(t, Roll))


def assert_exact(check: DiscreteCheck) -> None:
    assert check.status == "measured", check.reason
    assert check.relative.max() < 1e-24, check  # squares of 1e-12


def test_circular_network_is_equivariant_under_rolls_and_nothing_else():
    net = nn.Sequential(circular(3, 8), nn.ReLU(), circular(8, 4))
    x = images(3, 3, 12, 12)
    for transform in rolls(12, 12, 1, 5):
        assert_exact(discrete_checks(net, x, [transform], output="NCHW")[0])
    found = by_name(discrete_checks(net, x, output="NCHW"))
    assert list(found) == [
        "rot90", "rot180", "rot270", "flip_x", "flip_y", "roll(1, 0)", "roll(0, 1)",
    ]  # fmt: skip
    for name in ("rot90", "rot180", "rot270", "flip_x", "flip_y"):
        assert found[name].relative.min() > 0.05
        assert found[name].relative.shape == (3,)


def test_zero_padding_breaks_rolls():
    net = seeded(nn.Conv2d, 3, 4, 3, padding=1)
    (check,) = discrete_checks(net, images(2, 3, 12, 12), [Roll(12, 12, 1, 0)], output="NCHW")
    assert check.relative.min() > 1e-3


def test_pooled_circular_network_is_invariant_and_symmetric_kernels_add_the_point_group():
    net = nn.Sequential(
        circular(3, 8, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    x = images(2, 3, 12, 12)
    for check in discrete_checks(net, x, rolls(12, 12, 1, 4)):
        assert_exact(check)
    assert by_name(discrete_checks(net, x))["rot90"].relative.min() > 1e-6
    symmetric = seeded(nn.Conv2d, 3, 8, 3, padding=1, padding_mode="circular", symmetric=True)
    for check in discrete_checks(nn.Sequential(symmetric, nn.ReLU()), x, output="NCHW"):
        assert_exact(check)


def test_a_strided_network_is_equivariant_under_rolls_by_its_stride():
    net = circular(3, 4, stride=2)
    x = images(2, 3, 12, 12)
    found = by_name(discrete_checks(net, x))
    for name in ("roll(2, 0)", "roll(0, 2)"):
        assert_exact(found[name])
    assert found["roll(1, 0)"].status == "not applicable"
    assert "(0.5, 0) of its pixels" in found["roll(1, 0)"].reason
    assert found["roll(1, 0)"].relative is None
    pooled = nn.Sequential(net, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    found = by_name(discrete_checks(pooled, x, rolls(12, 12, 1, 2)))
    assert_exact(found["roll(2, 0)"])
    assert found["roll(1, 0)"].relative.min() > 1e-6


def test_a_ramp_gives_its_analytic_value():
    """f(x) = j ⊙ x on x = 1, width 8: (7 · 1² + 7²) / Σ j² = 56/140 under a roll by one."""
    ramp = torch.arange(8, dtype=torch.float64)
    x = torch.ones(2, 1, 4, 8, dtype=torch.float64)
    args = (lambda x: ramp * x, x)
    for dx in (1, -1):
        (check,) = discrete_checks(*args, [Roll(4, 8, dx, 0)], output="NCHW")
        assert check.relative.tolist() == pytest.approx([0.4, 0.4], rel=1e-14)
        assert check.absolute.tolist() == pytest.approx([7, 7], rel=1e-14)
    (vertical,) = discrete_checks(*args, [Roll(4, 8, 0, 1)], output="NCHW")
    assert vertical.relative.tolist() == [0, 0]
    (mirrored,) = discrete_checks(*args, [Flip(4, 8, "x")], output="NCHW")
    assert mirrored.relative.tolist() == close([168 / 140] * 2, COMPUTED)  # Σ (2j − 7)² = 168


def test_an_invariant_output_gives_its_analytic_value():
    """f(x) = (top left, top right): a flip swaps them."""
    x = images(3, 1, 4, 4)
    (check,) = discrete_checks(lambda x: x[:, 0, 0, [0, -1]], x, [Flip(4, 4, "x")])
    a, b = x[:, 0, 0, 0], x[:, 0, 0, -1]
    assert_close(check.relative, 2 * (a - b) ** 2 / (a**2 + b**2), COMPUTED)
    assert_close(check.absolute, (a - b) ** 2, COMPUTED)


def gradient(x: torch.Tensor) -> torch.Tensor:
    """Spectral gradient [B, 2, H, W]."""
    Dh, Dw = (get_scheme("fourier").derivative(n, x.dtype) for n in x.shape[-2:])
    return torch.cat([x @ Dw.T, Dh @ x], 1)


@pytest.mark.parametrize("channels", [CovectorChannels(), VectorChannels()])
def test_a_gradient_is_equivariant_as_a_vector_and_not_as_two_scalars(channels):
    x = images(2, 1, 9, 9)
    for check in discrete_checks(gradient, x, output=FeatureMap(channels=channels)):
        assert_exact(check)
    scalars = by_name(discrete_checks(gradient, x, output="NCHW"))
    # ‖(M − 1) v‖² / ‖v‖² of the channel matrix M: a rotation by 90° or 180°, a mirror.
    for name, expected in (("rot90", 2), ("rot180", 4), ("rot270", 2)):
        assert scalars[name].relative.tolist() == close([expected] * 2)
    v = gradient(x)
    share = 4 * v[:, 0].square().sum((1, 2)) / v.square().sum((1, 2, 3))
    assert_close(scalars["flip_x"].relative, share, COMPUTED)
    assert_close(scalars["flip_y"].relative, 4 - share, COMPUTED)


def test_irreps_turn_and_refuse_mirror_images():
    x = images(2, 1, 9, 9)
    found = by_name(discrete_checks(gradient, x, output=FeatureMap(channels=Irreps((1,)))))
    for name in ("rot90", "rot180", "rot270", "roll(1, 0)"):
        assert_exact(found[name])
    assert found["flip_x"].status == "not applicable"
    assert "does not say how mirror images act" in found["flip_x"].reason


class Patches(nn.Module):
    """Patch embedding behind a class token: the mean of all patches."""

    def __init__(self, symmetric: bool = False) -> None:
        super().__init__()
        self.embed = seeded(nn.Conv2d, 3, 5, 4, 4, symmetric=symmetric)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.embed(x).flatten(2).mT
        return torch.cat([tokens.mean(1, keepdim=True), tokens], 1)


def test_patch_tokens_roll_by_the_patch_and_turn_when_the_patches_do():
    x = images(2, 3, 16, 24)
    found = by_name(discrete_checks(Patches(), x, output=TokenGrid((4, 6), 1)))
    assert_exact(found["roll(4, 0)"])
    assert_exact(found["roll(0, 4)"])
    assert found["rot180"].relative.min() > 0.05
    square = images(2, 3, 16, 16)
    for check in discrete_checks(
        Patches(symmetric=True),
        square,
        lattice_transforms(16, 16, (4,)),
        output=TokenGrid((4, 4), 1),
    ):
        assert_exact(check)
    moved = QuarterTurn(16, 16, 1).on_map(square)
    assert not torch.equal(moved, square)


@pytest.mark.parametrize("output", ["NCHW", "invariant"])
def test_quarter_turns_of_other_than_square_images_are_not_applicable(output):
    x = images(2, 3, 8, 12)
    f = nn.ReLU() if output == "NCHW" else (lambda x: x.mean((2, 3)))
    found = by_name(discrete_checks(f, x, output=output))
    for name in ("rot90", "rot270"):
        assert found[name].status == "not applicable"
        assert "square" in found[name].reason
        assert found[name].relative is None
        assert found[name].absolute is None
    for name in ("rot180", "flip_x", "flip_y", "roll(1, 0)", "roll(0, 1)"):
        assert_exact(found[name])


def test_unknown_outputs_are_refused_and_zero_outputs_have_no_relative_error():
    x = images(2, 3, 8, 8)
    with pytest.raises(UnknownLayoutError, match="declare it"):
        discrete_checks(lambda x: x[:, :, :3, :5], x)
    with pytest.raises(UnknownLayoutError, match="tokens"):
        discrete_checks(lambda x: x.flatten(2).mT, x, output=TokenGrid((4, 4), 1))
    check = discrete_checks(lambda x: torch.zeros(len(x), 3), x)[0]
    assert check.relative.isnan().all()
    assert check.absolute.tolist() == [0, 0]


def test_shifts_by_the_whole_size_move_nothing_and_are_left_out():
    assert [r.name for r in rolls(8, 16, 8)] == ["roll(8, 0)"]


class Declared(nn.Module):
    """[B, 5, 6, 8] for 8 × 6 images: no stride that is known, but a declared map."""

    output_representation = FeatureMap(extent=(8, 8))

    def forward(self, x):
        return x[:, :, 1:-1, 1:-1]


def test_what_the_model_declares_is_heeded():
    x = images(2, 3, 10, 10)
    checks = {c.transform: c for c in discrete_checks(Declared(), x)}
    assert (checks["rot90"].relative == 0).all()
