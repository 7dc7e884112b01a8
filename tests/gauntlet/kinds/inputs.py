"""Images of awkward memory, shape or dtype."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..awkward import EVERYWHERE, MEASURING, Awkward, Small, photographs


class _Given(Small):
    needed = EVERYWHERE

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(x).tanh())


class ChannelsLastInput(_Given):
    images = staticmethod(lambda: photographs().contiguous(memory_format=torch.channels_last))


class ChannelsLastWeights(_Given):
    def __init__(self) -> None:
        super().__init__()
        self.to(memory_format=torch.channels_last)


class TransposedMemory(_Given):
    images = staticmethod(lambda: photographs().mT.contiguous().mT)


class SlicedOutOfALargerBatch(_Given):
    images = staticmethod(lambda: photographs(5, (12, 14))[1:5:2, :, 1:11, 2:12])


class ExpandedOverTheBatch(_Given):
    """The same memory twice."""

    images = staticmethod(lambda: photographs(1).expand(2, -1, -1, -1))


class ExpandedOverChannels(_Given):
    """Grey images as three channels of one."""

    images = staticmethod(lambda: photographs()[:, :1].expand(-1, 3, -1, -1))


class WantsGradientsAlready(Small):
    """The caller's images require grad."""

    images = staticmethod(lambda: photographs().requires_grad_())

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(x).tanh())


class NotSquare(_Given):
    images = staticmethod(lambda: photographs(2, (7, 12)))


class TwoByTwo(_Given):
    """A wave of two samples has no derivative: nothing moves."""

    zero = 1e-9
    images = staticmethod(lambda: photographs(2, (2, 2)))


class OnePixelHigh(_Given):
    images = staticmethod(lambda: photographs(2, (1, 9)))
    needed = frozenset()


class OneImage(_Given):
    images = staticmethod(lambda: photographs(1))


class NineImages(_Given):
    """More than one pass."""

    images = staticmethod(lambda: photographs(9, (6, 6)))


class Float64Images(_Given):
    """Float64 images for a float64 network."""

    needed = MEASURING
    images = staticmethod(lambda: photographs(dtype=torch.float64))

    def __init__(self) -> None:
        super().__init__()
        self.double()


class Float64ImagesForAFloat32Network(Small):
    right = "refusal"
    images = staticmethod(lambda: photographs(dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(x).tanh())


class GreyImages(Awkward):
    """One channel."""

    needed = MEASURING
    images = staticmethod(lambda: photographs()[:, :1].contiguous())

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(256, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class OneLargeImageAmongSmall(_Given):
    """Values a thousand times those of the other."""

    images = staticmethod(lambda: photographs() * torch.tensor([1.0, 1000.0])[:, None, None, None])
