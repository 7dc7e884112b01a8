"""`liederiv gate`: fail a build when a model is less equivariant than it may be."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from liederiv.cli import options as o
from liederiv.cli.command import Leave
from liederiv.cli.failures import complain, sentence
from liederiv.cli.groups import grouped
from liederiv.cli.saving import Saving, writable
from liederiv.cli.tables import console, described_inputs, new_table, number
from liederiv.errors import LieDerivError
from liederiv.foreign_code import users_code
from liederiv.gate import (
    Baseline,
    Limit,
    Verdict,
    judge_increase,
    judge_limits,
    parse_increase,
    parse_limits,
    read_baseline,
)
from liederiv.junit import write_junit
from liederiv.measurement import DEFAULT_TRANSFORMS
from liederiv.model_zoo.measure_options import MeasureOptions
from liederiv.model_zoo.measuring import clusters, measure_loaded
from liederiv.model_zoo.model_options import ModelOptions
from liederiv.results import Measurement

__all__ = ["gate"]

BROKEN = 3  # exit code

_COLOURS = {"kept": "green", "unclear": "yellow", "broken": "red", "not measured": "red"}


@grouped(omit=("metrics", "dynamic_range", "margin"))
def gate(
    model: o.ModelName = None,
    model_flag: o.ModelFlag = None,
    checkpoint: o.CheckpointOption = None,
    max_: Annotated[
        str | None,
        typer.Option(
            "--max",
            metavar="TRANSFORM=NUMBER,…",
            help="Largest LEE of each transform, in the units that `liederiv score` prints, e.g. "
            "translation=1e-5,rotation=0.1; of another metric or output: "
            "relative_norm/rotation=0.3, lee/rotation/logits=900.",
        ),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(
            help="Results of an earlier model on the same images: FILE.parquet of `score "
            "--per-image` (compared image by image), or FILE.json of `score --json`."
        ),
    ] = None,
    max_increase: Annotated[
        str, typer.Option(metavar="PERCENT", help="Largest increase of LEE over the baseline.")
    ] = "5%",
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML here (.xml).")] = None,
    chosen: ModelOptions = ModelOptions(),
    how: MeasureOptions = MeasureOptions(),
    transforms: Annotated[
        str | None,
        typer.Option(
            help="What to measure; default: the transforms of --max and of the baseline.",
            rich_help_panel="Measurement",
        ),
    ] = None,
    amp: o.Amp = False,
    json: Annotated[Path | None, typer.Option(help="Write scores and provenance here.")] = None,
    per_image: Annotated[
        Path | None,
        typer.Option(help="Write values per image here (.parquet), the next run's baseline."),
    ] = None,
    quiet: o.Quiet = False,
) -> None:
    """Fail (exit code 3) when a model is less equivariant than it may be.

    A limit is broken when the whole 95 % interval of the score lies above it. A score above the
    limit whose interval reaches below it passes with a warning; more images decide. A score that
    cannot be measured fails. Bad input: exit code 2.

    Examples:  liederiv gate resnet18 --max translation=1e-5,rotation=0.1 --junit gate.xml

    liederiv gate mine:build --baseline main.parquet --max-increase 5%
    """
    o.refuse_amp(amp)
    writable(junit, json, per_image)
    o.check_endings(
        {
            "--junit": (junit, ".xml"),
            "--json": (json, ".json"),
            "--per-image": (per_image, ".parquet"),
        }
    )
    limits = () if max_ is None else parse_limits(max_)
    increase = parse_increase(max_increase)
    before = None if baseline is None else read_baseline(baseline)
    if before is None and not limits:
        raise LieDerivError("there is nothing to hold the model to; give --max or --baseline.")
    metrics = list(dict.fromkeys(["lee", *(limit.metric for limit in limits)]))
    how = replace(
        how,
        transforms=transforms or _transforms(limits, before),
        metrics=",".join(metrics),
        progress=not quiet,
    )
    start = time.monotonic()
    with _failure_noted(junit, model or model_flag or "", start):
        loaded = chosen.open(model, model_flag, checkpoint)
        with users_code("the model") as watch:
            measurement, photographs = measure_loaded(loaded, chosen, how)
        if watch.interrupted:
            raise KeyboardInterrupt  # a part of the images decides nothing
    save = Saving()
    for path in (json, per_image):
        save(path, measurement.save)
    verdicts = judge_limits(measurement, limits)
    if before is not None:
        labels = clusters(how.images, photographs)
        verdicts += judge_increase(
            measurement, before, increase, metrics=metrics, seed=how.seed, clusters=labels
        )
    seconds = time.monotonic() - start
    save(junit, lambda path: write_junit(path, loaded.name, verdicts, seconds))
    _conclude(measurement, verdicts, quiet and not save.lost)
    save.finish()


@contextmanager
def _failure_noted(junit: Path | None, model: str, start: float) -> Iterator[None]:
    """Leave a JUnit file that says so if no verdict is reached, however the process ends."""

    def write(reason: str) -> None:
        if junit is not None:
            verdict = Verdict("gate", "not measured", None, None, None, math.nan, "", reason)
            write_junit(junit, model, [verdict], time.monotonic() - start)

    write("the run ended before it had measured anything")
    try:
        yield
    except BaseException as error:
        with suppress(LieDerivError):  # what ended the run matters more
            write(sentence(error))
        raise


def _transforms(limits: tuple[Limit, ...], baseline: Baseline | None) -> str:
    names = [limit.transform for limit in limits]
    names += [] if baseline is None else [transform for _, transform, _ in baseline.values]
    return ",".join(dict.fromkeys(names)) or DEFAULT_TRANSFORMS


def _conclude(measurement: Measurement, verdicts: list[Verdict], quiet: bool) -> None:
    """Print the table; leave with code 3 and one line if a limit is broken."""
    if not quiet:
        p = measurement.provenance
        out = console()
        table = new_table(f"{p.model} on {described_inputs(p)}, scheme {p.scheme}")
        for header in ("score", "verdict", "95 % interval", "unit"):
            table.add_column(header, no_wrap=True)
        for header in ("value", "limit"):
            table.add_column(header, justify="right", no_wrap=True)
        for v in verdicts:
            interval = "" if v.ci_low is None else f"[{number(v.ci_low)}, {number(v.ci_high)}]"
            state = Text(v.state, style=_COLOURS[v.state])
            table.add_row(v.name, state, interval, v.unit, number(v.value), number(v.limit))
        out.print(table)
        for note in measurement.provenance.warnings:
            out.print(f"Note: {note}")
        for v in verdicts:
            if v.state == "unclear":
                out.print(f"Warning: {v.reason}; measure more images to decide.")
    failed = [v.reason for v in verdicts if not v.passed]
    if failed:
        complain("; ".join(failed), who="liederiv gate")
        raise Leave(BROKEN)
