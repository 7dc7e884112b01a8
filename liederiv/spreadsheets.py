"""CSV files: text that a spreadsheet would run as a formula is quoted, see `for_spreadsheets`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from liederiv.foreign import for_spreadsheets

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["csv_text", "unquoted", "write_csv"]


def csv_text(frame: pd.DataFrame) -> str:
    r"""A table as CSV without its index; text of others is made safe, numbers are as they were.

    Example:
        >>> csv_text(pd.DataFrame({"model": ["=cmd()", "resnet18"], "lee": [-0.5, 1.0]}))
        "model,lee\n'=cmd(),-0.5\nresnet18,1.0\n"
    """
    safe = frame.copy()
    for place, (_, column) in enumerate(frame.items()):
        if not pd.api.types.is_numeric_dtype(column):
            safe.isetitem(place, pd.Series(_cells(column), frame.index, dtype=object))
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


def _cells(column: Iterable[object]) -> list[object]:
    return [for_spreadsheets(cell) for cell in column]
