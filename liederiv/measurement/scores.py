"""One score, and how it was obtained."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from typing import Any, Literal

import torch

from liederiv._version import __version__

__all__ = ["Provenance", "Score", "Status"]

Status = Literal[
    "measured", "not applicable", "failed", "beyond the largest step", "below the smallest step"
]


@dataclass(frozen=True)
class Score:
    """One number with its interval, unit and status.

    Attributes:
        metric: what was measured, e.g. ``lee`` (definitions in `liederiv.metrics`).
        transform: generator or group of generators, e.g. ``translation_x``, ``translation``.
        output: what it was measured on: ``probs``, ``logits``, ``features`` or ``output``.
        value: the score; None unless measured.
        ci_low: lower end of the 95 % bootstrap interval over images; None if unknown.
        ci_high: upper end.
        unit: of value.
        floor: what rounding alone contributes to value, in the same unit; None if unknown.
        status: ``measured``, ``not applicable`` or ``failed``; of a reach also ``beyond the largest
            step`` and ``below the smallest step``.
        reason: why it was not measured, or which images do not count; else empty.
        definition: formula and source, where the metric's name does not say all.
        per_image: value of each image; `value` is their mean, over that of the denominators. Of
            decibels: the squared error over I_max², before the logarithm.
        per_image_denominator: for a ratio of means, its denominator for each image; else empty.
    """

    metric: str
    transform: str
    output: str
    value: float | None
    ci_low: float | None
    ci_high: float | None
    unit: str
    floor: float | None = None
    status: Status = "measured"
    reason: str = ""
    definition: str = ""
    per_image: tuple[float, ...] = field(default=(), repr=False)
    per_image_denominator: tuple[float, ...] = field(default=(), repr=False)


def _with_tuples(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {k: _with_tuples(v) for k, v in data.items()}
    return tuple(_with_tuples(v) for v in data) if isinstance(data, list | tuple) else data


def _versions() -> dict[str, str]:
    known = {"liederiv": __version__, "python": platform.python_version()}
    known["torch"] = torch.__version__  # says which build it is, as its metadata does not always
    return known | {name: version(name) for name in ("timm", "numpy")}


@dataclass(frozen=True)
class Provenance:
    """How a measurement was made.

    Attributes:
        model: name of the model.
        weights: where its weights came from.
        weights_fingerprint: hash of the weights.
        images: where the images came from.
        images_fingerprint: hash of the images.
        num_images: how many were measured.
        inputs: what they are: ``images``, or ``clouds`` of points.
        scheme: interpolation scheme.
        representation: how the output transforms, and whether that was declared or recognised.
        engine: how derivatives were computed.
        verification: how they were verified on this model, and what could not be.
        dtype: of the computation.
        device: of the computation.
        seed: of everything random.
        input_size: channels, height and width of what entered the model; empty for clouds.
        output_size: shape of the output for one image, or one point; empty if unknown.
        transforms: for each row's transform, the generators that it is made of.
        settings: of the metrics: unit of translations, dynamic range, margin.
        preprocessing: size, crop, mean, std and interpolation.
        versions: of the software.
        warnings: what a reader of the numbers should know.
    """

    model: str = ""
    weights: str = ""
    weights_fingerprint: str = ""
    images: str = ""
    images_fingerprint: str = ""
    num_images: int = 0
    inputs: str = "images"
    scheme: str = ""
    representation: str = ""
    engine: str = ""
    verification: str = ""
    dtype: str = ""
    device: str = ""
    seed: int = 0
    input_size: tuple[int, ...] = ()
    output_size: tuple[int, ...] = ()
    transforms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=_versions)
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # Sequences become tuples, so that what comes back from a file equals what went in.
        for f in fields(self):
            object.__setattr__(self, f.name, _with_tuples(getattr(self, f.name)))
