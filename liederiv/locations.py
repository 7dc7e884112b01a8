"""Where in an output: an index in words."""

from __future__ import annotations

from collections.abc import Sequence

from liederiv.actions import Action
from liederiv.points.action import PointAction
from liederiv.points.representations import Fiber, PointRepresentation, Positions, Vectors
from liederiv.representations import Coordinates, FeatureMap, Representation, TokenGrid

__all__ = ["in_words"]

_MAP_AXES = {
    "NCHW": ("channel", "row", "column"),
    "NHWC": ("row", "column", "channel"),
    "NHW": ("row", "column"),
}
_ENTRIES = {
    "xy": ("x", "y"),
    "yx": ("y", "x"),
    "xyxy": ("left", "top", "right", "bottom"),
    "yxyx": ("top", "left", "bottom", "right"),
    "xywh": ("left", "top", "width", "height"),
    "cxcywh": ("x of the middle", "y of the middle", "width", "height"),
}


def in_words(
    index: Sequence[int], shape: Sequence[int], representation: Representation, action: Action
) -> str:
    """Say which entry of an output an index means.

    Args:
        index: of one entry, batch (or points) first.
        shape: of the output.
        representation: of the output.
        action: on the input.

    Example:
        >>> from liederiv.actions import ImageAction
        >>> action = ImageAction([], 8, 8)
        >>> in_words([0, 2, 5, 7], [1, 3, 8, 8], FeatureMap("NCHW"), action)
        'image 0, channel 2, row 5, column 7'
    """
    rest = list(index[1:])
    if isinstance(action, PointAction):
        return ", ".join([_row(index[0], shape[0], representation, action), *_of_point(
            rest, representation
        )])  # fmt: skip
    return ", ".join([f"image {index[0]}", *_of_image(rest, representation)])


def _of_image(rest: list[int], representation: Representation) -> list[str]:
    """The entry within the output for one image."""
    if isinstance(representation, FeatureMap):
        axes = _MAP_AXES[representation.layout]
        return [f"{axis} {i}" for axis, i in zip(axes, rest, strict=True)]
    if isinstance(representation, TokenGrid):
        return _of_tokens(rest, representation)
    if isinstance(representation, Coordinates):
        return _of_coordinates(rest, representation)
    return [f"entry {', '.join(str(i) for i in rest)}"] if rest else []


def _of_tokens(rest: list[int], representation: TokenGrid) -> list[str]:
    """The token and the channel."""
    token, channel = rest if representation.layout == "NLC" else reversed(rest)
    patches = representation.patches
    row, column = divmod(token - patches.start, representation.grid[1])
    where = f"row {row}, column {column} of the patches"
    if token < patches.start:
        where = "a prefix token"
    elif token >= patches.stop:
        where = "a suffix token"
    return [f"token {token} ({where})", f"channel {channel}"]


def _of_coordinates(rest: list[int], representation: Coordinates) -> list[str]:
    """The point or box, and which of its numbers."""
    number, entry = divmod(rest[-1], representation.entries)
    what = "point" if representation.entries == 2 else "box"
    place = [*rest[:-1], number] if number or len(rest) == 1 else rest[:-1]
    name = _ENTRIES[representation.form][entry]
    return [f"{what} {', '.join(str(i) for i in place)}", name]


def _row(row: int, rows: int, representation: Representation, action: PointAction) -> str:
    declared = representation.level if isinstance(representation, PointRepresentation) else None
    if action.level(rows, declared, representation) == "graph":
        return f"cloud {row}"
    return f"point {row} (of cloud {int(action.batch[row])})"


def _of_point(rest: list[int], representation: Representation) -> list[str]:
    """The entry within one row of an output for point clouds."""
    if isinstance(representation, Positions | Vectors):
        channel = [f"channel {i}" for i in rest[:-1]]
        return [*channel, f"component {'xyz'[rest[-1]]}"]
    words = []
    if isinstance(representation, Fiber):
        words, rest = [f"orientation {rest[0]}"], rest[1:]
    return [*words, f"entry {', '.join(str(i) for i in rest)}"] if rest else words
