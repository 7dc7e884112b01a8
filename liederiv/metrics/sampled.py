r"""Sampled metrics: how far the output is from equivariant under transforms of finite size.

All compare f(T x) with ρ_T f(x) for transforms T drawn at random, so they see what a derivative at
t = 0 cannot (and mix it with the interpolation error of large transforms). They return values per
image, to be averaged (and bootstrapped) over images. Transforms are drawn for each image from its
content and the seed: the same in any order and any batch, and for every model that is given it.

Where the output is a map or a token grid, only the entries that T moves from inside the image are
compared; ``margin`` keeps away from the border by a network's receptive field.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from liederiv.actions import check_images
from liederiv.derivatives import Scheme
from liederiv.domains import domain_of
from liederiv.draws import seeded_coordinates
from liederiv.errors import LieDerivError
from liederiv.generators import Generator
from liederiv.metrics.finite import act_finite, evaluate, valid
from liederiv.representations import OutputSpec
from liederiv.resolution import resolve_output

__all__ = [
    "SampledMetric",
    "eq_r",
    "eq_t",
    "equivariance_error",
    "mean_square_errors",
    "random_transforms",
]


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
    """

    name: str
    transform: str
    per_image: Tensor
    unit: str
    definition: str
    scale: Literal["linear", "decibel"] = "linear"

    @property
    def value(self) -> float:
        """The metric over all images; NaN if it is undefined for one of them."""
        return float(self.on_scale(self.per_image.mean()))

    def on_scale(self, mean: Tensor) -> Tensor:
        """Turn averages of `per_image` (the mean, or bootstrap means) into values of the metric."""
        return mean if self.scale == "linear" else -10 * mean.log10()

    @staticmethod
    def join(parts: Sequence[SampledMetric]) -> SampledMetric:
        """The metric over the images of several batches."""
        if len({(p.name, p.transform, p.unit) for p in parts}) != 1:
            raise LieDerivError("parts must be the same metric of one or more batches.")
        return replace(parts[0], per_image=torch.cat([p.per_image for p in parts]))


def random_transforms(
    x: Any,
    generators: str | Generator | Iterable[str | Generator],
    half_range: Sequence[float],
    *,
    num_samples: int,
    seed: int = 0,
    stream: str = "",
    scheme: str | Scheme = "bspline",
    whole: bool = False,
) -> Iterator[Any]:
    """Transforms exp(Σ t_k X_k) with t_k uniform in ±half_range[k], drawn for each image or cloud.

    Args:
        x: images [B, C, H, W] or point clouds.
        generators: K generators.
        half_range: K numbers, in the generators' units.
        num_samples: transforms per image or cloud.
        seed: of the draws, which belong to the image or cloud, see `liederiv.draws`.
        stream: purpose of the draws; different ones are independent.
        scheme: interpolation scheme.
        whole: round t to whole numbers.

    Yields:
        num_samples transforms, each with its own t for every image or cloud.
    """
    domain = domain_of(x)
    action = domain.action(generators, x, scheme)
    if len(half_range) != len(action):
        raise LieDerivError(
            f"half_range has {len(half_range)} entries for {len(action)} generators; give one each."
        )
    seeds = domain.seeds(x, seed, stream)
    for t in seeded_coordinates(seeds, half_range, num_samples=num_samples):
        yield domain.transform(action, t.round() if whole else t)


