"""From responses per image to rows of results: groups, units, intervals, floors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from liederiv.bootstrap import bootstrap_ratio
from liederiv.floors import Floor
from liederiv.generators import Generator
from liederiv.metrics.local import LocalBatch
from liederiv.metrics.registry import Metric
from liederiv.metrics.sampled import SampledMetric
from liederiv.metrics.suite import NotApplicable, Piece
from liederiv.results import Score, Status

__all__ = [
    "Bootstrap",
    "finite_scores",
    "local_scores",
    "make_score",
    "missing_scores",
    "reference_score",
    "targets",
]

_OUTPUT_UNIT = {"probs": "prob", "logits": "logit", "features": "feature", "output": "output"}


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made: see `liederiv.bootstrap`."""

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
        return _empty(key, unit, "failed", failure)
    if kept is not None and not kept.any():
        return _empty(key, unit, "not applicable", STILL)
    value, low, high = bootstrap(top, bottom, kept)
    if not math.isfinite(value):
        return _empty(key, unit, *_why_undefined(top, bottom))
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


def _empty(key: tuple[str, str, str], unit: str, status: Status, reason: str) -> Score:
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


def local_scores(
    batches: Sequence[LocalBatch],
    output: str,
    generators: Sequence[Generator],
    metrics: Sequence[Metric],
    bootstrap: Bootstrap,
    floor: Floor | None = None,
    failure: str = "",
) -> list[Score]:
    """Rows of the local metrics for one output type.

    Args:
        batches: responses of all batches, in order.
        output: ``probs``, ``logits``, ….
        generators: K generators.
        metrics: the metrics wanted; others than local ones are passed over.
        bootstrap: how intervals are made.
        floor: of the Lie derivative.
        failure: why the values cannot be trusted (non-finite outputs), else empty.
    """
    joined = {
        name: torch.cat([getattr(b, name) for b in batches], dim=-1).numpy()
        for name in ("lie", "lie_abs", "noise", "spectrum", "blur", "moves")
        if getattr(batches[0], name) is not None
    }
    y_unit = _OUTPUT_UNIT[output]
    rows = [_missing(m, output) for m in metrics if _needs(m) not in (*joined, None)]
    for name, t_unit, index in targets(generators):
        mean = {k: v[index].mean(0) for k, v in joined.items() if v.ndim == 2}
        lee_floor = None if floor is None else float(floor.lee[index].mean())
        abs_floor = None if floor is None else float(floor.mean_abs[index].mean())
        table = {
            "lee": (f"{y_unit}²/{_squared(t_unit)}", "lie", None, lee_floor),
            "mean_abs": (f"{y_unit}/{t_unit}", "lie_abs", None, abs_floor),
            "relative_norm": ("1", "lie", "noise", lee_floor),
            "relative_spectrum": ("1", "lie", "spectrum", lee_floor),
        }
        for metric in metrics:
            if metric.name not in table or _needs(metric) not in (*joined, None):
                continue
            unit, top, bottom, rounding = table[metric.name]
            above, below, kept = mean[top], None, None
            if bottom is not None:
                above, below, kept = _compared(joined, top, bottom, index)
                size = float(below.sum()) / max(1, int(kept.sum()))
                rounding = None if rounding is None or size == 0 else rounding / size
            rows.append(
                make_score(
                    metric.name,
                    name,
                    output,
                    unit,
                    above,
                    below,
                    bootstrap,
                    floor=rounding,
                    failure=failure,
                    kept=kept,
                )
            )
    if "blur" in joined and any(m.name == "blur_response" for m in metrics):
        unit = f"{y_unit}²/px⁴"
        rows.append(
            make_score(
                "blur_response",
                "blur",
                output,
                unit,
                joined["blur"],
                None,
                bootstrap,
                failure=failure,
            )
        )
    return rows


def missing_scores(
    outputs: Sequence[str],
    generators: Sequence[Generator],
    metrics: Sequence[Metric],
    reason: str,
) -> list[Score]:
    """Rows of the local metrics of a model that has no derivative, with the reason."""
    local = [m.name for m in metrics if m.kind in ("lie", "comparison")]
    return [
        Score(metric, name, output, None, None, None, unit, None, "not applicable", reason)
        for output in outputs
        for name, unit, _ in targets(generators)
        for metric in local
    ]


Responses = NDArray[np.float64]


def _compared(
    joined: Mapping[str, NDArray[Any]], top: str, bottom: str, index: Sequence[int]
) -> tuple[Responses, Responses, NDArray[np.bool_]]:
    """Numerator and denominator per image, and which images the generators move at all.

    Where X x = 0 there is nothing to compare with: 0 over 0, whatever the output does.
    """
    moves: NDArray[np.bool_] = joined["moves"][index]
    above, below = (np.where(moves, joined[name][index], 0.0).mean(0) for name in (top, bottom))
    return above, below, np.any(moves, axis=0)


def _needs(metric: Metric) -> str | None:
    """The comparison direction that a metric is made of, if any."""
    names = {"relative_norm": "noise", "relative_spectrum": "spectrum", "blur_response": "blur"}
    return names.get(metric.name)


def _missing(metric: Metric, output: str) -> Score:
    why = "point clouds have no spectrum and no blur; compare relative_norm"
    key = (metric.name, "any", output)
    return Score(*key, None, None, None, "1", None, "not applicable", why)


def _squared(unit: str) -> str:
    return f"{unit}²" if unit.isalpha() else f"({unit})²"


def reference_score(
    batches: Sequence[LocalBatch], bootstrap: Bootstrap, transform: str = "translation"
) -> Score:
    """The row of the exactly invariant reference network: its ``relative_norm``."""
    joined = {
        name: torch.cat([getattr(b, name) for b in batches], dim=-1).numpy()
        for name in ("lie", "noise", "moves")
    }
    above, below, kept = _compared(joined, "lie", "noise", range(len(joined["lie"])))
    return make_score("reference", transform, "reference", "1", above, below, bootstrap, kept=kept)


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
            rows.append(_empty(key, "", "not applicable", obstacle))
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
    unit = metric.unit.replace("output", _OUTPUT_UNIT[output])
    key = (metric.name, metric.transform, output)
    if kept is not None and not kept.any():
        return _empty(key, unit, "not applicable", metric.excluded)
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
