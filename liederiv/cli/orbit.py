"""`liederiv orbit`: what a model answers along whole orbits of its input."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from liederiv.cli import options as o
from liederiv.cli.arguments import as_given
from liederiv.cli.groups import grouped
from liederiv.cli.saving import Saving, writable
from liederiv.errors import LieDerivError
from liederiv.model_zoo.requests.measure_options import MeasureOptions
from liederiv.model_zoo.requests.model_options import ModelOptions

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
    from liederiv.cli.orbiting import Request, followed, print_orbits

    request = Request(model, model_flag, checkpoint, ranges, points, shifts, worst, starts)
    report, loaded = followed(request, chosen, how, progress=not quiet)
    save = Saving()
    save(json, lambda path: report.save(json=path))
    save(figure, lambda path: report.save(figure=path))
    if not quiet or save.lost:
        print_orbits(report, loaded)
    save.finish()
