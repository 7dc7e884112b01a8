"""Fill the page's template with data, tables and libraries."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from importlib import resources
from typing import Any

import pandas as pd

from liederiv._version import __version__
from liederiv.errors import LieDerivError
from liederiv.foreign import printable
from liederiv.metrics.registry import words_of
from liederiv.spreadsheets import printable_frame

from ..models.accuracy import join_accuracy
from ..models.leaderboard import Leaderboard, failures, latest, leaderboard
from ..models.statistics import correlations, describe_models
from .data import chart_data, safe_json
from .tables import (
    correlation_table,
    failure_table,
    interactive,
    leaderboard_table,
    library,
    plain,
)

__all__ = ["report_html"]

_OUTPUTS = {"probs": "class probabilities"}
_MIN_MODELS = 5  # for correlations


def report_html(
    scores: pd.DataFrame,
    layers: pd.DataFrame | None = None,
    *,
    accuracy: pd.DataFrame | None = None,
    configuration: Mapping[str, Any] | None = None,
    title: str = "Equivariance of models",
    metric: str = "lee",
    output: str | None = None,
    seed: int = 0,
) -> str:
    """The report on a scan, as one HTML document.

    Args:
        scores: rows of the measurement ``score``, as `Store.read` returns them.
        layers: rows of the measurement ``layers``, if there are any.
        accuracy: what `read_accuracy` returns.
        configuration: settings of each measurement, for the section on methods.
        title: of the page.
        metric: what the leaderboard lists.
        output: what it was measured on; by default class probabilities where there are any.
        seed: of bootstrap intervals.

    Returns:
        A document that loads nothing from elsewhere. All that comes from the scan is escaped.

    Raises:
        LieDerivError: if no model was measured, or the `report` extra is not installed.
    """
    jinja2, plotly_script = _libraries()
    scores, layers = printable_frame(scores), None if layers is None else printable_frame(layers)
    board = leaderboard(scores, metric, output)
    if accuracy is not None:
        joined = join_accuracy(board.frame, accuracy)
        board = replace(board, frame=joined)
    board = board.sorted()
    models = describe_models(board)
    failed = pd.concat(
        [failures(scores if layers is None else pd.concat([scores, layers])), _left_out(board)]
    )
    scores = scores[~scores["requested_model"].isin(board.left_out)]
    if layers is not None:
        layers = layers[~layers["requested_model"].isin(board.left_out)]
    measured_layers = layers is not None and bool((layers["outcome"] == "measured").any())
    rows = layers if measured_layers else None
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(_asset("report.html"))
    page: str = template.render(
        title=printable(title),
        style=_asset("report.css"),
        script=_asset("report.js"),
        plotly=plotly_script,
        datatables=library(),
        data=safe_json(chart_data(board, models, rows, scores, seed)),
        leaderboard=interactive(leaderboard_table(board), "leaderboard"),
        failures=interactive(failure_table(failed), "failed") if len(failed) else "",
        correlations=_correlations(models, board, seed),
        facts=_facts(scores, board, failed),
        settings=_settings(configuration),
        metric=words_of(board.metric)[0],
        units=", ".join(f"{t.replace('_', ' ')} {board.units[t]}" for t in board.whole_transforms),
        output=_OUTPUTS.get(board.output, board.output),
        has_layers=measured_layers,
        version=__version__,
        made=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    )
    return page


def _left_out(board: Leaderboard) -> pd.DataFrame:
    """Models that were measured otherwise than most, as rows of `failures`."""
    rows = [
        {"requested_model": name, "measurement": "score", "outcome": "left out", "reason": why}
        for name, why in board.left_out.items()
    ]
    return pd.DataFrame(rows, columns=["requested_model", "measurement", "outcome", "reason"])


def _libraries() -> tuple[Any, str]:
    try:
        import itables  # noqa: F401
        import jinja2
        import plotly.offline
    except ImportError as error:
        raise LieDerivError(
            f"a report needs the package {error.name!r}; pip install 'liederiv[report]'."
        ) from error
    return jinja2, plotly.offline.get_plotlyjs()


def _asset(name: str) -> str:
    source = resources.files("liederiv.analysis.report") / "assets" / name
    return source.read_text(encoding="utf-8")


def _correlations(models: pd.DataFrame, board: Leaderboard, seed: int) -> str:
    if len(models) < _MIN_MODELS:
        return ""
    found = correlations(models, board.whole_transforms, resamples=500, seed=seed)
    return plain(correlation_table(found))


def _facts(scores: pd.DataFrame, board: Leaderboard, failed: pd.DataFrame) -> dict[str, str]:
    """What stands on top of the page."""
    measured = latest(scores)
    measured = measured[measured["outcome"] == "measured"]

    def every(column: str) -> str:
        values = [str(v) for v in measured[column].dropna().unique()]
        return ", ".join(values[:4]) + (", …" if len(values) > 4 else "")

    return {
        "models": f"{len(board.frame)}",
        "failed": f"{len(failed)}",
        "images": f"{every('num_images')} of {every('images')}",
        "scheme": every("scheme"),
        "device": f"{every('dtype')} on {every('device')}",
        "software": f"liederiv {every('version_liederiv')}, timm {every('version_timm')}, "
        f"torch {every('version_torch')}",
    }


def _settings(configuration: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Each measurement's settings, as indented JSON."""
    return [
        (name, printable(json.dumps(settings, indent=1, ensure_ascii=False, default=str)))
        for name, settings in (configuration or {}).items()
    ]
