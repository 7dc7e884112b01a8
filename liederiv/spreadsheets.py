"""CSV files: text that a spreadsheet would run as a formula is quoted, see `for_spreadsheets`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from liederiv.foreign import for_spreadsheets, printable

__all__ = ["csv_text", "frame_of", "printable_frame", "unquoted", "write_csv"]


def csv_text(frame: pd.DataFrame) -> str:
    r"""A table as CSV without its index; text of others is made safe, numbers are as they were.

    Example:
        >>> csv_text(pd.DataFrame({"model": ["=cmd()", "resnet18"], "lee": [-0.5, 1.0]}))
        "model,lee\n'=cmd(),-0.5\nresnet18,1.0\n"
    """
    safe = _with_text(frame, for_spreadsheets)
    safe.columns = pd.Index([for_spreadsheets(str(name)) for name in frame.columns])
    text: str = safe.to_csv(index=False, lineterminator="\n")
    return text


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """Write `csv_text` to a file, UTF-8."""
    path.write_text(csv_text(frame), encoding="utf-8", newline="")


def unquoted(cell: str) -> str:
    """Text of a cell that `for_spreadsheets` has written, without its apostrophe."""
    plain = cell.removeprefix("'")
    return plain if for_spreadsheets(plain) == cell else cell


def frame_of(rows: Sequence[Mapping[str, Any]], columns: list[str] | None = None) -> pd.DataFrame:
    """A table of records whose text is `printable`, without which pandas takes no surrogates."""
    return pd.DataFrame(
        [{k: printable(v) if isinstance(v, str) else v for k, v in row.items()} for row in rows],
        columns=columns,
    )


def printable_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """A table whose text is `printable`; a copy."""
    return _with_text(frame, lambda cell: printable(cell) if isinstance(cell, str) else cell)


def _with_text(frame: pd.DataFrame, change: Callable[[Any], Any]) -> pd.DataFrame:
    """A copy in which the cells of all columns that hold other things than numbers are changed."""
    out = frame.copy()
    for place, (_, column) in enumerate(frame.items()):
        if pd.api.types.is_object_dtype(column) or pd.api.types.is_string_dtype(column):
            cells = np.empty(len(column), dtype=object)
            cells[:] = [change(cell) for cell in column]
            out.isetitem(place, cells)
    return out
