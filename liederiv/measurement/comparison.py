"""Compare two measurements on the same images, image by image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from liederiv.errors import LieDerivError
from liederiv.measurement.bootstrap import percentiles, resample_counts
from liederiv.measurement.comparability import Contrast, contrast
from liederiv.measurement.results import Measurement, Score
from liederiv.metrics.registry import METRICS

__all__ = ["Difference", "compare", "contrast_of"]


@dataclass(frozen=True)
class Difference:
    """A paired difference of one score between two models.

    Attributes:
        metric: as in `Score`.
        transform: as in `Score`.
        output: as in `Score`.
        a: value of the first model.
        b: value of the second model.
        difference: b − a, in ``unit``.
        ci_low: lower end of its 95 % paired bootstrap interval over images; NaN if unknown.
        ci_high: upper end.
        unit: of all of these.
        status: ``measured``, or why there is no difference to report.
        larger_is_better: of the metric, see `liederiv.metrics.base.Metric`; None if unknown.
    """

    metric: str
    transform: str
    output: str
    a: float
    b: float
    difference: float
    ci_low: float
    ci_high: float
    unit: str
    status: str = "measured"
    larger_is_better: bool | None = None

    @property
    def better(self) -> str:
        """``A`` or ``B``, where the interval excludes zero and the metric has a direction."""
        if self.larger_is_better is None or not self.significant:
            return ""
        return "B" if self.larger_is_better == (self.difference > 0) else "A"

    @property
    def significant(self) -> bool:
        """Whether the interval excludes zero."""
        return self.ci_low > 0 or self.ci_high < 0


def compare(
    a: Measurement,
    b: Measurement,
    *,
    resamples: int = 2000,
    seed: int = 0,
    clusters: Sequence[Any] | None = None,
    between_models: bool = True,
) -> tuple[Difference, ...]:
    """Differences b − a of all scores that both measurements hold, with paired intervals.

    Both must have been measured on the same images in the same order: each bootstrap sample draws
    the same images for both models, so what they have in common cancels.

    Args:
        a: the first measurement.
        b: the second.
        resamples: bootstrap samples.
        seed: of the bootstrap.
        clusters: see `liederiv.measurement.bootstrap.resample_counts`.
        between_models: whether each may have its own input size and preprocessing.

    Raises:
        LieDerivError: if they are of different images, or were not measured alike (see
            `liederiv.measurement.comparability`).
    """
    if a.provenance.num_images != b.provenance.num_images or a.image_names != b.image_names:
        raise LieDerivError(
            f"the measurements are of different images ({a.provenance.num_images} and "
            f"{b.provenance.num_images}); measure both models on the same images to compare them."
        )
    others = {(s.metric, s.transform, s.output): s for s in b.scores}
    refusals = contrast_of(a, b, between_models=between_models).refusals
    if refusals:
        raise LieDerivError(
            f"the second measurement was made {', '.join(refusals)}; measure both alike to "
            "compare them."
        )
    rows = []
    for first in a.scores:
        second = others.get((first.metric, first.transform, first.output))
        if second is not None and _compared(first.metric):
            rows.append(_difference((a, first), (b, second), resamples, seed, clusters))
    return tuple(rows)


def contrast_of(a: Measurement, b: Measurement, *, between_models: bool = True) -> Contrast:
    """How the two differ in what they are of, as far as it concerns the rows that they share."""
    keys = [{(s.metric, s.transform, s.output) for s in m.scores} for m in (a, b)]
    shared = {key for key in keys[0] & keys[1] if _compared(key[0])}
    return contrast(
        a.provenance,
        b.provenance,
        metrics={metric for metric, _, _ in shared},
        transforms={transform for _, transform, _ in shared},
        between_models=between_models,
    )


def _compared(metric: str) -> bool:
    """Whether a row says something about the model, and for itself."""
    return metric not in METRICS or (METRICS[metric].of_model and METRICS[metric].listed)


def _difference(
    first: tuple[Measurement, Score],
    second: tuple[Measurement, Score],
    resamples: int,
    seed: int,
    clusters: Sequence[Any] | None,
) -> Difference:
    nan = float("nan")
    (_, a), (_, b) = first, second
    key = (a.metric, a.transform, a.output)
    up = METRICS[a.metric].larger_is_better if a.metric in METRICS else None
    why = next((w for w in map(_unusable, (a, b)) if w), "")
    if a.unit != b.unit and not why:
        why = f"units differ: {a.unit}, now {b.unit}"
    if why:
        return Difference(*key, nan, nan, nan, nan, nan, a.unit, why, up)
    assert a.value is not None
    assert b.value is not None
    found = _resampled(first, second, resamples, seed, clusters)
    low, high = _interval(a, b, resamples, seed, clusters) if found is None else found
    return Difference(
        *key, a.value, b.value, b.value - a.value, low, high, a.unit, larger_is_better=up
    )


def _resampled(
    first: tuple[Measurement, Score],
    second: tuple[Measurement, Score],
    resamples: int,
    seed: int,
    clusters: Sequence[Any] | None,
) -> tuple[float, float] | None:
    """The interval of metrics that are no means; None where the metric leaves it to `_interval`."""
    metric, count = METRICS.get(first[1].metric), first[0].provenance.num_images
    labels = np.arange(count) if clusters is None else np.asarray(clusters)[:count]
    if metric is None or len(np.unique(labels)) < 2:
        return None
    counts = resample_counts(count, resamples, seed, labels)
    a, b = (metric.resampled(score, m, counts) for m, score in (first, second))
    if a is None or b is None:
        return None
    with np.errstate(invalid="ignore"):
        ends = percentiles(b - a)
    return ends if all(map(math.isfinite, ends)) else (math.nan, math.nan)


def _unusable(score: Score) -> str:
    """Why a score has no number to compare; empty if it has."""
    if score.status != "measured" or score.value is None:
        return score.reason or score.status
    return "" if math.isfinite(score.value) else f"its value is {score.value:g}"


def _interval(
    a: Score, b: Score, resamples: int, seed: int, clusters: Sequence[Any] | None
) -> tuple[float, float]:
    """Of the difference b − a, over the images that count for either; NaN if unknown."""
    if len(a.per_image) != len(b.per_image):
        return math.nan, math.nan
    parts = [_parts(score) for score in (a, b)]
    counted = np.any([(top != 0) | (bottom != 0) for top, bottom in parts], axis=0)
    labels = np.arange(len(counted)) if clusters is None else np.asarray(clusters)
    labels = labels[counted]
    if len(np.unique(labels)) < 2:
        return math.nan, math.nan
    counts = resample_counts(len(labels), resamples, seed, labels)
    with np.errstate(divide="ignore", invalid="ignore"):
        first, second = ((counts @ top[counted]) / (counts @ low[counted]) for top, low in parts)
        if a.unit == "dB":
            first, second = -10 * np.log10(first), -10 * np.log10(second)
        return percentiles(second - first)


def _parts(score: Score) -> tuple[np.ndarray, np.ndarray]:
    """Numerator and denominator per image."""
    top = np.array(score.per_image)
    return top, np.array(score.per_image_denominator or np.ones_like(top))
