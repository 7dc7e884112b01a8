"""Compare two measurements on the same images, image by image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from liederiv.bootstrap import resample_counts
from liederiv.errors import LieDerivError
from liederiv.results import Measurement, Score

__all__ = ["Difference", "compare"]


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
) -> tuple[Difference, ...]:
    """Differences b − a of all scores that both measurements hold, with paired intervals.

    Both must have been measured on the same images in the same order: each bootstrap sample draws
    the same images for both models, so what they have in common cancels.

    Args:
        a: the first measurement.
        b: the second.
        resamples: bootstrap samples.
        seed: of the bootstrap.
        clusters: see `liederiv.bootstrap.resample_counts`.

    Raises:
        LieDerivError: if the images differ in number or name.
    """
    if a.provenance.num_images != b.provenance.num_images or a.image_names != b.image_names:
        raise LieDerivError(
            f"the measurements are of different images ({a.provenance.num_images} and "
            f"{b.provenance.num_images}); measure both models on the same images to compare them."
        )
    others = {(s.metric, s.transform, s.output): s for s in b.scores}
    rows = []
    for first in a.scores:
        second = others.get((first.metric, first.transform, first.output))
        if second is not None and first.metric != "reference":
            rows.append(_difference(first, second, resamples, seed, clusters))
    return tuple(rows)


def _difference(
    a: Score, b: Score, resamples: int, seed: int, clusters: Sequence[Any] | None
) -> Difference:
    nan = float("nan")
    key = (a.metric, a.transform, a.output)
    for score in (a, b):
        if score.value is None:
            return Difference(*key, nan, nan, nan, nan, nan, a.unit, score.reason or score.status)
    assert a.value is not None
    assert b.value is not None
    low = high = nan
    n = len(a.per_image)
    if len(set(range(n) if clusters is None else clusters)) > 1 and n == len(b.per_image):
        counts = resample_counts(n, resamples, seed, clusters)
        gap = _resampled(b, counts) - _resampled(a, counts)
        low, high = (float(v) for v in np.nanquantile(gap, [0.025, 0.975]))
    return Difference(*key, a.value, b.value, b.value - a.value, low, high, a.unit)


def _resampled(score: Score, counts: np.ndarray) -> np.ndarray:
    bottom = score.per_image_denominator or (1.0,) * len(score.per_image)
    return (counts @ np.array(score.per_image)) / (counts @ np.array(bottom))
