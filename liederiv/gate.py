"""Limits on equivariance errors, and whether a measurement keeps them.

A limit is *broken* when the whole 95 % interval of the score lies above it: then even the most
favourable reading of these images exceeds it. A score above its limit whose interval still reaches
below is *unclear*: it passes, with a warning, and more images decide. A score without an interval
(a single image) is judged by its value; one that could not be measured keeps no limit.

Against a baseline with values per image, the increase is judged by the paired ratio of the two
models over the same images, far sharper than the scores themselves; against a baseline without, by
the baseline's value times the allowed factor, as any limit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from liederiv.bootstrap import percentiles, resample_counts
from liederiv.errors import LieDerivError
from liederiv.metrics.registry import metric_names
from liederiv.results import Measurement, Score
from liederiv.row_names import row_names

__all__ = [
    "GATED",
    "Baseline",
    "Limit",
    "Verdict",
    "judge_increase",
    "judge_limits",
    "parse_increase",
    "parse_limits",
    "read_baseline",
]

GATED = metric_names("gated")
"""Metrics that can be limited: those where more is worse."""

Key = tuple[str, str, str]
_FORM = "write TRANSFORM=NUMBER, METRIC/TRANSFORM=NUMBER or METRIC/TRANSFORM/OUTPUT=NUMBER"


@dataclass(frozen=True)
class Limit:
    """The largest value that a score may have.

    Attributes:
        metric: one of `GATED`.
        transform: generator or group.
        output: output type, or None for the one that is measured first.
        value: in the unit of the score.
    """

    metric: str
    transform: str
    output: str | None
    value: float


@dataclass(frozen=True)
class Verdict:
    """One score judged.

    Attributes:
        name: metric/transform/output.
        state: see the module's docstring; ``not measured`` counts as broken.
        value: the score, or its ratio to the baseline's; None if not measured.
        ci_low: lower end of the 95 % interval of value; None if unknown.
        ci_high: upper end.
        limit: of value.
        unit: of value and limit.
        reason: in one sentence.
    """

    name: str
    state: Literal["kept", "unclear", "broken", "not measured"]
    value: float | None
    ci_low: float | None
    ci_high: float | None
    limit: float
    unit: str
    reason: str

    @property
    def passed(self) -> bool:
        """Whether the gate may open."""
        return self.state in ("kept", "unclear")


def parse_limits(text: str) -> tuple[Limit, ...]:
    """Read ``translation=1e-5,relative_norm/rotation=0.3``.

    Raises:
        LieDerivError: naming the part that is not understood.

    Example:
        >>> parse_limits("rotation=0.1")
        (Limit(metric='lee', transform='rotation', output=None, value=0.1),)
    """
    limits = [_limit(part.strip()) for part in text.split(",") if part.strip()]
    if not limits:
        raise LieDerivError(f"--max={text!r} holds no limit; {_FORM}.")
    return tuple(limits)


def _limit(part: str) -> Limit:
    key, sign, number = part.partition("=")
    names = [name.strip() for name in key.split("/")]
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not sign or not (math.isfinite(value) and value >= 0) or not 1 <= len(names) <= 3:
        raise LieDerivError(f"--max: {part!r} is no limit; {_FORM}, with a number from 0.")
    metric, transform = (names[0], names[1]) if len(names) > 1 else ("lee", names[0])
    if metric not in GATED:
        raise LieDerivError(f"--max: {metric!r} cannot be limited; choose from {', '.join(GATED)}.")
    rows = row_names(transform)
    if transform not in rows:
        raise LieDerivError(
            f"--max: {transform!r} stands for several scores; limit them one by one: "
            f"{', '.join(rows)}."
        )
    return Limit(metric, transform, names[2] if len(names) == 3 else None, value)


def parse_increase(text: str) -> float:
    """Read ``5%`` as 0.05.

    Raises:
        LieDerivError: for anything but a percentage from 0.
    """
    try:
        value = float(text.removesuffix("%")) / 100
    except ValueError:
        value = math.nan
    if not text.endswith("%") or not (math.isfinite(value) and value >= 0):
        raise LieDerivError(f"--max-increase={text!r} must be a percentage from 0%, e.g. 5%.")
    return value


@dataclass(frozen=True)
class Baseline:
    """An earlier measurement, as a file holds it.

    Attributes:
        values: scores by metric, transform and output.
        units: likewise.
        per_image: numerators and denominators for each image, [n] each; empty if not in the file.
        image_names: names of the images, where the file has them.
        provenance: what the file says about its origin; empty for values per image.
    """

    values: Mapping[Key, float]
    units: Mapping[Key, str]
    per_image: Mapping[Key, tuple[NDArray[np.float64], NDArray[np.float64]]]
    image_names: tuple[str, ...]
    provenance: Mapping[str, Any]


def read_baseline(path: Path) -> Baseline:
    """Read what `liederiv score` wrote with ``--json`` or, better, ``--per-image``.

    Raises:
        LieDerivError: if the file cannot be read or is of another kind.
    """
    try:
        if path.suffix == ".parquet":
            return _from_parquet(path)
        if path.suffix == ".json":
            return _from_json(path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise LieDerivError(
            f"--baseline={str(path)!r} cannot be read as results ({reason}); write it with "
            "`liederiv score … --per-image FILE.parquet` or `--json FILE.json`."
        ) from error
    raise LieDerivError(f"--baseline={str(path)!r} must end in .parquet or .json.")


def _from_json(path: Path) -> Baseline:
    data = json.loads(path.read_text(encoding="utf-8"))
    rows = [r for r in data["results"] if r["metric"] in GATED and r["value"] is not None]
    keys = [(r["metric"], r["transform"], r["output"]) for r in rows]
    values = {k: float(r["value"]) for k, r in zip(keys, rows, strict=True)}
    units = {k: str(r["unit"]) for k, r in zip(keys, rows, strict=True)}
    return Baseline(values, units, {}, (), {k: v for k, v in data.items() if k != "results"})


def _from_parquet(path: Path) -> Baseline:
    frame = pd.read_parquet(path)
    frame = frame[frame["metric"].isin(GATED)].sort_values("index", kind="stable")
    values: dict[Key, float] = {}
    units: dict[Key, str] = {}
    parts: dict[Key, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
    names: tuple[str, ...] = ()
    for names_of, rows in frame.groupby(["metric", "transform", "output"], sort=False):
        metric, transform, output = (str(name) for name in names_of)
        key = (metric, transform, output)
        top = rows["value"].to_numpy(np.float64)
        bottom = rows["denominator"].to_numpy(np.float64)
        values[key], units[key] = float(top.sum() / bottom.sum()), str(rows["unit"].iloc[0])
        parts[key], names = (top, bottom), tuple(rows["image"].astype(str))
    return Baseline(values, units, parts, names, {})


def judge_limits(measurement: Measurement, limits: Iterable[Limit]) -> list[Verdict]:
    """Judge scores by absolute limits.

    Raises:
        LieDerivError: if a limited output was not measured at all.
    """
    verdicts = []
    for limit in limits:
        score = measurement.get(limit.metric, limit.transform, limit.output or first(measurement))
        verdicts.append(_judge(score, limit.value, score.unit, ""))
    return verdicts


def first(measurement: Measurement) -> str:
    """The output type that was measured first: ``probs`` of a classifier."""
    return next(s.output for s in measurement.scores if s.metric in GATED)


def judge_increase(
    measurement: Measurement,
    baseline: Baseline,
    max_increase: float,
    *,
    metrics: Sequence[str] = ("lee",),
    resamples: int = 2000,
    seed: int = 0,
    clusters: Sequence[Any] | None = None,
) -> list[Verdict]:
    """Judge scores by those of a baseline on the same images.

    Args:
        measurement: the new scores.
        baseline: the old ones.
        max_increase: largest increase allowed, 0.05 for 5 %.
        metrics: which of them to judge.
        resamples: bootstrap samples.
        seed: of the bootstrap.
        clusters: see `liederiv.bootstrap.resample_counts`.

    Raises:
        LieDerivError: if the two were not measured alike, or share no score.
    """
    _must_match(measurement, baseline)
    factor, output = 1 + max_increase, first(measurement)
    verdicts = []
    for score in measurement.scores:
        key = (score.metric, score.transform, score.output)
        if key not in baseline.values or score.metric not in metrics or score.output != output:
            continue
        if baseline.units[key] != score.unit:
            raise LieDerivError(
                f"--baseline has {'/'.join(key)} in {baseline.units[key]}, this run in "
                f"{score.unit}; measure both with the same --unit."
            )
        if key in baseline.per_image and score.status == "measured":
            ratio = _paired(score, baseline.per_image[key], resamples, seed, clusters)
            was = f" (was {_number(baseline.values[key])} {score.unit})"
            verdicts.append(_judge(ratio, factor, "× the baseline", was))
        else:
            allowed = baseline.values[key] * factor
            verdicts.append(_judge(score, allowed, score.unit, f" (baseline × {factor:g})"))
    if not verdicts:
        raise LieDerivError(
            f"--baseline holds no score of {', '.join(metrics)} on {output} that this run has; "
            "measure both with the same --transforms and --output-type."
        )
    return verdicts


def _must_match(measurement: Measurement, baseline: Baseline) -> None:
    p = measurement.provenance
    known = {"images_fingerprint": "images", "num_images": "number of images", "scheme": "scheme"}
    for name, words in known.items():
        old, new = baseline.provenance.get(name), getattr(p, name)
        if old is not None and old != new:
            raise LieDerivError(
                f"--baseline was measured with another {words} ({old}, now {new}); measure both "
                "alike."
            )
    if baseline.image_names and baseline.image_names != measurement.image_names:
        raise LieDerivError(
            f"--baseline was measured on other images ({len(baseline.image_names)}, now "
            f"{len(measurement.image_names)}, or of other names); measure both on the same."
        )


def _paired(
    score: Score,
    old: tuple[NDArray[np.float64], NDArray[np.float64]],
    resamples: int,
    seed: int,
    clusters: Sequence[Any] | None,
) -> Score:
    """The ratio of a score to the baseline's, with an interval over the same resampled images."""
    top = np.array(score.per_image)
    bottom = np.array(score.per_image_denominator or np.ones_like(top))
    parts = np.stack([top, *old[::-1], bottom])  # new top × old bottom / (old top × new bottom)
    with np.errstate(divide="ignore", invalid="ignore"):
        a, b, c, d = parts.sum(1)
        value, low, high = float(a * b / (c * d)), None, None
        if len(set(range(len(top)) if clusters is None else clusters)) > 1:
            counts = resample_counts(len(top), resamples, seed, clusters)
            a, b, c, d = (counts @ part for part in parts)
            low, high = percentiles(a * b / (c * d))
    key = (score.metric, score.transform, score.output)
    return Score(*key, 1.0 if math.isnan(value) else value, low, high, "× the baseline")


def _judge(score: Score, limit: float, unit: str, origin: str) -> Verdict:
    name = f"{score.metric}/{score.transform}/{score.output}"
    if score.value is None:
        why = f"{name} could not be measured: {score.reason or score.status}"
        return Verdict(name, "not measured", None, None, None, limit, unit, why)
    low = score.value if score.ci_low is None or math.isnan(score.ci_low) else score.ci_low
    state: Literal["kept", "unclear", "broken"]
    if low > limit:
        state, words = "broken", "exceeds"
    elif score.value > limit:
        state, words = "unclear", "exceeds within its interval"
    else:
        state, words = "kept", "keeps"
    interval = (
        "" if score.ci_low is None else f" [{_number(score.ci_low)}, {_number(score.ci_high)}]"
    )
    unit_words = "" if unit == "1" else f" {unit}"
    bound = f"{_number(limit)}{unit_words}{origin}"
    reason = f"{name} = {_number(score.value)}{interval} {words} {bound}"
    return Verdict(name, state, score.value, score.ci_low, score.ci_high, limit, unit, reason)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
