"""Layerwise totals across models: which kinds of modules break which symmetry, and how much."""

from __future__ import annotations

import numpy as np
import pandas as pd

from liederiv.measurement.bootstrap import bootstrap_mean

from .architectures import architecture_classes
from .leaderboard import latest

__all__ = ["kind_shares", "kind_totals"]


def kind_shares(rows: pd.DataFrame) -> pd.DataFrame:
    """Signed share of each kind of module in each model's Lie derivative.

    Args:
        rows: of the measurement ``layers``, as `Store.read` returns them.

    Returns:
        One row per model, generator and kind: ``share`` (adds up to 1 over the kinds of a model
        and generator), ``part`` (the share times ‖L f‖²), ``class`` of the architecture.
    """
    newest = latest(rows)
    good = newest[(newest["outcome"] == "measured") & newest["share"].notna()].copy()
    good["part"] = good["share"] * good["total"]
    keys = ["requested_model", "model", "architecture", "generator", "kind"]
    summed = good.groupby(keys, dropna=False, as_index=False)[["share", "part"]].sum()
    names = summed["architecture"].fillna("")
    summed["class"] = names.map(architecture_classes(names))
    return summed


def kind_totals(
    rows: pd.DataFrame, *, by_class: bool = False, resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Share of each kind of module, mean over models.

    A model that lacks a kind counts with a share of 0, so that the means add up to 1.

    Args:
        rows: of the measurement ``layers``, as `Store.read` returns them.
        by_class: whether to separate CNNs, transformers and so on.
        resamples: bootstrap samples over models.
        seed: of the bootstrap.

    Returns:
        One row per generator and kind (and class): ``share``, ``low``, ``high`` (95 %), ``models``
        (that have it) and ``of`` (models in all).
    """
    shares = kind_shares(rows)
    groups = ["class", "generator"] if by_class else ["generator"]
    found = []
    for key, group in shares.groupby(groups, sort=False):
        table = group.pivot_table("share", "requested_model", "kind", aggfunc="sum")
        for kind in table:
            values = table[kind].fillna(0.0).to_numpy(dtype=np.float64)
            mean, low, high = bootstrap_mean(values, resamples=resamples, seed=seed)
            present = int(table[kind].notna().sum())
            found.append((*key, kind, mean, low, high, present, len(table)))
    columns = [*groups, "kind", "share", "low", "high", "models", "of"]
    frame = pd.DataFrame(found, columns=columns)
    return frame.sort_values([*groups, "share"], ascending=[*[True] * len(groups), False],
                             ignore_index=True)  # fmt: skip
