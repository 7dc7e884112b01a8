"""Where a curve on a grid falls to one half, interpolated in the logarithm of the step."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["crossing"]

_CLOSE_TO_ONE = 0.99  # above it, −log r is what is left of the curve's own error
_CLOSE_TO_ZERO = 1e-3  # below it, the logarithm of r is that of rounding


def crossing(
    log_h: NDArray[np.float64], ratios: NDArray[np.float64], level: float = 0.5
) -> NDArray[np.float64]:
    """The first log h at which curves fall to a level.

    Between two nodes a curve is taken for exp(−(h/a)^p), so log(−log r) is interpolated linearly
    in log h. With nodes a factor of two apart this is right to 1.3 % on sin²(h)/h², on 1/(1 + h)
    and on 2(e⁻ʰ − 1 + h)/h², and exactly on exponentials and Gaussians; a straight line, or a cubic
    through four nodes, is off by up to 5 %.

    Args:
        log_h: [J] ascending, J ≥ 2.
        ratios: [R, J].
        level: what they fall to, between 0 and 1.

    Returns:
        [R]; −∞ for a curve that is not above the level at the first node, ∞ for one that stays
        above it, NaN for one that is not known.

    Example:
        >>> h = 2.0 ** np.arange(-3, 4)
        >>> curve = np.sinc(h / np.pi)[None] ** 2  # sin²(h)/h² = 1/2 at h = 1.3916
        >>> bool(abs(np.exp(crossing(np.log(h), curve))[0] / 1.3916 - 1) < 0.013)
        True
    """
    rows = np.arange(len(ratios))
    fallen = ratios <= level
    right = np.where(fallen.any(1), fallen.argmax(1), 1).clip(1)
    left = right - 1
    straight = np.log(-np.log(ratios.clip(_CLOSE_TO_ZERO, _CLOSE_TO_ONE)))
    y0, y1 = straight[rows, left], straight[rows, right]
    goal = math.log(-math.log(level))
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (goal - y0) / (y1 - y0)
    found = log_h[left] + (log_h[right] - log_h[left]) * share
    found = np.where(fallen[:, 0], -np.inf, np.where(fallen.any(1), found, np.inf))
    return np.where(np.isnan(ratios).any(1), np.nan, found)
