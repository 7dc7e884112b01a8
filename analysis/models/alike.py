"""Which models of a scan were measured alike, so that their numbers may stand in one table.

A folder of results is filled by settings that it is bound to, but files are easily put together
from several scans. The rule is that of `liederiv.measurement.comparability`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pandas as pd

from liederiv.measurement.comparability import Contrast, contrast, value_of
from liederiv.measurement.results import Provenance

__all__ = ["measured_alike", "provenance_of_row"]

_SETTINGS = ("unit", "dynamic_range", "margin")
_PREPROCESSING = ("img_size", "max_img_size", "crop_pct", "mean", "std", "interpolation")
_VERSIONS = ("liederiv", "torch", "timm", "numpy", "python")
_TEXTS = (
    "model",
    "weights",
    "weights_fingerprint",
    "images",
    "images_fingerprint",
    "scheme",
    "representation",
    "engine",
    "dtype",
    "device",
)


def provenance_of_row(row: Mapping[Any, Any]) -> Provenance:
    """What a row of a scan says about its measurement; of the preprocessing, what was asked for."""
    settings = _settings(row.get("settings"))
    sizes = [row.get(f"input_{name}") for name in ("channels", "height", "width")]
    known = all(size is not None and not pd.isna(size) for size in sizes)
    texts: dict[str, Any] = {name: _text(row.get(name)) for name in _TEXTS}
    return Provenance(
        **texts,
        inputs="images" if known else "clouds",
        num_images=_whole(row.get("num_images")),
        seed=_whole(row.get("seed")),
        input_size=tuple(_whole(size) for size in sizes) if known else (),
        settings={name: settings.get(name) for name in _SETTINGS},
        preprocessing={name: settings.get(name) for name in _PREPROCESSING},
        versions={name: _text(row.get(f"version_{name}")) for name in _VERSIONS},
    )


def measured_alike(rows: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, str]]:
    """Keep the models that were measured as most of them were.

    Args:
        rows: measured ones, one measurement per model, as
            `liederiv.analysis.models.leaderboard.latest` returns them.

    Returns:
        The rows of these models, and why each other one is left out, by its requested name.
    """
    heads = rows.drop_duplicates("requested_model").to_dict("records")
    found = {str(row["requested_model"]): provenance_of_row(row) for row in heads}
    counts = Counter(_kind(p) for p in found.values())
    if len(counts) < 2:
        return rows, {}
    most = counts.most_common(1)[0][0]
    reference = next(p for p in found.values() if _kind(p) == most)
    metrics = set(rows["metric"].dropna()) if "metric" in rows else set()
    left_out = {
        name: f"measured {', '.join(differing.refusals)}, unlike most of these models"
        for name, p in found.items()
        if (differing := _between(reference, p, metrics)).refusals
    }
    return rows[~rows["requested_model"].isin(left_out)], left_out


def _between(a: Provenance, b: Provenance, metrics: set[str]) -> Contrast:
    return contrast(a, b, metrics=metrics, transforms=(), between_models=True)


def _kind(p: Provenance) -> tuple[Any, ...]:
    """What all models of one table share."""
    of_images = (p.inputs, p.images_fingerprint, p.num_images)
    how = (p.scheme, p.seed, p.dtype, value_of(p, "representation"), *p.settings.values())
    return (*of_images, *how)


def _settings(text: Any) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, Mapping) else {}


def _text(value: Any) -> str:
    return "" if value is None or pd.isna(value) else str(value)


def _whole(value: Any) -> int:
    return 0 if value is None or pd.isna(value) else int(value)
