"""What a metric of finite transforms returns for a batch: values per item, or why not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from liederiv.errors import LieDerivError

__all__ = ["NOTHING_INSIDE", "DiscreteCheck", "NotApplicable", "Piece", "SampledMetric"]

NOTHING_INSIDE = "no entry of the output lies far enough inside to be compared"


@dataclass(frozen=True)
class SampledMetric:
    """A metric per image.

    Attributes:
        name: of the metric.
        transform: what was done to the images, with its range.
        per_image: float64 [B], on the CPU; the quantity that is averaged over images.
        unit: of `value`.
        definition: formula, unit and source.
        scale: how the average becomes the value. ``linear``: it is the value. ``decibel``:
            −10 log₁₀ of it, so per_image holds MSE / I_max².
        weight: of each image in the average, float64 [B], 0 for those that do not count; None
            weighs all alike.
        excluded: why images of weight 0 do not count.
    """

    name: str
    transform: str
    per_image: Tensor
    unit: str
    definition: str
    scale: Literal["linear", "decibel"] = "linear"
    weight: Tensor | None = None
    excluded: str = ""

    @property
    def value(self) -> float:
        """The metric over all images; ∞ dB where there is no error at all, NaN if none counts."""
        if self.weight is None:
            return float(self.on_scale(self.per_image.mean()))
        total = (self.per_image * self.weight).sum() / self.weight.sum()
        return float(self.on_scale(total))

    def on_scale(self, mean: Tensor) -> Tensor:
        """Turn averages of `per_image` (the mean, or bootstrap means) into values of the metric."""
        return mean if self.scale == "linear" else -10 * mean.log10()

    @staticmethod
    def join(parts: Sequence[SampledMetric]) -> SampledMetric:
        """The metric over the images of several batches."""
        if len({(p.name, p.transform, p.unit, p.weight is None) for p in parts}) != 1:
            raise LieDerivError("parts must be the same metric of one or more batches.")
        weights = [p.weight for p in parts if p.weight is not None]
        return replace(
            parts[0],
            per_image=torch.cat([p.per_image for p in parts]),
            weight=torch.cat(weights) if weights else None,
        )


@dataclass(frozen=True)
class NotApplicable:
    """A metric that makes no sense on this model or these inputs, and why."""

    name: str
    transform: str
    reason: str


Piece = SampledMetric | NotApplicable


@dataclass(frozen=True)
class DiscreteCheck:
    """How exactly one symmetry holds that no path of transforms leads to.

    Attributes:
        transform: its name.
        status: ``measured`` or ``not applicable``.
        reason: why not, else empty.
        relative: ‖f(g x) − ρ_g f(x)‖² / ‖f(x)‖² per image, float64 [B], dimensionless; None unless
            measured. NaN where f(x) = f(g x) = 0.
        absolute: ‖f(g x) − ρ_g f(x)‖² / dim per image, in the output's unit squared.
    """

    transform: str
    status: Literal["measured", "not applicable"]
    reason: str = ""
    relative: Tensor | None = None
    absolute: Tensor | None = None
