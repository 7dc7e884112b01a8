r"""EQ-T, EQ-T_frac and EQ-R: equivariance as a peak signal-to-noise ratio, in decibels.

    EQ = 10 log₁₀(I_max² / E |f(T x) − T f(x)|²),

the mean taken over all images, transforms, channels and pixels that no filter and no shift brings
in from outside. Source: Karras et al. 2021, "Alias-Free Generative Adversarial Networks",
arXiv 2106.12423, section 2 and appendix E. `eq_t` and `eq_r` have that paper's I_max (a range given
once for all images, 2 for pictures in [−1, 1]), ranges, masks, and operators on the output. In
place of a generator's latent frame they move the input image, by an interpolation scheme.

`eq_t_relative` and `eq_r_relative` are variants for outputs that have no range of their own
(logits, features): I_max is the peak-to-peak range of each image's own f(x), so that the scale of
the output does not matter, and the output moves by the same scheme as the input.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from liederiv.derivatives import Scheme
from liederiv.domains import domain_of
from liederiv.errors import LieDerivError
from liederiv.metrics.band_limited import BandLimitedRotation, LanczosShift, PseudoRotation
from liederiv.metrics.base import Context, FiniteMetric
from liederiv.metrics.finite import evaluate, map_size
from liederiv.metrics.sampled import (
    SquaredErrors,
    check_sampling,
    random_transforms,
    squared_errors,
)
from liederiv.metrics.values import NOTHING_INSIDE, NotApplicable, Piece, SampledMetric
from liederiv.representations import OutputSpec, declared
from liederiv.transforms import FiniteTransform

__all__ = ["EqMetric", "EqR", "EqRRelative", "EqT", "EqTFrac", "EqTFracRelative", "EqTRelative",
           "NoWholeShiftError", "eq_r", "eq_r_relative", "eq_t", "eq_t_relative"]  # fmt: skip

_SOURCE = "Karras et al. 2021, arXiv 2106.12423; the input image moves, not a latent frame"
_PUBLISHED = f"10 log10(I_max² / E |f(T x) − T f(x)|²), inside ({_SOURCE})"
_RELATIVE = "10 log10(1 / E [|f(T x) − T f(x)|² / (max f(x) − min f(x))²]), range of each image"
_CONSTANT = "the output is constant, so it has no range to compare with"
_ROTATION = "rotation, 0° to 360°"


class NoWholeShiftError(LieDerivError):
    """No shift in the range moves both grids by whole pixels."""


def _translation_label(integer: bool, max_fraction: float = 1 / 8) -> str:
    """What the translations are called in results."""
    return f"{'integer' if integer else 'fractional'} translation, ±{max_fraction:g} of the size"


def eq_t(
    f: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    dynamic_range: float,
    seed: int = 0,
    integer: bool = True,
    max_fraction: float = 1 / 8,
    num_samples: int = 10,
    output: OutputSpec = "auto",
    scheme: str | Scheme = "bspline",
    margin: float = 0.0,
) -> SampledMetric:
    """EQ-T, or EQ-T_frac: shifts uniform in ±max_fraction of width and height, in dB.

    ∞ for an exactly equivariant network. Pixels that come in from outside (EQ-T_frac: that the
    Lanczos filter reaches beyond the border for) are masked out of maps and token grids.

    Args:
        f: model; one output tensor, invariant or equivariant.
        x: images [B, C, H, W].
        dynamic_range: I_max in the unit of the output: 2 for pictures in [−1, 1] as in the paper,
            1 for probabilities.
        seed: of the transforms, which belong to the image, see `liederiv.draws`.
        integer: shifts rounded to whole pixels of both the input and the output (EQ-T), or not
            (EQ-T_frac).
        max_fraction: largest shift in units of the image's size.
        num_samples: transforms per image.
        output: representation of the output.
        scheme: how the input is continued between its pixels and beyond its border.
        margin: see `squared_errors`.

    Raises:
        NoWholeShiftError: for ``integer`` where even the largest shift is less than half a step.
        LieDerivError: for a dynamic range that is not positive.
    """
    check_sampling(dynamic_range, margin)
    moves = _translations(f, x, integer, max_fraction, num_samples, output, scheme, seed)
    elements = moves if integer else (LanczosShift(t) for t in moves)
    errors = squared_errors(f, x, elements, output=output, margin=margin)
    name = (EqT if integer else EqTFrac).name
    return _published(name, _translation_label(integer, max_fraction), errors, dynamic_range)


def eq_r(
    f: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    dynamic_range: float,
    seed: int = 0,
    num_samples: int = 10,
    output: OutputSpec = "auto",
    scheme: str | Scheme = "bspline",
    margin: float = 0.0,
) -> SampledMetric:
    """EQ-R: rotations by an angle uniform in [0°, 360°), in dB.

    A map is rotated with the low-pass filter that its pixels need, and f of the rotated image goes
    through the same filter (pseudo-rotation); what the filters reach beyond the border for is
    masked out, 6 pixels of the rotated border and 5 of the straight one.

    Args:
        f: model; one output tensor, invariant or equivariant.
        x: images [B, C, H, W].
        dynamic_range: see `eq_t`.
        seed: of the transforms, which belong to the image, see `liederiv.draws`.
        num_samples: transforms per image.
        output: representation of the output.
        scheme: how the input is continued between its pixels and into its corners.
        margin: see `squared_errors`.
    """
    check_sampling(dynamic_range, margin)
    moves = random_transforms(
        x, "rotation", [math.pi], num_samples=num_samples, seed=seed, stream="eq_r", scheme=scheme
    )
    errors = squared_errors(
        f,
        x,
        (BandLimitedRotation(t) for t in moves),
        output=output,
        margin=margin,
        afterwards=lambda element: PseudoRotation(element.move),
    )
    return _published(EqR.name, _ROTATION, errors, dynamic_range)


def eq_t_relative(
    f: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    seed: int = 0,
    integer: bool = True,
    max_fraction: float = 1 / 8,
    num_samples: int = 10,
    output: OutputSpec = "auto",
    scheme: str | Scheme = "bspline",
    margin: float = 0.0,
) -> SampledMetric:
    """`eq_t` relative to the range of each image's own output, which moves by ``scheme``.

    Arguments and errors as there. Images with a constant output have no range and do not count.
    """
    moves = _translations(f, x, integer, max_fraction, num_samples, output, scheme, seed)
    errors = squared_errors(f, x, moves, output=output, margin=margin)
    name = (EqTRelative if integer else EqTFracRelative).name
    return _relative(name, _translation_label(integer, max_fraction), errors)


def eq_r_relative(
    f: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    seed: int = 0,
    num_samples: int = 10,
    output: OutputSpec = "auto",
    scheme: str | Scheme = "bspline",
    margin: float = 0.0,
) -> SampledMetric:
    """`eq_r` relative to the range of each image's own output, which moves by ``scheme`` alone.

    Arguments as there. Images with a constant output have no range and do not count.
    """
    moves = random_transforms(
        x, "rotation", [math.pi], num_samples=num_samples, seed=seed, stream="eq_r", scheme=scheme
    )
    errors = squared_errors(f, x, moves, output=output, margin=margin)
    return _relative(EqRRelative.name, _ROTATION, errors)


def _translations(
    f: Callable[[Tensor], Tensor],
    x: Tensor,
    integer: bool,
    max_fraction: float,
    num_samples: int,
    output: OutputSpec,
    scheme: str | Scheme,
    seed: int,
) -> Iterator[FiniteTransform]:
    """Shifts of each image, by whole pixels of its own and the output's grid if asked for."""
    size = (x.shape[-1], x.shape[-2])
    steps = None
    if integer:
        steps = _steps(f, x, output)
        most = [max_fraction * n / s for n, s in zip(size, steps, strict=True)]
        if max(most) < 0.5:
            raise NoWholeShiftError(
                f"shifts by whole pixels of image and output go in steps of {steps[0]} × "
                f"{steps[1]} px, more than twice the largest shift, {max_fraction:g} of the size"
            )
    limits = [max_fraction * n for n in size]
    return random_transforms(
        x,
        "translation",
        limits,
        num_samples=num_samples,
        seed=seed,
        stream="eq_t" if integer else "eq_t_frac",
        scheme=scheme,
        steps=steps,
    )


