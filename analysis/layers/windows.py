"""The sliding window of a convolution or pooling layer: where each of its outputs looks."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

__all__ = ["WINDOWED", "Window"]

WINDOWED = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)
_Pair = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """Settings of a layer that slides a window over maps; pairs are rows and columns.

    Attributes:
        kernel: samples that the window takes.
        stride: step between outputs.
        dilation: distance of the samples.
        given: padding on both sides; None for TensorFlow's "same", which depends on the map.
        ceil_mode: whether a last window may reach beyond the border.
    """

    kernel: _Pair
    stride: _Pair
    dilation: _Pair
    given: _Pair | None
    ceil_mode: bool

    @classmethod
    def of(cls, module: nn.Module) -> Window:
        """The window of one of `WINDOWED`; timm's ``…2dSame`` layers are among them."""
        padding = module.padding
        by_size = type(module).__name__.endswith("2dSame") or getattr(module, "same_pad", False)
        if padding == "same" or by_size:
            given = None
        else:
            given = (0, 0) if padding == "valid" else _pair(padding)
        return cls(
            kernel=_pair(module.kernel_size),
            stride=_pair(module.stride),
            dilation=_pair(getattr(module, "dilation", 1)),
            given=given,
            ceil_mode=bool(getattr(module, "ceil_mode", False)),
        )

    def reach(self, axis: int) -> int:
        """Pixels from the first to the last sample of the window."""
        return self.dilation[axis] * (self.kernel[axis] - 1)

    def padding(self, axis: int, n: int) -> _Pair:
        """Padding in front of and behind an axis of n pixels."""
        if self.given is not None:
            return self.given[axis], self.given[axis]
        stride = self.stride[axis]
        total = max((-(-n // stride) - 1) * stride + self.reach(axis) + 1 - n, 0)
        return total // 2, total - total // 2

    def outputs(self, axis: int, n: int) -> int:
        """Number of outputs along an axis of n pixels."""
        before, after = self.padding(axis, n)
        stride = self.stride[axis]
        room = n + before + after - self.reach(axis) - 1
        if not self.ceil_mode:
            return room // stride + 1
        size = -(-room // stride) + 1
        return size - 1 if (size - 1) * stride >= n + before else size


def _pair(value: object) -> _Pair:
    if isinstance(value, int):
        return value, value
    assert isinstance(value, tuple | list), "kernel, stride, padding and dilation are numbers"
    return int(value[0]), int(value[-1])
