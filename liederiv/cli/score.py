"""`liederiv score`: the equivariance errors of one model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from liederiv.cli import options as o
from liederiv.cli.groups import grouped
from liederiv.cli.saving import Saving, writable
from liederiv.model_zoo.requests.measure_options import MeasureOptions
from liederiv.model_zoo.requests.model_options import ModelOptions

__all__ = ["score"]


@grouped()
def score(
    model: o.ModelName = None,
    model_flag: o.ModelFlag = None,
    checkpoint: o.CheckpointOption = None,
    chosen: ModelOptions = ModelOptions(),
    how: MeasureOptions = MeasureOptions(),
    amp: o.Amp = False,
    json: Annotated[Path | None, typer.Option(help="Write scores and provenance here.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write one row per score here.")] = None,
    per_image: Annotated[
        Path | None, typer.Option(help="Write one row per score and image here (.parquet).")
    ] = None,
    quiet: o.Quiet = False,
) -> None:
    """Score how equivariant a model is, on photographs or point clouds.

    Prints the local equivariance error (LEE) of each transform: how fast the output changes,
    squared and per output dimension, as the image starts to move, turn or grow. Beside it: the same
    relative to how the model reacts to noise (1 = as much as to noise), and what rounding alone
    contributes.

    Examples:  liederiv score rapidash_sen_r3s2 (a network on point clouds)

    liederiv score resnet50.a1_in1k --images ./photos --transforms rotation --json r.json
    """
    o.refuse_amp(amp)
    writable(json, csv, per_image)
    o.check_endings(
        {
            "--json": (json, ".json"),
            "--csv": (csv, ".csv"),
            "--per-image": (per_image, ".parquet"),
        }
    )
    from liederiv.cli.score_report import print_scores
    from liederiv.model_zoo.requests.measuring import measure_loaded, require_scores

    loaded = chosen.open(model, model_flag, checkpoint)
    measurement, found = measure_loaded(loaded, chosen, replace(how, progress=not quiet))
    save = Saving()
    for path in (json, csv, per_image):
        save(path, measurement.save)
    if not quiet or save.lost:
        print_scores(measurement, loaded, found)
    save.finish()
    require_scores(measurement)
