"""What `liederiv track` does: measure checkpoint after checkpoint, keep the rows, show them."""

from __future__ import annotations

import json as json_format
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from tqdm import tqdm

from liederiv.analysis.plots.trajectory import main_rows, plot_trajectory
from liederiv.cli.saving import Saving
from liederiv.cli.tables import console, new_table, number
from liederiv.errors import LieDerivError
from liederiv.files import json_ready, write_atomically, write_json
from liederiv.measurement.results import SCHEMA_VERSION
from liederiv.model_zoo.requests.measure_options import MeasureOptions
from liederiv.model_zoo.requests.measuring import measure_loaded, open_inputs, provenance_of
from liederiv.model_zoo.requests.model_options import ModelOptions
from liederiv.model_zoo.scan.run_folder import RunCheckpoint, find_checkpoints
from liederiv.spreadsheets import frame_of, write_csv

__all__ = ["track_run"]

Rows = list[dict[str, Any]]
_COLUMNS = (
    "checkpoint", "axis", "position", "metric", "transform", "output", "value", "ci_low", "ci_high",
    "unit", "floor", "status", "reason",
)  # fmt: skip


def track_run(
    run_dir: Path,
    model: str,
    chosen: ModelOptions,
    how: MeasureOptions,
    *,
    json: Path | None,
    csv: Path | None,
    parquet: Path | None,
    plot: Path | None,
    quiet: bool,
) -> None:
    """Arguments of the command, looked at.

    Raises:
        LieDerivError: if no checkpoint could be scored.
    """
    checkpoints, skipped = find_checkpoints(run_dir)
    # What is wrong with the request itself is said before any checkpoint is blamed for it.
    fresh = chosen.open(model, None, None)
    found = open_inputs(how, fresh)
    measure_loaded(fresh, chosen, replace(how, num_images=1))
    alike = provenance_of(fresh, found)
    settings = {
        "model": model,
        "images_fingerprint": alike.images_fingerprint,
        "preprocessing": json_ready(alike.preprocessing),
        **_plain(chosen, how),
    }
    done = _Results(json, settings)
    bar = tqdm(checkpoints, unit="checkpoint", disable=True if quiet else None, desc="tracking")
    for checkpoint in bar:
        if not done.has(checkpoint):
            rows = _scored(partial(_measure, model, checkpoint, chosen, how), checkpoint)
            done.add(checkpoint, rows)
    frame = done.frame(checkpoints)
    save = Saving()
    save(json if done.unsaved else None, done.write)
    _write(save, frame, csv, parquet, plot, f"{model}, {run_dir.name}")
    if not quiet or save.lost:
        _print(frame, checkpoints, skipped)
    save.finish()
    if not (frame["status"] == "measured").any():
        raise LieDerivError(
            f"none of the {len(checkpoints)} checkpoints in {str(run_dir)!r} could be scored "
            f"(first: {frame['reason'].iloc[0]})."
        )


def _plain(chosen: ModelOptions, how: MeasureOptions) -> dict[str, Any]:
    """The settings that decide the numbers, as plain data."""
    neutral = {"progress", "batch_size", "device", "chunk_size"}
    both = asdict(chosen) | asdict(how)
    kept = {k: v for k, v in both.items() if k not in neutral}
    if kept["representation"] == "auto":
        del kept["representation"]  # runs from before it could be declared go on
    return json_format.loads(json_format.dumps(kept, default=str))


def _measure(
    model: str, checkpoint: RunCheckpoint, chosen: ModelOptions, how: MeasureOptions
) -> Rows:
    loaded = chosen.open(model, None, checkpoint.path)
    measurement, _ = measure_loaded(loaded, chosen, how)
    rows: Rows = json_ready(measurement.to_dataframe().to_dict("records"))
    return rows


def _scored(measure: Callable[[], Rows], checkpoint: RunCheckpoint) -> Rows:
    """Rows of one checkpoint; one that fails is a row with the reason."""
    try:
        rows = measure()
    except LieDerivError as error:
        reason = " ".join(str(error).split())
        rows = [dict.fromkeys(_COLUMNS) | {"status": "failed", "reason": reason, "metric": "lee"}]
    place = {
        "checkpoint": checkpoint.name,
        "axis": checkpoint.axis,
        "position": checkpoint.position,
    }
    return [row | place for row in rows]


