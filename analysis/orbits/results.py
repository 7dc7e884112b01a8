"""Typed results of orbits: curves, periods, the worst transform of a box."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from liederiv.errors import LieDerivError
from liederiv.measurement.bootstrap import bootstrap_mean, bootstrap_ratio

__all__ = ["Array", "Estimate", "OrbitCurve", "Orbits", "Period", "Worst"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A mean over images with its 95 % bootstrap interval, NaN for fewer than two images."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class OrbitCurve:
    """What one model answers along one one-parameter group, image by image.

    Sizes are root mean squares over the entries of the output, so that their squares compare with
    LEE. B images, T values of t.

    Attributes:
        generator: name.
        group: of the generator.
        unit: of t, see `liederiv.generators`.
        shown_unit: in which `shown` is given: px, °, %.
        t: [T], in order; 0 is among them.
        shown: the same in `shown_unit`.
        on_grid: [T], whether a point is one of the even grid; the others were drawn, one in each
            step, to judge the quadrature.
        size: of f(x), [B].
        floor: what rounding alone changes, [B].
        change: ‖u(t) − u(0)‖, [B, T], in the output's unit.
        lee: mean squared ∂u/∂t, [B, T], in (output's unit / unit)².
        lee_error: of each LEE where the derivative was a difference (absolute), [B, T]; else 0.
        path: ∫‖∂u/∂t‖ dt from 0 to t as the quadrature says, [B, T]; see `length`.
        path_error: of the quadrature: two standard errors, [B, T].
        chords: length of the polygon through the measured u, from 0 to t, [B, T]. Lies between
            change and the true path length, without any derivative.
        kept: share of the item's decisions that are those at t = 0, [B, T]; None without classes.
        correct: whether the label is predicted, [B, T]; None without labels.
        loss: cross-entropy in nats, [B, T]; None without labels.
        asymmetry: E_t ‖u(t) − ū‖²/dim, t uniform over the range, [B]: what a squared loss loses,
            whatever the target.
        asymmetry_loss: E_t ℓ(u(t), y) − ℓ(ū, y) for the cross-entropy, [B]; None without labels.
        compared: share of the output's entries that are compared: of maps, those that stay inside
            the image all along, [B].
    """

    generator: str
    group: str
    unit: str
    shown_unit: str
    t: Array
    shown: Array
    on_grid: NDArray[np.bool_]
    size: Array = field(repr=False)
    floor: Array = field(repr=False)
    change: Array = field(repr=False)
    lee: Array = field(repr=False)
    lee_error: Array = field(repr=False)
    path: Array = field(repr=False)
    path_error: Array = field(repr=False)
    chords: Array = field(repr=False)
    asymmetry: Array = field(repr=False)
    compared: Array = field(repr=False)
    kept: Array | None = field(default=None, repr=False)
    correct: Array | None = field(default=None, repr=False)
    loss: Array | None = field(default=None, repr=False)
    asymmetry_loss: Array | None = field(default=None, repr=False)

    @property
    def excess(self) -> Array:
        """By how much the polygon is longer than path length, its error and rounding allow, [B]."""
        corners = np.abs(np.arange(len(self.t)) - int(np.flatnonzero(self.t == 0)[0]))
        rounding = 2 * self.floor[:, None] * (1 + corners)
        # Three standard errors: many points are looked at.
        found: Array = (self.chords - self.path - 1.5 * self.path_error - rounding).max(1)
        return found

    @property
    def bound_holds(self) -> bool:
        """Whether the path length bounds the change on every curve, as it must."""
        return bool((self.excess <= 0).all())

    @property
    def total_path(self) -> Array | None:
        """Path length over the whole range, [B]; None where the bound is broken."""
        return self.length[:, 0] + self.length[:, -1] if self.bound_holds else None

    @property
    def length(self) -> Array:
        """Path length: no less than the polygon, whatever the quadrature says, [B, T]."""
        return np.maximum(self.path, self.chords)

    @property
    def reason(self) -> str:
        """Why there is no path length; empty if there is."""
        if self.bound_holds:
            return ""
        broken = int((~(self.excess <= 0)).sum())
        return (
            f"on {broken} of {len(self.excess)} curves of {self.generator} the output moved "
            "further than the integral of its derivative says: it changes faster than the points "
            "follow; take more points, or a smaller range"
        )


@dataclass(frozen=True)
class Period:
    """Whether the answer to a shift repeats.

    Attributes:
        generator: the translation.
        pixels: the period in pixels of the input; None if none was found.
        p_value: of the statement that it is not shorter (or, without a period, that there is none
            so far): the largest of the tests that it rests on.
        share: of the variance over shifts that folding at it explains.
        longest: longest period that was looked for, in pixels.
        shifts: whole-pixel shifts that were measured.
        images: over which the tests are pooled.
        doubt: whether a multiple, within `longest`, may be the period: what it would add can be
            told neither from chance nor from nothing.
        reason: why none was found; else empty.
    """

    generator: str
    pixels: int | None
    p_value: float
    share: float
    longest: int
    shifts: int
    images: int
    doubt: bool = False
    reason: str = ""

    def __str__(self) -> str:
        if self.pixels is None:
            return f"none ({self.reason})"
        p = f"p = {self.p_value:.0e}" if self.p_value >= 1e-12 else "p < 1e-12"
        doubt = " or a multiple of it" if self.doubt else ""
        return (
            f"{self.pixels} px{doubt} ({p}; it explains {self.share:.0%} of the variation; longer "
            f"than {self.longest} px was not looked for)"
        )


@dataclass(frozen=True)
class Worst:
    """The worst transform of a box, searched for in two ways of equal cost.

    Attributes:
        generators: K names.
        units: in which places are given.
        ranges: half the box along each generator, [K], in `units`.
        objective: what was maximised: ``loss`` where labels are known, else ``change``.
        ascent: largest value that gradient ascent found, [B].
        ascent_at: where, [B, K], in `units`.
        grid: largest value on the grid, [B].
        grid_at: where, [B, K].
        ascent_passes: forward passes per image; a derivative along one generator counts as one.
        grid_passes: forward passes per image.
        starts: of the ascent.
        left_out: generators that combine with no other.
        floor: differences below it are rounding, [B].
    """

    generators: tuple[str, ...]
    units: tuple[str, ...]
    ranges: tuple[float, ...]
    objective: str
    ascent: Array = field(repr=False)
    ascent_at: Array = field(repr=False)
    grid: Array = field(repr=False)
    grid_at: Array = field(repr=False)
    ascent_passes: int
    grid_passes: int
    starts: int
    left_out: tuple[str, ...] = ()
    floor: Array = field(default_factory=lambda: np.zeros(1), repr=False)

    @property
    def won(self) -> tuple[int, int]:
        """On how many images the ascent, and the grid, found more; ties count for neither."""
        gap = self.ascent - self.grid
        return int((gap > self.floor).sum()), int((gap < -self.floor).sum())

    @property
    def largest(self) -> Array:
        """The worst that either found, [B]."""
        return np.maximum(self.ascent, self.grid)


@dataclass(frozen=True)
class Orbits:
    """What one model answers along the orbits of some images.

    Attributes:
        curves: one per generator.
        periods: of the translations of images.
        worst: None unless searched for.
        output: ``probs``, ``logits``, ``features`` or ``output``.
        representation: how the output moves, in words.
        scheme: interpolation scheme.
        border: what happens at the border of an image; empty where there is none.
        engine: how derivatives were computed.
        verification: how they were verified.
        seed: of everything random.
        warnings: what a reader should know, such as that a slower engine was used.
        item: what one of the inputs is called.
        image_names: of the images, in order.
        clusters: of images that are not independent; None: all are.
        resamples: of the bootstrap.
    """

    curves: tuple[OrbitCurve, ...]
    periods: tuple[Period, ...]
    worst: Worst | None
    output: str
    representation: str
    scheme: str
    border: str
    engine: str
    verification: str
    seed: int
    warnings: tuple[str, ...] = ()
    item: str = "image"
    image_names: tuple[str, ...] = ()
    clusters: tuple[str, ...] | None = None
    resamples: int = 2000

    def get(self, generator: str) -> OrbitCurve:
        """The curve of a generator.

        Raises:
            LieDerivError: if it was not followed.
        """
        for curve in self.curves:
            if curve.generator == generator:
                return curve
        have = ", ".join(c.generator for c in self.curves)
        raise LieDerivError(f"generator={generator!r} was not followed; choose one of {have}.")

    def mean(self, values: Array) -> Estimate:
        """Mean over images of values [B], with its interval."""
        return Estimate(*bootstrap_mean(values, **self._draws))

    def ratio(self, values: Array, sizes: Array) -> Estimate:
        """Ratio of two means over images, with its interval."""
        return Estimate(*bootstrap_ratio(values, sizes, **self._draws))

    @property
    def _draws(self) -> dict[str, Any]:
        clusters = None if self.clusters is None else list(self.clusters)
        return {"resamples": self.resamples, "seed": self.seed, "clusters": clusters}
