r"""How a symmetry acts on what a network computes: the output representation ρ.

An equivariance error is only defined once ρ is known: class scores should not change at all
(`Invariant`), a feature map should move along (`FeatureMap`), and a map of vectors should turn its
arrows too (`FeatureMap(channels=VectorChannels())`). Charging an exactly equivariant feature with
error because its representation was guessed wrongly is the first pitfall of the method, so ρ is
*declared* where somebody knows it, *recognised* only where the shape leaves no choice, and refused
otherwise.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from liederiv.actions import Action, ImageAction
from liederiv.channels import ChannelAction
from liederiv.errors import UnknownLayoutError

__all__ = [
    "Custom",
    "FeatureMap",
    "Invariant",
    "OutputSpec",
    "Representation",
    "Resolved",
    "TokenGrid",
    "declared",
    "recognise",
    "resolve",
]


class Representation(ABC):
    """How generators act on one output tensor.

    Attributes:
        may_be_classes: whether the entries may be scores of classes, so that a softmax makes sense.
    """

    may_be_classes: ClassVar[bool] = True

    @abstractmethod
    def act(self, action: Action, y: Tensor) -> Tensor:
        """X_out y.

        Args:
            action: the K generators, bound to the input.
            y: output tensor, batch first.

        Returns:
            [K, *y.shape].

        Raises:
            UnknownLayoutError: if y cannot have this representation.
        """


def _on_images(action: Action, representation: Representation) -> ImageAction:
    """The action, if it is one on images."""
    if not isinstance(action, ImageAction):
        raise UnknownLayoutError(
            f"output={representation} is a map over an image, but the input is none; declare how "
            "the output of point clouds transforms: 'scalars', 'vectors' or 'positions'."
        )
    return action


@dataclass(frozen=True)
class Invariant(Representation):
    """The trivial representation: class scores, probabilities, pooled features. X_out = 0."""

    def act(self, action: Action, y: Tensor) -> Tensor:
        """See `Representation.act`."""
        return y.new_zeros(()).expand(len(action), *y.shape)


@dataclass(frozen=True)
class FeatureMap(Representation):
    """A map that covers the input's area at its own resolution.

    Attributes:
        layout: ``NCHW`` or ``NHWC`` (as in ConvNeXt's or Swin's inner layers).
        channels: how the group acts on the channels; None for scalars.
    """

    layout: Literal["NCHW", "NHWC"] = "NCHW"
    channels: ChannelAction | None = None

    def check(self, y: Tensor) -> None:
        """Raise `UnknownLayoutError` unless y can be such a map."""
        if y.ndim != 4:
            raise UnknownLayoutError(
                f"output=FeatureMap({self.layout}) needs a tensor of 4 axes, not {list(y.shape)}."
            )

    def act(self, action: Action, y: Tensor) -> Tensor:
        """See `Representation.act`."""
        self.check(y)
        action = _on_images(action, self)
        last = self.layout == "NHWC"
        out = action.on_map(y, channels_last=last)
        if self.channels is not None:
            C = y.shape[-1] if last else y.shape[1]
            M = self.channels.matrices(action.linear, C).to(y)
            out = out + torch.einsum("kdc,bhwc->kbhwd" if last else "kdc,bchw->kbdhw", M, y)
        return out


@dataclass(frozen=True)
class TokenGrid(Representation):
    """Patch tokens in row-major order, after prefix tokens (class, register) that are invariant.

    Attributes:
        grid: rows and columns of patches.
        prefix: number of prefix tokens in front.
        layout: ``NLC`` [B, tokens, C] or ``NCL`` [B, C, tokens].
    """

    grid: tuple[int, int]
    prefix: int = 0
    layout: Literal["NLC", "NCL"] = "NLC"

    def check(self, y: Tensor) -> None:
        """Raise `UnknownLayoutError` unless y has the declared number of tokens."""
        h, w = self.grid
        tokens = y if self.layout == "NLC" else y.mT
        if y.ndim != 3 or tokens.shape[1] != h * w + self.prefix:
            raise UnknownLayoutError(
                f"output=TokenGrid(grid={self.grid}, prefix={self.prefix}) describes "
                f"{h * w + self.prefix} tokens in layout {self.layout}, but the output has shape "
                f"{list(y.shape)}; declare the patch grid and the number of prefix tokens."
            )

    def act(self, action: Action, y: Tensor) -> Tensor:
        """See `Representation.act`."""
        self.check(y)
        action = _on_images(action, self)
        tokens = y if self.layout == "NLC" else y.mT
        patches = tokens[:, self.prefix :].unflatten(1, self.grid)
        moved = action.on_map(patches, channels_last=True).flatten(2, 3)
        out = tokens.new_zeros(len(action), *tokens.shape)
        out[:, :, self.prefix :] = moved
        return out if self.layout == "NLC" else out.mT


@dataclass(frozen=True)
class Custom(Representation):
    """A representation given by the user.

    Attributes:
        function: ``(action, y) -> [K, *y.shape]``, the generators applied to the output.
        finite: ``(element, y) -> [*y.shape]``, a finite transform applied to the output (see
            `liederiv.metrics.finite.GroupElement`); None if finite metrics are not wanted.
    """

    function: Callable[[Any, Tensor], Tensor]
    finite: Callable[[Any, Tensor], Tensor] | None = None

    def act(self, action: Action, y: Tensor) -> Tensor:
        """See `Representation.act`."""
        out = self.function(action, y)
        if out.shape != (len(action), *y.shape):
            raise UnknownLayoutError(
                f"output=Custom(…) returned shape {list(out.shape)}; expected one generator "
                f"after another, {[len(action), *y.shape]}."
            )
        return out


OutputSpec = Any
"""``"auto"``, a name (``invariant``, ``NCHW``, ``NHWC``; for point clouds ``scalars``, ``vectors``,
``positions``), a `Representation`, or a dict, list or tuple of those in the structure of the
model's output. ``"auto"`` is what the model declares by an attribute ``output_representation``, and
else what is unambiguous."""


def declared(f: object, output: OutputSpec) -> OutputSpec:
    """What the model f declares about its output, where the caller leaves it to ``"auto"``."""
    if isinstance(output, str) and output == "auto":
        return getattr(f, "output_representation", output)
    return output


_NAMED: Mapping[str, Representation] = {
    "invariant": Invariant(),
    "NCHW": FeatureMap("NCHW"),
    "NHWC": FeatureMap("NHWC"),
}


_PATCH_SIZES = (4, 8, 14, 16, 32)


@dataclass(frozen=True)
class Resolved:
    """A representation and how it came to be known: ``declared`` or ``recognised``."""

    representation: Representation
    status: Literal["declared", "recognised"]


def resolve(output: OutputSpec, y: Tensor, image_size: tuple[int, int]) -> Resolved:
    """Decide how the group acts on an output tensor.

    Args:
        output: see `OutputSpec`; for one tensor.
        y: the output, batch first.
        image_size: height and width of the input in pixels.

    Raises:
        UnknownLayoutError: if it is neither declared nor unambiguous.
    """
    if isinstance(output, Representation):
        return Resolved(output, "declared")
    if isinstance(output, str) and output in _NAMED:
        return Resolved(_NAMED[output], "declared")
    if output != "auto":
        raise UnknownLayoutError(
            f"output={output!r} is not understood; pass 'auto', one of {', '.join(_NAMED)}, "
            "or a Representation such as TokenGrid(grid=(14, 14), prefix=1)."
        )
    found = recognise(tuple(y.shape), image_size)
    if len(found) == 1:
        return Resolved(found[0], "recognised")
    what = " or ".join(str(r) for r in found) if found else "none that is known"
    raise UnknownLayoutError(
        f"the representation of the output of shape {list(y.shape)} is unknown (it fits {what}); "
        "declare it: output='invariant', output='NCHW', output=TokenGrid(grid=(h, w), prefix=n), …"
    )


def recognise(shape: tuple[int, ...], image_size: tuple[int, int]) -> list[Representation]:
    """All standard representations that a shape fits; a single one is unambiguous.

    Args:
        shape: of an output, batch first. [B] and [B, n] have no spatial axes and are invariant.
            Maps must divide the image by one whole number on both axes; tokens must be last but
            one, as many as square patches of a customary size (`_PATCH_SIZES`) plus at most two.
        image_size: height and width of the input in pixels.
    """
    if len(shape) <= 2:
        return [Invariant()]
    found: list[Representation] = []
    if len(shape) == 4:
        if _is_grid(shape[2:], image_size):
            found.append(FeatureMap("NCHW"))
        if _is_grid(shape[1:3], image_size):
            found.append(FeatureMap("NHWC"))
    if len(shape) == 3:
        for prefix in (0, 1, 2):
            grid = _token_grid(shape[1] - prefix, image_size)
            if grid is not None:
                found.append(TokenGrid(grid, prefix))
    return found


def _is_grid(grid: tuple[int, ...], image_size: tuple[int, int]) -> bool:
    """Whether the grid is the image divided by the same whole number on both axes."""
    (h, w), (H, W) = grid, image_size
    return h > 0 and w > 0 and H % h == 0 and W % w == 0 and H // h == W // w


def _token_grid(tokens: int, image_size: tuple[int, int]) -> tuple[int, int] | None:
    """The grid of that many square patches of a customary size, if there is one."""
    H, W = image_size
    for patch in _PATCH_SIZES:
        if H % patch == 0 and W % patch == 0 and (H // patch) * (W // patch) == tokens > 1:
            return H // patch, W // patch
    return None
