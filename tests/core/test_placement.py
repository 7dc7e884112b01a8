"""Maps that only their shape speaks for are looked at: crops, attention, maps on their side."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from liederiv import (
    FeatureMap,
    UnknownLayoutError,
    lie_derivative,
    lie_derivative_with_output,
    measure,
)
from liederiv.grids.placement import misplacement, paint

SIZE = 64


def images(kind: str) -> torch.Tensor:
    noise = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    smooth = F.interpolate(noise[..., :8, :8], (SIZE, SIZE), mode="bicubic")
    return {"noise": noise, "smooth": smooth, "black": torch.zeros_like(noise)}[kind]


def seeded(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().eval()


def unpadded(size: int) -> nn.Module:
    return seeded(lambda: nn.Conv2d(3, 4, size))


def many_unpadded() -> nn.Module:
    layers = [layer for _ in range(16) for layer in (nn.Conv2d(3, 3, 3), nn.ReLU())]
    return seeded(lambda: nn.Sequential(*layers))


def attention(z: torch.Tensor) -> torch.Tensor:
    tokens = F.unfold(z, 8, stride=8).mT  # 64 of them: [B, 1, 64, 64] has the size of the image
    return (tokens @ tokens.mT).tanh()[:, None]


def windows(z: torch.Tensor) -> torch.Tensor:
    """The four quarters of the image beside each other as channels."""
    parts = z.unflatten(-1, (2, 32)).unflatten(-3, (2, 32)).permute(0, 1, 2, 4, 3, 5)
    return parts.reshape(len(z), -1, 32, 32)


def interleaved(z: torch.Tensor) -> torch.Tensor:
    return torch.cat([z[..., ::2, :], z[..., 1::2, :]], -2)


ORDER = torch.randperm(SIZE * SIZE, generator=torch.Generator().manual_seed(1))
DENSE = torch.randn(3 * SIZE * SIZE, 4 * 64, generator=torch.Generator().manual_seed(2)) / 100

MAPS = {
    "identity": lambda z: z * 2,
    "convolution": seeded(lambda: nn.Conv2d(3, 8, 3, padding=1)),
    "strided": seeded(lambda: nn.Conv2d(3, 8, 3, 2, 1)),
    "every second": lambda z: z[..., ::2, ::2],
    "pooled to 8": nn.AvgPool2d(8),
    "pooled to 2": nn.AvgPool2d(32),
    "last": lambda z: z.movedim(1, -1),
    "mirrored": lambda z: z.flip(-1),
    "upside down": lambda z: z.flip(-1, -2),
}
NOT_MAPS = {
    "the middle": lambda z: z[..., 16:48, 16:48],
    "the middle, deeper": lambda z: F.avg_pool2d(z[..., 16:48, 16:48], 4),
    "three quarters at stride 3": lambda z: z[..., 8:56:3, 8:56:3],
    "a corner": lambda z: z[..., :32, :32],
    "on its side": lambda z: z.mT,
    "one large unpadded layer": unpadded(33),
    "a large unpadded box": lambda z: F.conv2d(z, torch.ones(3, 1, 33, 33), groups=3),
    "many unpadded layers": many_unpadded(),
    "attention": attention,
    "quarters as channels": windows,
    "even rows, then odd rows": interleaved,
    "shuffled": lambda z: z.flatten(2)[..., ORDER].view_as(z),
    "fully connected": lambda z: (z.flatten(1) @ DENSE).view(-1, 4, 8, 8),
    "constant": lambda z: torch.zeros(len(z), 3, 32, 32),
    "a mean, spread out": lambda z: z.mean((2, 3), keepdim=True).expand(-1, -1, 32, 32),
}


@pytest.mark.parametrize("kind", ["noise", "smooth", "black"])
@pytest.mark.parametrize("name", MAPS)
def test_maps_of_the_whole_image_are_recognised(name, kind):
    rho = FeatureMap("NHWC" if name == "last" else "NCHW")
    assert misplacement(MAPS[name], images(kind), rho.to_maps) == ""
    found = lie_derivative_with_output(MAPS[name], images(kind), "translation_x")
    assert found.representation[0].representation == rho
    assert found.representation[0].status == "recognised"


@pytest.mark.parametrize("kind", ["noise", "smooth", "black"])
@pytest.mark.parametrize("name", NOT_MAPS)
def test_what_only_has_the_size_of_a_map_is_refused(name, kind):
    assert misplacement(NOT_MAPS[name], images(kind), lambda y: y)
    with pytest.raises(UnknownLayoutError, match="has the size of a map of the image, but"):
        lie_derivative(NOT_MAPS[name], images(kind), "translation_x")


def test_the_message_says_what_was_seen_and_what_to_declare():
    x = images("noise")
    with pytest.raises(UnknownLayoutError, match=r"12% of the width of the image changes nothing"):
        measure(NOT_MAPS["the middle"], x, "rotation", "lee")
    with pytest.raises(UnknownLayoutError, match=r"FeatureMap\(extent=…, offset=…\) for one of a"):
        measure(NOT_MAPS["on its side"], x, "rotation", "lee")
    with pytest.raises(UnknownLayoutError, match="it changes alike wherever the image does"):
        measure(NOT_MAPS["a mean, spread out"], x, "rotation", "lee")


def test_declared_maps_are_taken_at_their_word():
    x = images("noise")
    assert lie_derivative(NOT_MAPS["on its side"], x, "translation", output="NCHW").norm() > 1


def test_values_without_positions_need_no_look():
    found = lie_derivative_with_output(nn.AvgPool2d(64), images("noise"), "rotation")
    assert found.representation[0].representation == FeatureMap()


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, z):
        self.calls += 1
        return z * 2


def test_a_module_is_looked_at_once_per_size():
    model, x = Counting().eval(), images("noise")
    for _ in range(3):
        lie_derivative_with_output(model, x, "translation_x", engine="loop", verify=False)
    assert model.calls == 3 + 6
    lie_derivative_with_output(model, x[..., :32], "translation_x", engine="loop", verify=False)
    assert model.calls == 4 + 12


def test_outputs_that_are_not_finite_are_left_to_those_who_report_them():
    assert paint(lambda z: z / 0, images("noise"), lambda y: y) is None
