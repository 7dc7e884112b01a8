"""Figures of attribution and aliasing.

Every function takes results and an optional Axes, and returns the Axes. Nothing global changes:
figures are made without pyplot, so no backend is chosen and nothing is shown; save them with
``axes.figure.savefig``. Colours: Okabe & Ito's palette, told apart by colour-blind readers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from liederiv.errors import LieDerivError
from liederiv.foreign import figure_label

from ..aliasing.results import AliasingReport, ModuleAliasing
from ..layers.results import Attribution
from .labels import (
    mark_stages,
    new_axes,
    number_of,
)
from .style import (
    BLACK,
    BLUE,
    GREY,
    KIND_COLOURS,
    RED,
    add_kinds,
    line_styles,
    outside_legend,
)

__all__ = [
    "KIND_COLOURS",
    "layers_figure",
    "plot_aliasing",
    "plot_cumulative",
    "plot_icicle",
    "plot_profile",
    "plot_spectra",
    "plot_violations",
]

_SMALL = 1e-4  # shares below it in size, for every generator, are not drawn


def plot_violations(
    attribution: Attribution,
    generator: str | None = None,
    ax: Axes | None = None,
    *,
    legend: bool = True,
    stages: bool = True,
) -> Axes:
    """Each call's exclusive share of ‖L f‖² along depth, coloured by kind.

    Args:
        attribution: what `liederiv.analysis.attribute` returns.
        generator: name; the first one if not given.
        ax: where to draw; a new figure if not given.
        legend: whether to explain the colours.
        stages: whether to name the stages below the axis.
    """
    ax = new_axes(ax, (7.0, 2.6))
    k = number_of(generator, attribution.generators)
    calls = _with_shares(attribution)
    share = 100 * attribution.shares()[calls, k]
    kinds = [attribution.entries[i].kind for i in calls]
    position = np.arange(len(calls))
    ax.bar(position, share, width=0.9, color=[KIND_COLOURS.get(v, GREY) for v in kinds])
    ax.axhline(0, color=BLACK, linewidth=0.6)
    ax.set_ylabel(f"share of {_squared(attribution)} (%)")
    ax.set_title(_title(attribution, k), loc="left", fontsize="medium")
    _depth_axis(ax, attribution, calls, stages)
    if legend:
        add_kinds(ax, kinds)
    return ax


def plot_cumulative(
    attribution: Attribution, generators: Sequence[str] | None = None, ax: Axes | None = None
) -> Axes:
    """Shares summed from the input on; every curve ends at 100 %.

    Args:
        attribution: what `liederiv.analysis.attribute` returns.
        generators: names; all if not given.
        ax: where to draw.
    """
    ax = new_axes(ax, (7.0, 3.0))
    calls = _with_shares(attribution)
    shares = 100 * np.nan_to_num(attribution.shares()[calls])
    names = attribution.generators if generators is None else tuple(generators)
    for name, style in zip(names, line_styles(len(names)), strict=True):
        summed = shares[:, number_of(name, attribution.generators)].cumsum()
        ax.step(np.arange(len(calls)), summed, where="mid", label=name.replace("_", " "), **style)
    ax.axhline(100, color=GREY, linewidth=0.6, linestyle=":")
    ax.axhline(0, color=GREY, linewidth=0.6)
    ax.set_ylabel(f"cumulative share of {_squared(attribution)} (%)")
    _depth_axis(ax, attribution, calls)
    outside_legend(ax)
    return ax


def plot_profile(
    attribution: Attribution, generators: Sequence[str] | None = None, ax: Axes | None = None
) -> Axes:
    """How equivariant the features are along depth: ‖ℓ(z)‖/‖G z‖ of every module's output.

    0 is exactly equivariant, 1 is off by as much as the group moves the features. Vectors have no
    G z and are left out.

    Args:
        attribution: what `liederiv.analysis.attribute` returns.
        generators: names; all if not given.
        ax: where to draw.
    """
    ax = new_axes(ax, (7.0, 3.0))
    points = [p for p in attribution.profile if p.role == "output" and p.action_norm.max() > 0]
    points.sort(key=lambda p: p.entry)
    names = attribution.generators if generators is None else tuple(generators)
    for name, style in zip(names, line_styles(len(names)), strict=True):
        k = number_of(name, attribution.generators)
        lie = np.array([np.square(p.lie_norm[k]).mean() for p in points])
        moved = np.array([np.square(p.action_norm[k]).mean() for p in points])
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(moved > 0, np.sqrt(lie / moved), np.nan)
        ax.plot(np.arange(len(points)), ratio, label=name.replace("_", " "), **style)
    ax.axhline(1, color=GREY, linewidth=0.6, linestyle=":")
    ax.set_yscale("log")
    ax.set_ylabel("‖ℓ(z)‖ / ‖G z‖")
    _depth_axis(ax, attribution, [p.entry for p in points])
    outside_legend(ax)
    return ax


def plot_aliasing(
    report: AliasingReport, generator: str | None = None, ax: Axes | None = None
) -> Axes:
    """Aliasing share against attributed error, a point per module with a counterpart.

    Args:
        report: what `liederiv.analysis.measure_aliasing` returns.
        generator: name; the first one if not given.
        ax: where to draw.
    """
    ax = new_axes(ax, (5.0, 3.4))
    k = number_of(generator, report.generators)
    rows = [r for r in report.rows if r.status == "measured"]
    total = report.lie_norm_squared[k].sum()
    error = np.array([r.error[k].sum() / total for r in rows])
    share = np.array([100 * r.aliasing_share()[k] for r in rows])
    kinds = [_aliasing_kind(r) for r in rows]
    seen = np.isfinite(share) & (error > 0)
    colours = [KIND_COLOURS.get(kind, GREY) for kind in kinds]
    shown = np.clip(share, -100, 100)
    for marker, these in (("o", seen & (share >= -100)), ("v", seen & (share < -100))):
        chosen = np.flatnonzero(these)
        if len(chosen):
            picked = [colours[i] for i in chosen]
            ax.scatter(
                error[chosen], shown[chosen], c=picked, marker=marker, s=22, edgecolors="white",
                linewidths=0.4,
            )  # fmt: skip
    ax.set_xscale("log")
    ax.set_ylim(-108, 108)
    ax.axhline(0, color=GREY, linewidth=0.6)
    ax.set_xlabel("attributed error ‖c‖² / ‖L f‖²")
    ax.set_ylabel("aliasing share (%)")
    title = f"{report.generators[k].replace('_', ' ')}, scheme {report.scheme}"
    ax.set_title(title, loc="left", fontsize="medium")
    add_kinds(ax, [kind for kind, use in zip(kinds, seen, strict=True) if use])
    return ax


def plot_spectra(row: ModuleAliasing, ax: Axes | None = None) -> Axes:
    """Power spectra of what enters a module and of what leaves it before sampling.

    Args:
        row: of an `AliasingReport`.
        ax: where to draw.
    """
    ax = new_axes(ax, (4.6, 3.0))
    for spectrum, label, colour, line in (
        (row.before, "enters", BLUE, "-"),
        (row.after, "leaves", RED, "--"),
    ):
        seen = spectrum.power > 0
        if seen.any():
            width = spectrum.frequency[1] - spectrum.frequency[0]
            density = spectrum.power[seen] / width
            ax.plot(spectrum.frequency[seen], density, line, color=colour, label=label)
    limit = row.after.limit if np.isfinite(row.after.limit) else row.before.limit
    if np.isfinite(limit):
        ax.axvline(limit, color=GREY, linewidth=0.8, linestyle=":", label="Nyquist limit after")
    ax.set_yscale("log")
    ax.set_xlabel("frequency (cycles per input pixel)")
    ax.set_ylabel("power per cycle per pixel")
    above = "" if np.isnan(row.above_nyquist) else f"\n{100 * row.above_nyquist:.1f} % above limit"
    name = figure_label(f"{row.path} [{row.class_name}]")
    ax.set_title(f"{name}{above}", loc="left", fontsize="small")
    ax.legend(frameon=False, fontsize="small")
    return ax


def plot_icicle(
    attribution: Attribution, generator: str | None = None, ax: Axes | None = None
) -> Axes:
    """The module tree from the top down, as wide as the |shares| inside, coloured by kind.

    Where shares inside a module cancel, it is wider than its inclusive share; hatched modules have
    a negative share of their own.

    Args:
        attribution: what `liederiv.analysis.attribute` returns.
        generator: name; the first one if not given.
        ax: where to draw.
    """
    ax = new_axes(ax, (7.0, 3.2))
    k = number_of(generator, attribution.generators)
    own = np.nan_to_num(attribution.shares()[:, k])
    width = np.abs(own)
    for i in range(len(own) - 1, 0, -1):  # children come after their parents
        parent = attribution.entries[i].parent
        if parent is not None:
            width[parent] += width[i]
    if not width[0] > 0:
        raise LieDerivError(f"generator={attribution.generators[k]!r}: {_nothing(attribution)}.")
    kinds: list[str] = []
    _icicle_boxes(ax, attribution, own, width / width[0], 0, 0.0, kinds)
    deepest = max(e.depth for e in attribution.entries)
    ax.set_xlim(0, 100)
    ax.set_ylim(deepest + 1, 0)
    ax.set_yticks(np.arange(deepest + 1) + 0.5, [str(v) for v in range(deepest + 1)])
    ax.tick_params(left=False)
    ax.set_xlabel(f"share of Σ|share| (%), {attribution.generators[k].replace('_', ' ')}")
    ax.set_ylabel("depth of nesting")
    add_kinds(ax, kinds)
    return ax


def _icicle_boxes(
    ax: Axes,
    a: Attribution,
    own: NDArray[np.float64],
    width: NDArray[np.float64],
    entry: int,
    left: float,
    kinds: list[str],
) -> None:
    """Draw an entry and what is inside it; widths are fractions of the whole."""
    e, w = a.entries[entry], 100 * width[entry]
    if w < 0.02:
        return
    leaf = abs(own[entry]) > 0.5 * width[entry] * np.abs(own).sum()
    colour = KIND_COLOURS.get(e.kind, GREY) if leaf else "#E6E6E6"
    if leaf:
        kinds.append(e.kind)
    hatch = "////" if leaf and own[entry] < 0 else None
    edge = "white" if w > 0.3 else colour
    ax.add_patch(
        Rectangle((left, e.depth), w, 1, facecolor=colour, edgecolor=edge, linewidth=0.4,
                  hatch=hatch)
    )  # fmt: skip
    name = e.path.rpartition(".")[2] or "model"
    if w > 1.25 * len(name) + 1:
        ax.text(
            left + w / 2, e.depth + 0.5, figure_label(name), ha="center", va="center", fontsize=7,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8} if leaf else None,
        )  # fmt: skip
    for child in a.children(entry):
        _icicle_boxes(ax, a, own, width, child, left, kinds)
        left += 100 * width[child]


def layers_figure(
    attribution: Attribution, aliasing: AliasingReport | None = None, *, title: str = ""
) -> Figure:
    """Violations along depth for every generator, and aliasing where it was measured.

    Args:
        attribution: what `liederiv.analysis.attribute` returns.
        aliasing: of the same model.
        title: of the whole figure, e.g. the model's name.
    """
    n, panels = len(attribution.generators), [] if aliasing is None else aliasing.generators
    rows = n + len(panels)
    heights = [1.5] * n + [2.6] * len(panels)
    figure = Figure(figsize=(7.6, sum(heights) + 1.0), layout="constrained")
    axes = figure.subplots(rows, 1, squeeze=False, height_ratios=heights)[:, 0]
    for k, name in enumerate(attribution.generators):
        plot_violations(attribution, name, axes[k], legend=False, stages=k == n - 1)
        axes[k].set_ylabel("share (%)")
    for ax, name in zip(axes[n:], panels, strict=True):
        assert aliasing is not None
        plot_aliasing(aliasing, name, ax)
    add_kinds(axes[0], [attribution.entries[i].kind for i in _with_shares(attribution)])
    heading = f"Share of {_squared(attribution)} of the {attribution.output} by module"
    figure.suptitle(f"{heading}: {figure_label(title)}" if title else heading, fontsize="medium")
    return figure


def _squared(attribution: Attribution) -> str:
    return "‖Δ‖²" if attribution.steps else "‖L f‖²"


def _nothing(attribution: Attribution) -> str:
    if not attribution.steps:
        return "L f is zero"
    return "the change over the step is zero, or its integral not known to half of it"


def _title(attribution: Attribution, k: int) -> str:
    name = attribution.generators[k].replace("_", " ")
    if not attribution.steps:
        return name
    known = "" if attribution.known[k] else " (not known, see quadrature)"
    return f"{name}, change over a step of {attribution.step_labels[k]}{known}"


def _aliasing_kind(row: ModuleAliasing) -> str:
    """A normalisation that needs an alias-free counterpart has an activation inside."""
    fused = row.kind == "normalisation" and row.counterpart == "alias_free"
    return "activation" if fused else row.kind


def _with_shares(attribution: Attribution) -> list[int]:
    """Calls that break something: measured, with a share worth a bar."""
    shares = np.nan_to_num(np.abs(attribution.shares())).max(axis=1)
    found = [i for i, e in enumerate(attribution.entries) if e.counted and shares[i] >= _SMALL]
    if not found:
        raise LieDerivError(f"attribution has no shares to draw: {_nothing(attribution)}.")
    return found


def _depth_axis(
    ax: Axes, attribution: Attribution, calls: Sequence[int], stages: bool = True
) -> None:
    """Stages along the x axis, as many names as fit."""
    names = [attribution.entries[i].stage or "(model)" for i in calls]
    ax.set_xlim(-0.75, len(calls) - 0.25)
    mark_stages(ax, names, named=stages)
    if stages:
        ax.set_xlabel(f"{len(calls)} modules in the order of their calls")
