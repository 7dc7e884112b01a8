"""A metric as an object: what it is called, what it needs, how it is computed, what rows it gives.

A metric is one class, registered once (see `liederiv.metrics.registry`). Those of the Lie
derivative derive from `LocalMetric`, those of finite transforms from `FiniteMetric`; whatever must
know something about a metric asks the object.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from liederiv.derivatives import Scheme
from liederiv.domains import Domain, domain_of
from liederiv.generators import Generator
from liederiv.measurement.floors import Floor
from liederiv.measurement.results import Measurement, Score
from liederiv.measurement.scoring import (
    OUTPUT_UNITS,
    Bootstrap,
    empty_score,
    finite_scores,
    make_score,
    targets,
)
from liederiv.metrics.local import LocalBatch
from liederiv.metrics.values import NotApplicable, Piece
from liederiv.representations import OutputSpec

__all__ = ["Context", "FiniteMetric", "LocalMetric", "Metric", "Need", "Response", "Rows"]

Need = Literal["lie", "comparison", "reference", "finite", "steps", "classes", "labels"]


@dataclass(frozen=True)
class Context:
    """What a metric may need besides a batch.

    Attributes:
        f: the model's output as it is; probabilities for a classifier.
        classifier: whether the output is one probability per class.
        output: representation of the output.
        scheme: interpolation scheme.
        seed: of random transforms, which belong to the image or cloud.
        dynamic_range: largest difference of two values of the output; None where nobody says.
        margin: pixels of an output map to leave out along its border.
        labels: class indices [B] of these inputs, or None.
    """

    f: Callable[[Any], Tensor]
    classifier: bool
    output: OutputSpec
    scheme: Scheme
    seed: int
    dynamic_range: float | None = None
    margin: float = 0.0
    labels: Tensor | None = None

    @property
    def peak(self) -> float | None:
        """The dynamic range: the one given, else 1 for probabilities, else unknown."""
        return 1.0 if self.dynamic_range is None and self.classifier else self.dynamic_range

    @property
    def sampling(self) -> dict[str, Any]:
        """Arguments that all metrics of random transforms take."""
        return {
            "seed": self.seed,
            "output": self.output,
            "scheme": self.scheme,
            "margin": self.margin,
        }

    def lacks(self, needs: frozenset[Need]) -> str:
        """Why a metric with these needs cannot be measured; empty if it can."""
        if "classes" in needs and not self.classifier:
            return "the output is no class score [B, classes]"
        if "labels" in needs and self.labels is None:
            return "no labels, or labels of other classes than the model's"
        return ""


@dataclass(frozen=True)
class Rows:
    """What rows are made with, besides what was measured.

    Attributes:
        domain: kind of input.
        generators: K generators.
        output: what was measured: ``probs``, ``logits``, ….
        bootstrap: how intervals are made.
        count: how many inputs were measured.
        floor: of the Lie derivative, where it is known.
        failure: why local values cannot be trusted (non-finite outputs), else empty.
    """

    domain: Domain
    generators: Sequence[Generator]
    output: str
    bootstrap: Bootstrap
    count: int
    floor: Floor | None = None
    failure: str = ""


class Metric(ABC):
    """One metric; derive from `LocalMetric` or `FiniteMetric`.

    Attributes:
        name: as in results.
        family: the name that stands for it and its siblings.
        summary: one line.
        needs: ``lie`` (Lie derivatives), ``comparison`` (their comparison directions), ``finite``
            (finite transforms), ``steps`` (changes over finite steps, see
            `liederiv.metrics.structure_function`), ``reference`` (a reference network), ``classes``
            (class scores), ``labels``.
        title: its name in words.
        heading: of its column in tables of transforms; without one it has lines of its own.
        shown: what its column shows: the value, its interval too, those with the unit, or all (unit
            and floor in columns of their own).
        listed: whether tables and comparisons list its rows, or only files hold them.
        at_steps: whether its rows are of steps, ``rotation@1deg``.
        gated: whether it can be limited: more of it is worse, and it averages linearly.
        larger_is_better: whether more of it is better; None if neither more nor less is.
        unasked: whether it is measured without being asked for where its needs are met.
        sees_rows: whether its rows show that items depend on each other; else that is refused.
        of_model: whether it says something about the model, not about the measurement.
    """

    name: ClassVar[str]
    family: ClassVar[str]
    summary: ClassVar[str]
    needs: ClassVar[frozenset[Need]]
    title: ClassVar[str] = ""
    heading: ClassVar[str] = ""
    shown: ClassVar[Literal["value", "interval", "unit", "all"]] = "value"
    listed: ClassVar[bool] = True
    at_steps: ClassVar[bool] = False
    gated: ClassVar[bool] = False
    larger_is_better: ClassVar[bool | None] = False
    unasked: ClassVar[bool] = False
    of_model: ClassVar[bool] = True
    sees_rows: ClassVar[bool] = False

    @abstractmethod
    def rows(self, parts: Sequence[Any], to: Rows) -> list[Score]:
        """Rows of results from what was measured, batch after batch."""

    def resampled(
        self, score: Score, measurement: Measurement, counts: NDArray[np.float64]
    ) -> NDArray[np.float64] | None:
        """Values of a row over resampled items, where it is no mean or ratio of means.

        Args:
            score: one of its rows.
            measurement: that holds it.
            counts: how often each item is drawn, [resamples, items].
        """
        return None


@dataclass(frozen=True)
class Response:
    """What a local metric is made of: the mean of ``top``, over that of ``bottom`` if there is one.

    Attributes:
        top: float64 [K, B], per generator and item.
        bottom: what it is relative to, [K, B].
        moves: whether X x is not zero, bool [K, B]; items that do not move count for nothing.
    """

    top: Tensor
    bottom: Tensor | None = None
    moves: Tensor | None = None

    @staticmethod
    def join(parts: Sequence[Response]) -> Response:
        """Over the items of several batches."""

        def joined(name: str) -> Tensor | None:
            values = [getattr(p, name) for p in parts]
            return None if values[0] is None else torch.cat([v.cpu() for v in values], -1)

        top = joined("top")
        assert top is not None
        return Response(top, joined("bottom"), joined("moves"))

    def over(
        self, index: Sequence[int]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64] | None, NDArray[np.bool_] | None]:
        """Mean over some generators per item, above and below, and which items count.

        Where X x = 0 there is nothing to compare with: 0 over 0, whatever the output does.
        """
        top, bottom, moves = (
            None if v is None else v.numpy()[index] for v in (self.top, self.bottom, self.moves)
        )
        assert top is not None
        if moves is None:
            return top.mean(0), None if bottom is None else bottom.mean(0), None
        above, below = (
            np.zeros(0) if v is None else np.where(moves, v, 0.0).mean(0) for v in (top, bottom)
        )
        return above, None if bottom is None else below, np.any(moves, axis=0)


class LocalMetric(Metric):
    """A metric of the Lie derivative, one row for each generator and group.

    Attributes:
        direction: of `liederiv.domains.Comparisons`, which it compares with: ``noise``,
            ``spectrum``, ``blur``; empty if none.
        power: of the Lie derivative, 1 or 2; 0 for a ratio without unit.
        rounding: what of `liederiv.measurement.floors.Floor` rounding adds to the numerator; empty
            if unknown.
    """

    needs = frozenset({"lie"})
    direction: ClassVar[str] = ""
    power: ClassVar[int] = 1
    rounding: ClassVar[str] = ""

    def __init_subclass__(cls) -> None:
        cls.needs = frozenset({"lie", "comparison"} if cls.direction else {"lie"})

    @abstractmethod
    def respond(self, batch: LocalBatch) -> Response:
        """What one batch says."""

    def unit(self, output: str, transform: str) -> str:
        """Unit of the metric from those of the output and of the generator's parameter."""
        if self.power == 0:
            return "1"
        if self.power == 1:
            return f"{output}/{transform}"
        return f"{output}²/{transform}²" if transform.isalpha() else f"{output}²/({transform})²"

    def targets(self, generators: Sequence[Generator]) -> list[tuple[str, str, list[int]]]:
        """Rows to report; see `liederiv.measurement.scoring.targets`."""
        return targets(generators)

    def measure(self, batch: LocalBatch) -> Response | None:
        """What one batch says; None where it lacks the direction to compare with."""
        if self.direction and self.direction not in batch.compared:
            return None
        return self.respond(batch)

    def rows(self, parts: Sequence[Response | None], to: Rows) -> list[Score]:
        """See `Metric.rows`."""
        found = [p for p in parts if p is not None]
        if len(found) < len(parts):
            key = (self.name, "any", to.output)
            return [empty_score(key, "1", "not applicable", to.domain.uncompared)]
        joined = Response.join(found)
        return [self._row(joined, *target, to) for target in self.targets(to.generators)]

    def without(self, to: Rows, reason: str) -> list[Score]:
        """Rows for a model that has no derivative, with the reason."""
        return [
            empty_score((self.name, name, to.output), unit, "not applicable", reason)
            for name, unit, _ in targets(to.generators)
        ]

    def _row(self, joined: Response, name: str, t_unit: str, index: list[int], to: Rows) -> Score:
        above, below, kept = joined.over(index)
        rounding = None
        if self.rounding and to.floor is not None:
            rounding = float(getattr(to.floor, self.rounding)[index].mean())
        if below is not None and rounding is not None:
            size = float(below.sum()) / max(1, len(below) if kept is None else int(kept.sum()))
            rounding = rounding / size if size else None
        return make_score(
            self.name,
            name,
            to.output,
            self.unit(OUTPUT_UNITS[to.output], t_unit),
            above,
            below,
            to.bootstrap,
            floor=rounding,
            failure=to.failure,
            kept=kept,
        )


