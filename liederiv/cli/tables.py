"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from liederiv.cli.terminal import SafeConsole
from liederiv.foreign import printable
from liederiv.measurement.comparison import Difference
from liederiv.measurement.results import Measurement, Provenance, Score
from liederiv.metrics.registry import METRICS, metric_names

__all__ = [
    "comparison_tables",
    "console",
    "count",
    "described_inputs",
    "headline",
    "new_table",
    "number",
    "scan_tables",
    "score_tables",
]

_TITLES = {
    "probs": "class probabilities",
    "logits": "logits",
    "features": "features",
    "output": "the model's output",
}
_SUBJECT = ("metric", "transform", "output")
_SIDES = ("A", "B", "B − A")
_REFERENCE = {"rigid": "translation and rotation"}


def console(*, stderr: bool = False) -> Console:
    """A console that never cuts a table short: wide where the output is no terminal."""
    out = SafeConsole(stderr=stderr)
    return out if out.is_terminal else SafeConsole(stderr=stderr, width=180)


def headline(model: str, rest: str) -> Text:
    """The first line of a report: the model in bold, and what else is known of it."""
    return Text.assemble((printable(model), "bold"), f" · {printable(rest)}")


def number(value: float | None, digits: int = 3) -> str:
    """A number to read: few digits, exponent only where needed."""
    if value is None or value != value:
        return "–"
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.{digits - 1}e}"
    return f"{value:.{digits}g}"


def count(n: int) -> str:
    """A large number of things: 25.6 M, 21.4 k."""
    return f"{n / 1e6:.1f} M" if n >= 50_000 else f"{n / 1e3:.1f} k"


def described_inputs(p: Provenance) -> str:
    """How many images or clouds, and where they are from: 1 image (samples)."""
    noun = p.inputs if p.num_images != 1 else p.inputs.removesuffix("s")
    return f"{p.num_images} {noun} ({p.images})"


def _interval(score: Score, digits: int = 2) -> str:
    if score.ci_low is None:
        return ""
    return f"[{number(score.ci_low, digits)}, {number(score.ci_high, digits)}]"


def new_table(title: str, *texts: str, numbers: Iterable[str] = ()) -> Table:
    """An empty table in the house style, with columns of text and then of numbers."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for header in texts:
        table.add_column(header, no_wrap=True)
    for header in numbers:
        table.add_column(header, justify="right", no_wrap=True)
    return table


def score_tables(measurement: Measurement) -> Iterable[Table | str]:
    """A table of local scores per output type, one of the other metrics, and notes."""
    columns = metric_names("heading")
    local = [s for s in measurement.scores if s.metric in columns and s.transform != "any"]
    for output in dict.fromkeys(s.output for s in local):
        for at_steps in (False, True):
            some = [s for s in local if METRICS[s.metric].at_steps is at_steps]
            if any(s.output == output for s in some):
                yield _local_table(some, output, at_steps=at_steps)
    others = [s for s in measurement.scores if s not in local and _of_model(s) and _listed(s)]
    if others:
        yield _plain_table(others)
    yield from _notes(measurement)


def _local_table(scores: Sequence[Score], output: str, *, at_steps: bool) -> Table:
    """Rows: transforms. Units: that of the output per unit of the transform (squared for LEE)."""
    rows = {(s.metric, s.transform): s for s in scores if s.output == output}
    present = [m for m in METRICS.values() if any(metric == m.name for metric, _ in rows)]
    over = ", over steps of finite size" if at_steps else ""
    table = new_table(f"Equivariance error of {_TITLES.get(output, output)}{over}", "transform")
    for metric in present:
        table.add_column(metric.heading, justify="right", no_wrap=True)
        if metric.shown == "all":
            table.add_column("95 % interval", no_wrap=True)
            table.add_column("unit", no_wrap=True)
            table.add_column("rounding\nfloor", justify="right", no_wrap=True)
    for name in dict.fromkeys(transform for _, transform in rows):
        cells = [name]
        for metric in present:
            cells += _local_cells(rows.get((metric.name, name)), metric.shown)
        table.add_row(*cells)
    return table


def _local_cells(s: Score | None, shown: str) -> list[str]:
    """What a metric's column shows, or columns do."""
    if s is None:
        return ["", "", "", ""] if shown == "all" else [""]
    value = number(s.value) if s.status == "measured" else s.status
    if shown == "all":
        return [value, _interval(s), s.unit, number(s.floor, 1)]
    if shown == "value" or s.status != "measured":
        return [value]
    unit = f" {s.unit}" if shown == "unit" else ""
    return [f"{number(s.value, 2)} {_interval(s)}{unit}"]