def _steps(f: Callable[[Tensor], Tensor], x: Tensor, output: OutputSpec) -> tuple[int, int]:
    """The least shift (x, y) in pixels of the input that is whole on the output's grid, too."""
    height, width = x.shape[-2:]
    domain = domain_of(x)
    y = evaluate(f, x[:1])
    rho = domain.resolve(declared(f, output), y, domain.bind((), x[:1], "bspline")).representation
    h, w = map_size(rho, y) or (height, width)
    return width // math.gcd(width, w), height // math.gcd(height, h)


def _published(name: str, transform: str, errors: SquaredErrors, peak: float) -> SampledMetric:
    return SampledMetric(
        name,
        transform,
        errors.mean / peak**2,
        "dB",
        f"{_PUBLISHED}, I_max = {peak:g}",
        "decibel",
        weight=errors.share,
        excluded=NOTHING_INSIDE,
    )


def _relative(name: str, transform: str, errors: SquaredErrors) -> SampledMetric:
    flat = errors.y.reshape(len(errors.y), -1).double().cpu()
    peak = flat.amax(1) - flat.amin(1)
    counts = (errors.count > 0) & (peak != 0)
    return SampledMetric(
        name,
        transform,
        torch.where(counts, errors.mean / torch.where(counts, peak, 1.0).square(), 0.0),
        "dB",
        _RELATIVE,
        "decibel",
        weight=counts.double(),
        excluded=NOTHING_INSIDE if (errors.count == 0).all() else _CONSTANT,
    )


