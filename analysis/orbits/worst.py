r"""The worst transform in a box: gradient ascent along the exact parameters, against a grid.

T_t = exp(Σ_k t_k X_k), |t_k| ≤ the range of each orbit. The ascent knows the derivative of what it
climbs, ∂_k of ‖u(t) − u(0)‖² (or of the loss, where labels are known), and starts from several
places; every pass counts as a place that was tried. The grid knows nothing and costs as much. On
networks whose derivative reaches a twentieth of a pixel, a slope says little about the hill.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from liederiv.actions import Action
from liederiv.draws import seeded_uniform
from liederiv.errors import LieDerivError

from .curves import cross_entropy
from .response import Response

__all__ = ["Budget", "Found", "combining", "search"]

Array = NDArray[np.float64]
_FIRST_STEP, _LAST_STEP = 0.4, 0.05  # of half the box
_MOST_CORNERS = 10  # generators; beyond, a box has too many corners to look at


@dataclass(frozen=True)
class Budget:
    """What a search may cost, in forward passes per image.

    Attributes:
        starts: of the ascent.
        steps: of each.
        sizes: of the grid, along each generator.
    """

    starts: int
    steps: int
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, passes: int, dimensions: int, starts: int) -> Budget:
        """Both ways from one number of passes.

        A derivative along one generator counts as a pass, so a step of the ascent costs 1 + K.

        Raises:
            LieDerivError: if that is less than one step of each start, or no grid.
        """
        steps = passes // (starts * (1 + dimensions))
        least = max(starts * (1 + dimensions), 2**dimensions)
        if steps < 1 or passes < 2**dimensions:
            raise LieDerivError(
                f"worst={passes} forward passes are too few for {dimensions} generators; give "
                f"{least} or more, or 0 to leave the search out."
            )
        spent = starts * steps * (1 + dimensions)
        sizes = [2] * dimensions
        for k in itertools.cycle(range(dimensions)):
            larger = [n + (i == k) for i, n in enumerate(sizes)]
            if np.prod(larger) > max(spent, 2**dimensions):
                break
            sizes = larger
        return cls(starts, steps, tuple(sizes))

    def ascent_passes(self) -> int:
        """Per image."""
        return self.starts * self.steps * (1 + len(self.sizes))

    def grid_passes(self) -> int:
        """Per image."""
        return int(np.prod(self.sizes))


@dataclass(frozen=True)
class Found:
    """Largest value per image, [B], and where, [B, K] in the generators' units."""

    value: Array
    place: Array


def combining(response: Response, action: Action) -> tuple[list[int], list[int]]:
    """Numbers of the generators that combine to one transform, and of those that do not."""
    together: list[int] = []
    apart: list[int] = []
    for k in range(len(action)):
        chosen = response.domain.bind(
            [action.generators[i] for i in (*together, k)], response.x, "bspline"
        )
        try:
            response.domain.transform(chosen, torch.zeros(1, len(chosen), dtype=torch.float64))
        except LieDerivError:
            apart.append(k)
        else:
            together.append(k)
    return together, apart


def search(
    response: Response,
    action: Action,
    limits: Sequence[float],
    budget: Budget,
    seed: int,
    labels: Tensor | None = None,
    step: Callable[[int], object] = lambda n: None,
) -> tuple[Found, Found]:
    """The worst transforms of one batch, by ascent and on the grid.

    Args:
        response: of the model on the batch.
        action: K generators that combine.
        limits: K numbers, half the box.
        budget: what it may cost.
        seed: of the starts, which belong to the item, see `liederiv.draws`.
        labels: int64 [B]; the loss is then maximised instead of the change.
        step: told after each pass of the batch.
    """
    box = torch.tensor(list(limits), dtype=torch.float64)
    hill = _Hill(response, action, box, labels)
    ascent = _Best(len(response), box)
    seeds = response.domain.seeds(response.x, seed, "worst transform")
    starts = 2 * seeded_uniform(seeds, (budget.starts, len(box))) - 1
    for start in starts.unbind(1):
        place = start
        for n in range(budget.steps):
            value, slope = hill.climb(place)
            ascent.add(value, place)
            share = n / max(budget.steps - 1, 1)
            length = _FIRST_STEP * (1 - share) + _LAST_STEP * share
            norm = slope.norm(dim=1, keepdim=True)
            place = (place + length * slope / norm.clamp_min(1e-300)).clamp(-1, 1)
            step(1)
    grid = _Best(len(response), box)
    axes = [torch.linspace(-1, 1, n, dtype=torch.float64) for n in budget.sizes]
    for corner in torch.cartesian_prod(*axes).reshape(-1, len(box)):
        grid.add(hill.height(corner[None]), corner.expand(len(response), -1))
        step(1)
    return ascent.found(), grid.found()


class _Hill:
    """What is maximised, over places in [−1, 1]^K."""

    def __init__(
        self, response: Response, action: Action, box: Tensor, labels: Tensor | None
    ) -> None:
        self.response, self.action, self.box, self.labels = response, action, box, labels
        self.mask = response.kept_entries(action, (c[None] * box for c in _corners(len(box))))

    def height(self, place: Tensor) -> Tensor:
        """The value at places [1 or B, K], [B]."""
        return self._value(self.response.at(self.action, place * self.box))

    def climb(self, place: Tensor) -> tuple[Tensor, Tensor]:
        """The value at places [B, K], and a direction of steepest ascent of it, [B, K]."""
        r = self.response
        found = r.linear(self.action, place * self.box)
        along = self._gradient(found.u)
        slopes = [r.inner(along, du, self.mask) for du in found.du]
        return self._value(found.u), torch.stack(slopes, 1) * self.box

    def _value(self, u: Tensor) -> Tensor:
        if self.labels is not None:
            return cross_entropy(u, self.labels, self.response.kind)
        return self.response.size(u - self.response.origin, self.mask)

    def _gradient(self, u: Tensor) -> Tensor:
        """Of half the squared change, or of the loss, by u."""
        if self.labels is None:
            return u - self.response.origin
        own = torch.nn.functional.one_hot(self.labels.to(u.device), u.shape[1]).double()
        if self.response.kind == "probs":
            return -own / u.clamp_min(torch.finfo(torch.float64).tiny)
        return u.softmax(1) - own


class _Best:
    """The largest value so far, per image."""

    def __init__(self, items: int, box: Tensor) -> None:
        self.value = torch.full((items,), -torch.inf, dtype=torch.float64)
        self.place = torch.zeros(items, len(box), dtype=torch.float64)
        self.box = box

    def add(self, value: Tensor, place: Tensor) -> None:
        better = value > self.value
        self.value = torch.where(better, value, self.value)
        self.place = torch.where(better[:, None], place, self.place)

    def found(self) -> Found:
        return Found(self.value.numpy(), (self.place * self.box).numpy())


def _corners(dimensions: int) -> Tensor:
    signs = [torch.tensor([-1.0, 1.0], dtype=torch.float64)] * min(dimensions, _MOST_CORNERS)
    found = torch.cartesian_prod(*signs).reshape(-1, len(signs))
    return torch.nn.functional.pad(found, (0, dimensions - len(signs)), value=1.0)
