"""Published accuracies: tables in the format of timm's results-imagenet.csv."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pandas as pd

from liederiv.errors import LieDerivError
from liederiv.foreign import one_line
from liederiv.spreadsheets import unquoted

from .recipes import has_published_weights

__all__ = ["join_accuracy", "read_accuracy"]

_NEEDED = ("model", "top1")
_NUMBERS = ("top1", "top5", "img_size")


def read_accuracy(source: str | Path) -> pd.DataFrame:
    """Read a table of accuracies.

    Args:
        source: file or address of a CSV with at least the columns ``model`` and ``top1`` (per
            cent), as timm publishes them (results/results-imagenet.csv in its repository).

    Returns:
        One row per model and input size: ``model``, ``top1``, ``top5`` (per cent) and
        ``img_size`` (pixels), NaN where the table has none.

    Raises:
        LieDerivError: if it cannot be read or lacks a column.
    """
    _refuse_waiting(source)
    try:
        table = pd.read_csv(str(source), thousands=",", dtype={"model": str})
    except Exception as error:  # of pandas, of what it reads addresses with, of the network
        reason = one_line(error).rstrip(".") or type(error).__name__
        raise LieDerivError(
            f"--accuracy={str(source)!r} cannot be read ({reason}); give a CSV such as timm's "
            "results-imagenet.csv, as a file or an address."
        ) from error
    missing = [c for c in _NEEDED if c not in table]
    if missing:
        raise LieDerivError(
            f"--accuracy={str(source)!r} lacks the column {missing[0]!r}; it needs model and top1, "
            "as timm's results-imagenet.csv has."
        )
    for column in _NUMBERS:
        given = table[column] if column in table else pd.Series(float("nan"), table.index)
        table[column] = pd.to_numeric(given, errors="coerce")
    out: pd.DataFrame = table[["model", *_NUMBERS]].dropna(subset=["model"])
    return out.assign(model=[unquoted(name) for name in out["model"]])


def _refuse_waiting(source: str | Path) -> None:
    """Nobody may ever write to a pipe; the shell's <(…) are open already."""
    path = Path(source)
    with suppress(OSError, ValueError):
        there = path.exists() and not str(source).startswith("/dev/fd/")
        if there and not path.is_file() and not path.is_dir():
            raise LieDerivError(
                f"--accuracy={str(source)!r} is a pipe or a device; give a file or an address."
            )


def join_accuracy(frame: pd.DataFrame, accuracy: pd.DataFrame) -> pd.DataFrame:
    """Add the columns ``top1``, ``top5`` and ``accuracy_size`` to a leaderboard's frame.

    Models are matched by their full name with tag. A table from before timm had tags is matched by
    the name that was asked for without its tag, where that is unambiguous. Of several input sizes
    the nearest to the measured one counts.

    Args:
        frame: with ``model``, ``requested_model`` and ``input_height``.
        accuracy: what `read_accuracy` returns.

    Returns:
        A copy; NaN for models that the table lacks.
    """
    tagged = accuracy["model"].str.contains(".", regex=False).any()
    by_name = {str(name): rows for name, rows in accuracy.groupby("model")}
    names = frame["model"].astype(str)
    if "weights" in frame:
        names = names.where(has_published_weights(frame), "")
    if not tagged:
        plain = names.str.partition(".")[0]
        names = plain.where(~plain.duplicated(keep=False), "")
    found = [
        _nearest(by_name.get(name), size)
        for name, size in zip(names, frame["input_height"], strict=True)
    ]
    out = frame.copy()
    for column, source in (("top1", "top1"), ("top5", "top5"), ("accuracy_size", "img_size")):
        out[column] = [float("nan") if row is None else float(row[source]) for row in found]
    return out


def _nearest(rows: pd.DataFrame | None, size: object) -> pd.Series | None:
    """The row of the input size nearest to `size`, in pixels."""
    if rows is None:
        return None
    if pd.isna(size) or rows["img_size"].isna().all():  # type: ignore[call-overload]
        return rows.iloc[0]
    gaps = (rows["img_size"] - float(size)).abs()  # type: ignore[arg-type]
    return rows.loc[gaps.idxmin()]