class FiniteMetric(Metric):
    """A metric of finite transforms, measured on a batch by itself.

    Attributes:
        images_only: whether it is defined on images only.
        transform: what its rows say of transforms where it is not applicable.
    """

    needs = frozenset({"finite"})
    images_only: ClassVar[bool] = False
    transform: ClassVar[str] = "any"

    @abstractmethod
    def pieces(self, c: Context, x: Any) -> Sequence[Piece]:
        """Values per item of one batch, for each transform."""

    def measure(self, c: Context, x: Any) -> Sequence[Piece]:
        """The same, or why there are none."""
        domain = domain_of(x)
        if self.images_only and not domain.is_images:
            return [NotApplicable(self.name, "any", "a metric of images; see sampled_error")]
        reason = c.lacks(self.needs)
        if reason:
            return [NotApplicable(self.name, self.described(domain), reason)]
        undefined = f"there is no such transform of {domain.item}s"
        return self.pieces(c, x) or [NotApplicable(self.name, "any", undefined)]

    def described(self, domain: Domain) -> str:
        """What it does to inputs, in short."""
        return self.transform

    def rows(self, parts: Sequence[Sequence[Piece]], to: Rows) -> list[Score]:
        """See `Metric.rows`."""
        return finite_scores(parts, to.output, to.bootstrap, to.count)