_NO_RANGE = (
    "the output has no range of its own; give dynamic_range (2 for pictures in [−1, 1]), or ask "
    "for {relative}"
)


class EqMetric(FiniteMetric):
    """A peak signal-to-noise ratio under transforms of one kind.

    Attributes:
        rotation: whether images turn; else they move.
        integer: whether they move by whole pixels.
        relative: name of the variant for outputs without a range; empty for that variant.
    """

    family = "sampled"
    images_only = True
    larger_is_better = True
    rotation: ClassVar[bool] = False
    integer: ClassVar[bool] = True
    relative: ClassVar[str] = ""

    def pieces(self, c: Context, x: Tensor) -> Sequence[Piece]:
        """See `FiniteMetric.pieces`."""
        label = _ROTATION if self.rotation else _translation_label(self.integer)
        options: dict[str, Any] = dict(c.sampling)
        if not self.rotation:
            options["integer"] = self.integer
        if self.relative:
            if c.peak is None:
                reason = _NO_RANGE.format(relative=self.relative)
                return [NotApplicable(self.name, label, reason)]
            options["dynamic_range"] = c.peak
            metric: Callable[..., SampledMetric] = eq_r if self.rotation else eq_t
        else:
            metric = eq_r_relative if self.rotation else eq_t_relative
        try:
            return [metric(c.f, x, **options)]
        except NoWholeShiftError as obstacle:
            return [NotApplicable(self.name, label, str(obstacle))]


class EqTRelative(EqMetric):
    """See `eq_t_relative`."""

    name = "eq_t_relative"
    summary = "eq_t over each output's own range, dB"


class EqTFracRelative(EqMetric):
    """See `eq_t_relative`, for fractions of pixels."""

    name = "eq_t_frac_relative"
    summary = "the same of eq_t_frac, dB"
    integer = False


class EqRRelative(EqMetric):
    """See `eq_r_relative`."""

    name = "eq_r_relative"
    summary = "the same of eq_r, dB"
    rotation = True


class EqT(EqMetric):
    """See `eq_t`."""

    name, relative = "eq_t", EqTRelative.name
    summary = "EQ-T: PSNR under whole-pixel translations, dB"


class EqTFrac(EqMetric):
    """See `eq_t`, for fractions of pixels."""

    name, relative = "eq_t_frac", EqTFracRelative.name
    summary = "EQ-T_frac: PSNR under fractional ones, dB"
    integer = False


class EqR(EqMetric):
    """See `eq_r`."""

    name, relative = "eq_r", EqRRelative.name
    summary = "EQ-R: PSNR under rotations, dB"
    rotation = True
