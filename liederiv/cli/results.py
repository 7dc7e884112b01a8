"""`liederiv results`: the leaderboard of a scan."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from liederiv.analysis.accuracy import join_accuracy, read_accuracy
from liederiv.analysis.leaderboard import GROUPS, Leaderboard, failures, leaderboard
from liederiv.cli.arguments import as_given
from liederiv.cli.saving import Saving, writable
from liederiv.cli.tables import console, new_table, number
from liederiv.cli.terminal import say
from liederiv.errors import LieDerivError
from liederiv.files import write_atomically
from liederiv.foreign import one_line
from liederiv.model_zoo.store import Store
from liederiv.spreadsheets import csv_text

__all__ = ["results"]

_MOST_SAID = 5
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
    accuracy: Annotated[
        str | None,
        typer.Option(
            metavar="CSV",
            help="Add accuracies: a file or address in the format of timm's results-imagenet.csv.",
        ),
    ] = None,
    metric: Annotated[str, typer.Option(help="Which metric to list.")] = "lee",
    output: Annotated[
        str | None, typer.Option(metavar="probs|logits|…", help="Measured on what.")
    ] = None,
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
    store = Store.open(folder)
    if failed:
        frame = pd.concat([failures(store.read(m)) for m in store.measurements or ("score",)])
        _write(frame, style, out, f"{len(frame)} measurements failed in {as_given(folder)}")
        return
    board = _board(store, metric, output, accuracy).sorted(sort)
    for name, why in list(board.left_out.items())[:_MOST_SAID]:
        say(f"Left out: {one_line(name)}, {one_line(why)}.", error=True)
    if len(board.left_out) > _MOST_SAID:
        say(f"Left out: {len(board.left_out) - _MOST_SAID} more.", error=True)
    units = ", ".join(f"{t} {board.units[t]}" for t in board.whole_transforms)
    title = f"{board.metric} of {board.output}: {len(board.frame)} models; units: {units}"
    if group is not None:
        _write(board.grouped(group), style, out, f"Medians over models; {title}")
        return
    _write(_shown(board) if style == "table" else board.frame, style, out, title)
    if style == "table" and accuracy is not None:
        count = int(board.frame["top1"].notna().sum())
        say(f"{count} of {len(board.frame)} models have an accuracy in {accuracy}.")


def _board(store: Store, metric: str, output: str | None, accuracy: str | None) -> Leaderboard:
    table = read_accuracy(accuracy) if accuracy is not None else None
    board = leaderboard(store.read("score"), metric, output)
    if table is None:
        return board
    joined = join_accuracy(board.frame, table)
    return replace(board, frame=joined)


def _shown(board: Leaderboard) -> pd.DataFrame:
    """What fits on a line."""
    frame = board.frame
    about = ["model", "class", "parameters"] + (["top1"] if "top1" in frame else [])
    shown = frame[about + list(board.whole_transforms)].copy()
    shown["parameters"] = [
        "–" if pd.isna(n) else f"{float(n) / 1e6:.1f} M" for n in shown["parameters"]
    ]
    return shown


def _write(frame: pd.DataFrame, style: str, out: Path | None, title: str) -> None:
    save = Saving()
    if style == "table":
        _print(frame, title)
    elif style == "parquet":
        assert out is not None
        save(out, lambda path: write_atomically(path, lambda p: frame.to_parquet(p, index=False)))
    else:
        text = csv_text(frame) if style == "csv" else _markdown(frame)
        if out is None:
            say(text.rstrip("\n"))
        else:
            write = partial(Path.write_text, data=text, encoding="utf-8", newline="")
            save(out, lambda path: write_atomically(path, write))
    save.finish()


def _print(frame: pd.DataFrame, title: str) -> None:
    table = new_table("")
    table.title = title
    for name, column in frame.items():
        numeric = pd.api.types.is_numeric_dtype(column) or name == "parameters"
        table.add_column(str(name), justify="right" if numeric else "left", no_wrap=numeric)
    for row in frame.itertuples(index=False):
        table.add_row(*(_cell(v) for v in row))
    console().print(table)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return number(value)
    return "–" if value is pd.NA or value is None else str(value)


def _markdown(frame: pd.DataFrame) -> str:
    """A pipe table; what would break it is escaped."""
    lines = [[str(c) for c in frame.columns], ["---"] * len(frame.columns)]
    lines += [[_cell(v) for v in row] for row in frame.itertuples(index=False)]
    clean = [[one_line(c).replace("|", "\\|") for c in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in clean)
