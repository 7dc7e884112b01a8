"""One score and one limit: the verdict.

A limit is *broken* when the whole 95 % interval of the score lies above it: then even the most
favourable reading of these images exceeds it. A score above its limit whose interval still reaches
below is *unclear*: it passes, with a warning, and more images decide. A score without an interval
(a single image) is judged by its value; one that could not be measured, or is no finite number
from 0, keeps no limit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from liederiv.errors import LieDerivError
from liederiv.measurement.results import Measurement, Score
from liederiv.metrics.registry import metric_names

__all__ = [
    "GATED",
    "Verdict",
    "first",
    "is_usable",
    "judge",
    "not_measured",
    "why_unusable",
]

GATED = metric_names("gated")
"""Metrics that can be limited: those where more is worse."""


@dataclass(frozen=True)
class Verdict:
    """One score judged.

    Attributes:
        name: metric/transform/output.
        state: see the module's docstring; ``not measured`` counts as broken.
        value: the score, or its ratio to the baseline's; None if not measured.
        ci_low: lower end of the 95 % interval of value; None if unknown.
        ci_high: upper end.
        limit: of value; NaN where the baseline gives none.
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


def first(measurement: Measurement) -> str:
    """The output type that was measured first: ``probs`` of a classifier.

    Raises:
        LieDerivError: if the measurement holds no metric that can be limited.
    """
    found = next((s.output for s in measurement.scores if s.metric in GATED), None)
    if found is None:
        raise LieDerivError(
            f"the measurement holds none of {', '.join(GATED)}, so there is nothing to judge; "
            "choose one of them as a metric."
        )
    return found


def is_usable(score: Score) -> bool:
    """Whether a score is a measured, finite number from 0."""
    return (
        score.status == "measured"
        and score.value is not None
        and math.isfinite(score.value)
        and score.value >= 0
    )


def why_unusable(score: Score) -> str:
    """Why it is not `is_usable`, in words."""
    if score.status != "measured" or score.value is None:
        return score.reason or score.status
    return f"it is {score.value:g}"


def judge(score: Score, limit: float, unit: str, origin: str) -> Verdict:
    """One score and one limit; whatever is no number on either side does not pass.

    Args:
        score: the new one.
        limit: the largest value allowed.
        unit: of both.
        origin: of the limit, in words.
    """
    name = f"{score.metric}/{score.transform}/{score.output}"
    if not is_usable(score):
        return not_measured(name, limit, unit, f"could not be measured: {why_unusable(score)}")
    assert score.value is not None
    if not (math.isfinite(limit) and limit >= 0):
        return not_measured(name, limit, unit, f"has no limit: {limit:g} is none")
    known = score.ci_low is not None and math.isfinite(score.ci_low)
    low = score.ci_low if known and score.ci_low is not None else score.value
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


def not_measured(name: str, limit: float, unit: str, why: str) -> Verdict:
    """The verdict on what cannot be judged."""
    return Verdict(name, "not measured", None, None, None, limit, unit, f"{name} {why}")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
