r"""How far a derivative speaks, and the equivariance error at steps of finite size.

LEE(h) = S(h)/h², with the structure function S of `liederiv.metrics.structure_function`, is LEE for
small steps and less for larger ones, as L turns along the orbit. The *reach* is the step at which
LEE(h) = LEE/2, interpolated in log h.

What LEE is there: the derivative's, where an engine differentiated the network to rounding. A
difference quotient is LEE(h) itself at a step nobody chose, the slope of a staircase for one, so
where only that is known, or no derivative at all, LEE(h) at the smallest step stands in its place,
provided that it has settled: the next larger one agrees within a tenth.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from liederiv.measurement.bootstrap import resample_counts
from liederiv.measurement.results import Measurement, Score, Status
from liederiv.measurement.scoring import OUTPUT_UNITS, empty_score, make_score, targets
from liederiv.metrics.base import Metric, Rows
from liederiv.metrics.reach import crossing
from liederiv.metrics.structure_function import StepBatch
from liederiv.steps import Step, StepUnit, base_name, step_label, unit_of

__all__ = [
    "LeeShare",
    "LeeStep",
    "Reach",
    "RelativeNormStep",
    "RelativeSpectrumStep",
    "RelativeStep",
    "StepMetric",
]

_SETTLED = 0.1  # by how much LEE(h) may differ between the two smallest steps that stand for LEE
_DROWNED = 0.05  # of S(h) by rounding, from which on a step says nothing of the curve
_JUMPS = 1.5  # LEE(h)/LEE at the smallest step, from which on the derivative does not describe it
BEYOND: Status = "beyond the largest step"
BELOW: Status = "below the smallest step"


@dataclass(frozen=True)
class _Curve:
    """A transform over its steps, averaged over the generators of a group: [J, n] over n items."""

    steps: tuple[Step, ...]
    squared: NDArray[np.float64]
    rounding: NDArray[np.float64]
    moves: NDArray[np.bool_]
    compared: dict[str, NDArray[np.float64]]
    lee: NDArray[np.float64] | None

    @classmethod
    def of(cls, batch: StepBatch, index: Sequence[int]) -> _Curve:
        """The steps that all of these generators have."""
        shared = [s for s in batch.plan[index[0]] if _all_have(s, batch, index)]
        rows = [[_labels(batch, k).index(s.label) for s in shared] for k in index]

        def mean(values: Sequence[object]) -> NDArray[np.float64]:
            parts = [v[r].numpy() for v, r in zip(values, rows, strict=True)]  # type: ignore[index]
            return np.asarray(np.mean(parts, axis=0))

        def of(values: tuple[object, ...]) -> NDArray[np.float64]:
            return mean([values[k] for k in index])

        return cls(
            tuple(shared),
            of(batch.squared),
            of(batch.rounding),
            of(batch.moved) > 0,
            {name: of(v) for name, v in batch.compared.items()},
            None if batch.lee is None else batch.lee[list(index)].mean(0).numpy(),
        )

    @property
    def h(self) -> NDArray[np.float64]:
        """The steps in the generator's unit, [J]."""
        return np.array([s.t for s in self.steps])

    @property
    def clear(self) -> NDArray[np.bool_]:
        """At which steps rounding does not hide the response, [J]."""
        return np.asarray(self.rounding.sum(1) <= _DROWNED * self.squared.sum(1))

    @property
    def reference(self) -> NDArray[np.float64] | str:
        """LEE of each item [n], or why it is not known."""
        if self.lee is not None:
            return self.lee
        clear = np.flatnonzero(self.clear & (self.squared.sum(1) > 0))
        if len(clear) < 2:
            return "rounding, or jumps of the output, hide the response at all steps but one"
        i, j = clear[:2]
        first, second = (self.squared[k].sum() / self.h[k] ** 2 for k in (i, j))
        if not abs(first / second - 1) <= _SETTLED:
            return (
                "there is no derivative, and LEE(h) has not settled at the smallest steps: "
                f"it is {first / second:.3g} times as large at {self.steps[i].label} as at "
                f"{self.steps[j].label}; give smaller steps"
            )
        return np.asarray(self.squared[i] / self.h[i] ** 2)


