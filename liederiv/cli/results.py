"""`liederiv results`: the leaderboard of a scan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from liederiv.cli import options as o
from liederiv.cli.saving import writable
from liederiv.errors import LieDerivError
from liederiv.names import GROUPS

__all__ = ["results"]

_FORMATS = ("table", "csv", "md", "parquet")


def results(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of `liederiv scan`.")],
    sort: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Smallest first; the largest with --sort=-COLUMN. Default: the first transform, "
            "the best model first.",
        ),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(metavar="|".join(GROUPS), help="Medians over groups instead of models."),
    ] = None,
    accuracy: o.Accuracy = None,
    metric: Annotated[str, typer.Option(help="Which metric to list.")] = "lee",
    output: o.MeasuredOutput = None,
    style: Annotated[
        str, typer.Option("--format", metavar="|".join(_FORMATS), help="How to write it.")
    ] = "table",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write to this file, not to the terminal.")
    ] = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="List what could not be measured, and why.")
    ] = False,
) -> None:
    """List the models of a scan, the best first.

    CSV, Markdown and Parquet hold more columns than the table: intervals, family, architecture
    and its class (CNN, transformer, mixer, hybrid), derived from the model's modules.

    Example:  liederiv results zoo --sort=-top1 --accuracy results-imagenet.csv
    """
    if style not in _FORMATS:
        raise LieDerivError(f"--format={style!r} is unknown; choose one of {', '.join(_FORMATS)}.")
    if style == "parquet" and out is None:
        raise LieDerivError("--format=parquet needs a file; name one with --out FILE.parquet.")
    if style == "table" and out is not None:
        raise LieDerivError("--out needs a format for files; add --format csv, md or parquet.")
    writable(out)
    from liederiv.cli.listing import list_results

    list_results(
        folder,
        sort=sort,
        group=group,
        accuracy=accuracy,
        metric=metric,
        output=output,
        style=style,
        out=out,
        failed=failed,
    )
