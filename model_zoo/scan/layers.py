"""Attribution of one loaded model on its images: what `liederiv layers` and a scan share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from liederiv.analysis import (
    AliasingReport,
    Attribution,
    FiniteLayers,
    WhatIf,
    attribute,
    measure_aliasing,
    measure_finite,
    what_if,
)
from liederiv.domains import domain_of
from liederiv.errors import LieDerivError
from liederiv.generators import Generator
from liederiv.measurement.results import Provenance
from liederiv.metrics.local import is_classifier
from liederiv.model_zoo.measured_output import output_of, try_model
from liederiv.model_zoo.point_models import LoadedPointModel
from liederiv.model_zoo.timm_models import LoadedModel
from liederiv.representations import OutputSpec

__all__ = ["LayersRun", "needs_images"]


def needs_images(loaded: LoadedModel | LoadedPointModel, option: str) -> None:
    """Raise `LieDerivError` for a network on point clouds: the option is about feature maps."""
    if isinstance(loaded, LoadedPointModel):
        raise LieDerivError(
            f"{option} is about feature maps of images, but {loaded.name!r} takes point clouds; "
            "leave it out."
        )


@dataclass(frozen=True)
class LayersRun:
    """Measures the modules of one model.

    Attributes:
        loaded: the model.
        x: images [B, C, H, W] as it expects them, or point clouds.
        generators: of the group.
        scheme: interpolation scheme.
        output_type: ``auto`` (a classifier's probabilities, else the output), ``probs``,
            ``logits``, ``features`` or ``output``.
        seed: of everything random.
        progress: show a progress bar.
        chunk_size: tangents per forward-mode pass; None lets memory decide.
        representation: how the output transforms, by name; ``auto`` leaves it to the model.
    """

    loaded: LoadedModel | LoadedPointModel
    x: Any
    generators: tuple[Generator, ...]
    scheme: str
    output_type: str
    seed: int
    progress: bool = False
    chunk_size: int | None = None
    representation: str = "auto"

    def attribution(self) -> Attribution:
        """Shares of all modules in the Lie derivative."""
        model, kind, output = self._target
        return attribute(
            model,
            self.x,
            self.generators,
            scheme=self.scheme,
            output=output,
            output_type=kind,
            seed=self.seed,
            chunk_size=self.chunk_size,
            progress=self.progress,
        )

    def aliasing(self) -> AliasingReport:
        """Under translations where they are asked for: there, theory says what to expect."""
        self._of_images("--aliasing")
        model, kind, output = self._target
        moves = tuple(g for g in self.generators if g.group == "translation") or self.generators
        return measure_aliasing(
            model, self.x, moves, output=output, output_type=kind, seed=self.seed
        )

    def finite(self) -> FiniteLayers:
        """EQ-T and EQ-R of single modules."""
        self._of_images("--finite")
        model, _, _ = self._target
        return measure_finite(
            model, self.x, scheme=self.scheme, seed=self.seed, progress=self.progress
        )

    def what_if(self, attribution: Attribution, k: int) -> WhatIf:
        """Repair the k worst modules and measure again.

        Raises:
            LieDerivError: if the model is no classifier.
        """
        self._of_images("--what-if")
        if attribution.output not in ("probs", "logits"):
            raise LieDerivError("--what-if needs a classifier; leave it out for this output.")
        # Repairs change how confident a classifier is: unless asked otherwise, compare its logits.
        kind = "probs" if self.output_type == "probs" else "logits"
        return what_if(
            self.loaded.model,
            self.x,
            self.generators,
            k=k,
            scheme=self.scheme,
            output_type=kind,
            attribution=attribution if attribution.output == kind else None,
            seed=self.seed,
        )

    def describe(self, known: Provenance, attribution: Attribution) -> Provenance:
        """Complete the provenance."""
        return replace(
            known,
            num_images=len(self.x),
            scheme=attribution.scheme,
            representation=attribution.output,
            engine=attribution.engine,
            dtype=str(self.x.dtype).removeprefix("torch."),
            device=str(self.x.device),
            seed=self.seed,
        )

    def _of_images(self, option: str) -> None:
        needs_images(self.loaded, option)

    @cached_property
    def _target(self) -> tuple[torch.nn.Module, str, OutputSpec]:
        """The module to measure, what of its output is measured, and how that transforms."""
        if self.output_type not in ("auto", "probs", "logits", "features", "output"):
            raise LieDerivError(
                f"--output-type={self.output_type!r} must be one of auto, probs, logits, features "
                "and output; layers attributes one at a time."
            )
        if isinstance(self.loaded, LoadedPointModel):
            shown = "output" if self.output_type in ("auto", "features") else self.output_type
            return self.loaded.model, shown, "auto"
        model, declared = output_of(self.loaded, self.output_type)
        y = try_model(model, self.x[:1])
        output = declared if self.representation == "auto" else self.representation
        kind = self.output_type
        if kind == "auto":
            may_be = self.representation == "auto" and self.loaded.layout.is_classifier is not False
            classes = may_be and is_classifier(domain_of(self.x), y, model)
            kind = "probs" if classes else "output"
        return model, kind, output
