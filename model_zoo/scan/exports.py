"""The public names of `liederiv.model_zoo.scan`, imported when the first of them is asked for."""

from __future__ import annotations

from liederiv.model_zoo.scan.choices import choose_engine, parse_count
from liederiv.model_zoo.scan.engines import Engine, LocalEngine
from liederiv.model_zoo.scan.plan import Job, make_plan
from liederiv.model_zoo.scan.progress import Reporter
from liederiv.model_zoo.scan.scanning import Limits, Scan, Summary
from liederiv.model_zoo.scan.selection import Candidate, Selection, select_models, shard
from liederiv.model_zoo.scan.settings import ScanSettings
from liederiv.model_zoo.scan.stopping import Stop, stop_on_signals
from liederiv.model_zoo.scan.weights import WeightsPolicy

__all__ = [
    "Candidate",
    "Engine",
    "Job",
    "Limits",
    "LocalEngine",
    "Reporter",
    "Scan",
    "ScanSettings",
    "Selection",
    "Stop",
    "Summary",
    "WeightsPolicy",
    "choose_engine",
    "make_plan",
    "parse_count",
    "select_models",
    "shard",
    "stop_on_signals",
]
