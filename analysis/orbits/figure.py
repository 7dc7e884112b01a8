"""A picture of orbits: change with its bound, LEE(t), and what happens to decisions and loss."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from liederiv.foreign import figure_label

from ..plots.labels import new_axes
from ..plots.style import BLACK, BLUE, GREEN, GREY, RED
from .results import OrbitCurve, Orbits, Period

__all__ = ["orbits_figure", "plot_change", "plot_decisions", "plot_lee"]

Array = NDArray[np.float64]
_FAINT: dict[str, Any] = {"color": GREY, "linewidth": 0.5, "alpha": 0.6}
_MOST_SINGLE = 32  # curves of single images that are drawn


def plot_change(orbits: Orbits, generator: str, ax: Axes | None = None) -> Axes:
    """How far the output moves, each image thinly and their mean, below the path length.

    Args:
        orbits: what `liederiv.analysis.orbit` returns.
        generator: name.
        ax: where to draw; a new figure if not given.
    """
    ax, c = new_axes(ax, (4.6, 3.0)), orbits.get(generator)
    ax.plot(c.shown, c.change[:_MOST_SINGLE].T, **_FAINT)
    mean = c.change.mean(0)
    _band(ax, orbits, c, c.change)
    ax.plot(c.shown, mean, color=BLUE, linewidth=1.4, label="change ‖u(t) − u(0)‖")
    ax.set_ylim(0, 1.4 * max(float(c.change.max()), float(orbits_floor(c))))
    if c.bound_holds:
        grid = c.on_grid
        bound = c.length.mean(0)[grid]
        ax.plot(c.shown[grid], bound, "--", color=RED, linewidth=1.2, label="path length (bound)")
    _axis(ax, orbits, c)
    ax.set_ylabel(f"rms change of {orbits.output}")
    ax.legend(frameon=False, fontsize="small", loc="upper center")
    return ax


def plot_lee(orbits: Orbits, generator: str, ax: Axes | None = None) -> Axes:
    """LEE at every point of the orbit, each image thinly and their mean; arguments as above."""
    ax, c = new_axes(ax, (4.6, 3.0)), orbits.get(generator)
    ax.plot(c.shown, c.lee[:_MOST_SINGLE].T, **_FAINT)
    ax.plot(c.shown, c.lee.mean(0), color=BLUE, linewidth=1.4, marker=".", markersize=3)
    if (c.lee > 0).any():
        ax.set_yscale("log")
    _axis(ax, orbits, c)
    ax.set_ylabel(f"LEE(t), ({orbits.output} / {c.unit})²")
    return ax


def plot_decisions(orbits: Orbits, generator: str, ax: Axes | None = None) -> Axes:
    """Share of images that keep their class, and accuracy and loss where labels are known."""
    ax, c = new_axes(ax, (4.6, 3.0)), orbits.get(generator)
    assert c.kept is not None
    ax.plot(c.shown, 100 * c.kept.mean(0), color=BLACK, linewidth=1.4, label="keep their class")
    if c.correct is not None:
        ax.plot(c.shown, 100 * c.correct.mean(0), "--", color=GREEN, linewidth=1.2, label="correct")
    ax.set_ylim(-3, 103)
    _axis(ax, orbits, c)
    ax.set_ylabel(f"{orbits.item}s (%)")
    if c.loss is not None:
        other = ax.twinx()
        other.spines["top"].set_visible(False)
        other.plot(c.shown, c.loss.mean(0), ":", color=RED, linewidth=1.4)
        other.set_ylabel("loss (nats, dotted)", color=RED)
        other.set_ylim(bottom=0)
    ax.legend(frameon=False, fontsize="small", loc="lower center")
    return ax


def orbits_figure(orbits: Orbits, *, title: str = "") -> Figure:
    """All orbits of one model: a row per generator.

    Args:
        orbits: what `liederiv.analysis.orbit` returns.
        title: e.g. the model's name.
    """
    n = len(orbits.curves)
    columns = 3 if orbits.curves[0].kept is not None else 2
    figure = Figure(figsize=(3.9 * columns, 2.5 * n + 0.5), layout="constrained")
    axes = figure.subplots(n, columns, squeeze=False)
    for row, c in zip(axes, orbits.curves, strict=True):
        plot_change(orbits, c.generator, row[0])
        plot_lee(orbits, c.generator, row[1])
        if columns == 3:
            plot_decisions(orbits, c.generator, row[2])
        period = next((p for p in orbits.periods if p.generator == c.generator), None)
        words = "" if period is None else f", period {_period(period)}"
        row[0].set_title(f"{c.generator.replace('_', ' ')}{words}", loc="left", fontsize="medium")
    heading = "Along orbits"
    figure.suptitle(f"{heading}: {figure_label(title)}" if title else heading, fontsize="medium")
    return figure


def orbits_floor(c: OrbitCurve) -> float:
    """A height above zero for curves that are zero."""
    return max(float(c.floor.max()), 1e-30)


def _period(period: Period) -> str:
    doubt = " or a multiple" if period.doubt else ""
    return "none" if period.pixels is None else f"{period.pixels} px{doubt}"


def _band(ax: Axes, orbits: Orbits, c: OrbitCurve, values: Array) -> None:
    """The 95 % interval of the mean at each point."""
    if len(values) < 2:
        return
    ends = [orbits.mean(values[:, i]) for i in range(values.shape[1])]
    low, high = [e.low for e in ends], [e.high for e in ends]
    ax.fill_between(c.shown, low, high, color=BLUE, alpha=0.15, linewidth=0)


def _axis(ax: Axes, orbits: Orbits, c: OrbitCurve) -> None:
    ax.axvline(0, color=GREY, linewidth=0.5, linestyle=":")
    ax.set_xlim(float(c.shown[0]), float(c.shown[-1]))
    ax.set_xlabel(f"{c.generator.replace('_', ' ')} ({c.shown_unit})")
