"""Run scans of the small models of `scan_models` from tests."""

import io
import sys
from pathlib import Path

from liederiv.model_zoo.scan import (
    Candidate,
    Limits,
    LocalEngine,
    Reporter,
    Scan,
    ScanSettings,
    Stop,
    make_plan,
)
from liederiv.model_zoo.scan.store import Store

# Columns that say when and how long, which no two runs share.
TIMES = ["seconds", "started", "finished", "peak_memory"]


TESTS = Path(__file__).parent
SLOW = ["slow_1", "slow_2", "slow_3", "slow_4", "slow_5"]
FLAGS = "--num-images 1 --layers-images 1 --transforms rotation --metrics lee,relative --threads 1"
SCAN = "from liederiv.cli import main; main()"


def scan_arguments(folder, names, workers=1):
    """Of `liederiv scan`, for factories in `scan_models`."""
    models = [f"scan_models:{name}" for name in names]
    return [*models, *FLAGS.split(), "--out", str(folder), "--workers", str(workers)]


def scan_command(folder, names, workers=1):
    """For a new interpreter in `TESTS`."""
    return [sys.executable, "-c", SCAN, "scan", *scan_arguments(folder, names, workers)]


def settings_for(**changes):
    """Quick settings."""
    few = {"num_images": 1, "layers_images": 1, "transforms": "rotation", "metrics": "lee,relative"}
    return ScanSettings(**{**few, **changes})


def plan_for(folder, names, *, retry_failed=False, **changes):
    """Settings, store and jobs of a scan of factories in `scan_models`."""
    settings = settings_for(**changes).with_images()
    store = Store.create(folder, settings.configuration())
    candidates = [Candidate(f"scan_models:{n}", f"scan_models:{n}") for n in names]
    return settings, store, make_plan(candidates, settings, store, retry_failed=retry_failed)


def run_scan(
    folder, names, *, workers=2, engine=None, timeout=None, memory=None, stream=None, stop=None,
    retry_failed=False, weights=None, **changes,
):  # fmt: skip
    """Scan; returns the summary."""
    settings, store, jobs = plan_for(folder, names, retry_failed=retry_failed, **changes)
    reporter = Reporter(stream or io.StringIO())
    limits = Limits(1, timeout, memory)
    place = engine or LocalEngine(workers)
    return Scan(jobs, settings, store, place, limits, reporter, stop or Stop(), weights).run()


def table(folder, measurement="score"):
    """Everything that a scan found, without times, in a fixed order."""
    frame = Store.open(folder).read(measurement).drop(columns=TIMES)
    keys = ["model", *(c for c in ("metric", "transform", "output", "module") if c in frame)]
    return frame.sort_values(keys, kind="stable").reset_index(drop=True)
