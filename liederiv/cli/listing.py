"""What `liederiv results` does: read a scan, rank its models, write or print them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd

from liederiv.analysis.models.accuracy import join_accuracy, read_accuracy
from liederiv.analysis.models.leaderboard import Leaderboard, failures, leaderboard
from liederiv.cli.arguments import as_given
from liederiv.cli.saving import Saving
from liederiv.cli.tables import console, new_table, number
from liederiv.cli.terminal import say
from liederiv.files import write_atomically
from liederiv.foreign import one_line
from liederiv.model_zoo.scan.store import Store
from liederiv.spreadsheets import csv_text

__all__ = ["list_results"]

_MOST_SAID = 5


def list_results(
    folder: Path,
    *,
    sort: str | None,
    group: str | None,
    accuracy: str | None,
    metric: str,
    output: str | None,
    style: str,
    out: Path | None,
    failed: bool,
) -> None:
    """Arguments of the command, looked at."""
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
