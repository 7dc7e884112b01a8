"""How the generators act on the tensors inside a network: layout recognition.

Attribution may put any generator G_z on an intermediate tensor z: the contributions still add up
to the whole Lie derivative. But a wrong G charges an innocent module, so a layout is recognised
only where the shape, the known grids and the surrounding module leave no choice. Everything else
is unknown, and the module around it absorbs it. No rule knows an architecture:

1. One image is measured at a time, so the first axis must be 1. Window and group partitions, which
   move positions to the batch axis, and sequence-first tokens are refused by this alone.
2. A map is the image divided by one whole number on both axes; powers of two may be rounded, as
   strided layers do on odd sizes. Two-dimensional convolutions, batch norms and pools say that
   their input is NCHW. Otherwise the grid must be the one that entered the enclosing module, or
   that divided by a whole number. A convolution or pool may return any grid that its kernel, stride
   and padding make of a known one; so may every other module then. How far apart the pixels are
   follows from the strides: a map may cover less of the image, or more, around its centre.
3. A square map whose side is a number of tokens (with prefix tokens or without) of the enclosing
   module's grid is an attention map.
4. Tokens must match a grid that was seen before as a map, or that a patch embedding declares
   (attributes `grid_size` or `patch_size`); without one, no [1, n, m] is a token grid.
5. A grid other than the enclosing module's is confirmed, where no layer's own arithmetic leads to
   it: gradients show where its positions look (`liederiv.analysis.layers.capture.looking`). A crop
   has the shape of a stride, and queries that of tokens.
6. A tensor of the shape of one that entered the enclosing module, and is unknown, is unknown too.
7. Where the axis order is ambiguous, the tensor takes the order of one of equal shape that entered
   the enclosing module, or stays unknown.
8. Once a module has reordered positions, tokens stay unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from liederiv.actions import Action, ImageAction
from liederiv.grids.outputs import divides
from liederiv.representations import FeatureMap, Invariant, Representation, TokenGrid

from .windows import WINDOWED, Window

__all__ = ["Grid", "Layout", "LayoutRecogniser", "positions"]

Kind = Literal["NCHW", "NHWC", "NLC", "NCL", "vector", "points"]
Grid = tuple[int, int]


@dataclass(frozen=True)
class Layout:
    """Where positions and channels are in a tensor with first axis 1.

    Attributes:
        kind: order of the axes; ``vector`` has no positions, and the group acts trivially on it;
            ``points`` is a `liederiv.analysis.layers.point_layouts.PointLayout`.
        grid: rows and columns of positions; (1, 1) for a vector.
        prefix: tokens in front that belong to no position (class, register).
        flat: whether a map or token grid was flattened to [1, n] in this order.
        extent: height and width of what the positions cover around the image's centre, in pixels;
            None for the image.
    """

    kind: Kind
    grid: Grid = (1, 1)
    prefix: int = 0
    flat: bool = False
    extent: Grid | None = None

    @property
    def spatial(self) -> bool:
        """Whether the group acts on it at all."""
        return self.kind != "vector"

    @property
    def channels_last(self) -> bool:
        """Whether the last axis of points' features holds channels that do not mix."""
        return False

    @property
    def tokens(self) -> int:
        """Number of positions and prefix tokens."""
        return self.grid[0] * self.grid[1] + self.prefix

    def act(self, action: Action, z: Tensor) -> Tensor:
        """G_z z for the K generators of the action: [K, *z.shape]."""
        if not self.spatial:
            return z.new_zeros(()).expand(len(action), *z.shape)
        moved = self.representation.act(self.window(action), self.unflatten(z))
        return moved.reshape(len(action), *z.shape)

    def window(self, action: Action) -> Action:
        """The action on what the positions cover.

        Schemes that align corners put those of every map on those of the image, as the published
        code does, whatever the strides say.
        """
        if self.extent is None or not isinstance(action, ImageAction):
            return action
        return action if action.scheme.align_corners else action.within(*self.extent)

    def spacing(self, action: ImageAction) -> tuple[float, float]:
        """From one row, and one column, of positions to the next, in pixels of the image."""
        covered = self.extent or (action.height, action.width)
        if not action.scheme.align_corners:
            return covered[0] / self.grid[0], covered[1] / self.grid[1]
        rows, columns = (
            (n - 1) / (m - 1) if min(n, m) > 1 else 1.0
            for n, m in zip((action.height, action.width), self.grid, strict=True)
        )
        return rows, columns

    @property
    def representation(self) -> Representation:
        """How the group acts on the unflattened tensor."""
        if self.kind == "vector":
            return Invariant()
        if self.kind == "NCHW" or self.kind == "NHWC":
            return FeatureMap(self.kind)
        assert self.kind != "points"
        return TokenGrid(self.grid, self.prefix, self.kind)

    def unflatten(self, z: Tensor) -> Tensor:
        """The tensor before it was flattened to [1, n]."""
        if not self.flat:
            return z
        h, w = self.grid
        shapes: dict[str, tuple[int, ...]] = {
            "NCHW": (1, -1, h, w),
            "NHWC": (1, h, w, -1),
            "NLC": (1, self.tokens, -1),
            "NCL": (1, -1, self.tokens),
        }
        return z.reshape(shapes[self.kind])

    def __str__(self) -> str:
        if not self.spatial:
            return "vector"
        prefix = f"{self.prefix}+" if self.prefix else ""
        part = "" if self.extent is None else f" of {self.extent[0]}×{self.extent[1]} px"
        return f"{'flat ' * self.flat}{self.kind} {prefix}{self.grid[0]}×{self.grid[1]}{part}"


