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
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from liederiv.derivatives import Scheme
from liederiv.domains import domain_of
from liederiv.draws import seeded_coordinates
from liederiv.errors import LieDerivError
from liederiv.generators import Generator
from liederiv.metrics.base import Context, FiniteMetric
from liederiv.metrics.finite import act_finite, evaluate, valid
from liederiv.metrics.values import NOTHING_INSIDE, SampledMetric
from liederiv.representations import OutputSpec
from liederiv.resolution import resolve_output

__all__ = [
    "SampledError",
    "SampledMetric",
    "SquaredErrors",
    "check_sampling",
    "equivariance_error",
    "random_transforms",
    "squared_errors",
]


def random_transforms(
    x: Any,
    generators: str | Generator | Iterable[str | Generator],
    half_range: Sequence[float],
    *,
    num_samples: int,
    seed: int = 0,
    stream: str = "",
    scheme: str | Scheme = "bspline",
    steps: Sequence[float] | None = None,
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
        steps: K numbers; round t to whole multiples of them.

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
        if steps is not None:
            step = torch.as_tensor(steps, dtype=torch.float64)
            t = (t / step).round() * step
        yield domain.transform(action, t)


@dataclass(frozen=True)
class SquaredErrors:
    """What an output changes by beyond what it should, summed over transforms and entries.

    Attributes:
        total: Σ |f(g x) − ρ_g f(x)|² over the entries that are compared, float64 [B].
        count: how many these are, float64 [B].
        possible: how many there would be without masks.
        y: f(x).
    """

    total: Tensor
    count: Tensor
    possible: Tensor
    y: Tensor

    @property
    def mean(self) -> Tensor:
        """Mean over what is compared, [B]; 0 where that is nothing."""
        return self.total / self.count.clamp_min(1)

    @property
    def share(self) -> Tensor:
        """Share of the entries that are compared, [B]."""
        return self.count / self.possible


def squared_errors(
    f: Callable[[Any], Tensor],
    x: Any,
    elements: Iterable[Any],
    *,
    output: OutputSpec = "auto",
    margin: float = 0.0,
    afterwards: Callable[[Any], Any] | None = None,
) -> SquaredErrors:
    """|f(g x) − ρ_g f(x)|² summed over transforms and valid entries of the output.

    Args:
        f: model; one output tensor.
        x: images [B, C, H, W] or point clouds.
        elements: transforms g, see `liederiv.metrics.finite.GroupElement`.
        output: representation of the output, see `liederiv.lie_derivative`.
        margin: entries of a map to leave out along the border, see
            `liederiv.transforms.FiniteTransform.valid`.
        afterwards: of a transform g, what f(g x) goes through before it is compared.
    """
    y = evaluate(f, x)
    domain = domain_of(x)
    action = domain.bind((), x, "bspline")
    rho = resolve_output(f, x, output, y, action).representation
    total = torch.zeros(len(x), dtype=torch.float64, device=y.device)
    count, possible = torch.zeros_like(total), torch.zeros_like(total)
    for element in elements:
        found = evaluate(f, element.on_input(x))
        mask = valid(rho, element, y, margin)
        if afterwards is not None:
            last = afterwards(element)
            found, mask = act_finite(rho, last, found), mask & valid(rho, last, y, margin)
        mask = mask.expand_as(y)
        error = found - act_finite(rho, element, y)
        squares = error.double().square().masked_fill(~mask, 0)
        total += domain.sums(squares[None], action, rho)[0]
        count += domain.sums(mask[None], action, rho)[0]
        possible += domain.sums(torch.ones_like(mask)[None], action, rho)[0]
    return SquaredErrors(total.cpu(), count.cpu(), possible.cpu(), y)


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
        margin: see `squared_errors`.

    Raises:
        LieDerivError: without a range for a generator that has no default.
    """
    domain = domain_of(x)
    action = domain.action([generator], x, scheme)
    elements, label = domain.sample(action, x, half_range, num_samples=num_samples, seed=seed)
    errors = squared_errors(f, x, elements, output=output, margin=margin)
    return SampledMetric(
        SampledError.name,
        label,
        errors.mean,
        "output²",
        "E ‖f(T_t x) − ρ_t f(x)‖² / dim, t uniform (Gruver et al., arXiv 2210.02984)",
        weight=(errors.count > 0).double(),
        excluded=NOTHING_INSIDE,
    )


class SampledError(FiniteMetric):
    """See `equivariance_error`: of the transforms that are customary for a kind of input."""

    name, family = "sampled_error", "sampled"
    summary = "mean squared change under finite transforms"

    def pieces(self, c: Context, x: Any) -> Sequence[SampledMetric]:
        """See `FiniteMetric.pieces`."""
        return [equivariance_error(c.f, x, g, **c.sampling) for g in domain_of(x).sampled]


def check_sampling(dynamic_range: float | None, margin: float) -> None:
    """Raise unless the settings of sampled metrics are sound.

    Raises:
        LieDerivError: naming the one that is not.
    """
    if dynamic_range is not None and not 0 < dynamic_range < math.inf:
        raise LieDerivError(
            f"dynamic_range={dynamic_range} must be a positive number, or left out where the "
            "output has none."
        )
    if not 0 <= margin < math.inf:
        raise LieDerivError(f"margin={margin} must be a number of pixels from 0.")
