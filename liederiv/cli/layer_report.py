"""What `liederiv layers` found, and how it is written to files."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from liederiv.analysis import AliasingReport, Attribution, FiniteLayers, WhatIf
from liederiv.files import json_ready, write_atomically, write_json
from liederiv.measurement.results import SCHEMA_VERSION, Provenance

__all__ = ["LayerReport", "by_columns"]


def by_columns() -> tuple[str, ...]:
    """What modules can be grouped by."""
    return ("module", "kind", "stage")


@dataclass(frozen=True)
class LayerReport:
    """Everything measured by one call of the command.

    Attributes:
        attribution: to modules.
        provenance: how it was obtained.
        image_names: of the images, in order.
        aliasing: None unless asked for.
        finite: None unless asked for.
        what_if: None unless asked for.
    """

    attribution: Attribution
    provenance: Provenance
    image_names: tuple[str, ...] = ()
    aliasing: AliasingReport | None = None
    finite: FiniteLayers | None = None
    what_if: WhatIf | None = None

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data (NaN and ∞ become null)."""
        a = self.attribution
        data: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            **asdict(self.provenance),
            "output": a.output,
            "closure_error": a.closure_error,
            "coverage": a.coverage,
            "witness": None if a.witness is None else asdict(a.witness),
            "tolerance": a.tolerance,
            "num_probes": a.num_probes,
            "total": a.totals,
            "unit": dict(zip(a.generators, a.units, strict=True)),
            "steps": _steps(a),
            "rows": _records(a.to_dataframe()),
            "profile": _records(a.profile_dataframe()),
        }
        if self.aliasing is not None:
            data["aliasing"] = _aliasing(self.aliasing)
        if self.finite is not None:
            data["finite"] = _finite(self.finite)
        if self.what_if is not None:
            data["what_if"] = _what_if(self.what_if)
        out: dict[str, Any] = json_ready(data)
        return out

    def save(
        self, *, json: Path | None = None, parquet: Path | None = None, plot: Path | None = None
    ) -> None:
        """Write files, each atomically."""
        if json is not None:
            write_json(json, self.to_dict())
        if parquet is not None:
            frame = self.attribution.to_dataframe(per_image=True)
            names = dict(enumerate(self.image_names))
            frame.insert(0, "image_name", frame["image"].map(names))
            write_atomically(parquet, lambda p: frame.to_parquet(p, index=False))
        if plot is not None:
            from liederiv.analysis.plots.figures import layers_figure

            figure = layers_figure(self.attribution, self.aliasing, title=self.provenance.model)
            write_atomically(plot, lambda p: figure.savefig(p, dpi=130))


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(k): v for k, v in row.items()} for row in frame.to_dict("records")]


def _steps(a: Attribution) -> dict[str, Any] | None:
    """The steps that were attributed, and how well; None for the derivative."""
    if not a.steps:
        return None
    columns = (a.generators, a.units, a.steps, a.step_labels, a.share_errors, a.missing)
    return {
        name: {"size": size, "unit": unit, "label": label, "quadrature": error, "missing": gap}
        for name, unit, size, label, error, gap in zip(*columns, strict=True)
    }


def _aliasing(report: AliasingReport) -> dict[str, Any]:
    correlations = {g: asdict(report.correlation(g)) for g in report.generators}
    return {
        "scheme": report.scheme,
        "boundary": report.boundary,
        "factor": report.factor,
        "border": report.border,
        "explained": report.explained(),
        "rank_correlation": correlations,
        "skipped": [{"module": path, "reason": why} for path, why in report.skipped],
        "rows": _records(report.to_dataframe()),
    }


def _finite(finite: FiniteLayers) -> dict[str, Any]:
    return {
        "num_samples": finite.num_samples,
        "max_fraction": finite.max_fraction,
        "scheme": finite.scheme,
        "skipped": [{"module": path, "reason": why} for path, why in finite.skipped],
        "rows": _records(finite.to_dataframe().rename(columns={"path": "module"})),
    }


def _what_if(result: WhatIf) -> dict[str, Any]:
    return {
        "output": result.output,
        "steps": result.steps,
        "scheme": result.scheme,
        "rank_by": result.rank_by,
        "repairs": result.repairs,
        "ranking": [{"module": path, "score": score} for path, score in result.ranking],
        "rows": _records(result.to_dataframe()),
    }
