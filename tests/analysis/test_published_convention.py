"""Layers in the published convention, written out densely: corners of every map at ±1.

The paper's code samples every map on its own grid, corners aligned, whatever its resolution; the
derivative is the one that automatic differentiation takes at the rounded grid of the identity.
Here that is done, with no matrix D and no layout, on networks of odd sizes.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from liederiv import generator
from liederiv.actions import ImageAction
from liederiv.analysis import Layout, attribute
from liederiv.analysis.layers.finite import _Draws
from liederiv.generators import resolve_generators
from liederiv.metrics.registry import METRICS
from liederiv.transforms import FiniteTransform

FIELDS = {  # dθ/dt of the affine map p ↦ θ (p, 1) of sampling positions
    "translation_x": [[0, 0, 1], [0, 0, 0]],
    "translation_y": [[0, 0, 0], [0, 0, 1]],
    "rotation": [[0, -1, 0], [1, 0, 0]],
    "scale": [[1, 0, 0], [0, 1, 0]],
    "shear_x": [[0, 1, 0], [0, 0, 0]],
}


def reflected(index, n):
    index = index.abs()
    return torch.where(index > n - 1, 2 * (n - 1) - index, index).long()


def bilinear(z, grid):
    """Sample maps [C, h, w] at positions [h, w, 2] in [−1, 1]², corners aligned."""
    h, w = z.shape[-2:]
    u, v = (grid[..., 0] + 1) / 2 * (w - 1), (grid[..., 1] + 1) / 2 * (h - 1)
    left, top = u.detach().floor(), v.detach().floor()
    out = 0
    for x, weight_x in ((left, left + 1 - u), (left + 1, u - left)):
        for y, weight_y in ((top, top + 1 - v), (top + 1, v - top)):
            out = out + z[:, reflected(y, h), reflected(x, w)] * weight_x * weight_y
    return out


def sampled_derivative(z, name):
    """d/dt of sampling at affine_grid(θ(t)), at θ = identity, all in float32."""
    if z.ndim < 4 or z.shape[-1] == 1:
        return torch.zeros_like(z)  # vectors do not move
    size = [1, *z.shape[1:]]
    identity = F.affine_grid(torch.eye(2, 3)[None], size, align_corners=True)[0]
    theta = torch.tensor(FIELDS[name], dtype=torch.float32)[None]
    speed = F.affine_grid(theta, size, align_corners=True)[0]
    return torch.func.jvp(lambda grid: bilinear(z[0], grid), (identity,), (speed,))[1][None]


@torch.no_grad()
def published(net, x, name):
    """‖J_{out←layer} (J_M X z − X M(z))‖² of every layer."""
    found, z = [], x
    for i, layer in enumerate(net):
        y, pushed = torch.func.jvp(layer, (z,), (sampled_derivative(z, name),))
        delta = pushed - sampled_derivative(y, name)
        rest = net[i + 1 :]
        c = torch.func.jvp(rest, (y,), (delta,))[1] if len(rest) else delta
        found.append(float(c.square().sum()))
        z = y
    return found


def body(kind):
    torch.manual_seed(0)
    down = {
        "conv3": nn.Conv2d(6, 8, 3, stride=2, padding=1),
        "conv7": nn.Conv2d(6, 8, 7, stride=2, padding=3),
        "conv5": nn.Conv2d(6, 8, 5, stride=2, padding=2),
        "unpadded": nn.Conv2d(6, 8, 3, stride=2),
        "max-pool": nn.MaxPool2d(3, 2, padding=1),
        "average": nn.AvgPool2d(3, 2, padding=1),
    }[kind]
    width = 6 if kind in ("max-pool", "average") else 8
    layers = [nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), down, nn.GELU()]
    layers += [nn.Conv2d(width, 8, 3, stride=2, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()


def smooth(size, seed=0):
    random = torch.Generator().manual_seed(seed)
    return F.avg_pool2d(torch.randn(1, 3, *(n + 4 for n in size), generator=random), 5, 1)


@pytest.mark.parametrize(
    ("kind", "size"),
    [(kind, 45) for kind in ("conv3", "conv7", "conv5", "max-pool", "average", "unpadded")]
    + [("conv3", 33), ("max-pool", 33), ("conv3", 32), ("conv7", 32)],
)
def test_every_layer(kind, size):
    net, x = body(kind), smooth((size, size))
    a = attribute(
        net,
        x,
        [generator(name, unit="grid") for name in FIELDS],
        scheme="bilinear",
        output_type="logits",
        probes="exact",
    )
    for k, name in enumerate(FIELDS):
        expected = published(net, x, name)
        assert max(expected[:6]) > 1e-6
        np.testing.assert_allclose(a.exclusive[1:, k, 0], expected, rtol=2e-3, atol=1e-10)


@pytest.mark.parametrize("scheme", ["central", "bilinear"])
def test_a_stride_on_an_odd_size_moves_at_half_the_speed(scheme):
    """45 pixels to 23, whose centres are exactly two pixels apart and meet at the corners."""
    action = ImageAction(resolve_generators("translation"), 45, 45, scheme)
    layout = Layout("NCHW", (23, 23), extent=(46, 46))
    assert layout.spacing(action) == (2.0, 2.0)
    ramp = torch.arange(23, dtype=torch.float64).expand(1, 1, 23, 23)
    moved = layout.act(action, ramp)
    torch.testing.assert_close(moved[0, 0, 0, :, 3:-3], torch.full((23, 17), 0.5).double())
    t = FiniteTransform(layout.window(action), torch.tensor([[2.0, 0.0]], dtype=torch.float64))
    torch.testing.assert_close(t.on_map(ramp)[0, 0, :, :-1], ramp[0, 0, :, 1:])


def test_whole_shifts_of_a_map_with_aligned_corners():
    image, coarse = Layout("NCHW", (44, 44)), Layout("NCHW", (22, 22))
    translation, rotation = (
        ImageAction(resolve_generators(g), 44, 44, "bilinear") for g in ("translation", "rotation")
    )
    draws = _Draws(translation, rotation, 6, 1 / 8, 0)
    z = torch.randn(1, 2, 22, 22, dtype=torch.float64)
    for t in draws.transforms(METRICS["eq_t"], image, coarse):
        moved = FiniteTransform(coarse.window(t.action), t.t).on_map(z)
        dx, dy = (int(v) for v in (t.t[0] * 21 / 43).round())
        inner = moved[..., 3:-3, 3:-3]
        torch.testing.assert_close(inner, z[..., 3 + dy : 19 + dy, 3 + dx : 19 + dx])
