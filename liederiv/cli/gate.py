"""`liederiv gate`: fail a build when a model is less equivariant than it may be."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from liederiv.cli import options as o
from liederiv.cli.groups import grouped
from liederiv.cli.saving import Saving, writable
from liederiv.model_zoo.requests.measure_options import MeasureOptions
from liederiv.model_zoo.requests.model_options import ModelOptions

__all__ = ["gate"]


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
            "translation=1e-5,rotation=0.1; over a motion of finite size: translation@1px=1e-5, "
            "rotation@1deg=0.01; of another metric or output: relative_norm/rotation=0.3, "
            "lee/rotation/logits=900.",
        ),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(
            help="Results of an earlier model, measured alike on the same images: FILE.parquet of "
            "`score --per-image` (compared image by image), FILE.json or FILE.csv."
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
    cannot be measured fails, and so does one that the baseline lacks. Bad input, and a baseline
    that was measured otherwise: exit code 2.

    Examples:  liederiv gate resnet18 --max translation=1e-5,rotation=0.1 --junit gate.xml

    liederiv gate mine:build --baseline main.parquet --max-increase 5%
    """
    writable(junit)
    o.check_endings({"--junit": (junit, ".xml")})
    from liederiv.cli.gating import Request, conclude, judged, keep_apart, measured, reported
    from liederiv.testing.junit import write_junit

    save = Saving()
    request = Request(model, model_flag, checkpoint, max_, baseline, max_increase, transforms)
    with reported(junit, str(model or model_flag or "")):
        o.refuse_amp(amp)
        writable(json, per_image)
        o.check_endings({"--json": (json, ".json"), "--per-image": (per_image, ".parquet")})
        keep_apart(baseline, junit, json, per_image)
        start = time.monotonic()
        limits, before, how = request.resolved(replace(how, progress=not quiet))
        measurement, inputs = measured(request, chosen, how)
        for path in (json, per_image):
            save(path, measurement.save)
        verdicts = judged(request, how, limits, before, measurement, inputs)
        seconds, name = time.monotonic() - start, measurement.provenance.model
        save(junit, lambda path: write_junit(path, name, verdicts, seconds))
    conclude(measurement, before, verdicts, quiet and not save.lost)
    save.finish()
