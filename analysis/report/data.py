"""Numbers for the page's charts, as JSON that no name in it can break out of."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

import pandas as pd

from liederiv.metrics.registry import words_of

from ..models.layer_statistics import kind_shares, kind_totals
from ..models.leaderboard import Leaderboard, latest
from ..models.metric_agreement import metric_agreement
from ..plots.style import KIND_COLOURS

__all__ = ["chart_data", "safe_json"]

CLASS_COLOURS = {
    "CNN": "#0072B2",
    "transformer": "#D55E00",
    "mixer": "#009E73",
    "hybrid": "#CC79A7",
    "other": "#999999",
}
"""Okabe & Ito's palette."""

_NEGLIGIBLE = 0.5  # per cent: kinds below it for every generator are not drawn

_QUANTITIES = {
    "parameters": "parameters",
    "top1": "ImageNet top-1 accuracy (%)",
    "year": "year of the architecture",
    "input_height": "input size (pixels)",
    "seconds": "time of the measurement (s)",
}


def chart_data(
    board: Leaderboard,
    models: pd.DataFrame,
    layers: pd.DataFrame | None,
    scores: pd.DataFrame,
    seed: int,
) -> dict[str, Any]:
    """Everything that the page's script draws.

    Args:
        board: what the leaderboard lists.
        models: what `describe_models` returns.
        layers: rows of the measurement ``layers``; None if there are none.
        scores: rows of the measurement ``score``.
        seed: of bootstrap intervals.
    """
    quantities = {k: v for k, v in _QUANTITIES.items() if k in models and models[k].notna().any()}
    name = words_of(board.metric)[1]
    columns = ["model", "family", "class", "recipe", "pretraining", *quantities]
    values = {t: [t, f"{t}_low", f"{t}_high"] for t in board.transforms}
    wanted = columns + [c for group in values.values() for c in group]
    return {
        "models": models[wanted].to_dict("list"),
        "quantities": quantities,
        "transforms": {t: f"{name} ({board.units[t]})" for t in board.transforms},
        "whole": list(board.whole_transforms),
        "classColours": CLASS_COLOURS,
        "kindColours": KIND_COLOURS,
        "layers": _layers(layers) if layers is not None else None,
        "kinds": _kinds(layers, seed) if layers is not None else None,
        "agreement": _agreement(scores, seed),
        "curves": _curves(scores, board.output),
    }


def _layers(rows: pd.DataFrame) -> dict[str, Any]:
    """For each model and generator: modules in order with kind and share in per cent.

    Modules with less than a ten-thousandth of the error are not drawn.
    """
    measured = rows[(rows["outcome"] == "measured") & (rows["share"].abs() >= 1e-4)]
    found: dict[str, Any] = {}
    for (model, generator), group in measured.groupby(["model", "generator"], sort=False):
        calls = [f" (call {int(c) + 1})" if c else "" for c in group["call"].fillna(0)]
        names = [f"{m or '(model)'}{c}" for m, c in zip(group["module"], calls, strict=True)]
        found.setdefault(str(model), {})[str(generator)] = {
            "module": names,
            "kind": group["kind"].tolist(),
            "share": [100 * float(v) for v in group["share"]],
        }
    return found


def _kinds(rows: pd.DataFrame, seed: int) -> dict[str, Any]:
    """Mean share of each kind over models, per generator, in per cent with intervals."""
    totals = kind_totals(rows, resamples=500, seed=seed)
    for column in ("share", "low", "high"):
        totals[column] = 100 * totals[column]
    size = totals[["share", "low", "high"]].abs().max(axis=1).groupby(totals["kind"]).max()
    totals = totals[totals["kind"].map(size) > _NEGLIGIBLE]
    return {
        "table": {str(g): t.to_dict("list") for g, t in totals.groupby("generator", sort=False)},
        "models": int(kind_shares(rows)["model"].nunique()),
    }


def _curves(scores: pd.DataFrame, output: str) -> dict[str, Any] | None:
    """LEE(h)/LEE over the step h by transform and model, where steps were measured."""
    newest = latest(scores)
    rows = newest[(newest["metric"] == "lee_share") & (newest["output"] == output)]
    rows = rows[(rows["outcome"] == "measured") & (rows["status"] == "measured")]
    if rows.empty:
        return None
    steps = rows["transform"].astype(str).str.extract(_STEP)
    rows = rows.assign(base=steps["base"], h=pd.to_numeric(steps["h"]), step_unit=steps["unit"])
    rows = rows.dropna(subset=["h"])
    known = set(rows["base"])
    whole = [b == _group(b) or _group(b) not in known for b in rows["base"]]
    rows = rows.loc[whole]
    found: dict[str, Any] = {}
    for (base, unit), same in rows.groupby(["base", "step_unit"], sort=False):
        name = base if base not in found else f"{base} ({unit})"
        curves = [
            {"model": str(c["model"].iloc[0]), "h": c["h"].tolist(), "share": c["value"].tolist()}
            for _, c in same.sort_values("h").groupby("requested_model", sort=False)
        ]
        found[str(name)] = {"unit": unit, "curves": curves}
    return found or None  # where no row's name has a size


_STEP = r"^(?P<base>[^@]+)@(?P<h>[0-9.]+(?:e[+-]?[0-9]+)?)(?P<unit>.*)$"


def _group(transform: str) -> str:
    """Without the axis."""
    return re.sub(r"_[xyz]$", "", transform)


def _agreement(scores: pd.DataFrame, seed: int) -> dict[str, Any] | None:
    """Rank correlations between metrics, where there are others than LEE and enough models."""
    found = metric_agreement(scores, outputs=("probs",), minimum=5, resamples=300, seed=seed)
    found = found[~found["metric"].isin(["mean_abs", "reference"])]
    return {str(k): v for k, v in found.to_dict("list").items()} if len(found) else None


def safe_json(data: Mapping[str, Any]) -> str:
    """JSON for a script element: nothing in it can end the element, and NaN is null."""
    text = json.dumps(_plain(data), ensure_ascii=True, allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or value is pd.NA or isinstance(value, str | bool | int | float):
        return None if value is pd.NA else value
    return _plain(value.item()) if hasattr(value, "item") else str(value)
