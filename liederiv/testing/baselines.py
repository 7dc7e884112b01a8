"""Whether a model became worse than an earlier measurement allows.

Both must be of the same images, measured alike (`liederiv.measurement.comparability`), and hold the
same rows. Where both have values per image, the increase is judged by the paired ratio of the two
models over the same images, far sharper than the scores themselves; else by the baseline's value
times the allowed factor, as any limit. A baseline of 0 allows no percentage, and one that is no
finite positive number allows nothing.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from liederiv.errors import LieDerivError
from liederiv.foreign import one_line
from liederiv.measurement.bootstrap import percentiles, resample_counts
from liederiv.measurement.comparability import contrast
from liederiv.measurement.results import Measurement, Score
from liederiv.testing.verdicts import (
    GATED,
    Verdict,
    first,
    is_usable,
    judge,
    not_measured,
    why_unusable,
)

__all__ = ["judge_increase", "read_baseline"]

Key = tuple[str, str, str]


def read_baseline(path: Path) -> Measurement:
    """Read what `liederiv score` or `gate` wrote with ``--per-image``, ``--json`` or ``--csv``.

    Raises:
        LieDerivError: if the file cannot be read, is of another kind, does not say how it was
            measured, or holds no score that can be limited.
    """
    try:
        baseline = Measurement.load(path)
    except LieDerivError as error:
        raise LieDerivError(f"--baseline={error}") from error
    if not any(s.metric in GATED for s in baseline.scores):
        raise LieDerivError(
            f"--baseline={one_line(path)!r} holds none of {', '.join(GATED)}, so nothing can be "
            "held to it; write it with `liederiv score … --metrics lee`."
        )
    return baseline


def judge_increase(
    measurement: Measurement,
    baseline: Measurement,
    max_increase: float,
    *,
    metrics: Sequence[str] = ("lee",),
    limited: Collection[tuple[str, str]] = (),
    resamples: int = 2000,
    seed: int = 0,
    clusters: Sequence[Any] | None = None,
) -> list[Verdict]:
    """Judge scores by those of a baseline on the same images.

    Args:
        measurement: the new scores.
        baseline: the old ones.
        max_increase: largest increase allowed, 0.05 for 5 %.
        metrics: which of them to judge; those beyond the first only if the baseline has them.
        limited: metric and transform of what has a limit of its own and needs no baseline.
        resamples: bootstrap samples.
        seed: of the bootstrap.
        clusters: see `liederiv.measurement.bootstrap.resample_counts`.

    Returns:
        A verdict for each row that either side has; one that the other lacks is not measured.

    Raises:
        LieDerivError: if the two were not measured alike, or share no score.
    """
    if not (math.isfinite(max_increase) and max_increase >= 0):
        raise LieDerivError(f"max_increase={max_increase} must be a finite number from 0.")
    output = first(measurement)
    held = {s.metric for s in baseline.scores}
    judged = [m for i, m in enumerate(metrics) if i == 0 or m in held]
    new, old = (_rows(m, judged, output) for m in (measurement, baseline))
    _must_match(measurement, baseline, judged, output, {*new} & {*old})
    factor, verdicts = 1 + max_increase, []
    for key in dict.fromkeys([*old, *new]):
        if key in new and key in old:
            one = _judge_pair(new[key], old[key], factor, resamples, seed, clusters)
            verdicts.append(one)
        elif key in old:
            why = "is in the baseline, but was not measured now; measure its transform too"
            verdicts.append(not_measured("/".join(key), math.nan, old[key].unit, why))
        elif key[:2] not in limited:
            why = "is not in the baseline; measure the baseline with the same transforms"
            verdicts.append(not_measured("/".join(key), math.nan, new[key].unit, why))
    return verdicts


def _rows(measurement: Measurement, metrics: Sequence[str], output: str) -> dict[Key, Score]:
    rows: dict[Key, Score] = {}
    for s in measurement.scores:
        key = (s.metric, s.transform, s.output)
        if s.metric in metrics and s.output == output:
            if key in rows:
                raise LieDerivError(f"{'/'.join(key)} is there twice; give each score once.")
            rows[key] = s
    return rows


def _must_match(
    measurement: Measurement,
    baseline: Measurement,
    metrics: Sequence[str],
    output: str,
    shared: Collection[Key],
) -> None:
    found = contrast(
        baseline.provenance,
        measurement.provenance,
        metrics=metrics,
        transforms={transform for _, transform, _ in shared},
    )
    if found.refusals:
        raise LieDerivError(
            f"--baseline was measured {', '.join(found.refusals)}; measure both alike."
        )
    names = baseline.image_names, measurement.image_names
    if names[0] and names[1] and names[0] != names[1]:
        raise LieDerivError(
            f"--baseline was measured on other images ({len(names[0])}, now {len(names[1])}, or "
            "of other names); measure both on the same."
        )
    if not shared:
        raise LieDerivError(
            f"--baseline holds no score of {', '.join(metrics)} on {output} that this run has; "
            "measure both with the same --transforms and --output-type."
        )
    if first(baseline) != output:
        raise LieDerivError(
            f"--baseline is of the output {first(baseline)}, this run of {output}; measure both "
            "with the same --output-type."
        )


def _judge_pair(
    new: Score,
    old: Score,
    factor: float,
    resamples: int,
    seed: int,
    clusters: Sequence[Any] | None,
) -> Verdict:
    name = f"{new.metric}/{new.transform}/{new.output}"
    if not is_usable(old):
        why = f"has no value in the baseline: {why_unusable(old)}"
        return not_measured(name, math.nan, new.unit, why)
    assert old.value is not None
    if old.value == 0:
        why = "is 0 in the baseline, of which no percentage can be allowed; limit it with --max"
        return not_measured(name, math.nan, new.unit, why)
    if is_usable(new) and new.unit != old.unit:
        raise LieDerivError(
            f"--baseline has {name} in {old.unit}, this run in {new.unit}; measure both with the "
            "same --unit."
        )
    if is_usable(new) and new.per_image and len(new.per_image) == len(old.per_image):
        ratio = _paired(new, old, resamples, seed, clusters)
        return judge(ratio, factor, ratio.unit, f" (was {old.value:.3g} {old.unit})")
    return judge(new, old.value * factor, new.unit, f" (baseline × {factor:g})")


def _paired(
    score: Score, old: Score, resamples: int, seed: int, clusters: Sequence[Any] | None
) -> Score:
    """The ratio of a score to the baseline's, with an interval over the same resampled images."""
    assert score.value is not None
    assert old.value is not None
    (top, bottom), (old_top, old_bottom) = (_parts(s) for s in (score, old))
    # new top × old bottom / (old top × new bottom)
    parts = np.stack([top, old_bottom, old_top, bottom])
    value, low, high = score.value / old.value, None, None
    with np.errstate(all="ignore"):
        if len(set(range(len(top)) if clusters is None else clusters)) > 1:
            counts = resample_counts(len(top), resamples, seed, clusters)
            a, b, c, d = (counts @ part for part in parts)
            ratios = a * b / (c * d)
            if np.isfinite(ratios).any():
                low, high = percentiles(ratios)
    key = (score.metric, score.transform, score.output)
    return Score(*key, value, low, high, "× the baseline")


def _parts(score: Score) -> tuple[np.ndarray, np.ndarray]:
    """Numerator and denominator per image."""
    top = np.array(score.per_image, np.float64)
    bottom = score.per_image_denominator or np.ones_like(top)
    return top, np.array(bottom, np.float64)
