r"""What happens to the error when the worst modules are repaired: does the attribution predict it?

The modules that attribution ranks first are repaired in a copy of the network, and the error is
measured again; so are copies with as many random modules, and with the largest ones, repaired.
Every repair is also a small blur, which by itself lowers the error, and it may break the
classifier: so the relative error (against random directions of the same spectrum), the agreement
of predictions and, with labels, the accuracy stand beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from liederiv.actions import check_images
from liederiv.batches import as_one
from liederiv.checks import check_type
from liederiv.derivatives import Scheme, get_scheme
from liederiv.errors import LieDerivError
from liederiv.generators import Generator, resolve_generators
from liederiv.grids.developing import takes_photographs
from liederiv.measurement.measuring import measure
from liederiv.renamed import renamed
from liederiv.representations import OutputSpec
from liederiv.steps import Step, step_label, step_of, unit_of

from ..layers.attribution import attribute
from ..layers.readout import OutputReader
from ..layers.results import Attribution
from ..layers.steps import StepSpec, step_sizes
from .interventions import intervene, repairable
from .repairs import RepairSpec, resolve_repairs

__all__ = ["RankBy", "Trial", "WhatIf", "rank_modules", "what_if"]

RankBy = Literal["gain", "error"]
Choice = Literal["none", "attribution", "largest", "random", "all"]


@dataclass(frozen=True)
class Trial:
    """One network: the original or a repaired copy.

    Attributes:
        choice: how the repaired modules were chosen; ``none`` for the original.
        modules: their paths.
        lee: local equivariance error per generator, [K]; over steps LEE(h), see
            `liederiv.metrics.scale`.
        relative: LEE in units of the response to random directions of equal spectrum, [K].
        agreement: share of images with the original's top class; NaN if it is no classifier.
        accuracy: share of images with the label as top class; NaN without labels.
        confidence: mean probability of the top class; NaN if it is no classifier.
    """

    choice: Choice
    modules: tuple[str, ...]
    lee: NDArray[np.float64]
    relative: NDArray[np.float64]
    agreement: float
    accuracy: float
    confidence: float


@dataclass(frozen=True)
class WhatIf:
    """The error before and after repairs.

    Attributes:
        before: the original network.
        trials: repaired networks: the attribution's choice, the largest, all, then random ones.
        ranking: all repairable modules with the score that ranks them, best first.
        generators: K names.
        units: of the generators' parameters.
        rank_by: what the score is, see `rank_modules`.
        repairs: names of the repairs, in the order in which they were tried.
        scheme: of the derivatives.
        output: on which the error is measured.
        num_images: B.
        seed: of the random choices.
        steps: over which the error is measured, ``1px``, for each generator; empty for the
            derivative.
    """

    before: Trial
    trials: tuple[Trial, ...]
    ranking: tuple[tuple[str, float], ...]
    generators: tuple[str, ...]
    units: tuple[str, ...]
    rank_by: str
    repairs: tuple[str, ...]
    scheme: str
    output: str
    num_images: int
    seed: int
    steps: tuple[str, ...] = ()

    def reduction(self, choice: Choice) -> NDArray[np.float64]:
        """1 − LEE after / LEE before for every trial of that choice, [trials, K]."""
        found = [t.lee for t in self.trials if t.choice == choice]
        with np.errstate(divide="ignore", invalid="ignore"):
            out: NDArray[np.float64] = 1 - np.array(found) / self.before.lee
        return out

    def to_dataframe(self) -> pd.DataFrame:
        """One row per network and generator."""
        records = []
        for trial in (self.before, *self.trials):
            for k, name in enumerate(self.generators):
                records.append(
                    {
                        "choice": trial.choice,
                        "generator": name,
                        "unit": self.units[k],
                        "lee": trial.lee[k],
                        "reduction": _reduction(trial.lee[k], self.before.lee[k]),
                        "relative": trial.relative[k],
                        "agreement": trial.agreement,
                        "accuracy": trial.accuracy,
                        "confidence": trial.confidence,
                        "modules": ", ".join(trial.modules),
                    }
                )
        return pd.DataFrame(records)


@renamed(images="batches", generators="transforms", output="output_type")
@takes_photographs
def what_if(
    model: nn.Module,
    batches: Any,
    transforms: str | Generator | Iterable[str | Generator] = "translation",
    *,
    k: int = 4,
    repair: RepairSpec = "auto",
    rank_by: RankBy = "error",
    draws: int = 3,
    labels: Tensor | None = None,
    scheme: str | Scheme = "bspline",
    output: OutputSpec = "auto",
    output_type: str = "logits",
    attribution: Attribution | None = None,
    seed: int = 0,
    step: StepSpec | None = None,
) -> WhatIf:
    """Repair the k modules that attribution ranks first, and measure again.

    Args:
        model: in eval mode, with one tensor as output; not touched.
        batches: images [B, C, H, W], as the model takes them.
        transforms: see `liederiv.lie_derivative`; K in all.
        k: how many modules are repaired.
        repair: see `liederiv.analysis.intervene`; modules to which none applies do not take part.
        rank_by: see `rank_modules`.
        draws: number of random choices of k modules.
        labels: class of each image, [B].
        scheme: of the derivatives.
        output: representation of the output, see `liederiv.lie_derivative`.
        output_type: on which the error is attributed and measured. A repair changes how confident a
            classifier is, and the derivatives of its probabilities with it; those of its logits
            less. ``output`` for models that are no classifiers.
        attribution: of this model for these arguments; computed if not given.
        seed: of the random choices.
        step: None for the Lie derivative; else the size of the motion over which the error is
            attributed and measured, see `liederiv.analysis.attribute`.

    Raises:
        LieDerivError: if fewer than k modules can be repaired, or an argument does not fit.
    """
    check_type(output_type)
    images = as_one(batches)
    check_images(images, "batches")
    found, scheme = resolve_generators(transforms), get_scheme(scheme)
    names = tuple(g.name for g in found)
    label = OutputReader.label(output_type, output)
    if attribution is None:
        attribution = attribute(
            model, images, found, scheme=scheme, output=output, output_type=output_type, step=step
        )
    moved = () if step is None else step_sizes(step, found)
    given = (attribution.generators, attribution.scheme, attribution.output, attribution.steps)
    if given != (names, scheme.name, label, moved):
        raise LieDerivError(
            f"attribution is for {given}, not for {(names, scheme.name, label, moved)}; attribute "
            "again with the same transforms, scheme, output, output_type and step."
        )
    scores = rank_modules(attribution, rank_by)
    sites = repairable(model, [path for path in scores if path], repair, images)
    ranking = tuple((path, score) for path, score in scores.items() if path in sites)
    if not 0 < k <= len(ranking):
        raise LieDerivError(f"k={k} must lie between 1 and {len(ranking)}, the repairable modules.")
    sizes = {path: sum(z.numel() for z, _ in sites[path].inputs) for path, _ in ranking}
    steps = tuple(
        step_of(g.name, unit, unit.size_of(t), "", chosen=True)
        for g, t, unit in zip(found, moved, [unit_of(g.unit) for g in found], strict=bool(moved))
    )
    run = _Run(model, images, found, scheme, output, output_type, repair, labels, steps)
    chosen = _choices([path for path, _ in ranking], sizes, k, draws, seed)
    return WhatIf(
        before=run.trial("none", ()),
        trials=tuple(run.trial(choice, modules) for choice, modules in chosen),
        ranking=ranking,
        generators=names,
        units=tuple(g.unit for g in found),
        rank_by=rank_by,
        repairs=tuple(r.name for r in resolve_repairs(repair)),
        scheme=scheme.name,
        output=label,
        num_images=len(images),
        seed=seed,
        steps=tuple(step.label for step in steps),
    )


def rank_modules(attribution: Attribution, rank_by: RankBy = "error") -> dict[str, float]:
    """Modules by how much of the error the attribution ascribes to them, best first.

    Args:
        attribution: all calls of a module count together, all generators alike.
        rank_by: ``error``, the squared norm ‖c‖²/‖L f‖² of the contribution c; or ``gain``, by how
            much ‖L f‖² falls if c is taken away and nothing else changes,
            (2⟨c, L f⟩ − ‖c‖²)/‖L f‖², which is negative where c cancels other contributions.

    Returns:
        scores by path, descending; without modules that have no share.
    """
    if rank_by not in ("gain", "error"):
        raise LieDerivError(f"rank_by={rank_by!r} is unknown; choose 'gain' or 'error'.")
    size = attribution.inclusive.mean(2)
    along = attribution.inclusive_projection.mean(2)
    total = attribution.lie_norm_squared.mean(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        score = (size if rank_by == "error" else 2 * along - size) / total
    scores: dict[str, float] = {}
    for entry, row in zip(attribution.entries, score, strict=True):
        if entry.counted and entry.path:
            scores[entry.path] = scores.get(entry.path, 0.0) + float(np.nansum(row))
    return dict(sorted(scores.items(), key=lambda item: -item[1]))


def _choices(
    ranked: Sequence[str], sizes: dict[str, int], k: int, draws: int, seed: int
) -> list[tuple[Choice, tuple[str, ...]]]:
    """The attribution's choice, the modules with the largest maps, all of them, random ones."""
    largest = sorted(ranked, key=lambda path: -sizes[path])[:k]
    out: list[tuple[Choice, tuple[str, ...]]] = [
        ("attribution", tuple(ranked[:k])),
        ("largest", tuple(largest)),
        ("all", tuple(ranked)),
    ]
    random = np.random.default_rng(seed)
    for _ in range(draws):
        index = random.choice(len(ranked), size=k, replace=False)
        out.append(("random", tuple(ranked[i] for i in index)))
    return out


