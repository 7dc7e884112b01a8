"""Detection of elementwise and affine modules, on modules named for what is awkward in them."""

import pytest
import torch
from timm.layers import BatchNormAct2d, BlurPool2d, GroupNormAct, LayerNorm2d, SqueezeExcite
from torch import nn

from liederiv.analysis.layers.layouts import Layout
from liederiv.analysis.layers.pointwise import (
    is_affine,
    is_elementwise,
    is_pointwise_nonlinearity,
    sample_inputs,
)

Z = torch.randn(1, 8, 10, 12, generator=torch.Generator().manual_seed(0))
MAP = Layout("NCHW", (10, 12))


class UserActivation(nn.Module):
    """A name that no list knows."""

    def forward(self, z):
        return z * torch.sin(z)


class PositionDependent(nn.Module):
    """Elementwise, but another function at every position: it cannot run on a finer grid."""

    def forward(self, z):
        return (z + torch.arange(z.shape[-1])).relu()


class ResidualNeighbour(nn.Module):
    """Looks at one neighbour, faintly."""

    def forward(self, z):
        return z.relu() + 1e-2 * z.roll(1, -1)


class GlobalScale(nn.Module):
    def forward(self, z):
        return z.relu() / z.abs().mean()


NONLINEARITIES = [
    nn.ReLU(inplace=True), nn.GELU(), nn.SiLU(), nn.Hardswish(), nn.ReLU6(), nn.Sigmoid(),
    nn.PReLU(8), nn.LeakyReLU(), BatchNormAct2d(8), UserActivation(),
]  # fmt: skip
OTHERS = [
    nn.Softmax(1), nn.GLU(1), SqueezeExcite(8), nn.MaxPool2d(3, 1, 1), LayerNorm2d(8),
    GroupNormAct(8, num_groups=2), nn.LocalResponseNorm(2), nn.Conv2d(8, 8, 3, padding=1),
    PositionDependent(), ResidualNeighbour(), GlobalScale(),
]  # fmt: skip
AFFINE = [
    nn.BatchNorm2d(8), nn.Identity(), nn.Dropout(), nn.Conv2d(8, 4, 3, 2), nn.AvgPool2d(2),
    BlurPool2d(8), nn.LeakyReLU(1.0), nn.Upsample(scale_factor=2),
]  # fmt: skip


def name(module):
    return type(module).__name__


@pytest.mark.parametrize("module", NONLINEARITIES, ids=name)
def test_pointwise_nonlinearities_are_found(module):
    before = Z.clone()
    assert is_pointwise_nonlinearity(module.eval(), Z, MAP)
    assert torch.equal(Z, before)
    assert any(is_pointwise_nonlinearity(module, *s) for s in sample_inputs(module))


@pytest.mark.parametrize("module", OTHERS, ids=name)
def test_what_mixes_elements_or_positions_is_not_pointwise(module):
    assert not is_elementwise(module.eval(), Z, MAP)


@pytest.mark.parametrize("module", AFFINE, ids=name)
def test_affine_modules_are_found(module):
    assert is_affine(module.eval(), Z)
    assert not is_pointwise_nonlinearity(module, Z, MAP)


@pytest.mark.parametrize("module", [*NONLINEARITIES, nn.MaxPool2d(2), GlobalScale()], ids=name)
def test_nonlinear_modules_are_not_affine(module):
    assert not is_affine(module.eval(), Z)


def test_a_kink_far_from_the_input_is_still_seen():
    assert not is_affine(nn.ReLU(), Z + 5 * Z.std())


def test_tokens_are_tested_with_their_layout():
    z = torch.randn(1, 17, 6, generator=torch.Generator().manual_seed(0))
    assert is_pointwise_nonlinearity(nn.GELU(), z, Layout("NLC", (4, 4), prefix=1))
    assert not is_elementwise(nn.LayerNorm(6), z, Layout("NLC", (4, 4), prefix=1))