def _labels(batch: StepBatch, k: int) -> list[str]:
    return [s.label for s in batch.plan[k]]


def _all_have(step: Step, batch: StepBatch, index: Sequence[int]) -> bool:
    return all(step.label in _labels(batch, k) for k in index)


class StepMetric(Metric):
    """A metric of finite steps."""

    family = "scale"
    needs = frozenset({"steps"})

    @abstractmethod
    def along(
        self, curve: _Curve, name: str, t_unit: str, index: list[int], to: Rows
    ) -> list[Score]:
        """The rows of one transform, named so, made of these generators."""

    def rows(self, parts: Sequence[StepBatch | str], to: Rows) -> list[Score]:
        """See `Metric.rows`; instead of batches there may be a reason why there are none."""
        why = next((p for p in parts if isinstance(p, str)), "")
        if why:
            return [empty_score((self.name, "any", to.output), "", "not applicable", why)]
        joined = StepBatch.join([p for p in parts if isinstance(p, StepBatch)])
        rows = []
        for name, t_unit, index in targets(to.generators):
            rows += self.along(_Curve.of(joined, index), name, t_unit, index, to)
        return rows


def _squared_unit(output: str, t_unit: str) -> str:
    unit = OUTPUT_UNITS[output]
    return f"{unit}²/{t_unit}²" if t_unit.isalpha() else f"{unit}²/({t_unit})²"


class Reach(StepMetric):
    """The step at which LEE(h) = LEE/2, the correlation length of L along the orbit.

    In the unit of steps: px, degrees, %. A curve that stays above one half reaches beyond the
    largest step, and one that is below from the start, below the smallest: statuses, no numbers.
    """

    name = "reach"
    needs = frozenset({"steps", "lie"})
    summary = "step at which LEE(h) is half of LEE: how far the derivative speaks"
    title, heading, shown = "reach of the derivative", "reach", "unit"
    larger_is_better = None  # a short reach is no fault, and a long one no merit

    def along(
        self, curve: _Curve, name: str, t_unit: str, index: list[int], to: Rows
    ) -> list[Score]:
        """See `StepMetric.along`."""
        key, unit = (self.name, name, to.output), unit_of(t_unit)
        reference = curve.reference
        obstacle = self._obstacle(curve, index, to)
        if obstacle is not None or isinstance(reference, str):
            return [empty_score(key, unit.symbol, *(obstacle or ("failed", "")))]
        b, n = to.bootstrap, curve.squared.shape[1]
        counts = np.vstack([np.ones(n), resample_counts(n, b.resamples, b.seed, b.clusters)])
        value, *drawn = _reaches(curve, reference, counts, unit)
        if not math.isfinite(value) or value == 0:
            j = np.flatnonzero(curve.clear)[0 if value == 0 else -1]
            share = _share(curve, reference, j)
            why = f"at {curve.steps[j].label} LEE(h) is {share:.2g} of LEE"
            return [empty_score(key, unit.symbol, BELOW if value == 0 else BEYOND, why)]
        low, high = _interval(np.array(drawn), n, b.clusters)
        said = [f"its interval reaches {BELOW}"] * (low == 0)
        said += [f"its interval reaches {BEYOND}"] * (high == math.inf)
        if curve.lee is None:
            said.append(f"LEE taken at {curve.steps[np.flatnonzero(curve.clear)[0]].label}")
        ends = [v if math.isfinite(v) and v > 0 else None for v in (low, high)]
        score = Score(*key, float(value), ends[0], ends[1], unit.symbol, reason="; ".join(said))
        return [score]

    def _obstacle(self, curve: _Curve, index: list[int], to: Rows) -> tuple[Status, str] | None:
        """Why there is no reach."""
        if to.failure:
            return "failed", to.failure
        reference = curve.reference
        if isinstance(reference, str):
            return "not applicable", reference
        if not (np.isfinite(curve.squared).all() and np.isfinite(reference).all()):
            return "failed", "undefined: an output or a response is not finite"
        floor = 0.0 if to.floor is None else float(to.floor.squared[index].mean())
        if not reference.mean() > 4 * floor:
            return "not applicable", "LEE is not above what rounding contributes to it"
        clear = np.flatnonzero(curve.clear)
        if len(clear) < 2:
            return (
                "not applicable",
                "rounding, or jumps of the output, hide the response at all steps but one",
            )
        share = _share(curve, reference, clear[0])
        if share > _JUMPS:
            return "failed", (
                f"at {curve.steps[clear[0]].label} LEE(h) is {share:.3g} times LEE: the output "
                "changes in jumps, or otherwise than its derivative says"
            )
        return None

    def resampled(
        self, score: Score, measurement: Measurement, counts: NDArray[np.float64]
    ) -> NDArray[np.float64] | None:
        """See `Metric.resampled`: from the rows of ``lee_share``."""
        rows = [
            s
            for s in measurement.scores
            if (s.metric, base_name(s.transform), s.output)
            == (LeeShare.name, score.transform, score.output)
            and len(s.per_image) == counts.shape[1]
        ]
        sizes = np.array([_size_in(s, score.unit) for s in rows])
        if len(rows) < 2 or not np.isfinite(sizes).all():
            return None
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = np.stack(
                [
                    (counts @ np.array(s.per_image)) / (counts @ np.array(s.per_image_denominator))
                    for s in rows
                ],
                1,
            )
        unit = unit_of({"deg": "rad", "%": "log-scale"}.get(score.unit, score.unit))
        h = np.array([unit.parameter_of(v) for v in sizes])
        order = np.argsort(h)
        return _sizes(crossing(np.log(h[order]), ratios[:, order]), unit)


