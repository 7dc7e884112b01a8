r"""Following one orbit: change, decisions, loss, LEE(t), path length, and what asymmetry costs.

Path length is ∫‖∂u/∂t‖ dt, and bounds the change: ‖u(t) − u(0)‖ ≤ ∫₀ᵗ‖∂u/∂t‖. The integrand is
measured on an even grid and at one drawn point r in each step h, and a step contributes

    h (g_a + g_b)/2 + h (g_r − g̃_r),    g̃ the straight line between the ends,

whose expectation over r is the integral whatever g is: a grid that keeps step with the pixels, and
sees the same phase everywhere, is corrected by the second term, and what it is uncertain by is seen
in its size. The stated error is two standard errors, 2 √Σ h²(g_r − g̃_r)², the sum over n steps
being taken for no smaller than n times its mean over all steps: few say little of themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from liederiv.actions import Action
from liederiv.base_representation import class_axis
from liederiv.differentiation import Verification
from liederiv.errors import LieDerivError

from .response import Response

__all__ = ["Followed", "Grid", "cross_entropy", "follow", "path_length"]

Array = NDArray[np.float64]
_BETWEEN = 33  # places of the orbit at which an output's places must be inside the image


@dataclass(frozen=True)
class Grid:
    """Values of t: an even grid over ±limit, and one drawn point in each step.

    Attributes:
        t: [2n + 1] for n steps, in order; grid and drawn points alternate.
    """

    t: Array

    @classmethod
    def of(cls, limit: float, steps: int, seed: int) -> Grid:
        """From the largest |t|, the number of steps (even, so that 0 is on it) and the seed."""
        if steps < 2 or steps % 2:
            raise LieDerivError(f"points={steps} must be an even number of steps, 2 or more.")
        even = limit * (2 * np.arange(steps + 1) / steps - 1)
        share = np.random.default_rng(seed).uniform(0.05, 0.95, steps)
        drawn = even[:-1] + share * np.diff(even)
        t = np.empty(2 * steps + 1)
        t[::2], t[1::2] = even, drawn
        return cls(t)

    @property
    def on_grid(self) -> NDArray[np.bool_]:
        """Which belong to the even grid."""
        return np.arange(len(self.t)) % 2 == 0

    @property
    def middle(self) -> int:
        """Where t = 0 is."""
        return len(self.t) // 2

    @property
    def weights(self) -> Array:
        """Of each point in a mean over t uniform in the range: the trapezium rule, of sum 1."""
        gaps = np.diff(self.t)
        found: Array = (np.append(gaps, 0) + np.append(0, gaps)) / 2
        return found / found.sum()


def path_length(grid: Grid, speed: Array) -> tuple[Array, Array]:
    """∫ from 0 to t of a speed ≥ 0, and two standard errors of it.

    Args:
        grid: T values of t.
        speed: [B, T].

    Returns:
        [B, T] each; 0 at t = 0, positive on both sides.
    """
    t, middle = grid.t, grid.middle
    length, square = np.zeros_like(speed), np.zeros_like(speed)
    for sign in (1, -1):
        here = middle
        while 0 <= here + 2 * sign < len(t):
            between, there = here + sign, here + 2 * sign
            h, part = abs(t[there] - t[here]), abs(t[between] - t[here])
            a, r, b = speed[:, here], speed[:, between], speed[:, there]
            surprise = h * (r - (a + part / h * (b - a)))
            length[:, there] = length[:, here] + h * (a + b) / 2 + surprise
            length[:, between] = length[:, here] + part * (a + r) / 2
            square[:, there] = square[:, between] = square[:, here] + surprise**2
            here = there
    steps = (np.abs(np.arange(len(t)) - middle) + 1) // 2
    typical = (square[:, 0] + square[:, -1]) / (len(t) // 2)
    return length, 2 * np.sqrt(np.maximum(square, steps * typical[:, None]))


def cross_entropy(u: Tensor, labels: Tensor, kind: str) -> Tensor:
    """−log of the probability of the label, in nats, float64 [B].

    Args:
        u: probabilities or logits [B, n].
        labels: int64 [B].
        kind: ``probs`` or ``logits``.
    """
    tiny = torch.finfo(torch.float64).tiny
    logs = u.clamp_min(tiny).log() if kind == "probs" else u.log_softmax(1)
    return -logs.gather(1, labels.to(u.device)[:, None])[:, 0].cpu()


@dataclass(frozen=True)
class Followed:
    """What one batch said; the fields of `OrbitCurve` under their names, and the verification."""

    values: dict[str, Array | None]
    verification: Verification


def follow(
    response: Response,
    action: Action,
    grid: Grid,
    labels: Tensor | None = None,
    step: Callable[[int], object] = lambda n: None,
) -> Followed:
    """Follow the orbits of one batch.

    Args:
        response: of the model on the batch.
        action: one generator, bound to the batch.
        grid: values of t.
        labels: int64 [B], where the output is scores of classes [B, n].
        step: told after each point.
    """
    ts = [torch.tensor([[v]], dtype=torch.float64) for v in grid.t]
    # Few points are not the whole orbit: a turn leaves out corners between two of them.
    between = torch.linspace(grid.t[0], grid.t[-1], _BETWEEN, dtype=torch.float64)
    mask = response.kept_entries(action, [*ts, *between.reshape(-1, 1, 1)])
    run = _Run(response, mask, grid, labels)
    origin = response.origin
    # From the middle outwards, so that each point follows its neighbour.
    for way in (range(grid.middle, len(ts)), range(grid.middle - 1, -1, -1)):
        before = origin
        for i in way:
            before = run.add(i, action, ts[i], before)
            step(1)
    return run.done()


class _Run:
    """Collects what is measured, point by point, without keeping the outputs."""

    def __init__(
        self, response: Response, mask: Tensor | None, grid: Grid, labels: Tensor | None
    ) -> None:
        self.response, self.mask, self.grid, self.labels = response, mask, grid, labels
        B, T = len(response), len(grid.t)
        classes = response.kind in ("probs", "logits")
        self.axis = class_axis(response.origin, response.rho) if classes else None
        self.change, self.lee, self.error = np.zeros((B, T)), np.zeros((B, T)), np.zeros((B, T))
        self.segment = np.zeros((B, T))
        self.kept, self.correct, self.loss = np.ones((B, T)), np.zeros((B, T)), np.zeros((B, T))
        self.offset = torch.zeros_like(response.origin)  # mean of u(t) − u(0)
        self.square = np.zeros(B)  # mean of its square
        self.verification: Verification | None = None

    def add(self, i: int, action: Action, t: Tensor, before: Tensor) -> Tensor:
        """Measure one point; u there."""
        r, weight = self.response, float(self.grid.weights[i])
        found = r.linear(action, t)
        self.verification = self.verification or found.verification
        gone = found.u - r.origin
        self.change[:, i] = r.size(gone, self.mask)
        self.lee[:, i] = r.mean(found.du[0].square(), self.mask)
        self.error[:, i] = float(found.errors[0])
        self.segment[:, i] = r.size(found.u - before, self.mask)
        self.offset += weight * gone
        self.square += weight * self.change[:, i] ** 2
        if self.axis is not None:
            self.kept[:, i] = r.mean(*self._decisions(found.u))
        if self.labels is not None:
            self.loss[:, i] = cross_entropy(found.u, self.labels, r.kind)
            self.correct[:, i] = (found.u.argmax(1).cpu() == self.labels).double()
        return found.u

    def _decisions(self, u: Tensor) -> tuple[Tensor, Tensor | None]:
        """Where the class is that at t = 0, and where that counts."""
        assert self.axis is not None
        same = (u.argmax(self.axis) == self.response.origin.argmax(self.axis)).double()
        mask = None if self.mask is None else self.mask.any(self.axis)
        return same, mask

    def done(self) -> Followed:
        r, grid = self.response, self.grid
        speed = np.sqrt(self.lee)
        # An estimate from few entries may be zero by chance: that of the whole orbit counts.
        self.error[:] = np.sqrt((self.error**2).mean(1, keepdims=True))
        path, path_error = path_length(grid, speed)
        off, _ = path_length(grid, self.error)  # of differences, which add up at worst
        asymmetry = np.clip(self.square - _array(r.mean(self.offset.square(), self.mask)), 0, None)
        values: dict[str, Array | None] = {
            "size": _array(r.size(r.origin, self.mask)),
            "floor": _array(r.floor(self.mask)),
            "change": self.change,
            "lee": self.lee,
            "lee_error": 2 * speed * self.error + self.error**2,
            "path": path,
            "path_error": path_error + off,
            "chords": self._chords(),
            "asymmetry": asymmetry,
            "compared": self._compared(),
            "kept": None if self.axis is None else self.kept,
            "correct": None if self.labels is None else self.correct,
            "loss": None if self.labels is None else self.loss,
            "asymmetry_loss": self._asymmetry_loss(),
        }
        assert self.verification is not None
        return Followed(values, self.verification)

    def _chords(self) -> Array:
        middle, out = self.grid.middle, np.zeros_like(self.segment)
        out[:, middle:] = self.segment[:, middle:].cumsum(1)
        out[:, :middle] = self.segment[:, :middle][:, ::-1].cumsum(1)[:, ::-1]
        return out

    def _compared(self) -> Array:
        if self.mask is None:
            return np.ones(len(self.response))
        return _array(self.response.mean(self.mask.double()))

    def _asymmetry_loss(self) -> Array | None:
        if self.labels is None:
            return None
        centre = self.response.origin + self.offset
        at_mean = _array(cross_entropy(centre, self.labels, self.response.kind))
        found: Array = self.loss @ self.grid.weights - at_mean
        # Convexity makes it ≥ 0; rounding of numbers of this size may not.
        slack = 1e-12 * (1 + np.abs(at_mean))
        return np.where((found < 0) & (found > -slack), 0.0, found)


def _array(v: Tensor) -> Array:
    return v.detach().cpu().double().numpy()