VECTOR = Layout("vector")


def positions(z: Tensor, layout: Layout) -> Tensor:
    """The tensor as [tokens, channels], whatever its layout."""
    z = layout.unflatten(z)
    if layout.kind == "NCHW":
        return z[0].flatten(1).mT
    if layout.kind == "NHWC":
        return z[0].flatten(0, 1)
    return z[0].mT if layout.kind == "NCL" else z[0]


class LayoutRecogniser:
    """Recognises layouts in the order in which a forward pass produces the tensors.

    Args:
        image_size: height and width of the input in pixels.
        prefixes: numbers of prefix tokens to expect; what the model declares, or 0, 1 and 2.
    """

    def __init__(self, image_size: Grid, prefixes: Sequence[int] = (0, 1, 2)) -> None:
        self.image_size = image_size
        self.prefixes = tuple(dict.fromkeys(prefixes))
        self.reordered = False
        self._grids: dict[Grid, Grid] = {}  # of maps seen, and their extents
        self._last: tuple[Layout, int] | None = None

    @property
    def root(self) -> Layout:
        """The layout of the input itself."""
        return Layout("NCHW", self.image_size)

    def __call__(
        self,
        z: Tensor,
        enclosing: Sequence[tuple[Layout, torch.Size]],
        *,
        is_map: bool = False,
        module: nn.Module | None = None,
        returned: bool = False,
        confirm: Callable[[Layout], bool] | None = None,
    ) -> Layout | None:
        """The layout of z, or None if it is not certain.

        Args:
            z: tensor to be recognised; only its shape is looked at.
            enclosing: layouts and shapes of the tensors that entered the enclosing module.
            is_map: whether a module that works on NCHW maps takes or returns it.
            module: which module that is.
            returned: whether it returns it, and is the enclosing module itself.
            confirm: asked about a layout on another grid than those that entered.
        """
        found = self._recognise(z, enclosing, is_map, module if returned else None)
        if found is not None and found.spatial and not found.flat and confirm is not None:
            entered = {(v.grid, v.extent) for v, _ in enclosing}
            if (found.grid, found.extent) not in entered and not confirm(found):
                return None
        if found is not None and found.spatial:
            if found.kind in ("NCHW", "NHWC") and found.grid != self.image_size:
                self._grids[found.grid] = found.extent or self.image_size
            self._last = (found, z.numel())
        return found

    def declare(self, grid: Grid) -> None:
        """Let tokens be recognised on a grid that a patch embedding says it makes of the image."""
        extent = _divided(self.image_size, grid)
        if extent is not None and grid != (1, 1):
            self._grids.setdefault(grid, extent)

    def note_reordering(self, z: Tensor, before: Layout, y: Tensor, after: Layout | None) -> None:
        """Find out whether a module without parameters shuffled the positions of its input.

        Args:
            z: input of the module.
            before: its layout.
            y: output of the module.
            after: its layout, if recognised.
        """
        if z.numel() != y.numel() or not before.spatial or torch.equal(z, y):
            return
        if z.max() != y.max() or z.min() != y.min():  # sorting is expensive
            return
        if after is None or after.grid != before.grid or after.prefix != before.prefix:
            return
        a = positions(z, before).detach().sort(1).values
        b = positions(y, after).detach().sort(1).values
        same_values = torch.equal(a.flatten().sort().values, b.flatten().sort().values)
        if same_values and not torch.equal(a, b):
            self.reordered = True

    def _recognise(
        self,
        z: Tensor,
        enclosing: Sequence[tuple[Layout, torch.Size]],
        is_map: bool,
        layer: nn.Module | None,
    ) -> Layout | None:
        if z.ndim < 2 or z.shape[0] != 1 or z.numel() == 0:
            return None
        near = [layout for layout, _ in enclosing if layout.spatial]
        if z.ndim == 2:
            return self._row(z, near)
        if z.ndim in (3, 4) and z.numel() == max(z.shape):
            hidden = any(z.numel() in (g.tokens, g.grid[0] * g.grid[1]) for g in near)
            return None if hidden and z.numel() > 1 else VECTOR
        if self.reordered and not is_map:
            return None
        candidates = self._maps(z, near, is_map, layer) if z.ndim == 4 else self._tokens(z)
        if len(candidates) > 1:
            same = [c for c in candidates if (c, z.shape) in list(enclosing)]
            candidates = same if len(same) == 1 else []
        return candidates[0] if candidates else None

    def _row(self, z: Tensor, near: Sequence[Layout]) -> Layout | None:
        """[1, n]: a vector, or the flattened form of the map that was seen last."""
        if self._last is not None and self._last[1] == z.numel():
            return replace(self._last[0], flat=True)
        hidden = any(z.shape[1] in (g.tokens, g.grid[0] * g.grid[1]) for g in near)
        return None if hidden else VECTOR

    def _maps(
        self, z: Tensor, near: Sequence[Layout], is_map: bool, layer: nn.Module | None
    ) -> list[Layout]:
        if z.ndim != 4:
            return []
        options: list[tuple[Kind, Grid]] = [("NCHW", (z.shape[2], z.shape[3]))]
        if not is_map:
            options.append(("NHWC", (z.shape[1], z.shape[2])))
        found = []
        for kind, grid in options:
            extent = self._extent(grid, near, is_map, layer)
            if extent is not None and not self._is_attention(grid, near):
                found.append(Layout(kind, grid, extent=_partial(extent, self.image_size)))
        return found

    def _extent(
        self, grid: Grid, near: Sequence[Layout], is_map: bool, layer: nn.Module | None
    ) -> Grid | None:
        """Pixels of the image (height, width) that such a map covers; None if it is no map."""
        if grid == (1, 1):
            return None
        extent = _divided(self.image_size, grid)
        if extent is not None and (is_map or any(_divided(g.grid, grid) for g in near)):
            return extent
        seen = self._grids.get(grid)
        if seen is not None and (is_map or any(g.extent is not None for g in near)):
            return seen
        if not isinstance(layer, WINDOWED):
            return None
        window = Window.of(layer)
        found = (_slid(window, g.grid, g.extent or self.image_size, grid) for g in near)
        return next(filter(None, found), None)

    def _is_attention(self, grid: Grid, near: Sequence[Layout]) -> bool:
        if grid[0] != grid[1]:
            return False
        counts = {g.grid[0] * g.grid[1] + p for g in near for p in (*self.prefixes, g.prefix)}
        return grid[0] in counts

    def _tokens(self, z: Tensor) -> list[Layout]:
        if z.ndim != 3:
            return []
        found: dict[Layout, None] = {}
        axes: tuple[tuple[Kind, int], ...] = (("NLC", z.shape[1]), ("NCL", z.shape[2]))
        for kind, length in axes:
            for grid, extent in self._grids.items():
                for prefix in self.prefixes:
                    if grid[0] * grid[1] > 1 and length == grid[0] * grid[1] + prefix:
                        part = _partial(extent, self.image_size)
                        found.setdefault(Layout(kind, grid, prefix, extent=part))
        return list(found)


def _divided(outer: Grid, inner: Grid) -> Grid | None:
    """What inner covers of outer, in its pixels, if it is outer divided by one whole number."""
    (H, W), (h, w) = outer, inner
    if h < 1 or w < 1 or h > H or w > W:
        return None
    if divides(inner, outer):
        return outer
    for s in (2**k for k in range(1, 8)):
        if (h, w) in ((-(-H // s), -(-W // s)), (H // s, W // s)):
            return h * s, w * s
    return None


def _slid(window: Window, grid: Grid, extent: Grid, found: Grid) -> Grid | None:
    """What a map covers that a sliding window leaves of another; None if it does not leave it."""
    if any(window.outputs(axis, grid[axis]) != found[axis] for axis in (0, 1)):
        return None
    covered = [window.stride[i] * found[i] * extent[i] / grid[i] for i in (0, 1)]
    h, w = (round(c) for c in covered)
    return (h, w) if covered == [h, w] else None


def _partial(extent: Grid, image: Grid) -> Grid | None:
    return None if extent == image else extent
