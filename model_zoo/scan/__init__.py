"""Measure many models unattended: isolated, resumable, on one machine or a cluster.

`select_models` says which, `make_plan` what is left to do, `Scan` does it with an engine:
`LocalEngine` (processes on this machine) or `RayEngine` (a cluster). Results lie in a
`liederiv.model_zoo.store.Store`.
"""

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
