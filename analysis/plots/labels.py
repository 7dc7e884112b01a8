"""Axes and labels of figures: names of stages that do not overlap."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from liederiv.errors import LieDerivError
from liederiv.foreign import figure_label

__all__ = ["mark_stages", "new_axes", "number_of"]

_FONT = 7  # points
_LONGEST = 16  # characters of a stage's name
_MOST_LINES = 40


def new_axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """The given axes, or those of a new figure of that size in inches."""
    if ax is None:
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        ax = figure.subplots()
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def number_of(generator: str | None, generators: Sequence[str]) -> int:
    """Position of a generator.

    Raises:
        LieDerivError: if it was not measured.
    """
    if generator is None:
        return 0
    if generator not in generators:
        raise LieDerivError(
            f"generator={generator!r} was not measured; choose one of {', '.join(generators)}."
        )
    return list(generators).index(generator)


def mark_stages(ax: Axes, stages: Sequence[str], *, named: bool = True) -> None:
    """Separate runs of equal stages by lines, and name those that have room for a name.

    Args:
        ax: with bar i at x = i.
        stages: of the bars.
        named: whether to write names at all.
    """
    starts = [i for i, s in enumerate(stages) if i == 0 or s != stages[i - 1]]
    ends = [*starts[1:], len(stages)]
    for start in starts[1:] if len(starts) <= _MOST_LINES else []:
        ax.axvline(start - 0.5, color="#DDDDDD", linewidth=0.6, zorder=0)
    if not named:
        ax.set_xticks([])
        return
    # Names stand upright, so that each takes the height of its letters along the axis.
    inches = ax.get_figure(root=True).get_figwidth() * 0.62  # type: ignore[union-attr]
    room = len(stages) * 1.35 * _FONT / 72 / inches
    places: list[float] = []
    labels: list[str] = []
    by_width = sorted(zip(starts, ends, strict=True), key=lambda run: run[0] - run[1])
    for start, end in by_width:
        middle = (start + end - 1) / 2
        if all(abs(middle - other) >= room for other in places):
            places.append(middle)
            labels.append(_short(stages[start]))
    ax.set_xticks(places, labels, rotation=90, fontsize=_FONT)
    ax.tick_params(axis="x", length=0)


def _short(name: str) -> str:
    return figure_label(name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…")
