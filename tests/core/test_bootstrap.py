"""Bootstrap intervals: coverage, agreement with SciPy, clusters, ratios."""

import math

import numpy as np
from scipy import stats

from liederiv.measurement.bootstrap import bootstrap_mean, bootstrap_ratio, resample_counts


def test_agrees_with_scipy_percentile_interval():
    v = np.random.default_rng(0).exponential(size=40)
    mean, low, high = bootstrap_mean(v, resamples=20_000)
    want = stats.bootstrap(
        (v,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert math.isclose(mean, v.mean())
    assert abs(low - want.low) < 0.02 * v.mean()
    assert abs(high - want.high) < 0.02 * v.mean()


def test_coverage_is_near_nominal():
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(2000):
        _, low, high = bootstrap_mean(rng.normal(1.0, 1.0, 60), resamples=400, seed=seed)
        hits += low <= 1.0 <= high
    # For 60 normal values it covers P(|t₅₉| < 1.96 √(59/60)) = 94.3 %, a little less with 400
    # resamples; the standard error of this estimate is 0.5 %.
    assert abs(hits / 2000 - 0.94) < 0.02


def test_ratio_of_proportional_values_has_no_spread():
    v = np.random.default_rng(0).exponential(size=9)
    ratio, low, high = bootstrap_ratio(3 * v, v)
    assert math.isclose(ratio, 3)
    assert math.isclose(low, 3)
    assert math.isclose(high, 3)


def test_clusters_are_drawn_whole_and_widen_the_interval():
    counts = resample_counts(6, 50, 0, ["a", "a", "b", "b", "c", "c"])
    assert (counts[:, 0] == counts[:, 1]).all()
    assert (counts.sum(1) == 6).all()
    v = np.repeat(np.random.default_rng(0).normal(size=10), 5)
    independent = bootstrap_mean(v)
    clustered = bootstrap_mean(v, clusters=np.repeat(np.arange(10), 5))
    assert clustered[2] - clustered[1] > 1.8 * (independent[2] - independent[1])  # ~ √5


def test_same_seed_same_interval_and_none_for_one_image():
    v = np.random.default_rng(0).normal(size=20)
    assert bootstrap_mean(v, seed=3) == bootstrap_mean(v, seed=3)
    assert bootstrap_mean(v, seed=3) != bootstrap_mean(v, seed=4)
    assert math.isnan(bootstrap_mean([1.0])[1])
    assert math.isnan(bootstrap_mean([1.0, 2.0], clusters=["a", "a"])[1])
