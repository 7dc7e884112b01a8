"""One row per model from the rows of a scan, and what failed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pandas as pd

from liederiv.errors import LieDerivError
from liederiv.metrics.registry import METRICS
from liederiv.names import GROUPS

from .alike import measured_alike
from .architectures import architecture_classes

__all__ = ["ABOUT", "GROUPS", "Leaderboard", "failures", "latest", "leaderboard"]

ABOUT = ("model", "family", "architecture", "class", "tag", "parameters", "input_height")
"""Columns about a model, before its values."""

_OUTPUTS = ("probs", "output", "features", "logits")


@dataclass(frozen=True)
class Leaderboard:
    """Values of one metric, one row per model.

    Attributes:
        frame: columns of `ABOUT`, those of an accuracy table where one was joined, and for each
            transform its value, with ``_low`` and ``_high`` for the ends of its 95 % interval.
        metric: what the values are.
        output: what they were measured on.
        units: unit of each transform's value, in the order of the columns.
        left_out: models that were measured otherwise than most, by requested name, and how.
    """

    frame: pd.DataFrame
    metric: str
    output: str
    units: Mapping[str, str]
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def larger_is_better(self) -> bool:
        """Whether the best has the largest value."""
        return self.metric in METRICS and METRICS[self.metric].larger_is_better is True

    @property
    def transforms(self) -> tuple[str, ...]:
        """Names of the transforms, which are columns."""
        return tuple(self.units)

    @property
    def whole_transforms(self) -> tuple[str, ...]:
        """The same without single axes of a transform that is there as a whole."""
        groups = {t: re.sub(r"_[xy](?=@|$)", "", t) for t in self.units}
        return tuple(t for t, group in groups.items() if group == t or group not in self.units)

    def sorted(self, by: str | None = None) -> Leaderboard:
        """The same rows in order.

        Args:
            by: a column, the smallest first, or the largest with a minus before the name; by
                default the first whole transform, the best first. Models without a value come last.

        Raises:
            LieDerivError: if there is no such column.
        """
        name = (by or self.whole_transforms[0]).removeprefix("-")
        if name not in self.frame:
            raise LieDerivError(
                f"--sort={by!r} is no column; choose one of {', '.join(self.frame.columns)}."
            )
        descending = self.larger_is_better if by is None else by.startswith("-")
        frame = self.frame.sort_values(
            [name, "model"], ascending=[not descending, True], na_position="last", kind="stable"
        )
        return replace(self, frame=frame.reset_index(drop=True))

    def grouped(self, by: str) -> pd.DataFrame:
        """One row per group: number of models, median value per transform, best model of the first.

        Args:
            by: one of `GROUPS`.

        Raises:
            LieDerivError: if there is no such grouping.
        """
        if by not in GROUPS:
            raise LieDerivError(f"--group={by!r} is unknown; choose one of {', '.join(GROUPS)}.")
        first, up = self.whole_transforms[0], not self.larger_is_better
        rows = []
        for name, group in self.frame.groupby(by, dropna=False, sort=True):
            measured = group[group[first].notna()].sort_values(first, ascending=up)
            best = "" if measured.empty else measured["model"].iloc[0]
            medians = {t: group[t].median() for t in self.transforms}
            rows.append({by: name, "models": len(group), **medians, "best": best})
        found = pd.DataFrame(rows).sort_values(first, ascending=up, kind="stable")
        return found.reset_index(drop=True)


def latest(rows: pd.DataFrame) -> pd.DataFrame:
    """Keep one measurement per requested model: the newest measured one, else the newest failure.

    Args:
        rows: of one measurement, as `Store.read` returns them.
    """
    if rows.empty:
        return rows
    order = rows.assign(_measured=rows["outcome"] == "measured")
    order = order.sort_values(["_measured", "finished"], na_position="first", kind="stable")
    chosen = order.groupby("requested_model")["key"].last()
    return rows[rows["key"] == rows["requested_model"].map(chosen)]


def failures(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per model that could not be measured: why, and where its log lies."""
    columns = ["requested_model", "measurement", "outcome", "reason", "log"]
    newest = latest(rows)
    failed = newest[newest["outcome"] != "measured"]
    out: pd.DataFrame = failed[columns].drop_duplicates().reset_index(drop=True)
    return out


def leaderboard(rows: pd.DataFrame, metric: str = "lee", output: str | None = None) -> Leaderboard:
    """Values of one metric from the score rows of a scan.

    Models that were measured otherwise than most, or in other units, are left out.

    Args:
        rows: of the measurement ``score``, as `Store.read` returns them.
        metric: name of the metric.
        output: what it was measured on; by default class probabilities where there are any.

    Raises:
        LieDerivError: if no model was measured, or none in this metric and output.
    """
    newest = latest(rows)
    measured = newest[newest["outcome"] == "measured"]
    if measured.empty:
        raise LieDerivError(
            f"no model has been measured ({len(failures(rows))} failed); see `--failed` for why."
        )
    chosen = measured[measured["metric"] == metric]
    if chosen.empty:
        known = ", ".join(sorted(measured["metric"].dropna().unique()))
        raise LieDerivError(f"--metric={metric!r} was not measured; there are: {known}.")
    outputs = list(chosen["output"].unique())
    kind = output or next((o for o in _OUTPUTS if o in outputs), outputs[0])
    chosen = chosen[chosen["output"] == kind]
    if chosen.empty:
        raise LieDerivError(
            f"--output={output!r} was not measured for {metric}; there are: {', '.join(outputs)}."
        )
    chosen, left_out = measured_alike(chosen)
    units = {str(t): _most(group) for t, group in chosen.groupby("transform", sort=False)["unit"]}
    other = chosen[chosen["unit"] != chosen["transform"].map(units)]
    for row in other.drop_duplicates("requested_model").to_dict("records"):
        words = f"measured in {row['unit']}, most of these models in {units[row['transform']]}"
        left_out[str(row["requested_model"])] = f"{row['transform']} was {words}"
    chosen, measured = (f[~f["requested_model"].isin(left_out)] for f in (chosen, measured))
    frame = _wide(measured, chosen, list(units))
    return Leaderboard(frame, metric, kind, units, left_out)


def _most(units: pd.Series) -> str:
    """The commonest unit, the first of several as common ones."""
    counts = units.value_counts(sort=False)
    return str(counts.idxmax()) if len(counts) else ""


def _wide(measured: pd.DataFrame, chosen: pd.DataFrame, transforms: list[str]) -> pd.DataFrame:
    models = measured.drop_duplicates("key").set_index("key")
    classes = architecture_classes(models["architecture"].fillna(""))
    frame = models[["model", "requested_model", "family", "architecture", "tag"]].copy()
    frame.insert(4, "class", models["architecture"].fillna("").map(classes))
    for name in ("parameters", "input_height", "num_images", "seconds", "peak_memory", "weights"):
        frame[name] = models[name]
    for transform in transforms:
        one = chosen[chosen["transform"] == transform].drop_duplicates("key").set_index("key")
        good = one[one["status"] == "measured"]
        for column, source in (("", "value"), ("_low", "ci_low"), ("_high", "ci_high")):
            frame[transform + column] = good[source].reindex(frame.index)
    return frame.reset_index(drop=True)
