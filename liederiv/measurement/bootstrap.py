"""The bootstrap, seeded: which of a sample is drawn how often, and percentile intervals."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["bootstrap_mean", "bootstrap_ratio", "percentiles", "resample_counts", "resampled"]


def resample_counts(
    n: int, resamples: int, seed: int, clusters: ArrayLike | None = None
) -> NDArray[np.float64]:
    """How often each of n images is drawn in each resample: [resamples, n].

    Args:
        n: number of images.
        resamples: number of bootstrap samples.
        seed: of the generator.
        clusters: [n] labels of images that are not independent (crops of one photograph); whole
            clusters are then drawn, so that the interval does not pretend to more evidence.
    """
    labels = np.arange(n) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    size = int(labels.max()) + 1
    draws = np.random.default_rng(seed).multinomial(size, np.full(size, 1 / size), size=resamples)
    return draws[:, labels].astype(np.float64)


def resampled(
    n: int, resamples: int, seed: int, clusters: ArrayLike | None = None
) -> Iterator[NDArray[np.intp]]:
    """The same draws as numbers of what is drawn, in order, for statistics that are no means."""
    for counts in resample_counts(n, resamples, seed, clusters):
        yield np.repeat(np.arange(n), counts.astype(np.intp))


def percentiles(values: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of a statistic over resamples, without those in which it is undefined.

    Args:
        values: [resamples]; NaN where undefined.
        level: of confidence.

    Returns:
        lower and upper end; NaN if it is undefined in all of them.
    """
    found = np.asarray(values, np.float64)
    if np.isnan(found).all():
        return math.nan, math.nan
    tail = (1 - level) / 2
    low, high = np.nanquantile(found, [tail, 1 - tail])
    return float(low), float(high)


def bootstrap_mean(
    values: ArrayLike,
    *,
    resamples: int = 2000,
    seed: int = 0,
    clusters: ArrayLike | None = None,
    level: float = 0.95,
) -> tuple[float, float, float]:
    """Mean over images with a percentile bootstrap interval.

    Args:
        values: [n] per image.
        resamples: see `resample_counts`.
        seed: see `resample_counts`.
        clusters: see `resample_counts`.
        level: of confidence.

    Returns:
        mean, lower and upper end; the ends are NaN for fewer than two images (or clusters).
    """
    return bootstrap_ratio(
        values, None, resamples=resamples, seed=seed, clusters=clusters, level=level
    )


def bootstrap_ratio(
    numerator: ArrayLike,
    denominator: ArrayLike | None,
    *,
    resamples: int = 2000,
    seed: int = 0,
    clusters: ArrayLike | None = None,
    level: float = 0.95,
) -> tuple[float, float, float]:
    """Ratio of two means over the same images with a percentile bootstrap interval.

    Args:
        numerator: [n] per image.
        denominator: [n] per image; None divides by 1.
        resamples: see `resample_counts`.
        seed: see `resample_counts`.
        clusters: see `resample_counts`.
        level: of confidence.

    Returns:
        ratio, lower and upper end; the ends are NaN for fewer than two images (or clusters).
    """
    top = np.asarray(numerator, dtype=np.float64)
    bottom = np.ones_like(top) if denominator is None else np.asarray(denominator, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        estimate = float(top.sum() / bottom.sum())
        if len(top if clusters is None else np.unique(np.asarray(clusters))) < 2:
            return estimate, float("nan"), float("nan")
        counts = resample_counts(len(top), resamples, seed, clusters)
        return estimate, *percentiles((counts @ top) / (counts @ bottom), level)
