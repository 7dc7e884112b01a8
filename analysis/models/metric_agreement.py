"""Do different metrics of equivariance put models in the same order?"""

from __future__ import annotations

import re
from collections.abc import Iterable

import pandas as pd

from liederiv.metrics.registry import METRICS, metric_names

from .leaderboard import latest
from .rank_correlation import rank_correlation

__all__ = ["metric_agreement", "metric_columns"]

_SUBJECTS = ("translation", "rotation", "scale", "shear", "stretch", "flip")
_SAME = {"shift": "translation", "roll": "translation", "rot90": "rotation", "rot180": "rotation"}


def metric_columns(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per model, one column per (metric, transform, output); errors and, negated, the rest.

    Args:
        rows: of the measurement ``score``, as `Store.read` returns them.
    """
    newest = latest(rows)
    good = newest[(newest["outcome"] == "measured") & (newest["status"] == "measured")].copy()
    negated = good["metric"].isin(metric_names("larger_is_better"))
    good = good[~good["metric"].isin(set(METRICS) - set(metric_names("listed")))]
    good["value"] = good["value"].where(~negated, -good["value"])
    index = ["metric", "transform", "output"]
    return good.pivot_table("value", "requested_model", index, aggfunc="first", sort=False)


def metric_agreement(
    rows: pd.DataFrame,
    *,
    reference: str = "lee",
    outputs: Iterable[str] = ("probs", "logits"),
    minimum: int = 4,
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Spearman correlation over models between one metric and all others of the same symmetry.

    Metrics that grow as a model gets closer to equivariant are negated first: ρ = 1 says that two
    metrics put the models in the same order. LEE under translation is compared with EQ-T, shift
    consistency and so on, LEE under rotation with EQ-R; see `subject_of`.

    Args:
        rows: of the measurement ``score``, as `Store.read` returns them.
        reference: the metric to compare with.
        outputs: kinds of output of the reference to compare with.
        minimum: pairs of metrics with fewer models in common are left out.
        resamples: bootstrap samples over models.
        seed: of the bootstrap.

    Returns:
        One row per pair: ``reference``, ``transform``, ``output`` of the reference; ``metric``,
        ``other_transform``, ``other_output``; ``rho``, ``low``, ``high`` (95 %) and ``models``.
    """
    table = metric_columns(rows)
    wanted = tuple(outputs)
    columns = [tuple(map(str, c)) for c in table.columns]
    own = [c for c in columns if c[0] == reference and c[2] in wanted and _whole(c[1], table)]
    found = []
    for one in own:
        for other in columns:
            related = subject_of(other[1]) == subject_of(one[1]) and _whole(other[1], table)
            if other[0] == reference or not related:
                continue
            r = rank_correlation(table[one], table[other], resamples=resamples, seed=seed)
            if r.count < minimum:
                continue
            found.append((*one, *other, r.value, r.low, r.high, r.count))
    names = ["reference", "transform", "output", "metric", "other_transform", "other_output",
             "rho", "low", "high", "models"]  # fmt: skip
    return pd.DataFrame(found, columns=names)


def subject_of(transform: str) -> str:
    """The symmetry that a transform's name is about: ``translation``, ``rotation``, ….

    Example:
        >>> subject_of("shift along xy, 0 to 7 px"), subject_of("rotation, 0° to 360°")
        ('translation', 'rotation')
    """
    for word in re.findall(r"[a-z]+\d*", transform):
        for subject in _SUBJECTS:
            if word.startswith(subject):
                return subject
        if word in _SAME:
            return _SAME[word]
    return transform


def _whole(transform: str, table: pd.DataFrame) -> bool:
    """False for one axis of a transform that is there as a whole."""
    group = re.sub(r"_[xy](?=@|$)", "", transform)
    return group == transform or group not in set(table.columns.get_level_values(1))
