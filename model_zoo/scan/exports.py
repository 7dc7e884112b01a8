"""The public names of `liederiv.model_zoo.scan`, imported when the first of them is asked for."""

from __future__ import annotations

from .choices import choose_engine, parse_count
from .engines import Engine, LocalEngine
from .plan import Job, make_plan
from .progress import Reporter
from .scanning import Limits, Scan, Summary
from .selection import Candidate, Selection, select_models, shard
from .settings import ScanSettings
from .stopping import Stop, stop_on_signals
from .weights import WeightsPolicy

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
