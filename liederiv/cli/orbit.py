"""`liederiv orbit`: what a model answers along whole orbits of its input."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import Tensor

from liederiv.analysis.orbits import Orbits
from liederiv.analysis.orbits import orbit as follow_orbits
from liederiv.analysis.orbits.measuring import check_numbers
from liederiv.analysis.orbits.report import OrbitReport, described
from liederiv.cli import options as o
from liederiv.cli.arguments import as_given
from liederiv.cli.groups import grouped
from liederiv.cli.orbit_tables import orbit_tables
from liederiv.cli.saving import Saving, writable
from liederiv.cli.tables import console, count, described_inputs, headline
from liederiv.errors import LieDerivError
from liederiv.foreign import one_line, shortened
from liederiv.generators import resolve_generators
from liederiv.model_zoo.images import ImageSet
from liederiv.model_zoo.measure_options import MeasureOptions
from liederiv.model_zoo.measured_output import output_of, try_model
from liederiv.model_zoo.measuring import as_batch, clusters, open_inputs, provenance_of
from liederiv.model_zoo.model_options import ModelOptions
from liederiv.model_zoo.point_models import LoadedPointModel, is_point_model
from liederiv.model_zoo.timm_models import LoadedModel

__all__ = ["orbit"]

_ORBIT = "Orbit"
_PLOT_ENDINGS = (".png", ".svg", ".pdf")


@grouped(omit=("metrics", "dynamic_range", "margin", "batch_size"))
def orbit(
    model: o.ModelName = None,
    model_flag: o.ModelFlag = None,
    checkpoint: o.CheckpointOption = None,
    chosen: ModelOptions = ModelOptions(),
    how: MeasureOptions = MeasureOptions(num_images=4),
    amp: o.Amp = False,
    ranges: Annotated[
        str | None,
        typer.Option(
            "--range",
            metavar="TRANSFORM=NUMBER,…",
            help="How far each orbit goes either way, in px, ° or %: translation=8,rotation=15, "
            "scale=10. Default: these (shifts at most a quarter of the image); clouds: their rms "
            "radius, half a turn, 50 %.",
            rich_help_panel=_ORBIT,
        ),
    ] = None,
    points: Annotated[
        int,
        typer.Option(
            help="Even steps of each orbit; the derivative is taken at about twice as many places.",
            rich_help_panel=_ORBIT,
        ),
    ] = 16,
    shifts: Annotated[
        int,
        typer.Option(
            help="Whole-pixel shifts, at most the image's size, to search for a period of up to "
            "half as many; 0: none.",
            rich_help_panel=_ORBIT,
        ),
    ] = 256,
    worst: Annotated[
        int,
        typer.Option(
            metavar="PASSES",
            help="Forward passes per image to search the worst transform, by gradient ascent and "
            "once more on a grid; 0: none.",
            rich_help_panel=_ORBIT,
        ),
    ] = 100,
    starts: Annotated[
        int, typer.Option(help="Of the gradient ascent.", rich_help_panel=_ORBIT)
    ] = 3,
    figure: Annotated[
        Path | None, typer.Option(help="Draw the orbits here (.png, .svg, .pdf).")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write all curves and provenance here.")] = None,
    quiet: o.Quiet = False,
) -> None:
    """Follow a model along whole orbits: shift, turn or scale the image further and further.

    A score says how fast the output starts to change; this says what then becomes of it. Per
    motion: how far the output has moved (rms over its entries, beyond what the symmetry allows),
    how many images keep their class, accuracy and loss where labels are known, and the LEE at every
    point. The path length is the integral of that speed: it bounds the change, and where the change
    stays far below, the output jitters and comes back. Then: after how many pixels of shift the
    answer repeats (the total stride of the network, or none), the worst motion in the box of all
    ranges, and what part of the loss is due to asymmetry (averaging the predictions over the orbit
    gains as much).

    Examples:  liederiv orbit tf_efficientnet_lite0 --transforms translation --figure orbit.png

    liederiv orbit resnet18 --images ./val --range translation=4,rotation=30 --json orbit.json

    liederiv orbit rapidash_sen_r3s2 --transforms rotation (a network on point clouds)
    """
    o.refuse_amp(amp)
    writable(json, figure)
    o.check_endings({"--json": (json, ".json")})
    if figure is not None and figure.suffix not in _PLOT_ENDINGS:
        raise LieDerivError(
            f"--figure={as_given(figure)!r} must end in {', '.join(_PLOT_ENDINGS)}."
        )
    wanted = _ranges(ranges)
    check_numbers(points, shifts, worst, starts)
    if not is_point_model(model or model_flag or ""):
        resolve_generators(how.transforms, unit=how.unit)  # type: ignore[arg-type]  # early, if wrong
    loaded = chosen.open(model, model_flag, checkpoint)
    found = open_inputs(how, loaded)
    x = as_batch(found, chosen)
    module, output, kind = _target(loaded, how)
    y = try_model(module, x[:1])
    scored = kind in ("auto", "probs", "logits")
    labels = _labels(found, loaded, y) if scored else None
    orbits = follow_orbits(
        module,
        x,
        how.transforms,
        ranges=wanted,
        points=points,
        labels=labels,
        output=output,
        output_type=kind,
        scheme=how.scheme,
        unit=how.unit,  # type: ignore[arg-type]
        shifts=shifts,
        worst=worst,
        starts=starts,
        seed=how.seed,
        clusters=clusters(how.images, found),
        image_names=found.names,
        progress=not quiet,
    )
    known = provenance_of(loaded, found)
    if scored and labels is None and getattr(found, "labels", None) is not None:
        known = replace(known, warnings=(*known.warnings, _unused(found, loaded)))
    report = OrbitReport(orbits, described(known, orbits, x))
    save = Saving()
    save(json, lambda path: report.save(json=path))
    save(figure, lambda path: report.save(figure=path))
    if not quiet or save.lost:
        _print(report, loaded, orbits)
    save.finish()


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


def _target(loaded: LoadedModel | LoadedPointModel, how: MeasureOptions) -> tuple[Any, Any, str]:
    """The module to follow, how its output transforms, and what of it is looked at."""
    if isinstance(loaded, LoadedPointModel):
        return loaded.model, how.representation, how.output_type
    if "," in how.output_type:
        raise LieDerivError(
            f"--output-type={shortened(how.output_type, 80)!r} must be one of auto, probs, logits, "
            "features and output; an orbit looks at one at a time."
        )
    module, declared = output_of(loaded, how.output_type)
    output = declared if how.representation == "auto" else how.representation
    headless = how.output_type == "auto" and loaded.layout.is_classifier is False
    return module, output, "output" if headless else how.output_type


def _labels(found: Any, loaded: LoadedModel | LoadedPointModel, y: object) -> Any:
    """Labels count as the model's classes only where the numbers of classes agree."""
    if not isinstance(found, ImageSet) or isinstance(loaded, LoadedPointModel):
        return None
    scores = isinstance(y, Tensor) and y.ndim == 2 and y.shape[1] == loaded.num_classes
    return found.labels if scores and len(found.class_names) == loaded.num_classes else None


def _unused(found: Any, loaded: LoadedModel | LoadedPointModel) -> str:
    """Why labels that the images have are not used."""
    has = getattr(loaded, "num_classes", None)
    model = "does not declare its classes (num_classes)" if has is None else f"has {has}"
    return (
        f"the images have labels of {len(found.class_names)} classes, but the model {model}: "
        "accuracy and loss are left out."
    )


def _print(report: OrbitReport, loaded: LoadedModel | LoadedPointModel, orbits: Orbits) -> None:
    out, p = console(), report.provenance
    out.print(headline(p.model, f"{p.weights} · {count(loaded.num_parameters)} parameters"))
    out.print(
        f"{described_inputs(p)} · scheme {p.scheme} · {p.dtype} on {p.device} · "
        f"engine {p.engine} · output {p.representation}"
    )
    out.print(f"verified: {p.verification}")
    out.print()
    for item in orbit_tables(orbits):
        out.print(item)
    for note in p.warnings:
        out.print(f"Note: {one_line(note)}")
