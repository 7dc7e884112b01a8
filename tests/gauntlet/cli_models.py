"""The networks as factories of the command line: ``gauntlet.cli_models:NAME``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .kinds import NETWORKS

CONFIG = {"input_size": (3, 10, 10), "mean": (0.5,) * 3, "std": (0.25,) * 3, "crop_pct": 1.0}


def __getattr__(name: str) -> Callable[[], Any]:
    if name not in NETWORKS:
        raise AttributeError(name)

    def factory() -> Any:
        net = NETWORKS[name].build()
        net.data_config = dict(CONFIG)
        return net.subject()

    return factory