def mean_square_errors(
    f: Callable[[Any], Tensor],
    x: Any,
    elements: Iterable[Any],
    *,
    output: OutputSpec = "auto",
    margin: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """‖f(g x) − ρ_g f(x)‖² averaged over transforms and valid entries of the output.

    Args:
        f: model; one output tensor.
        x: images [B, C, H, W] or point clouds.
        elements: transforms g, see `liederiv.metrics.finite.GroupElement`.
        output: representation of the output, see `liederiv.lie_derivative`.
        margin: entries of a map to leave out along the border, see
            `liederiv.transforms.FiniteTransform.valid`.

    Returns:
        The mean squared errors, float64 [B], and f(x). NaN for an image without valid entries.
    """
    y = evaluate(f, x)
    domain = domain_of(x)
    action = domain.bind((), x, "bspline")
    rho = resolve_output(f, x, output, y, action).representation
    total = torch.zeros(len(x), dtype=torch.float64, device=y.device)
    count = torch.zeros_like(total)
    for element in elements:
        error = evaluate(f, element.on_input(x)) - act_finite(rho, element, y)
        mask = valid(rho, element, y, margin).expand_as(y)
        squares = error.double().square().masked_fill(~mask, 0)
        total += domain.sums(squares[None], action, rho)[0]
        count += domain.sums(mask[None], action, rho)[0]
    return (total / count).cpu(), y


def eq_t(
    f: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    seed: int = 0,
    integer: bool = True,
    max_fraction: float = 1 / 8,
    num_samples: int = 10,
    output: OutputSpec = "auto",
    scheme: str | Scheme = "bspline",
    dynamic_range: float | None = None,
    margin: float = 0.0,
) -> SampledMetric:
    """EQ-T: peak signal-to-noise ratio of the translated against the recomputed output, in dB.

    EQ-T = 10 log₁₀(I_max² / E ‖f(T_t x) − ρ_t f(x)‖²/dim), t uniform in ±max_fraction of width and
    height; ∞ for an exactly equivariant network. Source: Karras et al. 2021, "Alias-Free GAN",
    arXiv 2106.12423. There a generator's latent frame moves; here the
    input image does. Fractional shifts use ``scheme`` in place of a Lanczos filter.

    Args:
        f: model; one output tensor, invariant or equivariant.
        x: images [B, C, H, W].
        seed: of the transforms, which belong to the image, see `liederiv.draws`.
        integer: shifts rounded to whole pixels of the input (EQ-T), or not (EQ-T_frac).
        max_fraction: largest shift in units of the image's size.
        num_samples: transforms per image.
        output: representation of the output.
        scheme: interpolation scheme.
        dynamic_range: I_max. None takes the peak-to-peak range of each image's own f(x), which
            makes the metric indifferent to the scale of logits or features; pass 1.0 for
            probabilities to compare absolutely, 2.0 for pictures in [−1, 1] as in the paper.
        margin: see `mean_square_errors`.
    """
    check_images(x)
    ranges = [max_fraction * x.shape[-1], max_fraction * x.shape[-2]]
    elements = random_transforms(
        x,
        "translation",
        ranges,
        num_samples=num_samples,
        seed=seed,
        stream="eq_t",
        scheme=scheme,
        whole=integer,
    )
    kind = "integer" if integer else "fractional"
    moved = f"{kind} translation, ±{max_fraction:g} of the size"
    name = "eq_t" if integer else "eq_t_frac"
    return _psnr(name, moved, mean_square_errors(f, x, elements, output=output, margin=margin),
                 dynamic_range)  # fmt: skip


def eq_r(
    f: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    seed: int = 0,
    num_samples: int = 10,
    output: OutputSpec = "auto",
    scheme: str | Scheme = "bspline",
    dynamic_range: float | None = None,
    margin: float = 0.0,
) -> SampledMetric:
    """EQ-R: the same as `eq_t` for rotations by an angle uniform in [0°, 360°), in dB.

    Source: Karras et al. 2021, arXiv 2106.12423. The image is continued
    into the corners by ``scheme``; the output is not low-passed as if it had been rotated (their
    pseudo-rotation).

    Args:
        f: model; one output tensor, invariant or equivariant.
        x: images [B, C, H, W].
        seed: of the transforms, which belong to the image, see `liederiv.draws`.
        num_samples: transforms per image.
        output: representation of the output.
        scheme: interpolation scheme.
        dynamic_range: see `eq_t`.
        margin: see `mean_square_errors`.
    """
    check_images(x)
    elements = random_transforms(
        x, "rotation", [math.pi], num_samples=num_samples, seed=seed, stream="eq_r", scheme=scheme
    )
    errors = mean_square_errors(f, x, elements, output=output, margin=margin)
    return _psnr("eq_r", "rotation, 0° to 360°", errors, dynamic_range)


def _psnr(
    name: str, transform: str, errors: tuple[Tensor, Tensor], dynamic_range: float | None
) -> SampledMetric:
    mse, y = errors
    flat = y.reshape(len(y), -1).double().cpu()
    peak = (
        flat.amax(1) - flat.amin(1)
        if dynamic_range is None
        else torch.full_like(mse, dynamic_range)
    )
    return SampledMetric(
        name,
        transform,
        mse / peak.square(),
        "dB",
        "10 log10(I_max² / E ‖f(T x) − ρ_T f(x)‖²/dim) (Karras et al. 2021, arXiv 2106.12423)",
        "decibel",
    )


def equivariance_error(
    f: Callable[[Any], Tensor],
    x: Any,
    generator: str | Generator,
    *,
    seed: int = 0,
    half_range: float | None = None,
    num_samples: int = 10,
    output: OutputSpec = "auto",
    scheme: str | Scheme = "bspline",
    margin: float = 0.0,
) -> SampledMetric:
    """Sampled error E_t ‖f(T_t x) − ρ_t f(x)‖² / dim, t uniform in ±half_range.

    For an invariant output this is the sampled translation and rotation invariance error to which
    Gruver et al. (arXiv 2210.02984) compare the Lie derivative. Unit: that
    of the output, squared. Their code draws one translation for a whole batch, up to ±2 half-widths
    (so the whole image leaves the frame), and its rotation range π//16 is zero by integer division;
    the ranges here are an eighth of the image's size and ±π/16.

    Args:
        f: model; one output tensor, invariant or equivariant.
        x: images [B, C, H, W] or point clouds.
        generator: name or generator X; for point clouds also ``translation`` or ``rotation``, which
            stand for random directions (rotations uniform over SO(3)).
        seed: of the transforms, which belong to the image, see `liederiv.draws`.
        half_range: largest |t| in the generator's unit. None stands for an eighth of the image's
            width (height) for translations and π/16 for the rotation; others need a number. On
            point clouds: their root mean square radius, a whole turn, a factor of 1.5.
        num_samples: transforms per image or cloud.
        output: representation of the output.
        scheme: interpolation scheme.
        margin: see `mean_square_errors`.

    Raises:
        LieDerivError: without a range for a generator that has no default.
    """
    domain = domain_of(x)
    action = domain.action([generator], x, scheme)
    elements, label = domain.sample(action, x, half_range, num_samples=num_samples, seed=seed)
    errors, _ = mean_square_errors(f, x, elements, output=output, margin=margin)
    return SampledMetric(
        "sampled_error",
        label,
        errors,
        "output²",
        "E ‖f(T_t x) − ρ_t f(x)‖² / dim, t uniform (Gruver et al., arXiv 2210.02984)",
    )