def _size_in(score: Score, unit: str) -> float:
    """The size that a row's name ends in."""
    text = score.transform.partition("@")[2]
    try:
        return float(text.removesuffix(unit)) if text.endswith(unit) else math.nan
    except ValueError:
        return math.nan


def _share(curve: _Curve, reference: NDArray[np.float64], j: int) -> float:
    """LEE(h)/LEE at one step."""
    return float(curve.squared[j].sum() / curve.h[j] ** 2 / reference.sum())


def _reaches(
    curve: _Curve, reference: NDArray[np.float64], counts: NDArray[np.float64], unit: StepUnit
) -> NDArray[np.float64]:
    """The reach for each weighting of the items, in the unit of steps; 0 below, ∞ beyond."""
    kept = curve.clear
    with np.errstate(divide="ignore", invalid="ignore"):
        top = counts @ (curve.squared[kept] / curve.h[kept, None] ** 2).T
        ratios = top / (counts @ reference)[:, None]
    return _sizes(crossing(np.log(curve.h[kept]), ratios), unit)


def _sizes(log_h: NDArray[np.float64], unit: StepUnit) -> NDArray[np.float64]:
    return np.array([unit.size_of(v) if math.isfinite(v) else v for v in np.exp(log_h)])


def _interval(
    values: NDArray[np.float64], n: int, clusters: Sequence[object] | None
) -> tuple[float, float]:
    """Percentiles; NaN for fewer than two items or clusters."""
    if (n if clusters is None else len(set(clusters))) < 2:
        return math.nan, math.nan
    # Interpolating between a number and infinity gives no number: take what was drawn.
    found = values[~np.isnan(values)]
    if not len(found):
        return math.nan, math.nan
    low, high = np.quantile(found, [0.025, 0.975], method="nearest")
    return float(low), float(high)


