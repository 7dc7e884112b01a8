"""Terminal output of `liederiv layers`: the tree of stages, bars by kind, what the sums say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import pandas as pd
from rich.table import Table
from rich.text import Text

from liederiv.analysis import AliasingReport, Attribution, FiniteLayers, WhatIf
from liederiv.cli.layer_report import LayerReport
from liederiv.cli.tables import count, described_inputs, headline, new_table, number
from liederiv.foreign import printable

__all__ = ["layer_tables"]

_SMALL = 5e-4  # shares that are smaller in size are printed together
_WIDTH = 10


def layer_tables(
    report: LayerReport, parameters: int, *, by: str = "module", top: int = 12
) -> Iterable[Table | Text | str]:
    """Everything to print, in order.

    Args:
        report: what was measured.
        parameters: number of the model's parameters.
        by: ``module`` for the tree and bars by kind; ``kind`` or ``stage`` for bars only.
        top: number of modules listed.
    """
    a, p = report.attribution, report.provenance
    yield headline(p.model, f"{p.weights} · {count(parameters)} parameters")
    yield (
        f"{described_inputs(p)} · scheme {p.scheme} · {p.dtype} on {p.device} · "
        f"engine {p.engine} · output {p.representation}\n"
    )
    if by == "module":
        yield _tree(a, top)
    yield _bars(a, "stage" if by == "stage" else "kind")
    yield from _footer(a, p.inputs)
    if report.aliasing is not None:
        yield from _aliasing_tables(report.aliasing, top)
    if report.finite is not None:
        yield from _finite_tables(report.finite, top)
    if report.what_if is not None:
        yield from _what_if_tables(report.what_if)
    for warning in p.warnings:
        yield f"Note: {warning}"


def _percent(value: float) -> str:
    return "–" if np.isnan(value) else f"{100 * value:.1f} %"


def _shares(a: Attribution) -> pd.DataFrame:
    """Rows: calls with a share; columns: stage, name, class, and one per generator."""
    frame = pd.DataFrame(a.shares(), columns=list(a.generators))
    frame.insert(0, "name", [printable(e.name) for e in a.entries])
    frame.insert(1, "class", [printable(e.class_name) for e in a.entries])
    frame.insert(2, "stage", [printable(e.stage) for e in a.entries])
    counted = [e.counted for e in a.entries]
    return frame[counted]


def _tree(a: Attribution, top: int) -> Table:
    """Stages, the largest share first, each with those of its modules that are among the top."""
    over = _steps(a)
    what = f"the change over a step ({over})" if over else "‖L f‖²"
    title = f"Share of {what} that each module is responsible for"
    names = [name.replace("_", "\n") for name in a.generators]
    table = new_table(title, "module", "type", numbers=names)
    frame, columns = _shares(a), list(a.generators)
    size = frame[columns].abs().mean(axis=1).fillna(0)
    listed = set(size[size >= _SMALL].nlargest(top).index)
    stages = frame.groupby("stage")[columns].sum(min_count=1)
    order = size.groupby(frame["stage"]).sum().sort_values(ascending=False)
    left = [stage for stage in order.index if order[stage] < _SMALL]
    for stage in (s for s in order.index if s not in left):
        inside = frame[frame["stage"] == stage]
        _add_stage(table, stage, stages.loc[stage], inside, size, listed, columns)
    if left:
        rest = stages.loc[left].sum(min_count=1)
        table.add_row(f"({len(left)} more)", "", *map(_percent, rest), style="dim")
    table.add_section()
    table.add_row("sum", "", *map(_percent, frame[columns].sum(min_count=1)), style="bold")
    return table


def _add_stage(
    table: Table,
    stage: str,
    shares: pd.Series,
    inside: pd.DataFrame,
    size: pd.Series,
    listed: set[int],
    columns: Sequence[str],
) -> None:
    """A stage, the listed modules in it as branches, and the others summed."""
    active = [i for i in inside.index if size[i] >= _SMALL]
    if len(active) == 1 and inside.loc[active[0], "name"] == stage:
        only = inside.loc[active[0]]
        table.add_row(stage, only["class"], *map(_percent, shares), style="bold")
        return
    title = stage or "(model)"
    table.add_row(title, "", *map(_percent, shares), style="bold")
    rows = sorted((i for i in active if i in listed), key=lambda i: -size[i])
    others = inside.drop(index=rows)
    hidden = [i for i in active if i not in listed]
    for number_, i in enumerate(rows, 1):
        guide = "├─ " if number_ < len(rows) or hidden else "└─ "
        name = str(inside.loc[i, "name"]).removeprefix(f"{stage}.") if stage else "(itself)"
        cells = [_percent(v) for v in inside.loc[i, list(columns)]]
        table.add_row(guide + name, str(inside.loc[i, "class"]), *cells)
    if hidden and rows:
        rest = others[list(columns)].sum(min_count=1)
        table.add_row(f"└─ ({len(hidden)} more)", "", *map(_percent, rest), style="dim")


def _bars(a: Attribution, column: Literal["kind", "stage"]) -> Table:
    """Shares by kind or stage with a bar each; bars of one transform share their scale."""
    table = new_table(f"By {column}", column)
    shares = a.by(column)
    sizes = shares.abs().mean(axis=1)
    shares = shares.loc[sizes[sizes >= _SMALL].sort_values(ascending=False).index]
    for name in shares.columns:
        table.add_column(str(name), no_wrap=True)
    largest = shares.abs().max()
    for group, row in shares.iterrows():
        cells = [_bar(row[name], largest[name]) for name in shares.columns]
        table.add_row(str(group) or "(model)", *cells)
    return table


def _bar(share: float, largest: float) -> Text:
    """A number and a bar; hatched where the share is negative."""
    if np.isnan(share):
        return Text("–")
    length = round(_WIDTH * abs(share) / largest) if largest > 0 else 0
    bar = ("█" if share >= 0 else "░") * length
    return Text(f"{_percent(share):>9} ") + Text(bar, style="red" if share >= 0 else "blue")


def _steps(a: Attribution) -> str:
    """The steps in words: ``1 px``, or ``translation_x 1 px, rotation 1 deg``; empty without."""
    if len(set(a.step_labels)) == 1:
        return a.step_labels[0]
    return ", ".join(f"{g} {s}" for g, s in zip(a.generators, a.step_labels, strict=False))


def _footer(a: Attribution, inputs: str) -> Iterable[str]:
    yield from _over_steps(a, inputs) if a.steps else _at_zero(a, inputs)
    if a.witness is not None:
        yield f"Witness: {a.witness}."
    if not a.steps and a.coverage < 1 - a.tolerance:
        error, size = a.inclusive_error[0].sum(1), a.inclusive[0].sum(1)
        worst = float(np.max(error / np.where(size > 0, size, np.inf)))
        yield (
            "The rest is estimated along random directions; squared norms of single modules carry "
            f"a standard error (whole model: {_percent(worst)}), shares do not."
        )
    left_out = [r.fit_residual.mean() for r in a.profile if not np.isnan(r.fit_residual).any()]
    if left_out:
        yield (
            "Functions of orientation: the harmonic fit that turns them leaves out "
            f"{_percent(float(np.median(left_out)))} of a feature (median; at most "
            f"{_percent(float(max(left_out)))})."
        )
    yield "Shares are signed: a negative one cancels what other modules break."


def _at_zero(a: Attribution, inputs: str) -> Iterable[str]:
    totals = ", ".join(
        f"{name} {number(a.totals[name])} per {unit}²"
        for name, unit in zip(a.generators, a.units, strict=True)
    )
    yield f"‖L f‖², mean over {inputs}: {totals}."
    yield (
        f"Closure error {number(a.closure_error, 2)} · coverage {100 * a.coverage:.2f} % "
        f"(worst of {inputs} and transforms) · {_spread(a)} probes for each."
    )


def _over_steps(a: Attribution, inputs: str) -> Iterable[str]:
    """What was attributed, and how well the integral over the step is known."""

    def each(values: Iterable[str]) -> str:
        return ", ".join(f"{name} {v}" for name, v in zip(a.generators, values, strict=True))

    yield f"‖Δ‖², mean over {inputs}: {each(number(v) for v in a.totals.values())}."
    yield (
        f"Error of the integral over the step, of the worst module: "
        f"{each(map(_percent, a.share_errors))} of ‖Δ‖², from {_spread(a)} points for each of the "
        f"{inputs}. The shares miss the difference of two plain forward passes by "
        f"{each(map(_percent, a.missing))}. Forward and reverse mode differ by "
        f"{number(a.closure_error, 2)}."
    )
    unknown = [g for g, known in zip(a.generators, a.known, strict=True) if not known]
    if unknown:
        yield (
            f"No shares for {', '.join(unknown)}: the integral is not known to half of ‖Δ‖². The "
            "output turns too often over this step, or changes by no more than rounding; try "
            "another --step, --dtype float64, or --step 0."
        )


def _spread(a: Attribution) -> str:
    probes = sorted(set(a.num_probes))
    return str(probes[0]) if len(probes) == 1 else f"{probes[0]} to {probes[-1]}"


def _aliasing_tables(report: AliasingReport, top: int) -> Iterable[Table | str]:
    rows = sorted(
        (r for r in report.rows if r.status == "measured"),
        key=lambda r: -float(r.error.sum()),
    )[:top]
    how = f"scheme {report.scheme}, nonlinearities {report.factor}× finer"
    table = new_table(f"Aliasing of the derivative ({how})", "module", "type")
    for name in report.generators:
        table.add_column(f"{name}\n‖c‖²/‖L f‖²", justify="right")
        table.add_column("aliasing\nshare", justify="right")
    table.add_column("aliased\nenergy", justify="right")
    table.add_column("above\nNyquist", justify="right")
    for r in rows:
        sizes = r.error.sum(1) / report.lie_norm_squared.sum(1)
        pairs = zip(sizes, r.aliasing_share(), strict=True)
        cells = [cell for s, share in pairs for cell in (_percent(s), _percent(share))]
        energies = (_percent(r.aliased_energy), _percent(r.above_nyquist))
        table.add_row(r.path, r.class_name, *cells, *energies)
    yield table
    for name, part in report.explained().items():
        c = report.correlation(name)
        yield (
            f"{name}: alias-free counterparts would remove {_percent(part)} of Σ‖c‖² over "
            f"{c.count} modules; rank correlation of aliased energy and error "
            f"{number(c.value, 2)} [{number(c.low, 2)}, {number(c.high, 2)}]."
        )


def _finite_tables(finite: FiniteLayers, top: int) -> Iterable[Table | str]:
    frame = finite.to_dataframe()
    keys = ["path", "class_name", "call_index", "depth"]
    table = frame.pivot_table("value", keys, "metric", dropna=False, sort=False)[
        list(dict.fromkeys(frame["metric"]))
    ].dropna(how="all")
    leaves = [i for i in table.index if i[0] and not frame["path"].str.startswith(i[0] + ".").any()]
    worst = table.loc[leaves].mean(axis=1).nsmallest(top).index
    title = "EQ-T, EQ-T_frac and EQ-R of single modules, dB over the range of their output"
    out = new_table(f"{title} (small: far from equivariant)", "module", "type")
    for name in table.columns:
        out.add_column(str(name), justify="right")
    for i in worst:
        name = i[0] + (f" (call {i[2] + 1})" if i[2] else "")
        out.add_row(name, i[1], *(number(v, 3) for v in table.loc[i]))
    yield out
    yield (
        f"{finite.num_samples} transforms per module and image: whole-pixel and fractional "
        f"translations up to {finite.max_fraction:g} of the size, rotations by any angle."
    )


def _what_if_tables(result: WhatIf) -> Iterable[Table | str]:
    k = len(result.trials[0].modules)
    over = f" over {', '.join(dict.fromkeys(result.steps))}" if result.steps else ""
    title = f"What if {k} modules were repaired? LEE{over} of {result.output}, relative change"
    table = new_table(title, "repaired")
    for name in result.generators:
        table.add_column(name.replace("_", "\n"), justify="right")
    for header in ("same\ntop class", "confidence"):
        table.add_column(header, justify="right")
    words = {
        "attribution": f"{k} ranked first",
        "largest": f"{k} largest maps",
        "random": f"{k} at random",
        "all": f"all {len(result.ranking)}",
    }
    for trial in (result.before, *result.trials):
        change = [
            number(v) if trial.choice == "none" else f"{100 * (v / w - 1):+.0f} %"
            for v, w in zip(trial.lee, result.before.lee, strict=True)
        ]
        rest = (_percent(trial.agreement), number(trial.confidence, 2))
        table.add_row(words.get(trial.choice, "none"), *change, *rest)
    yield table
    yield f"Ranked first: {', '.join(result.trials[0].modules)}."
    yield "A repair is also a small blur, and may break the classifier: see `same top class`."
