"""From values per item to rows of results: groups, intervals, why there is no number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from liederiv.generators import Generator
from liederiv.measurement.bootstrap import bootstrap_ratio
from liederiv.measurement.results import Score, Status
from liederiv.metrics.values import NotApplicable, Piece, SampledMetric

__all__ = [
    "OUTPUT_UNITS",
    "Bootstrap",
    "empty_score",
    "finite_scores",
    "make_score",
    "targets",
]

OUTPUT_UNITS = {"probs": "prob", "logits": "logit", "features": "feature", "output": "output"}


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made: see `liederiv.measurement.bootstrap`."""

    resamples: int = 2000
    seed: int = 0
    clusters: Sequence[Any] | None = None

    def __call__(
        self,
        top: NDArray[np.float64],
        bottom: NDArray[np.float64] | None = None,
        kept: NDArray[np.bool_] | None = None,
    ) -> tuple[float, float, float]:
        """Mean (or ratio of means) and interval over images, or over those that are kept."""
        clusters = self.clusters
        if kept is not None:
            top, bottom = top[kept], None if bottom is None else bottom[kept]
            if clusters is not None:
                clusters = [c for c, keep in zip(clusters, kept, strict=True) if keep]
        return bootstrap_ratio(
            top, bottom, resamples=self.resamples, seed=self.seed, clusters=clusters
        )


def targets(generators: Sequence[Generator]) -> list[tuple[str, str, list[int]]]:
    """Rows to report: each generator, then each group of several: (name, unit, indices)."""
    rows = []
    for k, g in enumerate(generators):
        rows.append((g.name, g.unit, [k]))
        siblings = [i for i, h in enumerate(generators) if h.group == g.group]
        if len(siblings) > 1 and k == siblings[-1]:
            rows.append((g.group, g.unit, siblings))
    return rows


def make_score(
    metric: str,
    transform: str,
    output: str,
    unit: str,
    top: NDArray[np.float64],
    bottom: NDArray[np.float64] | None,
    bootstrap: Bootstrap,
    *,
    floor: float | None = None,
    failure: str = "",
    kept: NDArray[np.bool_] | None = None,
) -> Score:
    """One row: the mean of ``top`` over images, or the ratio of the means of top and bottom.

    Images that are not ``kept`` have 0 above and below, so they count for nothing.
    """
    key = (metric, transform, output)
    if failure:
        return empty_score(key, unit, "failed", failure)
    if kept is not None and not kept.any():
        return empty_score(key, unit, "not applicable", STILL)
    value, low, high = bootstrap(top, bottom, kept)
    if not math.isfinite(value):
        return empty_score(key, unit, *_why_undefined(top, bottom))
    still = 0 if kept is None else int((~kept).sum())
    return Score(
        *key,
        value,
        _or_none(low),
        _or_none(high),
        unit,
        floor,
        reason=f"without the {still} of {len(top)} inputs that it does not move" if still else "",
        per_image=tuple(top.tolist()),
        per_image_denominator=() if bottom is None else tuple(bottom.tolist()),
    )


STILL = "the transform moves none of the inputs (flat images, points at the centre)"
_BLIND = "the output reacts neither to the transform nor to noise of its size"
_INFINITE = "the output reacts to the transform but not to noise of its size: the ratio is infinite"


def empty_score(key: tuple[str, str, str], unit: str, status: Status, reason: str) -> Score:
    """A row without a number, and why there is none."""
    return Score(*key, None, None, None, unit, None, status, reason)


def _why_undefined(
    top: NDArray[np.float64], bottom: NDArray[np.float64] | None
) -> tuple[Status, str]:
    """Status and reason of a mean or ratio that is no number."""
    if bottom is None or not (np.isfinite(top).all() and np.isfinite(bottom).all()):
        return "failed", "undefined: an output or a response is not finite"
    return ("failed", _INFINITE) if top.sum() > 0 else ("not applicable", _BLIND)


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def finite_scores(
    batches: Sequence[Sequence[Piece]], output: str, bootstrap: Bootstrap, count: int
) -> list[Score]:
    """Rows of one finite metric: its transforms over all batches, of ``count`` inputs in all."""
    rows = []
    for pieces in zip(*batches, strict=True):
        key = (pieces[0].name, pieces[0].transform, output)
        obstacle = next((p.reason for p in pieces if isinstance(p, NotApplicable)), "")
        found = [p for p in pieces if isinstance(p, SampledMetric)]
        known = sum(len(p.per_image) for p in found)
        if 0 < known < count:  # batches with labels beside batches without
            obstacle = f"known for {known} of {count} inputs only"
        if obstacle:
            rows.append(empty_score(key, "", "not applicable", obstacle))
        else:
            rows.append(_finite_score(SampledMetric.join(found), output, bootstrap))
    return rows


def _finite_score(metric: SampledMetric, output: str, bootstrap: Bootstrap) -> Score:
    row = _on_scale(metric, _averaged(metric, output, bootstrap))
    return replace(row, definition=metric.definition)


def _averaged(metric: SampledMetric, output: str, bootstrap: Bootstrap) -> Score:
    """The weighted mean over images, before any change of scale."""
    top, weights, kept = metric.per_image.numpy(), None, None
    if metric.weight is not None:
        weights = metric.weight.numpy()
        top, kept = top * weights, weights > 0
        if (weights == 1).all():
            weights = None
    unit = metric.unit.replace("output", OUTPUT_UNITS[output])
    key = (metric.name, metric.transform, output)
    if kept is not None and not kept.any():
        return empty_score(key, unit, "not applicable", metric.excluded)
    row = make_score(*key, unit, top, weights, bootstrap, kept=kept)
    if kept is not None and not kept.all() and row.value is not None:
        why = f"without {int((~kept).sum())} of {len(kept)} inputs: {metric.excluded}"
        row = replace(row, reason=why)
    return row


def _on_scale(metric: SampledMetric, row: Score) -> Score:
    """The row in the metric's own scale."""
    if metric.scale == "linear" or row.value is None:
        return row
    # Decibels fall where the error rises: the ends of the interval change places.
    ends = [row.value, row.ci_high, row.ci_low]
    value, low, high = (
        None if e is None else float(metric.on_scale(torch.tensor(e, dtype=torch.float64)))
        for e in ends
    )
    if value == math.inf:
        return replace(row, value=None, ci_low=None, ci_high=None, reason="no error at all: ∞ dB")
    return replace(row, value=value, ci_low=low, ci_high=high)
