"""Compare two scans: the same models on the same images, before and after."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

import numpy as np
import pandas as pd

from liederiv.errors import LieDerivError
from liederiv.measurement.comparison import Difference, compare, contrast_of
from liederiv.measurement.results import Measurement, Score

from .alike import provenance_of_row
from .leaderboard import latest
from .rank_correlation import rank_correlation

__all__ = ["compare_scans", "scan_notes", "summarise_differences"]


def compare_scans(a: pd.DataFrame, b: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """Paired differences b − a of every score of every model that both scans hold.

    Args:
        a: score rows of the first scan, as `Store.read` returns them.
        b: of the second.
        seed: of the bootstrap over images.

    Returns:
        ``model`` and the fields of `liederiv.measurement.comparison.Difference`, one row per score.
        A model that was measured otherwise in b (`liederiv.measurement.comparability`) has one row
        whose ``status`` says so.

    Raises:
        LieDerivError: if the scans share no measured model.
    """
    first, second = _by_model(a), _by_model(b)
    shared = [name for name in first if name in second]
    if not shared:
        raise LieDerivError(
            f"A holds {len(first)} measured models and B {len(second)}, none in common; compare "
            "scans of the same models."
        )
    rows: list[dict[str, Any]] = []
    for name in shared:
        one, two = first[name], second[name]
        try:
            differences = compare(
                one, two, seed=seed, clusters=_clusters(one), between_models=False
            )
        except LieDerivError as error:
            rows.append({"model": name, "status": str(error)})
            continue
        rows += [
            {"model": name, **asdict(d), "significant": d.significant, "better": d.better}
            for d in differences
        ]
    return pd.DataFrame(
        rows, columns=["model", *(f.name for f in fields(Difference)), "significant", "better"]
    )


def scan_notes(a: pd.DataFrame, b: pd.DataFrame) -> tuple[str, ...]:
    """What differs between two scans without keeping them from comparison, each once."""
    first, second = _by_model(a), _by_model(b)
    notes: dict[str, None] = {}
    for name in first:
        if name in second:
            found = contrast_of(first[name], second[name], between_models=False).notes
            notes.update(dict.fromkeys(found))
    return tuple(notes)


def summarise_differences(differences: pd.DataFrame) -> pd.DataFrame:
    """One row per score over all models: what changed, and whether their order did.

    Columns: ``models``, ``lower`` and ``higher`` (models whose interval excludes zero), ``ratio``
    (median of b / a) and ``rank_correlation`` (Spearman's ρ of a and b over the models).
    """
    rows = []
    measured = differences[differences["status"] == "measured"]
    for key, group in measured.groupby(["metric", "transform", "output"], sort=False):
        up = group["difference"] > 0
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = (group["b"] / group["a"]).replace([np.inf, -np.inf], np.nan).median()
        rows.append(
            {
                **dict(zip(("metric", "transform", "output"), key, strict=True)),
                "models": len(group),
                "lower": int((group["significant"] & ~up).sum()),
                "higher": int((group["significant"] & up).sum()),
                "ratio": float(ratio),
                "rank_correlation": rank_correlation(group["a"], group["b"], resamples=1).value,
            }
        )
    return pd.DataFrame(rows)


def _by_model(rows: pd.DataFrame) -> dict[str, Measurement]:
    newest = latest(rows)
    measured = newest[newest["outcome"] == "measured"]
    return {str(name): _measurement(group) for name, group in measured.groupby("requested_model")}


def _measurement(rows: pd.DataFrame) -> Measurement:
    """The measurement that the rows of one model were written from."""
    origin = rows.iloc[0]
    scores = tuple(
        Score(
            metric=row["metric"],
            transform=row["transform"],
            output=row["output"],
            value=_number(row["value"]),
            ci_low=_number(row["ci_low"]),
            ci_high=_number(row["ci_high"]),
            unit=row["unit"] or "",
            status=row["status"],
            reason=row["reason"] or "",
            per_image=_numbers(row["per_image"]),
            per_image_denominator=_numbers(row["per_image_denominator"]),
        )
        for row in rows.to_dict("records")
    )
    names = next((tuple(n) for n in rows["image_names"] if n is not None), ())
    provenance = provenance_of_row(origin.to_dict())
    return Measurement(scores, provenance, names)


def _clusters(measurement: Measurement) -> list[str] | None:
    """Which images are crops of one photograph, as the built-in ones are named."""
    if not measurement.provenance.images.startswith("samples"):
        return None
    return [name.split("/")[0] for name in measurement.image_names]


def _number(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)


def _numbers(values: Any) -> tuple[float, ...]:
    return () if values is None else tuple(float(v) for v in values)
