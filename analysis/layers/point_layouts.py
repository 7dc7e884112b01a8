"""How motions of space act on the tensors inside a network on point clouds.

Nothing in the shape of a tensor says whether its numbers are scalars, components of vectors or
functions of orientation. So:

1. What a module declares holds: attributes ``input_representation`` and ``output_representation``
   (a name, a representation of `liederiv.points`, or a list of those or None, one for each tensor
   that depends on the input).
2. The fields of the cloud are known wherever they pass.
3. [rows, c] are scalars, of clouds, points or edges alike; but not with c = d channels, which may
   be a vector, and not around modules that speak of irreducible representations (attributes
   ``irreps_in`` or ``irreps_out``, as in e3nn).
4. A network that names its orientations by an attribute ``fiber_grid`` [O, d] has functions of
   orientation in all tensors [rows, O, c], again but for c = d.
5. [1, n, c] are scalars, a batch of one; but for c = d.

Everything else is unknown, and the module around it absorbs it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from liederiv.actions import Action
from liederiv.errors import UnknownLayoutError
from liederiv.points import Fiber, FiberGrid, PointAction, PointCloud, Positions, Scalars, Vectors
from liederiv.points.representations import NAMED, PointRepresentation

from .layouts import Layout

__all__ = ["PointLayout", "PointRecogniser", "fit_residual", "input_layouts"]


@dataclass(frozen=True)
class PointLayout(Layout):
    """A tensor with rows of points, clouds or edges.

    Attributes:
        rho: how a motion acts on each row.
    """

    rho: PointRepresentation = field(default_factory=Scalars)

    @classmethod
    def of(cls, rho: PointRepresentation) -> PointLayout:
        """The layout of what transforms like that."""
        return cls("vector" if isinstance(rho, Scalars) else "points", rho=rho)

    @property
    def representation(self) -> PointRepresentation:
        """See `Layout.representation`."""
        return self.rho

    @property
    def channels_last(self) -> bool:
        """See `Layout.channels_last`."""
        return isinstance(self.rho, Fiber)

    def act(self, action: Action, z: Tensor) -> Tensor:
        """See `Layout.act`; rows may be anything."""
        assert isinstance(action, PointAction)
        return self.rho.act_on_rows(action, z)

    def __str__(self) -> str:
        if isinstance(self.rho, Fiber):
            return f"fiber {len(self.rho.grid)}"
        return type(self.rho).__name__.lower()


def fit_residual(layout: Layout, z: Tensor) -> float:
    """Share of a fiber feature that its harmonic fit leaves out; NaN for other tensors."""
    if isinstance(layout, PointLayout) and isinstance(layout.rho, Fiber):
        return layout.rho.grid.residual(z)
    return float("nan")


def input_layouts(cloud: PointCloud) -> list[tuple[Tensor, Layout]]:
    """Layouts of all floating tensors of a cloud."""
    found: list[tuple[Tensor, Layout]] = [(cloud.pos, PointLayout.of(Positions()))]
    found += [
        (v, PointLayout.of(Scalars())) for v in cloud.scalars.values() if v.is_floating_point()
    ]
    return found + [(v, PointLayout.of(Vectors())) for v in cloud.vectors.values()]


class PointRecogniser:
    """Says how tensors inside a network on point clouds transform, or that it is not known.

    Args:
        dim: dimension d of space.
        fiber: functions on the network's orientations, if it has any.
    """

    reordered = False

    def __init__(self, dim: int, fiber: Fiber | None = None) -> None:
        self.dim, self.fiber = dim, fiber

    @classmethod
    def of(cls, model: nn.Module, cloud: PointCloud) -> PointRecogniser:
        """For a network, whose orientations are looked for in all of its modules.

        Raises:
            UnknownLayoutError: if its modules disagree about them.
        """
        grids = {
            FiberGrid.of(grid)
            for m in model.modules()
            if isinstance(grid := getattr(m, "fiber_grid", None), Tensor)
        }
        if len(grids) > 1:
            raise UnknownLayoutError(
                "the model's modules have different fiber_grid attributes; leave one, and declare "
                "the rest by input_representation and output_representation."
            )
        return cls(cloud.dim, Fiber.on(grids.pop()) if grids else None)

    @property
    def root(self) -> Layout:
        """The layout of the positions."""
        return PointLayout.of(Positions())

    def declared(self, spec: Any, count: int) -> list[Layout | None]:
        """Layouts from what a module declares about its tensors.

        Args:
            spec: see the module's docstring.
            count: how many tensors there are.

        Raises:
            UnknownLayoutError: for a declaration that is not understood.
        """
        specs = list(spec) if isinstance(spec, list | tuple) else [spec] * count
        if len(specs) != count:
            raise UnknownLayoutError(
                f"a module declares {len(specs)} representations for {count} tensors; give one "
                "for each that depends on the input, or None."
            )
        return [self._layout(s) for s in specs]

    def _layout(self, spec: Any) -> Layout | None:
        if spec is None or (isinstance(spec, str) and spec == "auto"):
            return None
        if isinstance(spec, str) and spec in NAMED:
            spec = NAMED[spec]
        if not isinstance(spec, PointRepresentation):
            raise UnknownLayoutError(
                f"a module declares {spec!r}; use one of {', '.join(NAMED)}, or a representation "
                "of liederiv.points."
            )
        return PointLayout.of(spec)

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
            enclosing: not looked at.
            is_map: not looked at.
            module: which takes or returns it.
            returned: not looked at.
            confirm: not asked.
        """
        speaks_irreps = any(hasattr(module, name) for name in ("irreps_in", "irreps_out"))
        if z.ndim == 0 or z.numel() == 0 or speaks_irreps or z.shape[-1] == self.dim:
            return None
        if z.ndim <= 2:
            return PointLayout.of(Scalars())
        if z.ndim == 3 and self.fiber is not None and z.shape[1] == len(self.fiber.grid):
            return PointLayout.of(self.fiber)
        plain = z.ndim == 3 and z.shape[0] == 1 and self.fiber is None
        return PointLayout.of(Scalars()) if plain else None

    def note_reordering(self, z: Tensor, before: Layout, y: Tensor, after: Layout | None) -> None:
        """Points in another order transform as before: there is nothing to note."""
