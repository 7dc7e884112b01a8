"""The page's tables, sortable and filterable by DataTables."""

from __future__ import annotations

import importlib

import pandas as pd

from ..models.leaderboard import Leaderboard

__all__ = [
    "correlation_table",
    "failure_table",
    "interactive",
    "leaderboard_table",
    "library",
    "plain",
]


# Three digits, an exponent only where needed; sorted by the number itself.
_NUMBER = """function (value, type) {
  const missing = value === null || value === "" || Number.isNaN(Number(value));
  if (type !== "display") return missing ? Infinity : Number(value);
  if (missing) return "–";
  const size = Math.abs(value);
  const tiny = size !== 0 && (size < 1e-3 || size >= 1e5);
  return tiny ? Number(value).toExponential(2) : String(Number(Number(value).toPrecision(3)));
}"""


def library() -> str:
    """DataTables itself, as an element of the page; needs no network."""
    javascript = importlib.import_module("itables.javascript")
    options = importlib.import_module("itables.options")
    out: str = javascript.generate_init_offline_itables_html(options.dt_bundle)
    return out


def interactive(frame: pd.DataFrame, name: str) -> str:
    """A table that sorts on a click and has a filter below each header.

    Args:
        frame: what to show; all text in it is escaped.
        name: of the element, for style and tests.
    """
    itables = importlib.import_module("itables")
    numeric = [i for i, column in enumerate(frame) if pd.api.types.is_numeric_dtype(frame[column])]
    shown = {
        "targets": numeric,
        "render": itables.JavascriptFunction(_NUMBER),
        "className": "dt-right",
    }
    layout = {"topStart": None, "topEnd": "search", "bottomStart": "info", "bottomEnd": "paging"}
    table: str = itables.to_html_datatable(
        frame,
        connected=False,
        table_id=name,
        columnDefs=[shown],
        format_floats_in_python=False,
        showIndex=False,
        allow_html=False,
        maxBytes=0,
        maxRows=0,
        maxColumns=0,
        column_filters="footer",
        paging=len(frame) > 50,
        pageLength=50,
        scrollX=True,
        layout=layout,
        classes="display compact",
        style="width:100%",
        display_logo_when_loading=False,
        text_in_header_can_be_selected=False,
    )
    return table


def plain(frame: pd.DataFrame) -> str:
    """A table that stands as it is, escaped."""
    return frame.to_html(
        index=False, border=0, classes="plain", escape=True, float_format=number, na_rep="–"
    )


def leaderboard_table(board: Leaderboard) -> pd.DataFrame:
    """What the leaderboard shows: about the models, then values in the order of the transforms."""
    frame = board.frame
    shown = pd.DataFrame({"#": range(1, len(frame) + 1), "model": frame["model"]})
    shown["class"] = frame["class"]
    for transform in board.whole_transforms:
        shown[transform.replace("_", " ")] = frame[transform]
    if "top1" in frame:
        shown["top-1 / %"] = frame["top1"]
    shown["parameters / M"] = frame["parameters"].astype("Float64").astype(float) / 1e6
    shown["input / px"] = frame["input_height"].astype("Float64").astype(float)
    shown["family"] = frame["family"].fillna("")
    return shown


def failure_table(failed: pd.DataFrame) -> pd.DataFrame:
    """Models that could not be measured, and why."""
    names = {"requested_model": "model"}
    shown = failed.rename(columns=names)[["model", "measurement", "outcome", "reason", "log"]]
    return shown.fillna("")


def correlation_table(found: pd.DataFrame) -> pd.DataFrame:
    """Spearman correlations with their intervals in words."""

    def cell(value: float, low: float, high: float) -> str:
        return "–" if value != value else f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"

    rows = [
        {
            "transform": row["transform"],
            "with": row["quantity"],
            "ρ": cell(row["rho"], row["low"], row["high"]),
            "ρ given parameters": cell(row["partial"], row["partial_low"], row["partial_high"]),
            "models": row["models"],
        }
        for row in found.to_dict("records")
        if row["rho"] == row["rho"]
    ]
    return pd.DataFrame(rows, columns=["transform", "with", "ρ", "ρ given parameters", "models"])


def number(value: float) -> str:
    """Three digits, an exponent only where needed."""
    if value != value:
        return "–"
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.2e}"
    return f"{value:.3g}"