class _AtSteps(StepMetric):
    """A number for each step that was chosen."""

    at_steps = True
    gated = True
    listed_steps: ClassVar[Literal["chosen", "all"]] = "chosen"

    def along(
        self, curve: _Curve, name: str, t_unit: str, index: list[int], to: Rows
    ) -> list[Score]:
        """See `StepMetric.along`."""
        return [
            self.at(curve, j, step_label(name, s), t_unit, to)
            for j, s in enumerate(curve.steps)
            if s.chosen or self.listed_steps == "all"
        ]

    @abstractmethod
    def at(self, curve: _Curve, j: int, name: str, t_unit: str, to: Rows) -> Score:
        """The row of one step."""


class LeeStep(_AtSteps):
    """S(h)/h², the mean squared change over a step, per step². Tends to LEE as h → 0."""

    name = "lee_step"
    summary = "mean squared change over a step of finite size, per step² (1 px, 1 degree, 1 %)"
    title, heading, shown = "equivariance error at a step", "LEE(h) = S(h)/h²", "all"

    def at(self, curve: _Curve, j: int, name: str, t_unit: str, to: Rows) -> Score:
        """See `_AtSteps.at`."""
        square = curve.h[j] ** 2
        floor = float(curve.rounding[j].mean()) / square
        unit = _squared_unit(to.output, t_unit)
        values = curve.squared[j] / square
        return make_score(
            self.name,
            name,
            to.output,
            unit,
            values,
            None,
            to.bootstrap,
            floor=floor,
            failure=to.failure,
        )


class RelativeStep(_AtSteps):
    """The change over a step, relative to that over another displacement of the same size."""

    direction: ClassVar[str]
    shown = "interval"

    def at(self, curve: _Curve, j: int, name: str, t_unit: str, to: Rows) -> Score:
        """See `_AtSteps.at`."""
        key = (self.name, name, to.output)
        if self.direction not in curve.compared:
            return empty_score(key, "1", "not applicable", to.domain.uncompared)
        bottom = curve.compared[self.direction][j]
        moves = curve.moves[j]
        return make_score(
            *key,
            "1",
            np.where(moves, curve.squared[j], 0.0),
            np.where(moves, bottom, 0.0),
            to.bootstrap,
            floor=None,
            failure=to.failure,
            kept=moves,
        )


class RelativeNormStep(RelativeStep):
    """Relative to a step along Gaussian noise of the displacement's norm."""

    name, direction = "relative_norm_step", "noise"
    summary = "lee_step over the same along noise of the displacement's norm"
    heading = "÷ noise of\nequal norm"


class RelativeSpectrumStep(RelativeStep):
    """Relative to a step along the displacement with scrambled phases. Images only."""

    name, direction = "relative_spectrum_step", "spectrum"
    summary = "lee_step over the same along noise of the displacement's power spectrum"
    heading = "÷ noise of\nequal spectrum"


class LeeShare(_AtSteps):
    """LEE(h)/LEE at every step: the curve that the reach is read from."""

    name = "lee_share"
    needs = frozenset({"steps", "lie"})
    summary = "LEE(h) ÷ LEE over a grid of steps: the curve behind the reach"
    listed, gated, listed_steps = False, False, "all"
    larger_is_better = None

    def at(self, curve: _Curve, j: int, name: str, t_unit: str, to: Rows) -> Score:
        """See `_AtSteps.at`."""
        reference, key = curve.reference, (self.name, name, to.output)
        if isinstance(reference, str):
            return empty_score(key, "1", "not applicable", reference)
        if not curve.clear[j] and not to.failure:
            return empty_score(
                key, "1", "not applicable", "rounding, or jumps of the output, hide the response"
            )
        values = curve.squared[j] / curve.h[j] ** 2
        return make_score(*key, "1", values, reference, to.bootstrap, failure=to.failure)
