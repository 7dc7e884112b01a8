"""The finite metrics as `measure` runs them: by name, batch after batch, with their defaults."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

from torch import Tensor

from liederiv.derivatives import Scheme
from liederiv.metrics.agreement import (
    effective_invariance,
    quarter_turns,
    shift_consistency,
    top1_accuracy,
)
from liederiv.metrics.discrete import discrete_checks
from liederiv.metrics.sampled import (
    SampledMetric,
    eq_r,
    eq_t,
    equivariance_error,
    random_transforms,
)
from liederiv.representations import OutputSpec

__all__ = ["RUNNERS", "FiniteContext", "NotApplicable", "Piece", "Runner", "runners"]


@dataclass(frozen=True)
class NotApplicable:
    """A metric that makes no sense on this model or these images, and why."""

    name: str
    transform: str
    reason: str


Piece = SampledMetric | NotApplicable


@dataclass(frozen=True)
class FiniteContext:
    """What a finite metric may need besides the images.

    Attributes:
        f: the model's output as it is; probabilities for a classifier.
        classifier: whether the output is one probability per class.
        output: representation of the output.
        scheme: interpolation scheme.
        seed: of random transforms, which belong to the image or cloud.
        labels: class indices [B] of these images, or None.
    """

    f: Callable[[Any], Tensor]
    classifier: bool
    output: OutputSpec
    scheme: Scheme
    seed: int
    labels: Tensor | None = None


def _eq_t(c: FiniteContext, x: Tensor) -> Sequence[Piece]:
    return [eq_t(c.f, x, seed=c.seed, output=c.output, scheme=c.scheme)]


def _eq_t_frac(c: FiniteContext, x: Tensor) -> Sequence[Piece]:
    return [eq_t(c.f, x, seed=c.seed, integer=False, output=c.output, scheme=c.scheme)]


def _eq_r(c: FiniteContext, x: Tensor) -> Sequence[Piece]:
    return [eq_r(c.f, x, seed=c.seed, output=c.output, scheme=c.scheme)]


def _sampled_error(c: FiniteContext, x: Tensor) -> Sequence[Piece]:
    return [
        equivariance_error(c.f, x, g, seed=c.seed, output=c.output, scheme=c.scheme)
        for g in ("translation_x", "translation_y", "rotation")
    ]


def _discrete(c: FiniteContext, x: Tensor) -> Sequence[Piece]:
    definition = "‖f(g x) − ρ_g f(x)‖² / ‖f(x)‖²"
    pieces: list[Piece] = []
    for check in discrete_checks(c.f, x, output=c.output):
        if check.relative is None:
            pieces.append(NotApplicable("discrete", check.transform, check.reason))
        else:
            pieces.append(
                SampledMetric("discrete", check.transform, check.relative, "1", definition)
            )
    return pieces


def _no_classes(name: str, transform: str) -> Sequence[Piece]:
    return [NotApplicable(name, transform, "the output is no class score [B, classes]")]


def _shift_consistency(c: FiniteContext, x: Tensor) -> Sequence[Piece]:
    if not c.classifier:
        return _no_classes("shift_consistency", "translation")
    return [shift_consistency(c.f, x, scheme=c.scheme)]


def _effective_invariance(c: FiniteContext, x: Tensor) -> Sequence[Piece]:
    name = "effective_invariance"
    if not c.classifier:
        return _no_classes(name, "rotation, translation")
    reach = [x.shape[-1] / 8, x.shape[-2] / 8]
    moved = random_transforms(
        x, "translation", reach, num_samples=4, seed=c.seed, stream=name, scheme=c.scheme
    )
    views = (t.on_input(x) for t in moved)
    pieces: list[Piece] = [effective_invariance(c.f, x, views, "translation, ±0.125 of the size")]
    if x.shape[-2] == x.shape[-1]:
        pieces.append(effective_invariance(c.f, x, quarter_turns(x), "rotation by 90°, 180°, 270°"))
    else:
        reason = f"quarter turns need square images, not {x.shape[-2]} × {x.shape[-1]} pixels"
        pieces.append(NotApplicable(name, "rotation by 90°, 180°, 270°", reason))
    return pieces


def _accuracy(c: FiniteContext, x: Tensor) -> Sequence[Piece]:
    if not c.classifier:
        return _no_classes("accuracy", "none")
    if c.labels is None:
        reason = "no labels, or labels of other classes than the model's"
        return [NotApplicable("accuracy", "none", reason)]
    return [top1_accuracy(c.f, x, c.labels)]


Runner = Callable[[FiniteContext, Any], Sequence[Piece]]

RUNNERS: dict[str, Runner] = {
    "eq_t": _eq_t,
    "eq_t_frac": _eq_t_frac,
    "eq_r": _eq_r,
    "sampled_error": _sampled_error,
    "discrete": _discrete,
    "shift_consistency": _shift_consistency,
    "effective_invariance": _effective_invariance,
    "accuracy": _accuracy,
}
"""The finite metrics of `liederiv.metrics.registry.METRICS` on images, by name."""


@singledispatch
def runners(x: Any) -> Mapping[str, Runner]:
    """The finite metrics by name for inputs like x."""
    return RUNNERS
