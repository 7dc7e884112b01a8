"""Spearman's rank correlation with a bootstrap confidence interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from liederiv.errors import LieDerivError

__all__ = ["RankCorrelation", "rank_correlation"]


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's ρ.

    Attributes:
        value: in [−1, 1]; NaN if one side is constant or fewer than three pairs are given.
        low: lower end of the percentile bootstrap interval over pairs; NaN if value is.
        high: upper end.
        level: of confidence.
        count: number of pairs used.
    """

    value: float
    low: float
    high: float
    level: float
    count: int


def rank_correlation(
    x: ArrayLike, y: ArrayLike, *, resamples: int = 2000, seed: int = 0, level: float = 0.95
) -> RankCorrelation:
    """Rank correlation of pairs; pairs with a NaN are left out, ties share their mean rank.

    Args:
        x: [n].
        y: [n].
        resamples: bootstrap samples over pairs.
        seed: of the bootstrap.
        level: of confidence.

    Raises:
        LieDerivError: if the lengths differ.

    Example:
        >>> rank_correlation([1, 2, 3, 4], [1, 8, 27, 64]).value
        1.0
    """
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise LieDerivError(f"x and y must be equally long, not of shape {a.shape} and {b.shape}.")
    keep = ~(np.isnan(a) | np.isnan(b))
    a, b = a[keep], b[keep]
    nan = float("nan")
    value = _spearman(a, b) if len(a) > 2 else nan
    if np.isnan(value):
        return RankCorrelation(nan, nan, nan, level, len(a))
    random = np.random.default_rng(seed)
    draws = random.integers(0, len(a), size=(resamples, len(a)))
    values = np.array([_spearman(a[i], b[i]) for i in draws])
    tail = (1 - level) / 2
    low, high = np.nanquantile(values, [tail, 1 - tail])
    return RankCorrelation(value, float(low), float(high), level, len(a))


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    ra, rb = (pd.Series(v).rank().to_numpy() for v in (a, b))
    ra, rb = ra - ra.mean(), rb - rb.mean()
    size = np.sqrt((ra**2).sum() * (rb**2).sum())
    return float((ra * rb).sum() / size) if size > 0 else float("nan")
