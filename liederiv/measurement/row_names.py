"""Names of the scores that transforms lead to, before any input is seen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

from liederiv.domains import known_domains
from liederiv.errors import LieDerivError
from liederiv.generators import Generator, resolve_generators
from liederiv.measurement.scoring import targets
from liederiv.metrics.base import Metric
from liederiv.steps import (
    RANGE,
    Steps,
    parse_steps,
    plan_of,
    read_size,
    step_label,
    step_of,
    unit_of,
)

__all__ = ["check_steps", "row_names", "step_row", "step_rows", "unit_of_steps"]


def row_names(
    transforms: str | Generator | Iterable[str | Generator],
    unit: Literal["pixel", "grid"] = "pixel",
) -> tuple[str, ...]:
    """Generators and groups that results may have, on any kind of input that knows the transforms.

    Raises:
        LieDerivError: if no kind of input knows them all.

    Example:
        >>> row_names("translation")
        ('translation_x', 'translation_y', 'translation', 'translation_z')
    """
    names: dict[str, None] = {}
    refusal: LieDerivError | None = None
    for catalogue in (c for domain in known_domains() for c in domain.catalogues):
        try:
            found = resolve_generators(transforms, unit=unit, catalogue=catalogue)
        except LieDerivError as error:
            refusal = refusal or error
        else:
            names.update(dict.fromkeys(name for name, _, _ in targets(found)))
    if not names and refusal is not None:
        raise refusal
    return tuple(names)


def step_row(transform: str, step: str) -> str:
    """The name of a row of one step, in the unit that rows are named in.

    Args:
        transform: a generator or group that has a row of its own.
        step: a size with its unit.

    Raises:
        LieDerivError: for a step without a unit, or in one that no kind of input has.

    Example:
        >>> step_row("rotation", "1°"), step_row("scale", "2%")
        ('rotation@1deg', 'scale@2%')
    """
    units = {unit_of(g.unit): None for g in _generators(transform)}
    known = " or ".join(unit.symbol for unit in units)
    found = read_size(step)
    if found is None:
        raise LieDerivError(
            f"{transform}@{step}: the step must be {RANGE} ({known}), "
            f"e.g. {transform}@1{next(iter(units)).symbol}."
        )
    size, symbol = found
    for unit in units if symbol else ():
        try:
            return step_label(transform, step_of(transform, unit, size, symbol, chosen=True))
        except LieDerivError:
            continue
    wrong = f"{symbol} is not a unit of its steps" if symbol else "its unit is missing"
    raise LieDerivError(
        f"{transform}@{step}: {wrong}; a step of {transform} is in {known}, "
        f"e.g. {transform}@1{next(iter(units)).symbol}."
    )


def unit_of_steps(transform: str) -> str:
    """The unit in which a transform's steps are written, on the first kind of input that has it."""
    return unit_of(next(_generators(transform)).unit).symbol


def step_rows(
    transforms: str | Generator | Iterable[str | Generator],
    steps: Steps,
    unit: Literal["pixel", "grid"] = "pixel",
) -> tuple[str, ...]:
    """Names of the rows of chosen steps, on any kind of input that knows transforms and steps.

    Raises:
        LieDerivError: if no kind of input knows them all.

    Example:
        >>> step_rows("rotation", "rotation=1,2")[:2]
        ('rotation@1deg', 'rotation@2deg')
    """
    names: dict[str, None] = {}
    refusal: LieDerivError | None = None
    for catalogue in (c for domain in known_domains() for c in domain.catalogues):
        try:
            found = resolve_generators(transforms, unit=unit, catalogue=catalogue)
            plan = plan_of(found, [()] * len(found), steps, catalogue)
        except LieDerivError as error:
            refusal = refusal or error
        else:
            rows = targets(found)
            names.update((step_label(n, s), None) for n, _, index in rows for s in plan[index[0]])
    if not names and refusal is not None:
        raise refusal
    return tuple(names)


def check_steps(steps: Steps, metrics: Iterable[Metric]) -> None:
    """Raise unless steps are understood, and a metric takes them.

    Raises:
        LieDerivError: saying which of these is not so.
    """
    if steps is None:
        return
    parse_steps(steps)
    if not any("steps" in m.needs for m in metrics):
        raise LieDerivError(
            "steps are given, but no metric takes them; add the family scale to the metrics."
        )


def _generators(transform: str) -> Iterator[Generator]:
    """What a name stands for on each kind of input that knows it, in each unit of translations."""
    for catalogue in (c for domain in known_domains() for c in domain.catalogues):
        units: tuple[Literal["pixel", "grid"], ...] = ("pixel", "grid")
        for unit in units:
            try:
                yield from resolve_generators(transform, unit=unit, catalogue=catalogue)
            except LieDerivError:
                continue
