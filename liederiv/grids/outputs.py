r"""Outputs on a grid of places in the image: feature maps and patch tokens.

A grid of h × w places covers the whole image, each place as many pixels apart as the image has
for one of them, unless it is said what it covers (`Placed`):

* an *unpadded* 9 × 9 convolution turns 64 × 64 pixels into 56 × 56 places one pixel apart, which
  cover the middle: ``FeatureMap(extent=(56, 56))``;
* the crop ``y[..., :28, :28]`` of that covers its upper left: ``extent=(28, 28),
  offset=(-14, -14)``;
* strided layers may sample off the middle: a 3 × 3 convolution of stride 2 and padding 1 on an
  even size has its places on pixels 0, 2, 4, …, half a pixel up and left of the middle of every
  two (``offset=(-0.5, -0.5)``); TensorFlow's ``SAME`` pads behind, so that they are on pixels
  1, 3, 5, … (``offset=(0.5, 0.5)``).

Extents decide how fast the output must move; offsets matter where the motion depends on the place
(rotations, scalings), not for translations. At the border of what is covered a derivative needs
values from beyond, which the interpolation scheme continues: a crop has an error there that the
whole map has not.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from liederiv.actions import Action
from liederiv.base_representation import Representation, on_images
from liederiv.channels import ChannelAction
from liederiv.errors import UnknownLayoutError

__all__ = ["FeatureMap", "Placed", "TokenGrid", "divides"]

Mover = TypeVar("Mover")


def divides(grid: tuple[int, ...], size: tuple[float, float]) -> int | None:
    """The one whole number of pixels that a grid's places are apart on both axes, if there is one.

    Args:
        grid: rows and columns of places.
        size: rows and columns of pixels that they cover.
    """
    (h, w), (H, W) = grid, size
    whole = h > 0 and w > 0 and H % h == 0 and W % w == 0 and H // h == W // w
    return int(H // h) if whole else None


class Placed(Representation):
    """A grid of places, and what of the image it covers.

    Attributes:
        extent: height and width of what the grid covers, in pixels of the input: the number of
            places times their distance. None stands for the image.
        offset: of the middle of what it covers from the middle of the image, down and to the
            right, in pixels of the input.
    """

    extent: tuple[float, float] | None
    offset: tuple[float, float]

    def __post_init__(self) -> None:
        for name, pair in (("extent", self.extent), ("offset", self.offset)):
            if pair is not None and (not isinstance(pair, tuple | list) or len(pair) != 2):
                raise UnknownLayoutError(
                    f"{name}={pair!r} must be two numbers of pixels, rows first: "
                    f"{name}=(height, width)."
                )
        if self.extent is not None and not min(self.extent) > 0:
            raise UnknownLayoutError(f"extent={self.extent} must be two positive sizes in pixels.")

    def __repr__(self) -> str:
        """Without where it lies and the tokens behind, unless they are declared."""
        named: Any = self
        shown = [
            f"{f.name}={getattr(self, f.name)!r}"
            for f in fields(named)
            if f.name not in ("extent", "offset", "suffix") or getattr(self, f.name) != f.default
        ]
        return f"{type(self).__name__}({', '.join(shown)})"

    def places(self, y: Tensor) -> tuple[int, int]:
        """Rows and columns of the grid of an output.

        Raises:
            UnknownLayoutError: if the output has no such grid.
        """
        raise NotImplementedError

    @property
    def whole(self) -> bool:
        """Whether it is taken for granted that the grid covers the image."""
        return self.extent is None and not any(self.offset)

    def window(self, mover: Mover, grid: tuple[int, int]) -> Mover:
        """An action, or a finite transform, of what the grid covers.

        Args:
            mover: on the image; has ``within(height, width, offset)``.
            grid: rows and columns of places.
        """
        if self.whole:
            return mover
        image: Any = mover
        size = self.extent or (image.height, image.width)
        if getattr(getattr(image, "scheme", None), "align_corners", False):
            # From the first place to the last, and one pixel: how these schemes count a size.
            size = (
                (grid[0] - 1) * size[0] / grid[0] + 1,
                (grid[1] - 1) * size[1] / grid[1] + 1,
            )
        found: Mover = image.within(*size, self.offset)
        return found


@dataclass(frozen=True, repr=False)
class FeatureMap(Placed):
    """A map over the image at its own resolution.

    Attributes:
        layout: ``NCHW``, ``NHWC`` (as in ConvNeXt's or Swin's inner layers), or ``NHW`` without an
            axis of channels (a depth map).
        channels: how the group acts on the channels; None for scalars.
        extent: see `Placed`.
        offset: see `Placed`.
    """

    layout: Literal["NCHW", "NHWC", "NHW"] = "NCHW"
    channels: ChannelAction | None = None
    extent: tuple[float, float] | None = None
    offset: tuple[float, float] = (0.0, 0.0)

    def check(self, y: Tensor) -> None:
        """Raise `UnknownLayoutError` unless y can be such a map."""
        axes = len(self.layout)
        if y.ndim != axes:
            raise UnknownLayoutError(
                f"output=FeatureMap({self.layout}) needs a tensor of {axes} axes, not "
                f"{list(y.shape)}."
            )
        if self.layout == "NHW" and self.channels is not None:
            raise UnknownLayoutError(
                f"output={self} has no channels to act on; declare NCHW or NHWC, or channels=None."
            )

    def places(self, y: Tensor) -> tuple[int, int]:
        """See `Placed.places`."""
        self.check(y)
        h, w = y.shape[2:] if self.layout == "NCHW" else y.shape[1:3]
        return h, w

    def to_maps(self, y: Tensor) -> Tensor:
        """The output as maps [B, C, h, w]."""
        self.check(y)
        if self.layout == "NHW":
            return y[:, None]
        return y.movedim(-1, 1) if self.layout == "NHWC" else y

    def from_maps(self, z: Tensor) -> Tensor:
        """Maps [..., C, h, w] as outputs: the inverse of `to_maps`, with any axes in front."""
        if self.layout == "NHW":
            return z.squeeze(-3)
        return z.movedim(-3, -1) if self.layout == "NHWC" else z

    def class_axis(self, ndim: int) -> int | None:
        """See `Representation.class_axis`."""
        if self.channels is not None or ndim != len(self.layout):
            return None
        return {"NCHW": 1, "NHWC": -1, "NHW": None}[self.layout]

    def act(self, action: Action, y: Tensor) -> Tensor:
        """See `Representation.act`."""
        grid = self.places(y)
        here = self.window(on_images(action, self), grid)
        last = self.layout == "NHWC"
        if self.layout == "NHW":
            return here.on_map(y[:, None])[:, :, 0]
        out = here.on_map(y, channels_last=last)
        if self.channels is not None:
            M = self.channels.matrices(here.linear, y.shape[-1] if last else y.shape[1]).to(y)
            out = out + torch.einsum("kdc,bhwc->kbhwd" if last else "kdc,bchw->kbdhw", M, y)
        return out


@dataclass(frozen=True, repr=False)
class TokenGrid(Placed):
    """Patch tokens in row-major order between tokens (class, register) that are invariant.

    Attributes:
        grid: rows and columns of patches.
        prefix: number of invariant tokens in front.
        layout: ``NLC`` [B, tokens, C] or ``NCL`` [B, C, tokens].
        suffix: number of invariant tokens behind.
        extent: see `Placed`.
        offset: see `Placed`.
    """

    grid: tuple[int, int]
    prefix: int = 0
    layout: Literal["NLC", "NCL"] = "NLC"
    suffix: int = 0
    extent: tuple[float, float] | None = None
    offset: tuple[float, float] = (0.0, 0.0)

    def check(self, y: Tensor) -> None:
        """Raise `UnknownLayoutError` unless y has the declared number of tokens."""
        h, w = self.grid
        count = h * w + self.prefix + self.suffix
        tokens = y if self.layout == "NLC" else y.mT
        if y.ndim != 3 or tokens.shape[1] != count:
            behind = f", suffix={self.suffix}" if self.suffix else ""
            raise UnknownLayoutError(
                f"output=TokenGrid(grid={self.grid}, prefix={self.prefix}{behind}) describes "
                f"{count} tokens in layout {self.layout}, but the output has shape "
                f"{list(y.shape)}; declare the patch grid and the number of other tokens."
            )

    def places(self, y: Tensor) -> tuple[int, int]:
        """See `Placed.places`."""
        self.check(y)
        return self.grid

    def class_axis(self, ndim: int) -> int | None:
        """See `Representation.class_axis`."""
        return (-1 if self.layout == "NLC" else 1) if ndim == 3 else None

    @property
    def patches(self) -> slice:
        """Which of the tokens are patches."""
        return slice(self.prefix, self.prefix + self.grid[0] * self.grid[1])

    def act(self, action: Action, y: Tensor) -> Tensor:
        """See `Representation.act`."""
        self.check(y)
        here = self.window(on_images(action, self), self.grid)
        tokens = y if self.layout == "NLC" else y.mT
        patches = tokens[:, self.patches].unflatten(1, self.grid)
        out = tokens.new_zeros(len(action), *tokens.shape)
        out[:, :, self.patches] = here.on_map(patches, channels_last=True).flatten(2, 3)
        return out if self.layout == "NLC" else out.mT
