"""The batches of one call of `orbit`, and what is measured on each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from torch import Tensor

from liederiv.actions import Action
from liederiv.derivatives import Scheme
from liederiv.generators import Generator

from .curves import Followed, Grid, follow
from .periods import SUBPIXEL_PASSES, period_of, shifted
from .response import Response
from .results import OrbitCurve, Period, Worst
from .units import readable
from .worst import Budget, combining, search

__all__ = ["Run"]

_LOSS_ROUNDING = 1e-5  # nats, of logits in float32


@dataclass
class Run:
    """The batches of one call, and what is measured on each."""

    batches: tuple[Response, ...]
    generators: tuple[Generator, ...]
    scheme: str | Scheme
    limits: list[float]
    seed: int
    labels: Tensor | None
    step: Callable[[int], object] = lambda n: None

    @property
    def images(self) -> int:
        """How many there are."""
        return sum(len(r) for r in self.batches)

    @property
    def is_images(self) -> bool:
        """Whether they have pixels."""
        return self.batches[0].domain.is_images

    def labels_of(self, number: int) -> Tensor | None:
        """Those of one batch; only where the output is scores."""
        if self.labels is None or self.batches[0].kind not in ("probs", "logits"):
            return None
        start = sum(len(r) for r in self.batches[:number])
        return self.labels[start : start + len(self.batches[number])]

    def passes(self, points: int, shifts: int, budget: Budget | None) -> int:
        """Passes of single batches or images, for the progress bar."""
        along = len(self.generators) * (2 * points + 1) * len(self.batches)
        moved = shifted(self.generators, self.is_images) if shifts else []
        x = self.batches[0].x
        shifts = min(shifts, max(x.shape[-2:])) if moved else 0
        rolled = len(moved) * self.images * (shifts + 1 + SUBPIXEL_PASSES)
        sought = 0 if budget is None else budget.starts * budget.steps + budget.grid_passes()
        return along + rolled + sought * len(self.batches)

    def curves(self, points: int) -> tuple[tuple[OrbitCurve, ...], str]:
        """All curves, and the engines."""
        found: list[OrbitCurve] = []
        engines: list[str] = []
        for number, (g, limit) in enumerate(zip(self.generators, self.limits, strict=True)):
            grid = Grid.of(limit, points, self.seed + number)
            parts = [
                follow(r, self._bound(r, [g]), grid, self.labels_of(b), self.step)
                for b, r in enumerate(self.batches)
            ]
            engines += [p.verification.engine for p in parts]
            found.append(_curve(g, grid, parts))
        return tuple(found), ", ".join(dict.fromkeys(engines))

    def periods(self, shifts: int) -> tuple[Period, ...]:
        """Of the translations of images."""
        moved = shifted(self.generators, self.is_images)
        return tuple(period_of(self.batches, g, shifts, self.step) for g in moved)

    def budget(self, passes: int, starts: int) -> Budget:
        """What the search may cost; refused before anything runs if that is too little."""
        together, _ = combining(self.batches[0], self._bound(self.batches[0], self.generators))
        return Budget.of(passes, len(together), starts)

    def worst(self, budget: Budget) -> Worst:
        """The worst transform of each image."""
        first = self.batches[0]
        together, apart = combining(first, self._bound(first, self.generators))
        chosen = [self.generators[k] for k in together]
        limits = [self.limits[k] for k in together]
        pairs = [
            search(
                r, self._bound(r, chosen), limits, budget, self.seed, self.labels_of(b), self.step
            )
            for b, r in enumerate(self.batches)
        ]
        shown = [readable(g) for g in chosen]

        def places(t: Any) -> Any:
            return np.array([[s.of_t(v) for s, v in zip(shown, row, strict=True)] for row in t])

        by_loss = self.labels_of(0) is not None
        floors = 2 * np.concatenate([r.floor().numpy() for r in self.batches])
        return Worst(
            generators=tuple(g.name for g in chosen),
            units=tuple(s.unit for s in shown),
            ranges=tuple(s.of_t(v) for s, v in zip(shown, limits, strict=True)),
            objective="loss" if by_loss else "change",
            ascent=np.concatenate([a.value for a, _ in pairs]),
            ascent_at=places(np.concatenate([a.place for a, _ in pairs])),
            grid=np.concatenate([b.value for _, b in pairs]),
            grid_at=places(np.concatenate([b.place for _, b in pairs])),
            ascent_passes=budget.ascent_passes(),
            grid_passes=budget.grid_passes(),
            starts=budget.starts,
            left_out=tuple(self.generators[k].name for k in apart),
            floor=np.maximum(floors, _LOSS_ROUNDING) if by_loss else floors,
        )

    def _bound(self, r: Response, generators: Sequence[Generator]) -> Action:
        return r.domain.bind(generators, r.x, self.scheme)


def _curve(g: Generator, grid: Grid, parts: Sequence[Followed]) -> OrbitCurve:
    """One curve of all batches."""
    shown = readable(g)
    values: dict[str, Any] = {}
    for f in fields(OrbitCurve):
        if f.name in parts[0].values:
            own = [p.values[f.name] for p in parts]
            values[f.name] = None if own[0] is None else np.concatenate(own)  # type: ignore[arg-type]
    return OrbitCurve(
        generator=g.name,
        group=g.group,
        unit=g.unit,
        shown_unit=shown.unit,
        t=grid.t,
        shown=np.array([shown.of_t(v) for v in grid.t]),
        on_grid=grid.on_grid,
        **values,
    )
