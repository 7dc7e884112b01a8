"""Limits on equivariance errors, and whether a measurement keeps them.

Absolute limits are here, those relative to an earlier measurement in `liederiv.testing.baselines`,
and how one score is judged by one limit in `liederiv.testing.verdicts`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from liederiv.errors import LieDerivError
from liederiv.measurement.results import Measurement
from liederiv.measurement.row_names import row_names, step_row, unit_of_steps
from liederiv.metrics.registry import METRICS
from liederiv.metrics.scale import LeeStep
from liederiv.testing.baselines import judge_increase, read_baseline
from liederiv.testing.verdicts import GATED, Verdict, first, judge

__all__ = [
    "GATED",
    "Limit",
    "Verdict",
    "judge_increase",
    "judge_limits",
    "parse_increase",
    "parse_limits",
    "read_baseline",
]

_FORM = (
    "write TRANSFORM=NUMBER, TRANSFORM@STEP=NUMBER, METRIC/TRANSFORM=NUMBER or "
    "METRIC/TRANSFORM/OUTPUT=NUMBER"
)


@dataclass(frozen=True)
class Limit:
    """The largest value that a score may have.

    Attributes:
        metric: one of `GATED`.
        transform: generator or group; of a metric of finite steps with the step, rotation@1deg.
        output: output type, or None for the one that is measured first.
        value: in the unit of the score.

    Raises:
        LieDerivError: if value is no finite number from 0.
    """

    metric: str
    transform: str
    output: str | None
    value: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.value) and self.value >= 0):
            raise LieDerivError(
                f"the limit of {self.metric}/{self.transform} is {self.value}; it must be a "
                "finite number from 0."
            )


def parse_limits(text: str) -> tuple[Limit, ...]:
    """Read ``translation=1e-5,relative_norm/rotation=0.3``.

    Raises:
        LieDerivError: naming the part that is not understood.

    Example:
        >>> parse_limits("rotation=0.1")
        (Limit(metric='lee', transform='rotation', output=None, value=0.1),)
        >>> parse_limits("rotation@1°=0.1")
        (Limit(metric='lee_step', transform='rotation@1deg', output=None, value=0.1),)
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
    named = all(names) and 1 <= len(names) <= 3
    if not sign or not (math.isfinite(value) and value >= 0) or not named:
        raise LieDerivError(f"--max: {part!r} is no limit; {_FORM}, with a number from 0.")
    usual = LeeStep.name if "@" in names[0] else "lee"
    metric, transform = (names[0], names[1]) if len(names) > 1 else (usual, names[0])
    if metric not in GATED:
        raise LieDerivError(f"--max: {metric!r} cannot be limited; choose from {', '.join(GATED)}.")
    row = _row(metric, transform)
    return Limit(metric, row, names[2] if len(names) == 3 else None, value)


def _row(metric: str, transform: str) -> str:
    """The name of the row that is limited.

    Raises:
        LieDerivError: for a name of several, or a step where none is due, missing, or wrong.
    """
    base, at, step = transform.partition("@")
    rows = row_names(base)
    if base not in rows:
        raise LieDerivError(
            f"--max: {base!r} stands for several scores; limit them one by one: {', '.join(rows)}."
        )
    kind = METRICS.get(metric)
    if kind is None or kind.at_steps is not bool(at):
        example = f"{base}@1{unit_of_steps(base)}"
        raise LieDerivError(
            f"--max: {metric} has no steps; write {metric}/{base}, or {LeeStep.name}/{transform}."
            if at
            else f"--max: {metric} is measured at a step; write it behind the transform, e.g. "
            f"{metric}/{example}."
        )
    if not at:
        return transform
    try:
        return step_row(base, step)
    except LieDerivError as error:
        raise LieDerivError(f"--max: {error}") from error


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


def judge_limits(measurement: Measurement, limits: Iterable[Limit]) -> list[Verdict]:
    """Judge scores by absolute limits.

    Raises:
        LieDerivError: if a limited output was not measured at all.
    """
    verdicts = []
    for limit in limits:
        score = measurement.get(limit.metric, limit.transform, limit.output or first(measurement))
        verdicts.append(judge(score, limit.value, score.unit, ""))
    return verdicts
