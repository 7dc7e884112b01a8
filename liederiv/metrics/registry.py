"""All metrics by name, in families, with what they mean in one line."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from liederiv.errors import LieDerivError

__all__ = ["FAMILIES", "METRICS", "Metric", "resolve_metrics"]


@dataclass(frozen=True)
class Metric:
    """A metric's name and kind.

    Attributes:
        name: as in results.
        family: the name that stands for it and its siblings.
        kind: ``lie`` (from the Lie derivative alone), ``comparison`` (needs comparison directions
            too), ``reference`` (of the reference network) or ``finite`` (needs finite transforms).
        summary: one line.
    """

    name: str
    family: str
    kind: Literal["lie", "comparison", "reference", "finite"]
    summary: str


METRICS: dict[str, Metric] = {
    m.name: m
    for m in (
        Metric("lee", "lee", "lie", "mean squared Lie derivative per output dimension"),
        Metric("mean_abs", "lee", "lie", "mean absolute Lie derivative, as in the paper's code"),
        Metric("relative_norm", "relative", "comparison", "lee over response to equal-norm noise"),
        Metric(
            "relative_spectrum",
            "relative",
            "comparison",
            "lee over response to noise of the tangent's power spectrum",
        ),
        Metric("blur_response", "relative", "comparison", "response to a small Gaussian blur"),
        Metric("reference", "reference", "reference", "an exactly invariant network's error"),
        Metric("eq_t", "sampled", "finite", "EQ-T: PSNR under whole-pixel translations, dB"),
        Metric("eq_t_frac", "sampled", "finite", "EQ-T_frac: PSNR under fractional ones, dB"),
        Metric("eq_r", "sampled", "finite", "EQ-R: PSNR under rotations, dB"),
        Metric("eq_t_relative", "sampled", "finite", "eq_t over each output's own range, dB"),
        Metric("eq_t_frac_relative", "sampled", "finite", "the same of eq_t_frac, dB"),
        Metric("eq_r_relative", "sampled", "finite", "the same of eq_r, dB"),
        Metric("sampled_error", "sampled", "finite", "mean squared change under finite transforms"),
        Metric(
            "shift_consistency",
            "decisions",
            "finite",
            "same class under shifts of 0-7 px, continued beyond the border (not Zhang's crops)",
        ),
        Metric("effective_invariance", "decisions", "finite", "confidence kept when transformed"),
        Metric("discrete", "discrete", "finite", "exact 90° turns, flips and whole-pixel rolls"),
        Metric("accuracy", "accuracy", "finite", "top-1 accuracy, where labels are known"),
    )
}
"""Every metric by name."""


def _families() -> dict[str, tuple[str, ...]]:
    families: dict[str, tuple[str, ...]] = {}
    for m in METRICS.values():
        families[m.family] = (*families.get(m.family, ()), m.name)
    return families | {"all": tuple(METRICS)}


FAMILIES: dict[str, tuple[str, ...]] = _families()
"""Names that stand for several metrics."""


def resolve_metrics(names: str | Iterable[str]) -> tuple[Metric, ...]:
    """Resolve names and families, in order and without repetition.

    Raises:
        LieDerivError: for an unknown name or an empty list.

    Example:
        >>> [m.name for m in resolve_metrics("lee")]
        ['lee', 'mean_abs']
    """
    if isinstance(names, str):
        names = [name.strip() for name in names.split(",") if name.strip()]
    found: dict[str, Metric] = {}
    for name in names:
        # A family of the same name as its first metric stands for the whole family.
        members = FAMILIES.get(name, (name,) if name in METRICS else ())
        if not members:
            known = ", ".join(dict.fromkeys([*FAMILIES, *METRICS]))
            raise LieDerivError(f"metric {name!r} is unknown; choose from {known}.")
        found.update((m, METRICS[m]) for m in members)
    if not found:
        raise LieDerivError(f"metrics is empty; choose from {', '.join(FAMILIES)}.")
    return tuple(found.values())
