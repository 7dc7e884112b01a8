r"""How a symmetry acts on what a network computes: the output representation ρ.

An equivariance error is only defined once ρ is known: class scores should not change at all
(`Invariant`), a feature map should move along (`FeatureMap`), and a map of vectors should turn its
arrows too (`FeatureMap(channels=VectorChannels())`). Charging an exactly equivariant feature with
error because its representation was guessed wrongly is the first pitfall of the method, so ρ is
*declared* where somebody knows it, *recognised* only where the shape leaves no choice, and refused
otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from liederiv.base_representation import Custom, Invariant, Representation
from liederiv.errors import UnknownLayoutError
from liederiv.grids.coordinates import Coordinates
from liederiv.grids.outputs import FeatureMap, Placed, TokenGrid, divides

__all__ = [
    "NAMED",
    "Coordinates",
    "Custom",
    "FeatureMap",
    "Hints",
    "Invariant",
    "OutputSpec",
    "Representation",
    "Resolved",
    "TokenGrid",
    "declared",
    "hints_of",
    "recognise",
    "resolve",
]


OutputSpec = Any
"""How the group acts on a model's output, as the user gives it:

* ``"auto"``: what the model declares by an attribute ``output_representation``, and else what is
  unambiguous (see `recognise`; nothing is, for point clouds);
* a name: ``"invariant"``; for images ``"NCHW"``, ``"NHWC"`` or ``"NHW"``, maps over the whole
  image; for point clouds ``"scalars"``, ``"vectors"`` or ``"positions"``;
* a `Representation`, such as ``TokenGrid((14, 14), prefix=1)``, ``FeatureMap(extent=(56, 56))`` or
  ``Coordinates()``;
* a dict of those by the keys of the model's output, a list or tuple by its positions, nested as the
  output is (see `liederiv.structures`). None stands for a part that is not measured.
"""


@dataclass(frozen=True)
class Hints:
    """What a model says about its output without an attribute ``output_representation``.

    Attributes:
        tokens: the grid of patches and the other tokens of timm's transformers.
        channels: of those tokens.
        classes: how many classes it has scores for; 0 where it says that it has none.
    """

    tokens: TokenGrid | None = None
    channels: int | None = None
    classes: int | None = None

    def __str__(self) -> str:
        return "auto"


def declared(f: object, output: OutputSpec) -> OutputSpec:
    """What the model f declares about its output, where the caller leaves it to ``"auto"``."""
    if not isinstance(output, str) or output != "auto":
        return output
    said = getattr(f, "output_representation", None)
    if said is not None:
        return said
    hints = hints_of(f)
    return output if hints == Hints() else hints


def hints_of(f: object) -> Hints:
    """What a module says of itself; nothing for any other function."""
    if not isinstance(f, nn.Module):
        return Hints()
    grid = getattr(getattr(f, "patch_embed", None), "grid_size", None)
    names = ("num_prefix_tokens", "num_features", "num_classes")
    prefix, channels, classes = (_whole(getattr(f, name, None)) for name in names)
    tokens = None
    if isinstance(grid, tuple | list) and len(grid) == 2 and prefix is not None:
        h, w = (_whole(n) for n in grid)
        tokens = TokenGrid((h, w), prefix) if h and w else None
    return Hints(tokens, channels, classes)


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


NAMED: Mapping[str, Representation] = {
    "invariant": Invariant(),
    "NCHW": FeatureMap("NCHW"),
    "NHWC": FeatureMap("NHWC"),
    "NHW": FeatureMap("NHW"),
}
"""Representations of images' outputs by name."""


@dataclass(frozen=True)
class Resolved:
    """A representation and how it came to be known.

    Attributes:
        representation: ρ.
        status: ``declared`` by the caller or the model (its ``output_representation``, its number
            of classes); ``declared by the model`` where the grid of patches is that of which timm's
            models speak; ``recognised`` by its shape.
    """

    representation: Representation
    status: Literal["declared", "declared by the model", "recognised"]


