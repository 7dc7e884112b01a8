"""`liederiv layers`: which modules break each symmetry."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
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

__all__ = ["layers"]

_LAYERS = "Layers"
_PLOT_ENDINGS = (".png", ".svg", ".pdf")


@grouped(omit=("metrics", "dynamic_range", "margin", "steps", "batch_size"))
def layers(
    model: o.ModelName = None,
    model_flag: o.ModelFlag = None,
    checkpoint: o.CheckpointOption = None,
    chosen: ModelOptions = ModelOptions(),
    how: MeasureOptions = MeasureOptions(num_images=4),
    amp: o.Amp = False,
    step: Annotated[
        str,
        typer.Option(
            metavar="SIZE|TRANSFORM=SIZE;…|auto|0",
            help="What is attributed: the change of the output over a motion of this size, half a "
            "step either way, e.g. 1px, 1deg, 1%, 'translation=1px;rotation=1deg', or auto for "
            "those; 0: the derivative.",
            rich_help_panel=_LAYERS,
        ),
    ] = "0",
    top: Annotated[
        int, typer.Option(help="How many modules to list.", rich_help_panel=_LAYERS)
    ] = 12,
    by: Annotated[
        str,
        typer.Option(
            metavar="module|kind|stage",
            help="A tree of stages and their worst modules, or sums only.",
            rich_help_panel=_LAYERS,
        ),
    ] = "module",
    aliasing: Annotated[
        bool,
        typer.Option(
            "--aliasing", help="How much of it is aliasing (slower).", rich_help_panel=_LAYERS
        ),
    ] = False,
    finite: Annotated[
        bool,
        typer.Option(
            "--finite",
            help="EQ-T and EQ-R of single modules over the range of their output (slower).",
            rich_help_panel=_LAYERS,
        ),
    ] = False,
    what_if: Annotated[
        int | None,
        typer.Option(
            metavar="K",
            help="Repair the K worst modules and measure again (slower).",
            rich_help_panel=_LAYERS,
        ),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw it here (.png, .svg, .pdf).")] = None,
    json: Annotated[Path | None, typer.Option(help="Write rows and provenance here.")] = None,
    parquet: Annotated[
        Path | None, typer.Option(help="Write one row per module, transform and image here.")
    ] = None,
    quiet: o.Quiet = False,
) -> None:
    """Attribute the equivariance error of a model to its modules.

    Prints which modules break which symmetry, as shares of ‖L f‖² that add up to 100 % for each
    transform, L f being the Lie derivative of a classifier's logits unless --output-type asks for
    others. Shares are signed: a negative one cancels what other modules break. With --step they
    are shares of the change over a motion of that size, summed along it: slower, since it takes 5
    to 65 passes for each transform and image, and its error is stated.

    Examples:  liederiv layers tf_efficientnet_lite0 --transforms translation --aliasing

    liederiv layers resnet18 --num-images 1 --step "translation=1px;rotation=1deg"
    """
    o.refuse_amp(amp)
    _check_numbers(top, by, what_if)
    writable(json, parquet, plot)
    o.check_endings({"--json": (json, ".json"), "--parquet": (parquet, ".parquet")})
    if plot is not None and plot.suffix not in _PLOT_ENDINGS:
        raise LieDerivError(f"--plot={as_given(plot)!r} must end in {', '.join(_PLOT_ENDINGS)}.")
    from liederiv.cli.layer_report import LayerReport
    from liederiv.cli.layer_tables import layer_tables
    from liederiv.cli.tables import console
    from liederiv.domains import domain_of
    from liederiv.generators import resolve_generators
    from liederiv.measurement.row_names import row_names
    from liederiv.model_zoo import source_of
    from liederiv.model_zoo.requests.layers import LayersRun, needs_images
    from liederiv.model_zoo.requests.measuring import as_batch, open_inputs, provenance_of
    from liederiv.single_steps import single_steps

    named = model or model_flag
    if named and source_of(named).inputs:  # else importing the model may register more of them
        row_names(how.transforms, how.unit)  # type: ignore[arg-type]
    if named and source_of(named).inputs == "images":  # early, if wrong
        single_steps(step, resolve_generators(how.transforms, unit=how.unit))  # type: ignore[arg-type]
    loaded = chosen.open(model, model_flag, checkpoint)
    asked = {"--aliasing": aliasing, "--finite": finite, "--what-if": what_if is not None}
    for option in (name for name, wanted in asked.items() if wanted):
        needs_images(loaded, option)
    found = open_inputs(how, loaded)
    x = as_batch(found, chosen)
    scheme = found.scheme(how.scheme)
    action = domain_of(x).action(how.transforms, x, scheme, how.unit)  # type: ignore[arg-type]
    run = LayersRun(
        loaded,
        x,
        action.generators,
        scheme,
        how.output_type,
        how.seed,
        progress=not quiet,
        representation=how.representation,
        steps=single_steps(step, action.generators),
    )
    attribution = run.attribution()
    with _status("measuring aliasing, module by module", aliasing and not quiet):
        aliased = run.aliasing() if aliasing else None
    moved = run.finite() if finite else None
    with _status("repairing modules, measuring again", what_if is not None and not quiet):
        repaired = None if what_if is None else run.what_if(attribution, what_if)
    report = LayerReport(
        attribution=attribution,
        provenance=run.describe(provenance_of(loaded, found), attribution),
        image_names=found.names,
        aliasing=aliased,
        finite=moved,
        what_if=repaired,
    )
    save = Saving()
    save(json, lambda path: report.save(json=path))
    save(parquet, lambda path: report.save(parquet=path))
    save(plot, lambda path: report.save(plot=path))
    if not quiet or save.lost:
        out = console()
        for item in layer_tables(report, loaded.num_parameters, by=by, top=top):
            out.print(item)
    save.finish()


def _check_numbers(top: int, by: str, repairs: int | None) -> None:
    if top < 1:
        raise LieDerivError(f"--top={top} must be 1 or more.")
    from liederiv.cli.layer_report import by_columns

    if by not in by_columns():
        raise LieDerivError(f"--by={by!r} is unknown; choose one of {', '.join(by_columns())}.")
    if repairs is not None and repairs < 1:
        raise LieDerivError(f"--what-if={repairs} must be 1 or more modules to repair.")


def _status(text: str, progress: bool) -> AbstractContextManager[object]:
    from liederiv.cli.tables import console

    return console(stderr=True).status(f"{text} …") if progress else nullcontext()
