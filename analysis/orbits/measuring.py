"""`orbit`: what a model answers along whole orbits of its input."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from liederiv.actions import Action
from liederiv.base_representation import class_axis
from liederiv.batches import as_one
from liederiv.checks import preflight
from liederiv.derivatives import Scheme
from liederiv.differentiation import ForwardModeWarning
from liederiv.differentiation.models import kept_randomness
from liederiv.domains import Names, domain_of, pieces
from liederiv.errors import LieDerivError, ModelError
from liederiv.foreign import described
from liederiv.foreign_code import users_code
from liederiv.grids.developing import takes_photographs
from liederiv.metrics.local import NOT_ONE_TENSOR, is_classifier
from liederiv.renamed import renamed
from liederiv.representations import OutputSpec, declared
from liederiv.resolution import resolve_output

from .batches import Run
from .periods import LEAST_SHIFTS
from .response import Response
from .results import Orbits
from .units import beyond_the_border, ranges_of, usual_range

__all__ = ["KINDS", "check_numbers", "orbit"]

KINDS = ("auto", "probs", "logits", "features", "output")
"""What of a model an orbit may look at."""

_WHOLE = (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8)
_BORDERS = {
    "mirror": "mirrored at its border",
    "periodic": "continued periodically beyond its border",
    "reflection": "reflected at its border",
}


@renamed(images="batches", generators="transforms")
@takes_photographs
def orbit(
    model: Callable[[Any], Tensor],
    batches: Any,
    transforms: Names = "translation,rotation,scale",
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
        batches: images [B, C, H, W] or a `PointCloud`, as the model expects them; several
            batches, as `liederiv.measure` takes them, are one.
        transforms: see `liederiv.lie_derivative`.
        ranges: how far each orbit is followed either way, by name of generator or group, in px, °
            or % (see `liederiv.analysis.orbits.readable`). Default: 8 px (at most a quarter of the
            image), 15°, 10 %; clouds by their rms radius, half a turn, a factor of 1.5.
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
    check_numbers(points, shifts, worst, starts)
    images = as_one(batches)
    domain = domain_of(images)
    action = domain.action(transforms, images, scheme, unit)
    limits = ranges_of(action.generators, images, ranges)
    notes, slower = beyond_the_border(action, limits, images), list[str]()
    with users_code("the model", library=True), kept_randomness(images), _noted(slower):
        first = preflight(model, images)
        if not isinstance(first, Tensor):
            raise ModelError(NOT_ONE_TENSOR.format(kind=type(first).__name__))
        one = images[:1]
        spec, bound = declared(model, output), domain.rebind(action, one)
        resolved = resolve_output(model, one, spec, first, bound)
        kind = _kind(output_type, domain, first, model)
        if labels is not None and kind not in ("probs", "logits"):
            raise LieDerivError(
                f"labels are given, but what is looked at ({kind}) is no score of classes; leave "
                "them out, or choose output_type='probs' or 'logits'."
            )
        if kind == "probs":
            class_axis(first, resolved.representation)
        pairs = zip(action.generators, limits, strict=True)
        scales = {g.name: usual_range(g, images) or limit for g, limit in pairs}
        batches = tuple(
            Response(model, x, resolved.representation, kind, scales) for x in pieces(images)
        )
        run = Run(batches, action.generators, scheme, limits, seed, _classes(labels, images, first))
        budget = run.budget(worst, starts) if worst else None
        total = run.passes(points, shifts, budget)
        bar = tqdm(total=total, desc="orbits", unit="pass", disable=None if progress else True)
        with bar:
            run.step = bar.update
            verification = batches[0].verify(action.generators, scheme)
            curves, engine = run.curves(points)
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
        verification=str(verification),
        warnings=(*notes, *slower),
        seed=seed,
        item=domain.item,
        image_names=tuple(image_names)[: len(images)],
        clusters=None if clusters is None else tuple(str(c) for c in clusters)[: len(images)],
        resamples=resamples,
    )


@contextmanager
def _noted(notes: list[str]) -> Iterator[None]:
    """Make one note of all warnings about a slower engine; they come at every point."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ForwardModeWarning)
        yield
    for warning in caught:
        if not issubclass(warning.category, ForwardModeWarning):
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
        elif not notes:
            notes.append(str(warning.message))


def check_numbers(points: int, shifts: int, worst: int, starts: int) -> None:
    """Refuse settings of `orbit` that nothing can be done with, before any model is loaded."""
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
    if found.dtype not in _WHOLE or found.shape != (len(images),):
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