def resolve(output: OutputSpec, y: Tensor, image_size: tuple[float, float]) -> Resolved:
    """Decide how the group acts on an output tensor.

    A map that is recognised has the shape of one; whether it shows the image where it should is for
    `liederiv.resolution` to see.

    Args:
        output: see `OutputSpec`; for one tensor. A `Resolved` is passed through.
        y: the output, batch first.
        image_size: height and width of the input in pixels.

    Raises:
        UnknownLayoutError: if it is neither declared nor unambiguous, or declared as a map of the
            whole image that it cannot be.
    """
    if isinstance(output, Resolved):
        return output
    if isinstance(output, str) and output in NAMED:
        output = NAMED[output]
    if isinstance(output, Representation):
        _check_cover(output, y, image_size)
        return Resolved(output, "declared")
    if isinstance(output, Hints):
        if output.tokens is not None and _has_tokens(output, y, image_size):
            return Resolved(output.tokens, "declared by the model")
        if output.classes and tuple(y.shape[1:]) == (output.classes,):
            return Resolved(Invariant(), "declared")
    elif output != "auto":
        raise UnknownLayoutError(
            f"output={output!r} is not understood; pass 'auto', one of {', '.join(NAMED)}, "
            "or a Representation such as TokenGrid(grid=(14, 14), prefix=1)."
        )
    found = recognise(tuple(y.shape), image_size)
    if len(found) == 1:
        return Resolved(found[0], "recognised")
    what = " or ".join(str(r) for r in found) if found else "none that is known"
    raise UnknownLayoutError(
        f"the representation of the output of shape {list(y.shape)} is unknown (it fits {what}); "
        f"declare it: output='invariant', {_remedies(y.ndim)}."
    )


def _remedies(ndim: int) -> str:
    """Declarations that a tensor of so many axes may need."""
    if ndim == 3:
        return (
            "output='NHW' for a map without channels, output=TokenGrid(grid=(h, w), prefix=n) for "
            "patch tokens, output=Coordinates(…) for places in the image, …"
        )
    return "output='NCHW', output=FeatureMap(extent=(height, width)) for a part of the image, …"


def _check_cover(output: Representation, y: Tensor, image_size: tuple[float, float]) -> None:
    """Refuse a map of the whole image whose pixels cannot be spread evenly over it."""
    if not isinstance(output, Placed) or not output.whole:
        return
    grid = output.places(y)
    if all(n and (N % n == 0 or n % N == 0) for n, N in zip(grid, image_size, strict=True)):
        return
    h, w = grid
    raise UnknownLayoutError(
        f"output={output} covers the whole image, but its {h} × {w} places do not divide "
        f"{image_size[0]} × {image_size[1]} pixels; say what they cover: extent=(s·{h}, s·{w}) for "
        "places s pixels apart."
    )


def recognise(shape: tuple[int, ...], image_size: tuple[float, float]) -> list[Representation]:
    """All standard representations that a shape fits; a single one is unambiguous.

    Args:
        shape: of an output, batch first. [B] and [B, n] have no spatial axes and are invariant.
            Maps have four axes and divide the image by one whole number on both axes. Three axes
            fit too much (patch tokens, queries, matrices, maps without channels) to be recognised.
        image_size: height and width of the input in pixels.
    """
    if len(shape) <= 2:
        return [Invariant()]
    found: list[Representation] = []
    if len(shape) == 4:
        if divides(shape[2:], image_size):
            found.append(FeatureMap("NCHW"))
        if divides(shape[1:3], image_size):
            found.append(FeatureMap("NHWC"))
    return found


def _has_tokens(hints: Hints, y: Tensor, image_size: tuple[float, float]) -> bool:
    """Whether the output has the tokens that the model speaks of, and can be nothing else.

    The number of tokens must differ from that of the channels: [B, n, n] may be a map or a matrix.
    """
    if hints.tokens is None or y.ndim != 3 or not divides(hints.tokens.grid, image_size):
        return False
    (h, w), prefix = hints.tokens.grid, hints.tokens.prefix
    known = y.shape[2] in (hints.channels, hints.classes)
    return known and y.shape[1] == h * w + prefix != y.shape[2]
