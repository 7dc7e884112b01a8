"""Spearman's rank correlation, plain or partial, with a bootstrap confidence interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from liederiv.errors import LieDerivError
from liederiv.measurement.bootstrap import percentiles, resampled

__all__ = ["RankCorrelation", "rank_correlation"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's ρ.

    Attributes:
        value: in [−1, 1]; NaN if one side is constant (or determined by the covariates) or too few
            pairs are given.
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
    x: ArrayLike,
    y: ArrayLike,
    *,
    given: ArrayLike | None = None,
    clusters: ArrayLike | None = None,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> RankCorrelation:
    """Rank correlation of pairs; pairs with a NaN are left out, ties share their mean rank.

    With covariates it is partial: the correlation of what is left of both sides' ranks after linear
    regression on the covariates' ranks.

    Args:
        x: [n].
        y: [n].
        given: covariates to hold fixed, [n] or [n, c].
        clusters: [n] labels of pairs that are not independent, such as weights of one
            architecture; the bootstrap then draws whole clusters.
        resamples: bootstrap samples.
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
    fixed = _covariates(given, len(a))
    labels = np.arange(len(a)) if clusters is None else _labels(clusters, len(a))
    data = np.stack([a, b, *fixed])
    keep = ~np.isnan(data).any(0)
    data, labels = data[:, keep], labels[keep]
    n, nan = data.shape[1], float("nan")
    value = float(_partial(data[:, None])[0]) if n > 2 + len(fixed) else nan
    if np.isnan(value):
        return RankCorrelation(nan, nan, nan, level, n)
    draws = list(resampled(n, resamples, seed, clusters=labels))
    if clusters is None:  # all of one length
        values = np.concatenate([_partial(data[:, d]) for d in np.array_split(draws, 20)])
    else:
        values = np.array([_partial(data[:, None, d])[0] for d in draws])
    return RankCorrelation(value, *percentiles(values, level), level, n)


def _covariates(given: ArrayLike | None, n: int) -> list[Array]:
    if given is None:
        return []
    fixed = np.asarray(given, dtype=np.float64)
    columns = fixed[:, None] if fixed.ndim == 1 else fixed
    if columns.ndim != 2 or len(columns) != n:
        raise LieDerivError(f"given must have {n} rows, one per pair, not shape {fixed.shape}.")
    return list(columns.T)


def _labels(clusters: ArrayLike, n: int) -> NDArray[np.intp]:
    codes, _ = pd.factorize(np.asarray(clusters))
    if len(codes) != n:
        raise LieDerivError(f"clusters must have {n} labels, one per pair, not {len(codes)}.")
    return codes


def _partial(data: Array) -> Array:
    """ρ of the first two variables given the others, [2 + c, R, n] → [R]."""
    ranks = np.stack([pd.DataFrame(v.T).rank().to_numpy().T for v in data])
    ranks = ranks - ranks.mean(-1, keepdims=True)
    (ra, rb), fixed = ranks[:2], np.moveaxis(ranks[2:], 0, -1)  # [R, n, c]
    if fixed.shape[-1]:
        inverse = np.linalg.pinv(fixed)  # [R, c, n]
        ra, rb = (r - (fixed @ (inverse @ r[..., None]))[..., 0] for r in (ra, rb))
    size = np.sqrt((ra**2).sum(-1) * (rb**2).sum(-1))
    scale = ra.shape[-1] ** 3 * 1e-12  # rounding, where ranks are fully explained
    with np.errstate(invalid="ignore"):
        out: Array = (ra * rb).sum(-1) / np.where(size > scale, size, np.nan)
    return out