class _Results:
    """Rows by checkpoint, kept in a file that a later run continues."""

    def __init__(self, path: Path | None, settings: dict[str, Any]) -> None:
        self.path, self.settings = path, settings
        self.runs: dict[str, dict[str, Any]] = {}
        self.unsaved = False
        if path is None or not path.exists():
            return
        before, self.runs = _earlier(path)
        if before != settings:
            differ = [k for k in {**before, **settings} if before.get(k) != settings.get(k)]
            raise LieDerivError(
                f"--json={str(path)!r} holds results of other settings ({', '.join(differ)}); name "
                "another file, or use the same settings to continue it."
            )

    def has(self, checkpoint: RunCheckpoint) -> bool:
        """Whether this very file was scored before; failures are tried again."""
        run = self.runs.get(checkpoint.name)
        return (
            run is not None
            and run["file"] == _identity(checkpoint.path)
            and run["rows"][0]["status"] != "failed"
        )

    def add(self, checkpoint: RunCheckpoint, rows: Rows) -> None:
        """Keep rows, and write the file; if that fails, the run goes on and tries at its end."""
        self.runs[checkpoint.name] = {"file": _identity(checkpoint.path), "rows": rows}
        if self.path is None:
            return
        self.unsaved = True
        with suppress(LieDerivError):
            self.write(self.path)
            self.unsaved = False

    def write(self, path: Path) -> None:
        """Write all rows."""
        data = {
            "schema_version": SCHEMA_VERSION,
            "settings": self.settings,
            "checkpoints": self.runs,
        }
        write_json(path, data)

    def frame(self, checkpoints: list[RunCheckpoint]) -> pd.DataFrame:
        """All rows of these checkpoints, in their order."""
        rows = [row for c in checkpoints for row in self.runs[c.name]["rows"]]
        frame = frame_of(rows, list(_COLUMNS))
        numbers = ["value", "ci_low", "ci_high", "floor"]
        return frame.astype(dict.fromkeys(numbers, float))


def _earlier(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Settings and rows by checkpoint of an earlier run.

    Raises:
        LieDerivError: if the file holds anything else.
    """
    try:
        if not path.is_file():
            raise ValueError("no regular file")
        data = json_format.loads(path.read_text(encoding="utf-8"))
        before, runs = data["settings"], data["checkpoints"]
        if not isinstance(before, dict) or not isinstance(runs, dict):
            raise ValueError("no tables of names and values")
        for run in runs.values():
            _check_rows(run["rows"])
            list(run["file"])
    except Exception as error:  # a file that is not ours may be wrong in any way
        raise LieDerivError(
            f"--json={str(path)!r} exists and holds no results of `liederiv track`; name "
            "another file."
        ) from error
    return before, runs


def _check_rows(rows: Any) -> None:
    """Raise ValueError for what `_scored` would not have written."""
    if not isinstance(rows, list) or not rows:
        raise ValueError("no rows")
    for row in rows:
        numbers = [row[k] for k in ("value", "ci_low", "ci_high", "floor")]
        texts = [row[k] for k in ("checkpoint", "axis", "metric", "status")]
        if not all(isinstance(v, str) for v in texts) or not isinstance(row["position"], int):
            raise ValueError("a row of another kind")
        if not all(v is None or isinstance(v, int | float) for v in numbers):
            raise ValueError("a row without numbers")
        _ = [float(v) for v in numbers if v is not None]


def _identity(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _write(
    save: Saving,
    frame: pd.DataFrame,
    csv: Path | None,
    parquet: Path | None,
    plot: Path | None,
    title: str,
) -> None:
    save(csv, lambda path: write_atomically(path, lambda p: write_csv(p, frame)))
    save(parquet, lambda path: write_atomically(path, lambda p: frame.to_parquet(p, index=False)))
    if plot is not None:
        figure = plot_trajectory(frame, axis=frame["axis"].iloc[0], title=title)
        save(plot, lambda path: write_atomically(path, lambda p: figure.savefig(p, dpi=150)))
        plt.close(figure)


def _print(frame: pd.DataFrame, checkpoints: list[RunCheckpoint], skipped: list[str]) -> None:
    measured = frame[frame["status"] == "measured"]
    lee = measured[measured["metric"] == "lee"]
    output = lee["output"].iloc[0] if len(lee) else ""
    names = main_rows(lee)
    units = {n: lee.loc[lee["transform"] == n, "unit"].iloc[0] for n in names}
    table = new_table(f"LEE of {output} along training" if output else "Checkpoints")
    table.add_column(checkpoints[0].axis, justify="right")
    table.add_column("checkpoint", no_wrap=True)
    for name in names:
        table.add_column(f"{name}\n{units[name]}", justify="right", no_wrap=True)
    table.add_column("accuracy", justify="right")
    table.add_column("status")
    for c in checkpoints:
        rows = frame[frame["checkpoint"] == c.name]
        one = rows[(rows["metric"] == "lee") & (rows["output"] == output)].set_index("transform")
        cells = [number(one["value"].get(name)) for name in names]
        accuracy = rows.loc[(rows["metric"] == "accuracy"), "value"]
        cells.append(number(accuracy.iloc[0] if len(accuracy) else None))
        reason = next((r for r in rows["reason"] if r), "")
        table.add_row(str(c.position), c.name, *cells, reason or "measured")
    out = console()
    out.print(table)
    if skipped:
        out.print(f"Note: without a step in the name, left out: {', '.join(skipped)}.")