def _of_model(s: Score) -> bool:
    return s.metric not in METRICS or METRICS[s.metric].of_model


def _listed(s: Score) -> bool:
    return s.metric not in METRICS or METRICS[s.metric].listed


def _plain_table(scores: Sequence[Score]) -> Table:
    table = new_table("Other metrics", *_SUBJECT, numbers=["value"])
    for header in ("95 % interval", "unit", "status"):
        table.add_column(header)
    for s in scores:
        status = s.status if not s.reason else f"{s.status}: {s.reason}"
        table.add_row(
            s.metric, s.transform, s.output, number(s.value), _interval(s), s.unit, status
        )
    return table


def _notes(measurement: Measurement) -> Iterable[str]:
    for s in measurement.scores:
        if not _of_model(s) and s.status == "measured":
            yield (
                "An exactly invariant network, measured in the same way: LEE ÷ noise = "
                f"{number(s.value)} ({_REFERENCE.get(s.transform, s.transform)})."
            )
    for metric, definition in measurement.definitions.items():
        yield f"{metric}: {definition}."
    for s in measurement.scores:
        if s.metric in metric_names("heading") and s.status == "measured" and s.reason:
            yield f"{s.metric} under {s.transform} ({s.output}): {s.reason}."
    failed = dict.fromkeys(s.reason for s in measurement.scores if s.status == "failed")
    for reason in failed:
        yield f"Failed: {reason}."
    for warning in measurement.provenance.warnings:
        yield f"Note: {warning}"


def comparison_tables(rows: Sequence[Difference], a: str, b: str) -> Iterable[Table | str]:
    """One table of paired differences."""
    table = new_table(f"{b} minus {a}", *_SUBJECT, numbers=_SIDES)
    table.add_column("95 % interval (paired)", no_wrap=True)
    for header in ("unit", "better"):
        table.add_column(header)
    for d in rows:
        interval = f"[{number(d.ci_low)}, {number(d.ci_high)}]" if d.ci_low == d.ci_low else ""
        star = " *" if d.significant else ""
        difference = number(d.difference) + star if d.status == "measured" else d.status
        cells = (d.metric, d.transform, d.output, number(d.a), number(d.b), difference, interval)
        table.add_row(*cells, d.unit, d.better)
    yield table
    yield "* the interval excludes zero. better: which of the two then is, as the metric goes."


def scan_tables(
    differences: pd.DataFrame, summary: pd.DataFrame, a: str, b: str
) -> Iterable[Table | str]:
    """What changed from one scan to another, over all models and for those that changed most."""
    numbers = ("models", "lower", "higher", "median B ÷ A", "rank correlation")
    table = new_table(f"{b} compared with {a}, over models", *_SUBJECT, numbers=numbers)
    for row in summary.to_dict("records"):
        names = (row["metric"], row["transform"], row["output"])
        counts = (str(row["models"]), str(row["lower"]), str(row["higher"]))
        table.add_row(*names, *counts, number(row["ratio"]), number(row["rank_correlation"]))
    yield table
    yield "lower, higher: models whose paired 95 % interval excludes zero."
    measured = differences[differences["status"] == "measured"]
    lee = measured[measured["metric"] == "lee"]
    ratio = (lee["b"] / lee["a"]).where(lee["a"] > 0)
    factor = ratio.where(ratio >= 1, 1 / ratio).sort_values(ascending=False)
    largest = lee.loc[factor[factor > 1].index[:10]]
    if len(largest):
        yield _largest_table(largest)
    for row in differences[differences["metric"].isna()].to_dict("records"):
        yield f"{row['model']}: {row['status']}"


def _largest_table(rows: pd.DataFrame) -> Table:
    title = "Largest changes of the equivariance error"
    table = new_table(title, "model", *_SUBJECT[1:], numbers=_SIDES)
    table.add_column("unit")
    for row in rows.to_dict("records"):
        difference = number(row["difference"]) + (" *" if row["significant"] else "")
        cells = (row["transform"], row["output"], number(row["a"]), number(row["b"]))
        table.add_row(row["model"], *cells, difference, row["unit"])
    return table
