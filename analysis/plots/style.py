"""Colours and legends: Okabe & Ito's palette, told apart by colour-blind readers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Patch

__all__ = [
    "BLACK",
    "BLUE",
    "GREEN",
    "GREY",
    "KIND_COLOURS",
    "RED",
    "add_kinds",
    "line_styles",
    "outside_legend",
]

BLUE, SKY, GREEN, YELLOW = "#0072B2", "#56B4E9", "#009E73", "#F0E442"
ORANGE, RED, PURPLE, BLACK, GREY = "#E69F00", "#D55E00", "#CC79A7", "#000000", "#999999"
KIND_COLOURS = {
    "activation": RED,
    "downsampling": BLUE,
    "convolution": SKY,
    "normalisation": YELLOW,
    "attention": PURPLE,
    "mlp": GREEN,
    "linear": GREEN,
    "pooling": ORANGE,
    "embedding": ORANGE,
    "upsampling": BLUE,
    "identity": GREY,
    "container": GREY,
    "model": BLACK,
}
"""Colour of each kind of module; kinds that share one rarely occur together."""


def add_kinds(ax: Axes, kinds: Sequence[str]) -> None:
    """Explain the colours of kinds, right of the axes."""
    ax.legend(handles=_kind_patches(kinds), loc="center left", bbox_to_anchor=(1.0, 0.5),
              frameon=False, fontsize="small")  # fmt: skip


def _kind_patches(kinds: Sequence[str]) -> list[Patch]:
    present = [kind for kind in KIND_COLOURS if kind in kinds]
    return [Patch(color=KIND_COLOURS[kind], label=kind) for kind in present]


def outside_legend(ax: Axes) -> None:
    """A legend right of the axes."""
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize="small")


def line_styles(n: int) -> list[dict[str, Any]]:
    """Colours and, beyond them, dashes that tell curves apart."""
    colours = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY, BLACK)
    dashes = ("-", "--", ":", "-.")
    m = len(colours)
    return [
        {"color": colours[i % m], "linestyle": dashes[(i // m) % 4], "linewidth": 1.2}
        for i in range(n)
    ]
