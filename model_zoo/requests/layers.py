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
from liederiv.derivatives import Scheme
from liederiv.domains import domain_of
from liederiv.errors import LieDerivError
from liederiv.generators import Generator
from liederiv.measurement.results import Provenance
from liederiv.metrics.local import is_classifier
from liederiv.representations import OutputSpec
from liederiv.steps import Step

from ..inputs.kinds import inputs_of_kind
from ..sources.loaded import Loaded
from .measuring import try_model

__all__ = ["LayersRun", "needs_images"]


def needs_images(loaded: Loaded, option: str) -> None:
    """Raise `LieDerivError` for a model of anything else: the option is about feature maps."""
    if loaded.kind != "images":
        raise LieDerivError(
            f"{option} is about feature maps of images, but {loaded.name!r} takes "
            f"{inputs_of_kind(loaded.kind).title}; leave it out."
        )


@dataclass(frozen=True)
class LayersRun:
    """Measures the modules of one model.

    Attributes:
        loaded: the model.
        x: images [B, C, H, W] as it expects them, or point clouds.
        generators: of the group.
        scheme: interpolation scheme.
        output_type: ``auto`` (a classifier's logits, else the output), ``probs``,
            ``logits``, ``features`` or ``output``.
        seed: of everything random.
        progress: show a progress bar.
        chunk_size: tangents per forward-mode pass; None lets memory decide.
        representation: how the output transforms, by name; ``auto`` leaves it to the model.
        steps: of the generators; none for the derivative.
    """

    loaded: Loaded
    x: Any
    generators: tuple[Generator, ...]
    scheme: str | Scheme
    output_type: str
    seed: int
    progress: bool = False
    chunk_size: int | None = None
    representation: str = "auto"
    steps: tuple[Step, ...] = ()

    @property
    def _sizes(self) -> dict[str, float] | None:
        """The steps in the units of the generators, by name; None for the derivative."""
        moves = zip(self.generators, self.steps, strict=bool(self.steps))
        return {g.name: step.t for g, step in moves} or None

    def attribution(self) -> Attribution:
        """Shares of all modules in the Lie derivative, or in the change over the steps."""
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
            step=self._sizes,
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
            step=self._sizes,
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
        target = self.loaded.target(self.output_type, self.representation)
        y = try_model(target.model, self.x[:1])
        kind = target.output_type
        if kind == "auto":
            classes = self.representation == "auto" and is_classifier(
                domain_of(self.x), y, target.model
            )
            kind = "logits" if classes else "output"
        return target.model, kind, target.representation
