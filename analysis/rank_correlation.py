"""Spearman's rank correlation with a bootstrap confidence interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

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
    value = float(_spearman(a[None], b[None])[0]) if len(a) > 2 else nan
    if np.isnan(value):
        return RankCorrelation(nan, nan, nan, level, len(a))
    random = np.random.default_rng(seed)
    draws = random.integers(0, len(a), size=(resamples, len(a)))
    tail = (1 - level) / 2
    low, high = np.nanquantile(_spearman(a[draws], b[draws]), [tail, 1 - tail])
    return RankCorrelation(value, float(low), float(high), level, len(a))


def _spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """ρ of each row of a with the same row of b, [R, n] → [R]; NaN where a side is constant."""
    ra, rb = (pd.DataFrame(v.T).rank().to_numpy().T for v in (a, b))
    ra, rb = (r - r.mean(1, keepdims=True) for r in (ra, rb))
    size = np.sqrt((ra**2).sum(1) * (rb**2).sum(1))
    with np.errstate(invalid="ignore"):
        out: NDArray[np.float64] = (ra * rb).sum(1) / np.where(size > 0, size, np.nan)
    return out
