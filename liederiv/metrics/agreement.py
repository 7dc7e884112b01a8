r"""Metrics of a classifier's decisions: do they agree when the image is transformed?

They need class scores [B, classes] and no representation: a decision should not change at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from liederiv.actions import ImageAction, check_images
from liederiv.derivatives import Scheme
from liederiv.domains import Domain, domain_of
from liederiv.draws import seeded_uniform
from liederiv.errors import ImageError, LieDerivError, ModelError
from liederiv.generators import generator
from liederiv.metrics.base import Context, FiniteMetric
from liederiv.metrics.finite import evaluate
from liederiv.metrics.values import NotApplicable, Piece, SampledMetric
from liederiv.transforms import FiniteTransform, rot90

__all__ = [
    "Accuracy",
    "EffectiveInvariance",
    "ShiftConsistency",
    "effective_invariance",
    "grayscale",
    "quarter_turns",
    "shift_consistency",
    "top1_accuracy",
]


_BEYOND = {"mirror": "mirrored", "periodic": "rolled", "reflection": "reflected"}


def shift_consistency(
    f: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    max_shift: int = 7,
    along: Literal["x", "y", "xy"] = "xy",
    num_pairs: int | None = None,
    seed: int = 0,
    scheme: str | Scheme = "bspline",
) -> SampledMetric:
    """Probability that two shifts of an image get the same top-1 class. Unit: fraction of pairs.

    E 1{argmax f(S_a x) = argmax f(S_b x)} for two independent shifts a, b, uniform over the whole
    pixels 0 … max_shift along x and y (equal shifts included). The image is continued beyond its
    border by ``scheme``: ``bspline`` mirrors it, ``fourier`` rolls it as in the code of
    arXiv 2210.02984. So this is not the consistency of Zhang 2019 ("Making Convolutional Networks
    Shift-Invariant Again", arXiv 1904.11486), which compares crops of a larger image, where new
    content enters at the border; numbers of the two do not compare.

    Args:
        f: class scores [B, classes].
        x: images [B, C, H, W].
        max_shift: largest shift in pixels.
        along: shift along one axis, or both.
        num_pairs: pairs drawn per image, 2 forward passes each. None takes all pairs, exactly,
            from (max_shift + 1)² forward passes for ``xy``, else max_shift + 1.
        seed: of drawn pairs, which belong to the image, see `liederiv.draws`.
        scheme: what stands beyond the border.
    """
    names = {"x": ("translation_x",), "y": ("translation_y",)}
    axes = names.get(along, ("translation_x", "translation_y"))
    domain_of(x).check(x)
    action = ImageAction([generator(a) for a in axes], x.shape[-2], x.shape[-1], scheme)
    beyond = _BEYOND[action.scheme.boundary]

    def classes(shift: Tensor) -> Tensor:
        return _scores(f, FiniteTransform(action, shift).on_input(x)).argmax(1).cpu()

    size = max_shift + 1
    if num_pairs is None:
        grid = torch.cartesian_prod(*[torch.arange(size) for _ in axes]).reshape(-1, len(axes))
        found = torch.stack([classes(shift[None]) for shift in grid], 1)
        counts = F.one_hot(found).sum(1).double()
        agreement = (counts / len(grid)).square().sum(1)
    else:
        seeds = domain_of(x).seeds(x, seed, "shift_consistency")
        shifts = (seeded_uniform(seeds, (num_pairs, 2, len(axes))) * size).floor()
        same = [classes(shifts[:, p, 0]) == classes(shifts[:, p, 1]) for p in range(num_pairs)]
        agreement = torch.stack(same).double().mean(0)
    return SampledMetric(
        ShiftConsistency.name,
        f"shift along {along}, 0 to {max_shift} px, border {beyond}",
        agreement,
        "fraction",
        f"fraction of pairs of whole-pixel shifts with the same top-1 class, the image {beyond} "
        "beyond its border (not crops of a larger image, as in Zhang 2019, arXiv 1904.11486)",
    )


def effective_invariance(
    f: Callable[[Any], Tensor], x: Any, views: Iterable[Any], transform: str
) -> SampledMetric:
    """Effective invariance: agreement of the predicted class, weighted by confidence. In [0, 1].

    EI(x) = √(p_T · p_0) if T x gets the class of x, else 0; p are the probabilities of that class.
    Averaged over the views. Source: Deng, Gould & Zheng 2022, "On the Strong Correlation Between
    Model Invariance and Generalization", arXiv 2207.07065.

    Args:
        f: class probabilities [B, classes] (after the softmax).
        x: images [B, C, H, W].
        views: transformed batches, such as ``quarter_turns(x)`` or ``[grayscale(x, mean, std)]``
            as in the paper, or ``(T.on_input(x) for T in random_transforms(x, …))``.
        transform: what the views are, for the record.

    Raises:
        ModelError: if f's output is not a probability per class.

    Example:
        >>> x = torch.rand(2, 3, 8, 8)
        >>> f = lambda x: x.mean((2, 3)).softmax(1)
        >>> effective_invariance(f, x, quarter_turns(x), "rotation by 90°").unit
        '1'
    """
    p0, c0 = _probabilities(f, x).max(1)
    values = []
    for view in views:
        pt, ct = _probabilities(f, view).max(1)
        values.append(torch.where(ct == c0, (pt * p0).sqrt(), torch.zeros_like(p0)))
    if not values:
        raise LieDerivError("views is empty; give at least one transformed batch.")
    return SampledMetric(
        EffectiveInvariance.name,
        transform,
        torch.stack(values).mean(0).cpu(),
        "1",
        "√(p_T p_0) if the predicted classes agree, else 0 (Deng et al. 2022, arXiv 2207.07065)",
    )


def quarter_turns(x: Tensor) -> Iterator[Tensor]:
    """X rotated by 90°, 180° and 270°, as in the paper on effective invariance.

    Raises:
        ImageError: if the images are not square.
    """
    check_images(x)
    if x.shape[-2] != x.shape[-1]:
        raise ImageError(
            f"x has images of {x.shape[-2]} × {x.shape[-1]} pixels; quarter turns need square ones."
        )
    return (rot90(x, k) for k in (1, 2, 3))


def grayscale(x: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Images without colour: luma 0.299 R + 0.587 G + 0.114 B of the picture in [0, 1].

    Args:
        x: normalised RGB images [B, 3, H, W].
        mean: of the normalisation, per channel.
        std: of the normalisation, per channel.
    """
    if x.shape[1] != 3:
        raise ImageError(f"x has {x.shape[1]} channels; grayscale needs red, green and blue.")
    m, s = (x.new_tensor(v).view(1, 3, 1, 1) for v in (mean, std))
    luma = ((x * s + m) * x.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    return (luma - m) / s


def top1_accuracy(f: Callable[[Any], Tensor], x: Any, labels: Tensor) -> SampledMetric:
    """Fraction of images whose highest score is the label's.

    Args:
        f: class scores [B, classes].
        x: images [B, C, H, W].
        labels: class indices [B].
    """
    scores = _scores(f, x)
    if labels.shape != (len(x),):
        raise LieDerivError(f"labels has shape {list(labels.shape)}; expected [{len(x)}].")
    if labels.min() < 0 or labels.max() >= scores.shape[1]:
        raise LieDerivError(
            f"labels reach from {int(labels.min())} to {int(labels.max())}, but the model has "
            f"{scores.shape[1]} classes; map the labels to the model's class indices."
        )
    correct = (scores.argmax(1).cpu() == labels.cpu()).double()
    definition = "fraction of images with the right top-1 class"
    return SampledMetric(Accuracy.name, Accuracy.transform, correct, "fraction", definition)


def _scores(f: Callable[[Any], Tensor], x: Any) -> Tensor:
    """Class scores [B, classes]; a NaN would win every argmax, so it is refused."""
    y = evaluate(f, x)
    if y.ndim != 2 or y.shape[1] < 2:
        raise ModelError(
            f"the model returns shape {list(y.shape)}; decisions need class scores [B, classes]."
        )
    if y.isnan().any():
        raise ModelError("the model returns NaN scores, so it makes no decision.")
    return y


def _probabilities(f: Callable[[Any], Tensor], x: Any) -> Tensor:
    p = _scores(f, x).double()
    # bfloat16's softmax over 1000 classes sums to 1 within 3e-3.
    if p.min() < 0 or (p.sum(1) - 1).abs().max() > 1e-2:
        raise ModelError(
            "effective invariance needs class probabilities, but the outputs do not sum to 1; "
            "pass lambda x: model(x).softmax(1)."
        )
    return p


class ShiftConsistency(FiniteMetric):
    """See `shift_consistency`."""

    name, family = "shift_consistency", "decisions"
    summary = "same class under shifts of 0-7 px, continued beyond the border (not Zhang's crops)"
    needs = frozenset({"finite", "classes"})
    transform = "shift along xy, 0 to 7 px"
    images_only = True
    larger_is_better = True

    def pieces(self, c: Context, x: Tensor) -> Sequence[Piece]:
        """See `FiniteMetric.pieces`."""
        return [shift_consistency(c.f, x, scheme=c.scheme)]


class EffectiveInvariance(FiniteMetric):
    """See `effective_invariance`."""

    name, family = "effective_invariance", "decisions"
    summary = "confidence kept when transformed"
    needs = frozenset({"finite", "classes"})
    larger_is_better = True

    def described(self, domain: Domain) -> str:
        """See `FiniteMetric.described`."""
        return domain.viewed

    def pieces(self, c: Context, x: Any) -> Sequence[Piece]:
        """See `FiniteMetric.pieces`."""
        return [
            NotApplicable(self.name, label, views)
            if isinstance(views, str)
            else effective_invariance(c.f, x, views, label)
            for label, views in domain_of(x).views(x, c.seed, c.scheme)
        ]


class Accuracy(FiniteMetric):
    """See `top1_accuracy`; it needs no asking where labels are known."""

    name, family = "accuracy", "accuracy"
    summary = "top-1 accuracy, where labels are known"
    needs = frozenset({"finite", "classes", "labels"})
    transform = "none"
    larger_is_better = True
    unasked = True

    def pieces(self, c: Context, x: Any) -> Sequence[Piece]:
        """See `FiniteMetric.pieces`."""
        assert c.labels is not None
        return [top1_accuracy(c.f, x, c.labels)]
