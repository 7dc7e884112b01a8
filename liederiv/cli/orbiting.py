"""What `liederiv orbit` does: follow a model along orbits, print what becomes of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from liederiv.analysis.orbits import orbit as follow_orbits
from liederiv.analysis.orbits.measuring import check_numbers
from liederiv.analysis.orbits.report import OrbitReport, described
from liederiv.cli.orbit_tables import orbit_tables
from liederiv.cli.tables import console, count, described_inputs, headline
from liederiv.errors import LieDerivError
from liederiv.foreign import one_line, shortened
from liederiv.measurement.row_names import row_names
from liederiv.model_zoo import Inputs, Loaded, source_of
from liederiv.model_zoo.requests.measure_options import MeasureOptions
from liederiv.model_zoo.requests.measuring import as_batch, open_inputs, provenance_of, try_model
from liederiv.model_zoo.requests.model_options import ModelOptions

__all__ = ["Request", "followed", "print_orbits"]


@dataclass(frozen=True)
class Request:
    """What the command line says about model and orbits."""

    model: str | None
    model_flag: str | None
    checkpoint: Path | None
    ranges: str | None
    points: int
    shifts: int
    worst: int
    starts: int


def followed(
    request: Request, chosen: ModelOptions, how: MeasureOptions, *, progress: bool
) -> tuple[OrbitReport, Loaded]:
    """Load, follow, and say how it was done.

    Raises:
        LieDerivError: for what cannot be followed, before the model is loaded where that shows.
    """
    wanted = _ranges(request.ranges)
    check_numbers(request.points, request.shifts, request.worst, request.starts)
    if "," in how.output_type:
        raise LieDerivError(
            f"--output-type={shortened(how.output_type, 80)!r} must be one of auto, probs, logits, "
            "features and output; an orbit looks at one at a time."
        )
    named = request.model or request.model_flag
    if named and source_of(named).inputs:  # else importing the model may register more of them
        row_names(how.transforms, how.unit)  # type: ignore[arg-type]
    loaded = chosen.open(request.model, request.model_flag, request.checkpoint)
    found = open_inputs(how, loaded)
    x = as_batch(found, chosen)
    target = loaded.target(how.output_type, how.representation)
    kind = target.output_type
    y = try_model(target.model, x[:1])
    scored = kind in ("auto", "probs", "logits")
    labels = _labels(found, loaded, y) if scored else None
    orbits = follow_orbits(
        target.model,
        x,
        how.transforms,
        ranges=wanted,
        points=request.points,
        labels=labels,
        output=target.representation,
        output_type=kind,
        scheme=found.scheme(how.scheme),
        unit=how.unit,  # type: ignore[arg-type]
        shifts=request.shifts,
        worst=request.worst,
        starts=request.starts,
        seed=how.seed,
        clusters=found.clusters,
        image_names=found.names,
        progress=progress,
    )
    known = provenance_of(loaded, found)
    if scored and labels is None and found.labels is not None:
        known = replace(known, warnings=(*known.warnings, _unused(found, loaded)))
    return OrbitReport(orbits, described(known, orbits, x)), loaded


def _ranges(text: str | None) -> Mapping[str, float] | None:
    """TRANSFORM=NUMBER,… as numbers by name."""
    if text is None:
        return None
    found: dict[str, float] = {}
    for part in text.split(","):
        name, sign, value = part.strip().partition("=")
        try:
            size = float(value)
        except ValueError:
            size = math.nan
        if not name or not sign or not 0 < size < math.inf:
            raise LieDerivError(
                f"--range={shortened(text, 80)!r}: {shortened(part, 40)!r} must have the form "
                "TRANSFORM=NUMBER with a positive number, e.g. translation=8."
            )
        if name.strip() in found:
            raise LieDerivError(
                f"--range={shortened(text, 80)!r} names {shortened(name, 40)!r} twice; give one "
                "number for each transform."
            )
        found[name.strip()] = size
    return found


def _labels(found: Inputs, loaded: Loaded, y: object) -> Any:
    """Labels count as the model's classes only where the numbers of classes agree."""
    scores = isinstance(y, Tensor) and y.ndim == 2 and y.shape[1] == loaded.classes
    return found.labels if scores and len(found.class_names) == loaded.classes else None


def _unused(found: Inputs, loaded: Loaded) -> str:
    """Why labels that the images have are not used."""
    has = loaded.classes
    model = "does not declare its classes (num_classes)" if has is None else f"has {has}"
    return (
        f"the images have labels of {len(found.class_names)} classes, but the model {model}: "
        "accuracy and loss are left out."
    )


def print_orbits(report: OrbitReport, loaded: Loaded) -> None:
    """Tables and notes on the console."""
    out, p = console(), report.provenance
    out.print(headline(p.model, f"{p.weights} · {count(loaded.num_parameters)} parameters"))
    out.print(
        f"{described_inputs(p)} · scheme {p.scheme} · {p.dtype} on {p.device} · "
        f"engine {p.engine} · output {p.representation}"
    )
    out.print(f"verified: {p.verification}")
    out.print()
    for item in orbit_tables(report.orbits):
        out.print(item)
    for note in p.warnings:
        out.print(f"Note: {one_line(note)}")
