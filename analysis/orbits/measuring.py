"""`orbit`: what a model answers along whole orbits of its input."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from liederiv.actions import Action
from liederiv.analysis.orbits.curves import Followed, Grid, follow
from liederiv.analysis.orbits.periods import LEAST_SHIFTS, SUBPIXEL_PASSES, period_of, shifted
from liederiv.analysis.orbits.response import Response
from liederiv.analysis.orbits.results import OrbitCurve, Orbits, Period, Worst
from liederiv.analysis.orbits.units import ranges_of, readable
from liederiv.analysis.orbits.worst import Budget, combining, search
from liederiv.base_representation import class_axis
from liederiv.checks import preflight
from liederiv.derivatives import Scheme
from liederiv.domains import Names, domain_of, pieces
from liederiv.errors import LieDerivError, ModelError
from liederiv.foreign import described
from liederiv.foreign_code import users_code
from liederiv.forward_mode.models import kept_randomness
from liederiv.generators import Generator
from liederiv.metrics.local import NOT_ONE_TENSOR, is_classifier
from liederiv.representations import OutputSpec, declared
from liederiv.resolution import resolve_output

__all__ = ["KINDS", "orbit"]

KINDS = ("auto", "probs", "logits", "features", "output")
"""What of a model an orbit may look at."""

_BORDERS = {
    "mirror": "mirrored at its border",
    "periodic": "continued periodically beyond its border",
    "reflection": "reflected at its border",
}


def orbit(
    model: Callable[[Any], Tensor],
    images: Any,
    generators: Names = "translation,rotation,scale",
    *,
    ranges: Mapping[str, float] | None = None,
    points: int = 16,
    labels: Any = None,
    output: OutputSpec = "auto",
    output_type: str = "auto",
    scheme: str | Scheme = "bspline",
    unit: Literal["pixel", "grid"] = "pixel",
    shifts: int = 256,
    worst: int = 100,
    starts: int = 3,
    seed: int = 0,
    resamples: int = 2000,
    clusters: Sequence[Any] | None = None,
    image_names: Sequence[str] = (),
    progress: bool = False,
) -> Orbits:
    """Follow a model's answer u(t) = ρ_t⁻¹ f(T_t x) along the orbits of some images.

    Along each one-parameter group: change, decisions, accuracy and loss, LEE(t), path length with
    the error of its quadrature, and what the asymmetry costs; for translations of images the period
    of the answer; over all of them together the worst transform of a box.

    Args:
        model: maps images [B, C, H, W], or a `PointCloud`, to one tensor, batch (or points) first;
            in eval mode, left as it is.
        images: one batch of images or clouds, as the model expects them.
        generators: see `liederiv.lie_derivative`.
        ranges: how far each orbit is followed either way, by name of generator or group, in px, °
            or % (see `liederiv.analysis.orbits.readable`). Default: 8 px, 15°, 10 %; clouds by
            their rms radius, half a turn, a factor of 1.5.
        points: even steps of each orbit; the derivative is taken at 2·points + 1 places.
        labels: classes of the images [B], whole numbers, if the output is scores of classes [B, n].
        output: representation of the output, see `liederiv.lie_derivative`.
        output_type: ``probs``, ``logits``, ``features`` or ``output``; ``auto`` takes the class
            probabilities of a classifier of images, else the output as it is.
        scheme: how images are continued between pixels and beyond the border.
        unit: of translations, ``pixel`` or ``grid`` (half-widths).
        shifts: whole-pixel shifts to search for a period, at most the image's size, where they
            close the circle and tell most; 0 leaves it out.
        worst: forward passes per image for the worst transform, each for ascent and grid; 0 leaves
            it out.
        starts: of the ascent.
        seed: of the drawn points, the starts and the bootstrap.
        resamples: bootstrap samples over images.
        clusters: labels of images that are not independent.
        image_names: per image.
        progress: show a progress bar.

    Raises:
        LieDerivError: for arguments that are not understood.
        ModelError: for a model that cannot be measured as it is.
        UnknownLayoutError: if it is not known how the group acts on the output.
        NotDifferentiableError: if no engine has the derivative of what the model computes.

    Example:
        >>> pool = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()).eval()
        >>> x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> found = orbit(pool, x, "translation_x", scheme="fourier", output_type="output",
        ...     ranges={"translation": 2}, points=4, shifts=0, worst=0)
        >>> bool(found.get("translation_x").change.max() < 1e-6)  # a mean does not move
        True
    """
    _check_numbers(points, shifts, worst, starts)
    domain = domain_of(images)
    action = domain.action(generators, images, scheme, unit)
    limits = ranges_of(action.generators, images, ranges)
    with users_code("the model", library=True), kept_randomness(images):
        first = preflight(model, images)
        if not isinstance(first, Tensor):
            raise ModelError(NOT_ONE_TENSOR.format(kind=type(first).__name__))
        resolved = resolve_output(model, images[:1], declared(model, output), first, action)
        kind = _kind(output_type, domain, first, model)
        if kind == "probs":
            class_axis(first, resolved.representation)
        scales = dict(zip((g.name for g in action.generators), limits, strict=True))
        batches = tuple(
            Response(model, x, resolved.representation, kind, scales) for x in pieces(images)
        )
        run = _Run(
            batches, action.generators, scheme, limits, seed, _classes(labels, images, first)
        )
        budget = run.budget(worst, starts) if worst else None
        total = run.passes(points, shifts, budget)
        bar = tqdm(total=total, desc="orbits", unit="pass", disable=None if progress else True)
        with bar:
            run.step = bar.update
            curves, engine, verification = run.curves(points)
            periods = run.periods(shifts) if shifts else ()
            found = run.worst(budget) if budget else None
    return Orbits(
        curves=curves,
        periods=periods,
        worst=found,
        output=kind,
        representation=f"{resolved.representation} ({resolved.status})",
        scheme=action.scheme_name,
        border=_border(action),
        engine=engine,
        verification=verification,
        seed=seed,
        item=domain.item,
        image_names=tuple(image_names)[: len(images)],
        clusters=None if clusters is None else tuple(str(c) for c in clusters)[: len(images)],
        resamples=resamples,
    )


def _check_numbers(points: int, shifts: int, worst: int, starts: int) -> None:
    if points < 2 or points % 2:
        raise LieDerivError(f"points={points} must be an even number of steps, 2 or more.")
    if shifts < 0 or 0 < shifts < LEAST_SHIFTS:
        raise LieDerivError(
            f"shifts={shifts} must be {LEAST_SHIFTS} or more to tell a period from chance, or 0 to "
            "leave it out."
        )
    if worst < 0:
        raise LieDerivError(f"worst={worst} must be a number of forward passes, or 0.")
    if starts < 1:
        raise LieDerivError(f"starts={starts} must be 1 or more.")


def _kind(output_type: str, domain: Any, y: Tensor, model: object) -> str:
    if output_type not in KINDS:
        raise LieDerivError(
            f"output_type={output_type!r} must be one of {', '.join(KINDS)}; an orbit looks at one "
            "at a time."
        )
    if output_type != "auto":
        return output_type
    return "probs" if is_classifier(domain, y, model) else "output"


def _classes(labels: Any, images: Any, y: Tensor) -> Tensor | None:
    """Labels as int64 [B], checked against the output for one image."""
    if labels is None:
        return None
    try:
        found = torch.as_tensor(labels).cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise LieDerivError(
            f"labels={described(labels)} are no whole numbers; give the class of each image."
        ) from error
    if found.is_floating_point() or found.is_complex() or found.shape != (len(images),):
        raise LieDerivError(
            f"labels of shape {list(found.shape)} and dtype {found.dtype} must be whole numbers, "
            f"one for each of {len(images)} inputs."
        )
    found = found.long()
    if y.ndim != 2:
        raise LieDerivError(
            f"labels are given, but the output of shape {list(y.shape)} is no score of classes "
            "[B, n]; leave them out."
        )
    low, high = int(found.min()), int(found.max())
    if low < 0 or high >= y.shape[1]:
        raise LieDerivError(
            f"labels from {low} to {high} are not those of {y.shape[1]} classes; number them from "
            "0, or leave them out."
        )
    return found


def _border(action: Action) -> str:
    scheme = getattr(action, "scheme", None)
    return "" if scheme is None else _BORDERS.get(scheme.boundary, scheme.boundary)


@dataclass
class _Run:
    """The batches of one call, and what is measured on each."""

    batches: tuple[Response, ...]
    generators: tuple[Generator, ...]
    scheme: str | Scheme
    limits: list[float]
    seed: int
    labels: Tensor | None
    step: Callable[[int], object] = lambda n: None

    @property
    def images(self) -> int:
        return sum(len(r) for r in self.batches)

    @property
    def is_images(self) -> bool:
        return self.batches[0].domain.is_images

    def labels_of(self, number: int) -> Tensor | None:
        """Those of one batch; only where the output is scores."""
        if self.labels is None or self.batches[0].kind not in ("probs", "logits"):
            return None
        start = sum(len(r) for r in self.batches[:number])
        return self.labels[start : start + len(self.batches[number])]

    def passes(self, points: int, shifts: int, budget: Budget | None) -> int:
        """Passes of single batches or images, for the progress bar."""
        along = len(self.generators) * (2 * points + 1) * len(self.batches)
        moved = shifted(self.generators, self.is_images) if shifts else []
        x = self.batches[0].x
        shifts = min(shifts, max(x.shape[-2:])) if moved else 0
        rolled = len(moved) * self.images * (shifts + SUBPIXEL_PASSES)
        sought = 0 if budget is None else budget.starts * budget.steps + budget.grid_passes()
        return along + rolled + sought * len(self.batches)

    def curves(self, points: int) -> tuple[tuple[OrbitCurve, ...], str, str]:
        """All curves, the engine and how it was verified."""
        found: list[OrbitCurve] = []
        engines: list[str] = []
        verified = ""
        for number, (g, limit) in enumerate(zip(self.generators, self.limits, strict=True)):
            grid = Grid.of(limit, points, self.seed + number)
            parts = [
                follow(r, self._bound(r, [g]), grid, self.labels_of(b), self.step)
                for b, r in enumerate(self.batches)
            ]
            engines += [p.verification.engine for p in parts]
            verified = verified or str(parts[0].verification)
            found.append(_curve(g, grid, parts))
        return tuple(found), ", ".join(dict.fromkeys(engines)), verified

    def periods(self, shifts: int) -> tuple[Period, ...]:
        """Of the translations of images."""
        moved = shifted(self.generators, self.is_images)
        return tuple(period_of(self.batches, g, shifts, self.step) for g in moved)

    def budget(self, passes: int, starts: int) -> Budget:
        """What the search may cost; refused before anything runs if that is too little."""
        together, _ = combining(self.batches[0], self._bound(self.batches[0], self.generators))
        return Budget.of(passes, len(together), starts)

    def worst(self, budget: Budget) -> Worst:
        """The worst transform of each image."""
        first = self.batches[0]
        together, apart = combining(first, self._bound(first, self.generators))
        chosen = [self.generators[k] for k in together]
        limits = [self.limits[k] for k in together]
        pairs = [
            search(
                r, self._bound(r, chosen), limits, budget, self.seed, self.labels_of(b), self.step
            )
            for b, r in enumerate(self.batches)
        ]
        shown = [readable(g) for g in chosen]

        def places(t: Any) -> Any:
            return np.array([[s.of_t(v) for s, v in zip(shown, row, strict=True)] for row in t])

        by_loss = self.labels_of(0) is not None
        floors = np.concatenate([r.floor().numpy() for r in self.batches])
        return Worst(
            generators=tuple(g.name for g in chosen),
            units=tuple(s.unit for s in shown),
            ranges=tuple(s.of_t(v) for s, v in zip(shown, limits, strict=True)),
            objective="loss" if by_loss else "change",
            ascent=np.concatenate([a.value for a, _ in pairs]),
            ascent_at=places(np.concatenate([a.place for a, _ in pairs])),
            grid=np.concatenate([b.value for _, b in pairs]),
            grid_at=places(np.concatenate([b.place for _, b in pairs])),
            ascent_passes=budget.ascent_passes(),
            grid_passes=budget.grid_passes(),
            starts=budget.starts,
            left_out=tuple(self.generators[k].name for k in apart),
            floor=floors,
        )

    def _bound(self, r: Response, generators: Sequence[Generator]) -> Action:
        return r.domain.bind(generators, r.x, self.scheme)


def _curve(g: Generator, grid: Grid, parts: Sequence[Followed]) -> OrbitCurve:
    """One curve of all batches."""
    shown = readable(g)
    values: dict[str, Any] = {}
    for f in fields(OrbitCurve):
        if f.name in parts[0].values:
            own = [p.values[f.name] for p in parts]
            values[f.name] = None if own[0] is None else np.concatenate(own)  # type: ignore[arg-type]
    return OrbitCurve(
        generator=g.name,
        group=g.group,
        unit=g.unit,
        shown_unit=shown.unit,
        t=grid.t,
        shown=np.array([shown.of_t(v) for v in grid.t]),
        on_grid=grid.on_grid,
        **values,
    )