@dataclass(frozen=True)
class _Run:
    """Measures the original and its repaired copies on the same images."""

    model: nn.Module
    images: Tensor
    generators: tuple[Generator, ...]
    scheme: Scheme
    output: OutputSpec
    output_type: str
    repair: RepairSpec
    labels: Tensor | None
    steps: tuple[Step, ...]

    def trial(self, choice: Choice, modules: tuple[str, ...]) -> Trial:
        """Repair some modules and measure."""
        model = self.model
        if modules:
            model = intervene(model, modules, self.repair, example=self.images)
        over = "_step" if self.steps else ""
        rows = [g.name for g in self.generators]
        result = measure(
            model,
            self.images,
            self.generators,
            f"lee{over},relative_spectrum{over}",
            scheme=self.scheme,
            output=self.output,
            output_type=self.output_type,
            verify=not modules,  # what is repaired is ours
            resamples=1,
            steps=dict(zip(rows, [s.size for s in self.steps], strict=True)) if over else None,
        )
        if over:
            rows = [step_label(name, s) for name, s in zip(rows, self.steps, strict=True)]
        lee, relative = (
            np.array([_number(result.get(m, row).value) for row in rows])
            for m in (f"lee{over}", f"relative_spectrum{over}")
        )
        return Trial(choice, modules, lee, relative, *self._predictions(model))

    @torch.no_grad()
    def _predictions(self, model: nn.Module) -> tuple[float, float, float]:
        nan = float("nan")
        before, after = self.model(self.images.clone()), model(self.images.clone())
        if before.ndim != 2:
            return nan, nan, nan
        top = after.argmax(1)
        agreement = float((top == before.argmax(1)).double().mean())
        confidence = float(after.softmax(1).amax(1).double().mean())
        if self.labels is None:
            return agreement, nan, confidence
        return agreement, float((top == self.labels.to(top)).double().mean()), confidence


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _reduction(after: float, before: float) -> float:
    return 1 - after / before if before > 0 else float("nan")
