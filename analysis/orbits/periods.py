"""The period of a model's answer to shifts: a stride shows, and so does its absence.

The image is rolled by whole pixels (what leaves on one side enters on the other, so that nothing
new comes in), one pixel after another, and the answers' steps are searched for a period. A network
of total stride s answers alike every s pixels. Without strides it answers alike after every pixel:
then nothing happens at whole pixels, and quarters of a pixel show a period of one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch

from liederiv.actions import Action
from liederiv.generators import Generator

from .periodogram import Finding, find_period, gram, rounding_floor
from .response import Response
from .results import Period

__all__ = ["LEAST_SHIFTS", "SUBPIXEL_PASSES", "period_of", "shifted"]

LEAST_SHIFTS = 12
"""Whole-pixel shifts below which no period can be told from chance."""

_PARTS, _SPAN = 4, 16  # of a pixel, and over how many pixels, to look within pixels
SUBPIXEL_PASSES = _SPAN * _PARTS + 1
"""Passes beyond those of the search at whole pixels, at most."""

_ALONG = {"translation_x": -1, "translation_y": -2}  # axes of images [B, C, H, W]
_ALL = 0.95  # of the variance
_MOST_ENTRIES = 2048  # of an output that are looked at


def shifted(generators: Sequence[Generator], is_images: bool) -> list[Generator]:
    """The generators along which a lattice of pixels can have a period: translations of images."""
    return [g for g in generators if is_images and g.name in _ALONG]


def period_of(
    responses: Sequence[Response],
    g: Generator,
    shifts: int,
    step: Callable[[int], object] = lambda n: None,
) -> Period:
    """The period of the answer to shifts, pooled over batches.

    Args:
        responses: of the model on images of one size.
        g: a translation.
        shifts: whole pixels to shift by, one after another; at most the image's size along g.
        step: told after each pass of an image.
    """
    x = responses[0].x
    size = int(x.shape[_ALONG[g.name]])
    shifts = min(shifts, size)
    images = sum(len(r) for r in responses)
    if shifts < LEAST_SHIFTS:
        why = f"{shifts} shifts are too few to tell one from chance; it takes {LEAST_SHIFTS} pixels"
        return Period(g.name, None, 1.0, 0.0, 0, shifts, images, reason=why)
    whole = _find(responses, g, [float(n) for n in range(shifts + 1)], None, step)
    made = partial(Period, g.name, shifts=shifts, images=images, longest=whole.longest)
    if whole.period is not None:
        # Where the circle is not closed, its ends blur weak lines: only what explains all is all.
        doubt = whole.doubt or (shifts < size and whole.share < _ALL)
        return made(
            pixels=whole.period,
            p_value=whole.p_value,
            share=whole.share,
            doubt=doubt,
        )
    if whole.rivals:
        about = ", ".join(str(n) for n in whole.rivals)
        reason = f"there is one, but nothing decides between {about} px; take more shifts"
        return made(pixels=None, p_value=whole.p_value, share=0.0, reason=reason)
    parts = [n / _PARTS for n in range(min(_SPAN, size) * _PARTS + 1)]
    within = _find(responses, g, parts, [_PARTS], step)
    if within.period is not None:
        return made(pixels=1, p_value=within.p_value, share=within.share)
    if whole.still and within.still:
        reason = "the output does not change beyond rounding"
    elif whole.weak or within.weak:
        at, share = (whole.weak, whole.share) if whole.weak else (1, within.share)
        reason = (
            f"lines at {at} px stand out, but hold {share:.2g} of the variation: the answer as a "
            "whole does not repeat"
        )
    else:
        reason = (
            f"no line stands out at 1 px or at whole pixels up to {whole.longest} px, "
            f"p = {min(1.0, 2 * min(whole.p_value, within.p_value)):.2g}"
        )
    return made(pixels=None, p_value=whole.p_value, share=0.0, reason=reason)


def _find(
    responses: Sequence[Response],
    g: Generator,
    places: Sequence[float],
    candidates: Sequence[int] | None,
    step: Callable[[int], object],
) -> Finding:
    """The period, in steps of the places, of what is answered there."""
    grams, floors = [], []
    for r in responses:
        action = _rolling(r, g)
        series = np.stack([_entries(r, action, t, step) for t in places], 1)  # [B, T + 1, D]
        eps = torch.finfo(r.x.dtype).eps
        for one in series:
            grams.append(gram(one))
            size = float(np.sqrt((one**2).sum(1).mean()))
            floors.append(rounding_floor(size, eps))
    return find_period(grams, floors, candidates)


def _rolling(r: Response, g: Generator) -> Action:
    """The translation as a roll: a periodic continuation."""
    return r.domain.bind([g], r.x, "fourier")


def _entries(
    r: Response, action: Action, pixels: float, step: Callable[[int], object]
) -> np.ndarray:
    """What the model answers after a shift by so many pixels, [B, D]."""
    (g,) = action.generators
    half = r.x.shape[_ALONG[g.name]] / 2
    t = pixels / half if g.unit == "half-width" else pixels
    u = r.at(action, torch.tensor([[t]], dtype=torch.float64))
    u = u.reshape(len(u), -1)  # of outputs [B], too
    step(len(u))
    if u.shape[1] > _MOST_ENTRIES:
        keep = np.random.default_rng(0).choice(u.shape[1], _MOST_ENTRIES, replace=False)
        u = u[:, torch.from_numpy(np.sort(keep)).to(u.device)]
    found: np.ndarray = u.cpu().numpy()
    return found
