"""What `liederiv gate` does: measure what the limits speak of, judge it, say so."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from rich.text import Text

from liederiv.cli.command import Leave
from liederiv.cli.failures import complain, sentence
from liederiv.cli.tables import console, described_inputs, new_table, number
from liederiv.errors import LieDerivError
from liederiv.foreign import one_line
from liederiv.foreign_code import users_code
from liederiv.measurement.comparison import contrast_of
from liederiv.measurement.results import Measurement
from liederiv.model_zoo import Inputs
from liederiv.model_zoo.requests.measure_options import MeasureOptions
from liederiv.model_zoo.requests.measuring import measure_loaded
from liederiv.model_zoo.requests.model_options import ModelOptions
from liederiv.names import DEFAULT_TRANSFORMS
from liederiv.steps import base_name, parse_steps
from liederiv.testing.junit import write_junit
from liederiv.testing.limits import (
    GATED,
    Limit,
    Verdict,
    judge_increase,
    judge_limits,
    parse_increase,
    parse_limits,
    read_baseline,
)

__all__ = ["Request", "conclude", "judged", "keep_apart", "measured", "reported"]

BROKEN = 3  # exit code

_COLOURS = {"kept": "green", "unclear": "yellow", "broken": "red", "not measured": "red"}


@dataclass(frozen=True)
class Request:
    """What the command line says about model and limits."""

    model: str | None
    model_flag: str | None
    checkpoint: Path | None
    max_: str | None
    baseline: Path | None
    max_increase: str
    transforms: str | None

    def resolved(
        self, how: MeasureOptions
    ) -> tuple[tuple[Limit, ...], Measurement | None, MeasureOptions]:
        """Limits, baseline, and how to measure what they speak of.

        Raises:
            LieDerivError: if there is neither, or one is not understood.
        """
        limits = () if self.max_ is None else parse_limits(self.max_)
        parse_increase(self.max_increase)
        before = None if self.baseline is None else read_baseline(self.baseline)
        if before is None and not limits:
            raise LieDerivError("there is nothing to hold the model to; give --max or --baseline.")
        metrics = dict.fromkeys(["lee", *(limit.metric for limit in limits)])
        transforms = self.transforms or _transforms(limits, before)
        steps = _steps(metrics, limits, before, how.steps)
        wanted = ",".join(metrics)
        return limits, before, replace(how, transforms=transforms, metrics=wanted, steps=steps)


def measured(
    request: Request, chosen: ModelOptions, how: MeasureOptions
) -> tuple[Measurement, Inputs]:
    """Measure, all of it: a part of the images decides nothing."""
    loaded = chosen.open(request.model, request.model_flag, request.checkpoint)
    with users_code("the model") as watch:
        measurement, inputs = measure_loaded(loaded, chosen, how)
    if watch.interrupted:
        raise KeyboardInterrupt
    p = measurement.provenance
    if p.num_images != len(inputs):
        raise LieDerivError(
            f"only {p.num_images} of {len(inputs)} {p.inputs} were measured "
            f"({'; '.join(p.warnings)}); a part is not judged, run the gate again."
        )
    return measurement, inputs


def judged(
    request: Request,
    how: MeasureOptions,
    limits: tuple[Limit, ...],
    before: Measurement | None,
    measurement: Measurement,
    inputs: Inputs,
) -> list[Verdict]:
    """Hold the results to the limits and to the baseline."""
    verdicts = judge_limits(measurement, limits)
    if before is not None:
        verdicts += judge_increase(
            measurement,
            before,
            parse_increase(request.max_increase),
            metrics=how.metrics.split(","),
            limited={(v.name.split("/")[0], v.name.split("/")[1]) for v in verdicts},
            seed=how.seed,
            clusters=inputs.clusters,
        )
    return verdicts


@contextmanager
def reported(junit: Path | None, model: str) -> Iterator[None]:
    """An error in the JUnit file until there is a verdict, however the process ends."""
    start = time.monotonic()

    def write(why: str) -> None:
        if junit is not None:
            write_junit(junit, one_line(model), (), time.monotonic() - start, stopped=why)

    write("the run ended before it had measured anything")
    try:
        yield
    except BaseException as error:
        with suppress(LieDerivError):  # what ended the run matters more
            write(sentence(error))
        raise


def keep_apart(baseline: Path | None, *written: Path | None) -> None:
    """Refuse to write over the baseline: a second run would be held to the model that failed."""
    for path in written:
        if baseline is not None and path is not None and path.resolve() == baseline.resolve():
            raise LieDerivError(
                f"{one_line(path)!r} is the baseline and would be overwritten, so that the next "
                "run were held to this one; name another file."
            )


def _transforms(limits: tuple[Limit, ...], baseline: Measurement | None) -> str:
    names = [limit.transform for limit in limits]
    if baseline is not None:
        names += [s.transform for s in baseline.scores if s.metric in GATED]
    return ",".join(dict.fromkeys(map(base_name, names))) or DEFAULT_TRANSFORMS


def _steps(
    metrics: Collection[str],
    limits: tuple[Limit, ...],
    baseline: Measurement | None,
    given: str | None,
) -> str | None:
    """All steps that are limited, that the baseline has of the same metrics, or that are given."""
    rows = [limit.transform for limit in limits]
    if baseline is not None:
        rows += [s.transform for s in baseline.scores if s.metric in metrics]
    found: dict[str, dict[str, None]] = {}
    for name, _, step in (row.partition("@") for row in rows):
        if step:
            found.setdefault(name, {})[step] = None
    for name, sizes in parse_steps(given).items():
        found.setdefault(name, {}).update({f"{size:.17g}{symbol}": None for size, symbol in sizes})
    return ";".join(f"{name}={','.join(sizes)}" for name, sizes in found.items()) or None


def conclude(
    measurement: Measurement, before: Measurement | None, verdicts: list[Verdict], quiet: bool
) -> None:
    """Print the table; leave with code 3 and one line if a limit is broken."""
    if not quiet:
        _print(measurement, before, verdicts)
    failed = [v.reason for v in verdicts if not v.passed]
    if failed or not verdicts:
        reasons = "; ".join(failed) or "nothing was compared"
        complain(reasons, who="liederiv gate")
        raise Leave(BROKEN)


def _print(measurement: Measurement, before: Measurement | None, verdicts: list[Verdict]) -> None:
    p = measurement.provenance
    out = console()
    columns = ("score", "verdict", "95 % interval", "unit")
    table = new_table("", *columns, numbers=("value", "limit"))
    table.title = Text(one_line(f"{p.model} on {described_inputs(p)}, scheme {p.scheme}"))
    for v in verdicts:
        interval = "" if v.ci_low is None else f"[{number(v.ci_low)}, {number(v.ci_high)}]"
        cells = (interval, v.unit, number(v.value), number(v.limit))
        state = Text(v.state, style=_COLOURS[v.state])
        table.add_row(Text(v.name), state, *(Text(cell) for cell in cells))
    out.print(table)
    notes = [f"Note: {note}" for note in p.warnings]
    if before is not None:
        notes += [
            f"Note: the baseline was measured {note}."
            for note in contrast_of(before, measurement, between_models=False).notes
        ]
    notes += [
        f"Warning: {v.reason}; measure more images to decide."
        for v in verdicts
        if v.state == "unclear"
    ]
    for note in notes:
        out.print(one_line(note))
