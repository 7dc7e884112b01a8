"""Limits on equivariance errors, and whether a measurement keeps them.

Absolute limits are here, those relative to an earlier measurement in `liederiv.baselines`, and how
one score is judged by one limit in `liederiv.verdicts`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from liederiv.baselines import judge_increase, read_baseline
from liederiv.errors import LieDerivError
from liederiv.results import Measurement
from liederiv.row_names import row_names
from liederiv.verdicts import GATED, Verdict, first, judge

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

_FORM = "write TRANSFORM=NUMBER, METRIC/TRANSFORM=NUMBER or METRIC/TRANSFORM/OUTPUT=NUMBER"


@dataclass(frozen=True)
class Limit:
    """The largest value that a score may have.

    Attributes:
        metric: one of `GATED`.
        transform: generator or group.
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
