"""`liederiv compare`: the same images, two models, paired differences."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from liederiv.cli import options as o
from liederiv.cli.arguments import checked_path
from liederiv.cli.groups import grouped
from liederiv.cli.saving import Saving, writable
from liederiv.errors import LieDerivError
from liederiv.files import write_atomically
from liederiv.foreign import one_line
from liederiv.model_zoo.requests.measure_options import MeasureOptions
from liederiv.model_zoo.requests.model_options import ModelOptions

__all__ = ["compare"]

_FILES = (".safetensors", ".pth", ".pt", ".tar", ".bin", ".ckpt")


@grouped()
def compare(
    a: Annotated[
        str, typer.Argument(metavar="A", help="Model, checkpoint of --model, or folder of a scan.")
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="The same.")],
    model: Annotated[
        str | None, typer.Option("--model", help="Architecture of checkpoint files A and B.")
    ] = None,
    chosen: ModelOptions = ModelOptions(),
    how: MeasureOptions = MeasureOptions(metrics="lee,relative,scale"),
    amp: o.Amp = False,
    csv: Annotated[Path | None, typer.Option(help="Write one row per difference here.")] = None,
    quiet: o.Quiet = False,
) -> None:
    """Compare two models or checkpoints on the same images.

    Prints B − A for every score with a paired bootstrap interval over the images. Each model sees
    the photographs at its own input size and normalisation.

    Examples:  liederiv compare tf_efficientnet_lite0 tf_efficientnet_lite1

    liederiv compare before.pth after.pth --model resnet18 --num-classes 10

    liederiv compare scan1 scan2 (folders of `liederiv scan`; other options are theirs)
    """
    o.refuse_amp(amp)
    writable(csv)
    o.check_endings({"--csv": (csv, ".csv")})
    if all((Path(side) / "manifest.json").is_file() for side in (a, b)):
        _compare_scans(a, b, how.seed, csv, quiet)
        return
    from liederiv.cli.tables import comparison_tables, console
    from liederiv.measurement.comparison import compare as compare_measurements
    from liederiv.measurement.comparison import contrast_of
    from liederiv.model_zoo.requests.measuring import measure_loaded
    from liederiv.spreadsheets import frame_of, write_csv

    results = []
    for argument, side in (("A", a), ("B", b)):
        name, checkpoint = _resolve(argument, side, model)
        loaded = chosen.open(name, None, checkpoint)
        results.append(measure_loaded(loaded, chosen, replace(how, progress=not quiet)))
    (first, photographs), (second, _) = results
    rows = compare_measurements(first, second, seed=how.seed, clusters=photographs.clusters)
    if not rows:
        raise LieDerivError(
            f"{a!r} and {b!r} have no score in common: their outputs are of different kinds "
            "(classes, maps, features); choose one that both have with --output-type."
        )
    save = Saving()
    frame = frame_of([asdict(row) | {"better": row.better} for row in rows])
    save(csv, lambda path: write_atomically(path, lambda p: write_csv(p, frame)))
    if not quiet or save.lost:
        out = console()
        for item in comparison_tables(rows, a, b):
            out.print(item)
        notes = dict.fromkeys(first.provenance.warnings + second.provenance.warnings)
        differing = contrast_of(first, second).notes
        for note in (*notes, *(f"B was measured {words}." for words in differing)):
            out.print(f"Note: {one_line(note)}")
    save.finish()


def _compare_scans(a: str, b: str, seed: int, csv: Path | None, quiet: bool) -> None:
    from liederiv.analysis.models.scan_comparison import (
        compare_scans,
        scan_notes,
        summarise_differences,
    )
    from liederiv.cli.tables import console, scan_tables
    from liederiv.model_zoo.scan.store import Store
    from liederiv.spreadsheets import write_csv

    first, second = (Store.open(side).read("score") for side in (a, b))
    differences = compare_scans(first, second, seed=seed)
    save = Saving()
    save(csv, lambda path: write_atomically(path, lambda p: write_csv(p, differences)))
    if not quiet or save.lost:
        for item in scan_tables(differences, summarise_differences(differences), a, b):
            console().print(item)
        for note in scan_notes(first, second):
            console().print(f"Note: B was measured {note}.")
    save.finish()


def _resolve(name: str, side: str, model: str | None) -> tuple[str, Path | None]:
    """A side of the comparison as model name and checkpoint file."""
    if not side.endswith(_FILES) and not side.rpartition("#")[0].endswith(_FILES):
        return side, None
    if model is None:
        raise LieDerivError(
            f"{side!r} is a checkpoint file; say which architecture it holds with --model NAME."
        )
    return model, checked_path(name, Path(side))
