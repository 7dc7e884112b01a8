"""Equivariance and accuracy along training: one panel per transform."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from liederiv.foreign import figure_label

from .style import BLUE, GREEN

__all__ = ["main_rows", "plot_trajectory"]


def main_rows(frame: pd.DataFrame) -> list[str]:
    """Transforms worth a panel: groups stand for their members (translation for its x and y)."""
    names = list(dict.fromkeys(frame.loc[frame["metric"] == "lee", "transform"]))
    return [n for n in names if n.rpartition("_")[0] not in names]


def plot_trajectory(frame: pd.DataFrame, *, axis: str, title: str = "") -> Figure:
    """LEE with its 95 % interval, and accuracy where it is known, against the step.

    Args:
        frame: rows of `liederiv track`: metric, transform, output, position, value, ci_low, ci_high
            and unit; only measured ones are drawn, of the output type that comes first.
        axis: what position counts: ``step``, ``epoch`` or ``checkpoint``.
        title: of the figure.
    """
    measured = frame[frame["status"] == "measured"]
    lee = measured[measured["metric"] == "lee"]
    lee = lee[lee["output"] == lee["output"].iloc[0]] if len(lee) else lee
    accuracy = measured[measured["metric"] == "accuracy"]
    names = main_rows(lee)
    panels = len(names) + (len(accuracy) > 0)
    figure, axes = plt.subplots(
        1, max(panels, 1), figsize=(3.6 * max(panels, 1), 3.0), squeeze=False, layout="constrained"
    )
    for ax, name in zip(axes[0], names, strict=False):
        rows = lee[lee["transform"] == name].sort_values("position")
        _curve(ax, rows, BLUE)
        ax.set(title=name.replace("_", " "), ylabel=f"LEE ({rows['unit'].iloc[0]})")
        if (rows["value"] > 0).all():
            ax.set_yscale("log")
    if len(accuracy):
        ax = axes[0, len(names)]
        _curve(ax, accuracy.sort_values("position"), GREEN)
        ax.set(title="accuracy", ylabel="top-1 accuracy (fraction)", ylim=(0, 1))
    for ax in axes[0]:
        ax.set_xlabel(axis)
        ax.grid(alpha=0.3)
    figure.suptitle(figure_label(title))
    return figure


def _curve(ax: Axes, rows: pd.DataFrame, colour: str) -> None:
    x, y = _numbers(rows, ["position", "value"])
    low, high = _numbers(rows, ["ci_low", "ci_high"])
    ax.plot(x, y, "o-", color=colour, markersize=4, linewidth=1.2)
    ax.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)


def _numbers(rows: pd.DataFrame, names: Sequence[str]) -> list[np.ndarray]:
    return [rows[name].to_numpy(dtype=float, na_value=np.nan) for name in names]
