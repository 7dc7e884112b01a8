"""Power spectra: Parseval, known waves, shares above a limit; rank correlation against scipy."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from liederiv import LieDerivError
from liederiv.analysis.aliasing.spectra import average_spectra, power_spectrum
from liederiv.analysis.models.rank_correlation import rank_correlation


@pytest.mark.parametrize("boundary", ["periodic", "mirror"])
def test_power_adds_up_to_the_mean_square(boundary):
    z = torch.randn(2, 3, 9, 12, dtype=torch.float64)
    spectrum = power_spectrum(z, boundary)
    assert spectrum.total == pytest.approx(float(z.square().mean((2, 3)).sum(1).mean()), rel=1e-10)
    assert math.isnan(spectrum.above)


def test_a_wave_lies_in_its_bin_and_beyond_lower_limits():
    u = torch.arange(32, dtype=torch.float64)
    wave = torch.cos(2 * torch.pi * 5 * u / 32).expand(1, 1, 32, 32)
    spectrum = power_spectrum(wave, "periodic", limit=0.125, num_bins=16)
    assert spectrum.frequency[spectrum.power.argmax()] == pytest.approx(5 / 32, abs=1 / 64)
    assert spectrum.power.max() == pytest.approx(0.5, rel=1e-10)
    assert spectrum.above == pytest.approx(1.0)
    assert power_spectrum(wave, "periodic", limit=0.25).above == pytest.approx(0.0, abs=1e-20)


def test_the_scale_counts_pixels_of_another_grid():
    z = torch.randn(1, 1, 16, 16, dtype=torch.float64)
    fine = power_spectrum(z, "mirror", scale=2.0, limit=0.5)
    plain = power_spectrum(z, "mirror", limit=0.25)
    assert fine.frequency[-1] == 2 * plain.frequency[-1]
    assert fine.above == pytest.approx(plain.above)
    assert 0.6 < fine.above < 0.9  # white noise: three quarters of the square


def test_averages_weigh_images_by_their_power():
    z = (
        torch.randn(2, 1, 16, 16, dtype=torch.float64)
        * torch.tensor([1.0, 10.0])[:, None, None, None]
    )
    parts = [power_spectrum(z[b : b + 1], limit=0.25) for b in range(2)]
    whole = power_spectrum(z, limit=0.25)
    assert average_spectra(parts).above == pytest.approx(whole.above, rel=1e-10)
    assert average_spectra(parts).total == pytest.approx(whole.total, rel=1e-10)


def test_rank_correlation_is_spearmans_with_ties():
    random = np.random.default_rng(0)
    x = random.integers(0, 5, 40).astype(float)
    y = x + random.normal(size=40)
    found = rank_correlation(x, y)
    assert found.value == pytest.approx(scipy.stats.spearmanr(x, y).statistic, rel=1e-12)
    assert found.low < found.value < found.high
    assert found.count == 40


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    random = np.random.default_rng(1)
    covered = 0
    for _ in range(60):
        x, y = random.normal(size=(2, 30))
        interval = rank_correlation(x, y, resamples=200)
        covered += interval.low <= 0 <= interval.high
    assert 50 <= covered <= 60  # 95 % of 60 is 57; fewer than 50 has probability 1e-4


def test_missing_pairs_are_left_out_and_too_few_give_no_number():
    nan = float("nan")
    assert rank_correlation([1, 2, 3, nan], [1, 2, 3, 0]).count == 3
    assert math.isnan(rank_correlation([1, 2], [1, 2]).value)
    assert math.isnan(rank_correlation([1, 1, 1], [1, 2, 3]).value)
    with pytest.raises(LieDerivError, match="equally long"):
        rank_correlation([1, 2, 3], [1, 2])
