r"""The period of a series, and how sure one can be of it: lines against their ground.

A response with period Q has all its power at the frequencies j/Q. Over whole cycles of Q these are
single lines of the periodogram, with nothing between them but what does not repeat. So for every Q:
the power of its lines beside that of their nearest neighbours that are none. Without a period that
ratio is of two estimates of the same spectrum, and follows Fisher's F. Its degrees of freedom are 2
per line, image and independent output; how many outputs are independent is seen in how alike they
are at two frequencies without lines (all of one shape: one), and half of that is believed; and
lines that stand out by less than a fifth are none, since spectra are bent. What is looked at are
steps from sample to sample: they repeat as the series does, while drifts (padding) would bury lines
under their slopes.

Which Q? Where Q repeats, so does every multiple, and lines of a divisor are lines of Q: of the
candidates that explain (nearly) most, the one after which the series is most alike, and then the
smallest: a prime factor of Q stays only if lines that are Q's alone stand out by themselves, and a
multiple takes its place if lines that are the multiple's alone do. Where
another candidate does as well, the period is not known; where a multiple might, that is said.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["ALPHA", "Finding", "f_tail", "find_period", "gram", "rounding_floor"]

ALPHA = 1e-4
"""Largest probability of a line that is none, over all candidates together."""

_CYCLES = 2  # at least, of a period that is looked for
_NEIGHBOURS = 3  # on each side of a line, that show the ground
_NEARLY = 0.85  # of the largest explained power: candidates that alikeness decides between
_ENOUGH = 0.05  # of the variance: less is no period of the response, however sure
_ALIKE = 1.2  # × the smallest mean squared difference: candidates as good as the best
_UNEVEN = 1.2  # what the ground beneath a line may be beside that around it
_DOUBT = 0.01  # of the variance: what a multiple must be known not to hold
_SURE = 2.0  # standard errors, for what is not there
_LEAST = 1e-4  # of the variance: lines of a multiple that hold less are nothing
_FFT_ROUNDING = 1e-12  # of the mean square, to which series are scaled
_TINY = 1e-300
_EPS_FLOOR = 16.0  # × the precision: what rounding may do to a response

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Finding:
    """What a series says.

    Attributes:
        period: in samples; None without.
        p_value: of the least certain of the tests that it rests on; without a period, of the best
            candidate, times the number of candidates.
        share: of the variance that the period's lines explain, or those of `weak`.
        doubt: whether a multiple of it, within `longest`, may be the period.
        still: whether the series does not change beyond rounding.
        longest: longest candidate, in samples.
        rivals: candidates between which nothing decides; there is no period then.
        weak: of the most certain candidate, where its lines stand out but hold too little of the
            variance for a period of the response; 0 where none stand out.
    """

    period: int | None
    p_value: float
    share: float
    still: bool
    longest: int
    doubt: bool = False
    rivals: tuple[int, ...] = ()
    weak: int = 0


def gram(series: Array) -> Array:
    """Inner products of the steps of a series [T + 1, D]: all that their spectrum needs, [T, T].

    Steps repeat as the series does, and drifts, whose spectrum falls off steeply, are levelled.
    """
    steps = np.diff(series, axis=0)
    found: Array = steps @ steps.T
    return found


def find_period(
    grams: Sequence[Array],
    floors: Sequence[float],
    candidates: Sequence[int] | None = None,
) -> Finding:
    """The period of several series over the same samples, pooled.

    Args:
        grams: of each series, see `gram`, [T, T].
        floors: mean square per step that rounding accounts for, of each series.
        candidates: periods in samples; None takes all from 2 to half the length.

    Example:
        >>> t = np.arange(97.0)
        >>> series = np.stack([np.sin(2 * np.pi * t / 8), np.cos(2 * np.pi * t / 4)], 1)
        >>> find_period([gram(series)], [1e-12]).period
        8
    """
    T = len(grams[0])
    tested = list(range(2, T // _CYCLES + 1) if candidates is None else candidates)
    longest = max(tested, default=0)
    kept = [(g, f) for g, f in zip(grams, floors, strict=True) if np.trace(g) / T > f]
    if not kept or not tested:
        return Finding(None, 1.0, 0.0, not kept, longest)
    scaled = [g / np.trace(g) * T for g, _ in kept]
    ground = [f / np.trace(g) * T for g, f in kept]
    combs = {Q: _Comb(Q, scaled, ground) for Q in tested}
    chances = {Q: c.p_value() * len(tested) for Q, c in combs.items()}
    best = min(chances.values())
    sure = {Q: c for Q, c in combs.items() if chances[Q] < ALPHA and c.share > _ENOUGH}
    if not sure:
        likely = min(chances, key=lambda Q: chances[Q])
        weak, share = (likely, combs[likely].share) if best < ALPHA else (0, 0.0)
        return Finding(None, min(1.0, best), share, False, longest, weak=weak)
    most = max(c.share for c in sure.values())
    near = [Q for Q, c in sure.items() if c.share >= _NEARLY * most]
    unlike = {Q: _unlike(Q, scaled) for Q in sure}
    first = min(near, key=lambda Q: unlike[Q])
    period, p_value = _smallest(first, scaled, ground)
    period, p_value = _longest(period, p_value, longest, scaled, ground)
    as_good = [Q for Q in sure if unlike[Q] <= _ALIKE * unlike[first]]
    rivals = [Q for Q in as_good if Q % period and period % Q]
    if period == 1 or rivals:  # its lines are none by themselves, or as good as others
        both = tuple(sorted([period, *rivals])) if rivals else ()
        return Finding(None, min(1.0, best), 0.0, False, longest, rivals=both)
    comb = _Comb(period, scaled, ground)
    doubt = any(
        _Comb(k * period, scaled, ground).could_explain(k) for k in range(2, longest // period + 1)
    )
    return Finding(period, max(p_value, comb.p_value()), comb.share, False, longest, doubt)


def _unlike(Q: int, grams: Sequence[Array]) -> float:
    """Mean squared difference of samples Q apart."""
    n = len(grams[0]) - Q
    parts = [np.diag(g)[:n] + np.diag(g)[Q:] - 2 * np.diag(g, Q) for g in grams]
    return float(np.mean(parts))


def _smallest(Q: int, grams: Sequence[Array], ground: Sequence[float]) -> tuple[int, float]:
    """Q without the factors that no line speaks for, and the largest p of those that stay."""
    worst = 0.0
    for factor in _primes(Q):
        comb = _Comb(Q, grams, ground)
        p = comb.p_value(comb.own(factor))
        if p < ALPHA:
            worst = max(worst, p)
        else:
            Q //= factor
    return Q, worst


def _longest(
    Q: int, p_value: float, longest: int, grams: Sequence[Array], ground: Sequence[float]
) -> tuple[int, float]:
    """A multiple of Q, if lines speak for it that are not Q's, and the largest p."""
    k = 2
    while Q > 1 and k * Q <= longest:
        comb = _Comb(k * Q, grams, ground)
        own = comb.p_value(comb.own(k))
        if own * (longest // Q) < ALPHA and comb.holds(k) > _LEAST:
            Q, p = _smallest(k * Q, grams, ground)
            p_value, k = max(p_value, p, own), 2
        else:
            k += 1
    return Q, p_value


def _primes(n: int) -> list[int]:
    found, p = [], 2
    while n > 1:
        while n % p == 0:
            found.append(p)
            n //= p
        p += 1
    return found


class _Comb:
    """The lines of one candidate, over as many whole cycles as there are."""

    def __init__(self, Q: int, grams: Sequence[Array], floors: Sequence[float]) -> None:
        T = len(grams[0])
        self.Q, self.cycles = Q, T // Q
        n = self.cycles * Q
        self.half = n // 2
        self.even = n % 2 == 0
        # |Σ_t r(t) e^{−2πi kt/n}|²/n² for k = 0 … n/2, from the inner products of r alone.
        cross = [np.fft.fft(np.fft.ifft(g[:n, :n], axis=1), axis=0) / n for g in grams]
        cross = [c[: self.half + 1, : self.half + 1] for c in cross]
        self.power = np.stack([np.real(np.diag(c)).clip(0) for c in cross])
        # No smaller than the rounding of the transform itself.
        self.floor = np.maximum(np.array(floors), _FFT_ROUNDING) / n
        self.lines = self.cycles * np.arange(1, Q // 2 + 1)
        self.outputs = np.array(
            [self._independent(c, f) for c, f in zip(cross, self.floor.tolist(), strict=True)]
        )

    def _independent(self, cross: NDArray[np.complex128], floor: float) -> float:
        """How many outputs are independent of each other, by half, 1 at least.

        Coefficients of D independent outputs at two frequencies have a mean squared cosine of 1/D.
        """
        between = [k for k in range(1, self.half + (not self.even)) if k % self.cycles]
        inner = np.abs(cross[np.ix_(between, between)]) ** 2
        power = np.real(np.diag(cross))[between].clip(max(floor, 1e-150))
        alike = (inner / np.outer(power, power))[~np.eye(len(between), dtype=bool)]
        return max(1.0, 0.5 / max(float(alike.mean()), 1e-9)) if len(alike) else 1.0

    def own(self, factor: int) -> NDArray[np.int64]:
        """Lines that are not those of Q / factor."""
        found: NDArray[np.int64] = self.lines[self.lines // self.cycles % factor != 0]
        return found

    def _ground(self, line: int) -> Array:
        """Mean power of the nearest bins that belong to no line, [images]."""
        below = [k for k in range(line - 1, 0, -1) if k % self.cycles][:_NEIGHBOURS]
        above = [k for k in range(line + 1, self.half + 1) if k % self.cycles][:_NEIGHBOURS]
        sides = [self.power[:, side].mean(1) for side in (below, above) if side]
        found: Array = np.maximum(np.mean(sides, 0), self.floor)
        return found

    @property
    def share(self) -> float:
        """Variance that the lines explain, beyond their ground, mean over images."""
        return min(1.0, max(0.0, self._excess(self.lines)))

    def holds(self, factor: int) -> float:
        """Variance that lines which are not those of Q / factor explain, beyond their ground."""
        return self._excess(self.own(factor))

    def _excess(self, lines: NDArray[np.int64]) -> float:
        twice = np.where(self.even & (lines == self.half), 1, 2)
        ground = np.stack([self._ground(k) for k in lines], 1)
        return float(((self.power[:, lines] - ground) * twice).sum(1).mean())

    def could_explain(self, factor: int) -> bool:
        """Whether lines that are not those of Q / factor may hold enough for Q to be the period."""
        own = self.own(factor)
        twice = np.where(self.even & (own == self.half), 1, 2)
        ground = np.stack([self._ground(k) for k in own], 1)
        error = np.sqrt((twice * ground**2 / self.outputs[:, None]).sum()) / len(ground)
        return bool(self.holds(factor) + _SURE * error > _DOUBT)

    def p_value(self, lines: NDArray[np.int64] | None = None) -> float:
        """Probability of such lines over such a ground, if they were none."""
        lines = self.lines if lines is None else lines
        if not len(lines):
            return 1.0
        ground = np.stack([self._ground(k) for k in lines], 1)
        twice = np.where(self.even & (lines == self.half), 1.0, 2.0)
        ratio = self.power[:, lines].sum() / ground.sum() / _UNEVEN
        spread = ground**2 / self.outputs[:, None]
        freedom = 2 * ground.sum() ** 2 / (spread * 2 / twice).sum()
        bins = {k for line in lines for k in self._near(int(line))}
        below = 2 * len(bins) / len(lines) * ground.sum() ** 2 / spread.sum()
        return f_tail(float(ratio), float(freedom), float(below))

    def _near(self, line: int) -> list[int]:
        below = [k for k in range(line - 1, 0, -1) if k % self.cycles][:_NEIGHBOURS]
        above = [k for k in range(line + 1, self.half + 1) if k % self.cycles][:_NEIGHBOURS]
        return [*below, *above]


def rounding_floor(size: float, eps: float) -> float:
    """Mean square that rounding may make of the steps of a response of that root mean square."""
    return 2 * (_EPS_FLOOR * eps * size) ** 2


def f_tail(value: float, above: float, below: float) -> float:
    """P(F > value) of Fisher's F with these degrees of freedom, whole or not.

    Example:
        >>> round(f_tail(4.0, 2, 10), 6)  # (1 + 2·4/10)^−5 for two degrees above
        0.052922
    """
    if not value > 0:
        return 1.0
    if math.isinf(value):
        return 0.0
    return _incomplete_beta(below / (below + above * value), below / 2, above / 2)


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """The regularised I_x(a, b), by its continued fraction (DLMF 8.17.22), modified by Lentz."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(1 - x, b, a)
    log_front = a * math.log(x) + b * math.log1p(-x) - math.log(a)
    log_front += math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    c, d = 1.0, 0.0
    out = 1.0
    for n in range(1, 2000):
        term = _beta_term(n, x, a, b)
        d = 1 / ((1 + term * d) or _TINY)
        c = (1 + term / c) or _TINY
        out *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return math.exp(log_front) / out


def _beta_term(n: int, x: float, a: float, b: float) -> float:
    """The n-th numerator of the continued fraction 1 + d₁/(1 + d₂/(1 + …)) of 1 / I."""
    m = n // 2
    if n % 2:
        return -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
    return m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
