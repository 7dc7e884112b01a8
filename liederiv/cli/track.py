"""`liederiv track`: equivariance along training, from the checkpoints of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from liederiv.cli import options as o
from liederiv.cli.arguments import as_given
from liederiv.cli.groups import grouped
from liederiv.cli.saving import writable
from liederiv.errors import LieDerivError
from liederiv.model_zoo.requests.measure_options import MeasureOptions
from liederiv.model_zoo.requests.model_options import ModelOptions

__all__ = ["track"]


@grouped(omit=("pretrained",))
def track(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Folder with checkpoints.")],
    model: Annotated[
        str, typer.Option("--model", help="Architecture of the checkpoints, as for `score`.")
    ],
    chosen: ModelOptions = ModelOptions(pretrained=False),
    how: MeasureOptions = MeasureOptions(metrics="lee"),
    amp: o.Amp = False,
    json: Annotated[
        Path | None,
        typer.Option(
            help="Write all rows here after each checkpoint; a later run with the same settings "
            "takes what is there and scores only new or changed checkpoints."
        ),
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="Write all rows here.")] = None,
    parquet: Annotated[Path | None, typer.Option(help="Write all rows here.")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw LEE and accuracy against the step (.png, .pdf, .svg).")
    ] = None,
    quiet: o.Quiet = False,
) -> None:
    """Score every checkpoint of a training run on the same images.

    The place of a checkpoint is the step, epoch or number in its name (epoch=3-step=400.ckpt,
    checkpoint-12.pth.tar, checkpoint-500/model.safetensors). A checkpoint that cannot be read
    becomes a row with the reason. Accuracy is added where the images have labels of the model's
    classes.

    Example:  liederiv track output/train/run1 --model resnet18 --num-classes 10
    --images ./val --plot run1.png --json run1.json
    """
    o.refuse_amp(amp)
    writable(json, csv, parquet, plot)
    o.check_endings(
        {"--json": (json, ".json"), "--csv": (csv, ".csv"), "--parquet": (parquet, ".parquet")}
    )
    if plot is not None and plot.suffix not in (".png", ".pdf", ".svg"):
        raise LieDerivError(f"--plot={as_given(plot)!r} must end in .png, .pdf or .svg.")
    from liederiv.cli.tracking import track_run

    track_run(
        run_dir, model, chosen, how, json=json, csv=csv, parquet=parquet, plot=plot, quiet=quiet
    )
