"""What goes with equivariance across models: accuracy, size, year, architecture and training.

Everything is computed on ranks, so that the decades over which errors spread do not matter, with
bootstrap intervals over models. Weights of one architecture are not independent observations: the
bootstrap draws whole architectures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from liederiv.errors import LieDerivError
from liederiv.measurement.bootstrap import percentiles, resampled

from .leaderboard import Leaderboard
from .rank_correlation import rank_correlation
from .recipes import has_published_weights, recipe_of, year_of

__all__ = ["FACTORS", "correlations", "describe_models", "factor_table", "rank_variance_explained",
           "within_architectures"]  # fmt: skip

QUANTITIES = ("top1", "parameters", "year", "input_height")
"""Numbers that the error is correlated with, where they are known."""

FACTORS = ("class", "family", "recipe", "pretraining", "finetuned", "distilled")
"""Categories that models fall into."""


def describe_models(board: Leaderboard) -> pd.DataFrame:
    """The leaderboard's frame with the year of the architecture and what the tag says.

    Adds ``year`` (NaN where unknown), ``recipe``, ``pretraining``, ``finetuned``, ``distilled`` and
    ``self_supervised``; see `liederiv.analysis.models.recipes`. The last five are missing where a
    model has no tag, or random weights, which its tag says nothing about.
    """
    frame = board.frame.copy()
    years = [year_of(str(name)) for name in frame["architecture"]]
    frame["year"] = pd.array([np.nan if y is None else float(y) for y in years], dtype="float64")
    tags = frame["tag"].fillna("").where(has_published_weights(frame), "")
    recipes = [asdict(recipe_of(tag)) if tag else {} for tag in tags]
    said = pd.DataFrame(recipes, index=frame.index)
    for column in ("recipe", "pretraining", "finetuned", "distilled", "self_supervised"):
        frame[column] = said.get(column)
    return frame


def correlations(
    models: pd.DataFrame,
    transforms: Sequence[str],
    *,
    against: Sequence[str] = QUANTITIES,
    given: Sequence[str] = ("parameters",),
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Spearman correlations of the error with other quantities, plain and given size.

    Args:
        models: what `describe_models` returns.
        transforms: columns with the error.
        against: columns to correlate with; those that are absent are passed over.
        given: columns held fixed in the partial correlations.
        resamples: bootstrap samples.
        seed: of the bootstrap.

    Returns:
        One row per transform and quantity: ``rho`` with ``low`` and ``high`` (95 % interval),
        ``partial`` with ``partial_low`` and ``partial_high`` (NaN for quantities that are
        themselves held fixed), and ``models``, the number of models with all that is needed.
    """
    rows = []
    for transform in transforms:
        for quantity in (q for q in against if q in models):
            x, y = _floats(models[transform]), _floats(models[quantity])
            how = {"clusters": models["architecture"], "resamples": resamples, "seed": seed}
            plain = rank_correlation(x, y, **how)  # type: ignore[arg-type]
            row = {"transform": transform, "quantity": quantity, "models": plain.count}
            row |= {"rho": plain.value, "low": plain.low, "high": plain.high}
            partial = (float("nan"),) * 3
            if quantity not in given:
                fixed = np.stack([_floats(models[g]) for g in given], axis=1)
                found = rank_correlation(x, y, given=fixed, **how)  # type: ignore[arg-type]
                partial = (found.value, found.low, found.high)
            names = ("partial", "partial_low", "partial_high")
            rows.append(row | dict(zip(names, partial, strict=True)))
    return pd.DataFrame(rows)


def factor_table(
    models: pd.DataFrame,
    transform: str,
    factor: str,
    *,
    minimum: int = 3,
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Median error of the models in each category, with a 95 % interval.

    Args:
        models: what `describe_models` returns.
        transform: column with the error.
        factor: one of `FACTORS`.
        minimum: categories with fewer models are left out.
        resamples: bootstrap samples over the architectures of a category.
        seed: of the bootstrap.

    Returns:
        One row per category, the smallest median first: ``models``, ``median``, ``low``, ``high``
        (NaN for a single architecture).

    Raises:
        LieDerivError: for an unknown factor.
    """
    if factor not in FACTORS:
        raise LieDerivError(f"factor={factor!r} is unknown; choose one of {', '.join(FACTORS)}.")
    known = models[models[transform].notna() & models[factor].notna()]
    rows = []
    for name, group in known.groupby(factor):
        if len(group) < minimum:
            continue
        alike = group.dropna(subset="architecture")
        values, labels = _floats(alike[transform]), alike["architecture"].factorize()[0]
        low, high = float("nan"), float("nan")
        if len(np.unique(labels)) > 1:
            draws = resampled(len(values), resamples, seed, clusters=labels)
            low, high = percentiles([np.median(values[d]) for d in draws])
        median = float(group[transform].median())
        row = {factor: name, "models": len(group), "median": median, "low": low, "high": high}
        rows.append(row)
    columns = [factor, "models", "median", "low", "high"]
    return pd.DataFrame(rows, columns=columns).sort_values("median").reset_index(drop=True)


def rank_variance_explained(values: ArrayLike, categories: ArrayLike) -> float:
    """Share of the variance of ranks that categories explain: η² = H / (n − 1), H Kruskal–Wallis'.

    Args:
        values: [n]; NaN are left out.
        categories: [n] labels.

    Returns:
        In [0, 1]; NaN if all values are equal or there are fewer than two categories.

    Example:
        >>> rank_variance_explained([1, 2, 3, 4], ["a", "a", "b", "b"])
        0.8
    """
    frame = pd.DataFrame({"value": np.asarray(values, float), "label": np.asarray(categories)})
    frame = frame.dropna()
    ranks = frame["value"].rank()
    total = float(((ranks - ranks.mean()) ** 2).sum())
    if total == 0 or frame["label"].nunique() < 2:
        return float("nan")
    means = ranks.groupby(frame["label"]).transform("mean")
    return float(((means - ranks.mean()) ** 2).sum() / total)


def within_architectures(models: pd.DataFrame, transform: str, factor: str) -> pd.DataFrame:
    """How training moves the error of one and the same architecture.

    The logarithm of each model's error is compared with the mean over all weights of its
    architecture; architectures with weights in one category only say nothing and are left out.

    Args:
        models: what `describe_models` returns.
        transform: column with the error.
        factor: one of `FACTORS` that varies within architectures.

    Returns:
        One row per category: ``factor_of_mean`` (geometric mean of error / architecture's mean),
        ``models`` and ``architectures``.
    """
    known = models[models[factor].notna() & (models[transform] > 0)].copy()
    varied = known.groupby("architecture")[factor].transform("nunique") > 1
    known = known[varied]
    logs = pd.Series(np.log(_floats(known[transform])), known.index)
    known["excess"] = logs - logs.groupby(known["architecture"]).transform("mean")
    rows = [
        {
            factor: name,
            "factor_of_mean": float(np.exp(group["excess"].mean())),
            "models": len(group),
            "architectures": int(group["architecture"].nunique()),
        }
        for name, group in known.groupby(factor)
    ]
    columns = [factor, "factor_of_mean", "models", "architectures"]
    return pd.DataFrame(rows, columns=columns).sort_values("factor_of_mean", ignore_index=True)


def _floats(column: pd.Series) -> NDArray[np.float64]:
    return column.to_numpy(dtype=np.float64, na_value=np.nan)
