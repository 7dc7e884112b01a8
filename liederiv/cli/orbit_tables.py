"""Tables of `liederiv orbit`."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from rich.table import Table

from liederiv.analysis.orbits import Estimate, OrbitCurve, Orbits, Worst
from liederiv.cli.tables import new_table, number
from liederiv.foreign import one_line

__all__ = ["orbit_tables"]

_ROWS = 9  # points of an orbit that are printed
_WHAT = {"probs": "class probabilities", "output": "the model's output"}


def orbit_tables(orbits: Orbits) -> Iterable[Table | str]:
    """A table per orbit, one of what whole orbits cost, the periods, the worst transform."""
    what = _WHAT.get(orbits.output, orbits.output)
    for curve in orbits.curves:
        yield _curve_table(orbits, curve, what)
    yield _summary(orbits)
    yield from (f"Note: {one_line(c.reason)}." for c in orbits.curves if c.reason)
    if any(c.compared.min() < 1 for c in orbits.curves):
        least = min(float(c.compared.min()) for c in orbits.curves)
        yield (
            "Compared are places of the output that stay inside the image along the whole orbit: "
            f"{least:.0%} of them at least."
        )
    for period in orbits.periods:
        yield f"Period of the answer to {period.generator}: {one_line(str(period))}"
    if orbits.worst is not None:
        yield from _worst_lines(orbits, orbits.worst)
    if orbits.border:
        yield (
            f"The image is {orbits.border}: what a motion brings in from there was never "
            "photographed, and is part of every number here. Only the search for a period rolls "
            "the image round instead."
        )


def _interval(e: Estimate) -> str:
    return "" if np.isnan(e.low) else f" [{number(e.low, 2)}, {number(e.high, 2)}]"


def _percent(e: Estimate) -> str:
    ends = "" if np.isnan(e.low) else f" [{100 * e.low:.0f}, {100 * e.high:.0f}]"
    return f"{100 * e.value:.0f} %{ends}"


def _curve_table(o: Orbits, c: OrbitCurve, what: str) -> Table:
    table = new_table(f"{c.generator}: {what}, mean over {len(c.size)} {o.item}s")
    table.add_column(c.shown_unit, justify="right")
    headers = ["change (rms)", "relative", "path length", f"LEE(t) per {c.unit}²"]
    headers += ["keep their class"] if c.kept is not None else []
    headers += ["correct"] if c.correct is not None else []
    headers += ["loss (nats)"] if c.loss is not None else []
    for header in headers:
        table.add_column(header, justify="right", no_wrap=True)
    for i in _rows(c):
        change, ratio = o.mean(c.change[:, i]), o.ratio(c.change[:, i], c.size)
        lee = o.mean(c.lee[:, i])
        cells = [f"{c.shown[i]:+.3g}" if c.t[i] else "0"]
        floor = float(c.floor.mean())
        if c.t[i] and change.value <= floor:
            cells += [f"< {number(floor, 1)}", "rounding"]
        else:
            cells += [number(change.value) + _interval(change), number(ratio.value)]
        cells += [_path(c, i), number(lee.value) + _interval(lee)]
        if c.kept is not None:
            cells.append(_percent(o.mean(c.kept[:, i])))
        if c.correct is not None:
            cells.append(_percent(o.mean(c.correct[:, i])))
        if c.loss is not None:
            cells.append(number(o.mean(c.loss[:, i]).value))
        table.add_row(*cells)
    return table


def _rows(c: OrbitCurve) -> list[int]:
    """Points of the even grid, the ends and the middle among them."""
    grid = np.flatnonzero(c.on_grid)
    half = len(grid) // 2
    step = max(1, -(-half // (_ROWS // 2)))
    chosen = {half + sign * n for n in range(0, half + 1, step) for sign in (1, -1)}
    return [int(grid[i]) for i in sorted(chosen | {0, len(grid) - 1})]


def _path(c: OrbitCurve, i: int) -> str:
    if not c.bound_holds:
        return "–"
    return f"{number(float(c.length[:, i].mean()))} ± {number(float(c.path_error[:, i].mean()), 1)}"


def _summary(o: Orbits) -> Table:
    losses = any(c.asymmetry_loss is not None for c in o.curves)
    headers = ["range", "path length", "bounds the change", "squared loss by asymmetry"]
    headers += ["cross-entropy by asymmetry"] if losses else []
    table = new_table("Whole orbits", "orbit", numbers=headers)
    for c in o.curves:
        squared, total = o.mean(c.asymmetry), c.total_path
        length = "–" if total is None else number(float(total.mean()))
        if total is not None:
            length += f" ± {number(float((c.path_error[:, 0] + c.path_error[:, -1]).mean()), 1)}"
        cells = [c.generator, f"{c.shown[0]:+.3g} … {c.shown[-1]:+.3g} {c.shown_unit}", length]
        cells += ["yes" if c.bound_holds else "no: see note"]
        cells += [number(squared.value) + _interval(squared)]
        if c.asymmetry_loss is not None:
            loss = o.mean(c.asymmetry_loss)
            cells.append(number(loss.value) + _interval(loss))
        table.add_row(*cells)
    return table


def _worst_lines(o: Orbits, w: Worst) -> Iterable[str]:
    box = ", ".join(
        f"{name} ±{number(r)} {unit}"
        for name, r, unit in zip(w.generators, w.ranges, w.units, strict=True)
    )
    ascent, grid = o.mean(w.ascent), o.mean(w.grid)
    more, less = w.won
    what = "loss (nats)" if w.objective == "loss" else "change (rms)"
    yield f"Worst transform in the box {box}: {what} {number(float(w.largest.mean()))}"
    yield (
        f"  gradient ascent, {w.starts} starts, {w.ascent_passes} passes: "
        f"{number(ascent.value)}{_interval(ascent)}; grid, {w.grid_passes} passes: "
        f"{number(grid.value)}{_interval(grid)}"
    )
    equal = len(w.ascent) - more - less
    alike = f" ({equal} alike)" if equal else ""
    gap = o.mean(w.ascent - w.grid)
    yield (
        f"  the ascent found more on {more}, the grid on {less} of {len(w.ascent)} {o.item}s{alike}"
        f"; ascent − grid: {number(gap.value)}{_interval(gap)}"
    )
    if w.left_out:
        yield f"  left out, since they combine with no other: {', '.join(w.left_out)}"
