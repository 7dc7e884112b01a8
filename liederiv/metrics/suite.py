"""The finite metrics as `measure` runs them: by name, batch after batch, with their defaults."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

from torch import Tensor

from liederiv.derivatives import Scheme
from liederiv.errors import LieDerivError
from liederiv.metrics.agreement import (
    effective_invariance,
    quarter_turns,
    shift_consistency,
    top1_accuracy,
)
from liederiv.metrics.discrete import discrete_checks
from liederiv.metrics.eq import (
    ROTATION,
    NoWholeShiftError,
    eq_r,
    eq_r_relative,
    eq_t,
    eq_t_relative,
    translation_label,
)
from liederiv.metrics.sampled import SampledMetric, equivariance_error, random_transforms
from liederiv.representations import OutputSpec

__all__ = [
    "RUNNERS",
    "FiniteContext",
    "NotApplicable",
    "Piece",
    "Runner",
    "check_sampling",
    "runners",
]


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
        dynamic_range: largest difference of two values of the output; None where nobody says.
        margin: pixels of an output map to leave out along its border.
        labels: class indices [B] of these images, or None.
    """

    f: Callable[[Any], Tensor]
    classifier: bool
    output: OutputSpec
    scheme: Scheme
    seed: int
    dynamic_range: float | None = None
    margin: float = 0.0
    labels: Tensor | None = None

    @property
    def peak(self) -> float | None:
        """The dynamic range: the one given, else 1 for probabilities, else unknown."""
        return 1.0 if self.dynamic_range is None and self.classifier else self.dynamic_range

    @property
    def sampling(self) -> dict[str, Any]:
        """Arguments that all metrics of random transforms of images take."""
        return {
            "seed": self.seed,
            "output": self.output,
            "scheme": self.scheme,
            "margin": self.margin,
        }


def check_sampling(dynamic_range: float | None, margin: float) -> None:
    """Raise unless the settings of sampled metrics are sound.

    Raises:
        LieDerivError: naming the one that is not.
    """
    if dynamic_range is not None and not 0 < dynamic_range < math.inf:
        raise LieDerivError(
            f"dynamic_range={dynamic_range} must be a positive number, or left out where the "
            "output has none."
        )
    if not 0 <= margin < math.inf:
        raise LieDerivError(f"margin={margin} must be a number of pixels from 0.")


NO_RANGE = (
    "the output has no range of its own; give dynamic_range (2 for pictures in [−1, 1]), or ask "
    "for {relative}"
)


def _eq(name: str) -> Runner:
    """The runner of one of the metrics of `liederiv.metrics.eq`."""
    rotation, integer = name.startswith("eq_r"), "frac" not in name
    label = ROTATION if rotation else translation_label(integer)
    kind = {} if rotation else {"integer": integer}
    relative = name.endswith("_relative")

    def run(c: FiniteContext, x: Tensor) -> Sequence[Piece]:
        options: dict[str, Any] = {**c.sampling, **kind}
        if not relative:
            options["dynamic_range"] = c.peak
            if c.peak is None:
                reason = NO_RANGE.format(relative=f"{name}_relative")
                return [NotApplicable(name, label, reason)]
        metric = _EQ[rotation, relative]
        try:
            return [metric(c.f, x, **options)]
        except NoWholeShiftError as obstacle:
            return [NotApplicable(name, label, str(obstacle))]

    return run


_EQ: dict[tuple[bool, bool], Callable[..., SampledMetric]] = {
    (False, False): eq_t,
    (False, True): eq_t_relative,
    (True, False): eq_r,
    (True, True): eq_r_relative,
}


def _sampled_error(c: FiniteContext, x: Tensor) -> Sequence[Piece]:
    return [
        equivariance_error(c.f, x, g, **c.sampling)
        for g in ("translation_x", "translation_y", "rotation")
    ]


def _discrete(c: FiniteContext, x: Tensor) -> Sequence[Piece]:
    definition = "‖f(g x) − ρ_g f(x)‖² / ‖f(x)‖²"
    pieces: list[Piece] = []
    for check in discrete_checks(c.f, x, output=c.output):
        if check.relative is None or check.absolute is None:
            pieces.append(NotApplicable("discrete", check.transform, check.reason))
            continue
        nothing = check.relative.isnan() & (check.absolute == 0)
        pieces.append(
            SampledMetric(
                "discrete",
                check.transform,
                check.relative.masked_fill(nothing, 0),
                "1",
                definition,
                weight=(~nothing).double(),
                excluded="the output is 0 there, so there is nothing to compare with",
            )
        )
    return pieces


def _no_classes(name: str, transform: str) -> Sequence[Piece]:
    return [NotApplicable(name, transform, "the output is no class score [B, classes]")]


def _shift_consistency(c: FiniteContext, x: Tensor) -> Sequence[Piece]:
    if not c.classifier:
        return _no_classes("shift_consistency", "shift along xy, 0 to 7 px")
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
    **{
        f"{name}{variant}": _eq(f"{name}{variant}")
        for variant in ("", "_relative")
        for name in ("eq_t", "eq_t_frac", "eq_r")
    },
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
