r"""How a finite transform moves what a network computes: ρ_g on every representation.

`act_finite` is to a group element g what `Representation.act` is to a generator: class scores stay,
maps are warped at their own resolution and turn their channels too, patch tokens are warped as a
map while prefix tokens stay. The derivative of ρ_{T_t} at t = 0 is `Representation.act`.

A representation of your own takes part by ``act_finite.register`` (and ``valid.register``).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import singledispatch
from typing import Any, Protocol

import torch
from torch import Tensor

from liederiv.channels import ChannelAction
from liederiv.differentiation.calls import PlainFunction
from liederiv.differentiation.models import watched
from liederiv.domains import domain_of
from liederiv.errors import ModelError, UnknownLayoutError
from liederiv.grids.coordinates import Coordinates
from liederiv.grids.outputs import Placed
from liederiv.representations import Custom, FeatureMap, Invariant, Representation, TokenGrid

__all__ = ["GroupElement", "act_finite", "evaluate", "map_size", "relative_error", "valid"]


class GroupElement(Protocol):
    """A finite transform g, bound to an image size.

    `liederiv.transforms.FiniteTransform` and `liederiv.metrics.discrete.LatticeTransform` are such.
    Point clouds have `liederiv.points.PointTransform`, which moves what point clouds have.
    """

    @property
    def height(self) -> float:
        """Pixels of the input."""

    @property
    def width(self) -> float:
        """Pixels of the input."""

    @property
    def points(self) -> Tensor:
        """Where what is at a point goes, [A | b] in pixels from the middle, [B or 1, 2, 3]."""

    def on_input(self, x: Tensor) -> Tensor:
        """Move images [B, C, H, W]."""

    def within(
        self, height: float, width: float, offset: tuple[float, float] = (0.0, 0.0)
    ) -> GroupElement:
        """The same transform of a window of the image, see `liederiv.actions.ImageAction`."""

    def on_map(self, z: Tensor) -> Tensor:
        """Move maps of scalars [B, C, h, w] at any resolution."""

    def on_channels(self, channels: ChannelAction, count: int) -> Tensor:
        """The matrices that multiply the channels of a map, float64 [B or 1, C, C]."""

    def valid(self, h: int, w: int, margin: float = 0.0) -> Tensor:
        """Where an h × w map was moved from inside the image, bool [B or 1, 1, h, w]."""


def evaluate(f: Callable[[Any], Tensor], x: Any) -> Tensor:
    """f(x), detached; x survives a model that works in place, and the model what it keeps.

    Gradients are on while f runs: force fields differentiate inside.
    Half precision is widened, so that what acts on the output afterwards does not round it.

    Raises:
        ModelError: if the output is not one tensor with the batch in front.
    """
    with watched(f):
        y = PlainFunction(f, ()).anything(x.detach())
    if not isinstance(y, Tensor):
        raise ModelError(
            f"the model returns a {type(y).__name__}, not one tensor; wrap it so that it returns "
            "the tensor to be measured, e.g. lambda x: model(x)['out']."
        )
    domain = domain_of(x)
    if y.ndim == 0 or len(y) not in domain.rows(x):
        raise ModelError(
            f"the model returns shape {list(y.shape)} for {len(x)} {domain.item}s; the finite "
            f"metrics need one output per {domain.item}, batch first."
        )
    y = y.detach()
    return y.float() if y.dtype in (torch.bfloat16, torch.float16) else y


def relative_error(error: Tensor, size: Tensor) -> Tensor:
    """Error over size, item by item: 0 where there is no error at all, ∞ beside an output of 0."""
    return torch.where(error == 0, 0.0, error / size)


@singledispatch
def act_finite(representation: Representation, element: Any, y: Tensor) -> Tensor:
    """ρ_g y.

    Args:
        representation: ρ.
        element: g.
        y: output, batch first.

    Returns:
        Tensor like y.

    Raises:
        UnknownLayoutError: if y cannot have this representation, or it is not known how finite
            transforms act.
    """
    raise UnknownLayoutError(
        f"output={representation} does not say how finite transforms act; register a function "
        "with liederiv.metrics.finite.act_finite.register."
    )


@act_finite.register
def _(representation: Invariant, element: GroupElement, y: Tensor) -> Tensor:
    return y


@act_finite.register
def _(representation: FeatureMap, element: GroupElement, y: Tensor) -> Tensor:
    element = representation.window(element, representation.places(y))
    z = representation.to_maps(y)
    out = element.on_map(z)
    if representation.channels is not None:
        M = element.on_channels(representation.channels, z.shape[1]).to(out)
        out = (M @ out.flatten(2)).view_as(out)
    return representation.from_maps(out)


@act_finite.register
def _(representation: TokenGrid, element: GroupElement, y: Tensor) -> Tensor:
    element = representation.window(element, representation.places(y))
    tokens, patches = y.mT if representation.layout == "NLC" else y, representation.patches
    moved = element.on_map(tokens[..., patches].unflatten(2, representation.grid)).flatten(2)
    out = torch.cat([tokens[..., : patches.start], moved, tokens[..., patches.stop :]], 2)
    return out.mT if representation.layout == "NLC" else out


@act_finite.register
def _(representation: Coordinates, element: GroupElement, y: Tensor) -> Tensor:
    return representation.move(element.points, y, element.height, element.width)


@act_finite.register
def _(representation: Custom, element: GroupElement, y: Tensor) -> Tensor:
    if representation.finite is None:
        raise UnknownLayoutError(
            "output=Custom(…) does not say how finite transforms act; pass finite= as well."
        )
    out = representation.finite(element, y)
    if out.shape != y.shape:
        raise UnknownLayoutError(
            f"output=Custom(finite=…) returned shape {list(out.shape)}; expected {list(y.shape)}."
        )
    return out


def map_size(representation: Representation, y: Tensor) -> tuple[int, int] | None:
    """Height and width of an output's grid of places; None if it has none."""
    return representation.places(y) if isinstance(representation, Placed) else None


@singledispatch
def valid(representation: Representation, element: Any, y: Tensor, margin: float = 0.0) -> Tensor:
    """Entries of ρ_g y that come from inside the image: bool, broadcastable to y.

    Args:
        representation: ρ; all entries count unless it is a map or a token grid.
        element: g.
        y: output, batch first.
        margin: see `liederiv.transforms.FiniteTransform.valid`, in pixels (patches) of the output.
    """
    return torch.ones([1] * y.ndim, dtype=torch.bool, device=y.device)


@valid.register
def _(representation: FeatureMap, element: GroupElement, y: Tensor, margin: float = 0.0) -> Tensor:
    h, w = representation.places(y)
    element = representation.window(element, (h, w))
    return representation.from_maps(element.valid(h, w, margin).to(y.device))


@valid.register
def _(representation: TokenGrid, element: GroupElement, y: Tensor, margin: float = 0.0) -> Tensor:
    element = representation.window(element, representation.grid)
    patches = element.valid(*representation.grid, margin).flatten(2)
    # Prefix and suffix tokens belong to the whole image: no number without a patch beside them.
    any_patch = patches.any(2, keepdim=True)
    before, behind = (
        any_patch.expand(-1, -1, n) for n in (representation.prefix, representation.suffix)
    )
    inside = torch.cat([before, patches, behind], 2).to(y.device)
    return inside.mT if representation.layout == "NLC" else inside
