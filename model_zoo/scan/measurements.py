"""The measurements of a scan on one loaded model: rows of a table, and where they come from."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime, timezone
from functools import cached_property
from importlib import import_module
from typing import Any

import pandas as pd
import torch

from liederiv.domains import domain_of
from liederiv.errors import ModelError
from liederiv.foreign import one_line
from liederiv.foreign_code import users_code
from liederiv.measurement.results import Provenance

from ..inputs.base import Inputs
from ..requests.layers import LayersRun
from ..requests.measuring import (
    as_batch,
    measure_loaded,
    open_inputs,
    provenance_of,
    require_scores,
)
from ..sources.loaded import Loaded
from ..sources.random_weights import calibrate
from ..weights.hub import offline_hub
from .columns import columns_of_provenance
from .tasks import Task

__all__ = ["LoadedTask", "peak_memory"]

_CALIBRATION_IMAGES = 4
_REDUCED_SIZES = (256, 224)  # multiples of 32 and 7: what windows and patches divide


class LoadedTask:
    """A task with its model in memory.

    Args:
        task: what to do.

    Raises:
        LieDerivError: if the model or the images cannot be loaded.
    """

    def __init__(self, task: Task) -> None:
        self.task, self.settings = task, task.settings
        for module in task.modules:
            _register(module)
        self.options = self.settings.model_options()
        with offline_hub() if task.offline else nullcontext():
            self.loaded = self._load()
        of_images = self.loaded.kind == "images"
        if of_images and self.settings.calibrate and not self.settings.pretrained:
            images = as_batch(self._images(_CALIBRATION_IMAGES), self.options)
            calibrate(self.loaded.model, images, self.settings.seed)

    def describe(self) -> dict[str, Any]:
        """Fields of `Origin` that are known of the model."""
        channels, height, width = self.loaded.input_size or (None, None, None)
        return {
            "weights": self.loaded.weights,
            "weights_fingerprint": self.loaded.weights_fingerprint,
            "parameters": self.loaded.num_parameters,
            "input_channels": channels,
            "input_height": height,
            "input_width": width,
            "device": str(self.options.torch_device),
        }

    def measure(self, name: str) -> tuple[dict[str, Any], pd.DataFrame]:
        """Make one measurement.

        Args:
            name: ``score``, ``layers`` or ``aliasing``.

        Returns:
            Fields of `Origin`, and rows with the columns of that measurement.

        Raises:
            LieDerivError: if nothing of the model could be measured.
        """
        makers: dict[str, Callable[[], tuple[Provenance, pd.DataFrame]]] = {
            "score": self._score,
            "layers": self._layers,
            "aliasing": self._aliasing,
        }
        on_gpu = self.options.torch_device.type == "cuda"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(self.options.torch_device)
        started, clock = datetime.now(timezone.utc), time.perf_counter()
        provenance, frame = makers[name]()
        about = {
            **columns_of_provenance(provenance),
            "batch_size": self.task.batch_size,
            "seconds": time.perf_counter() - clock,
            "started": started,
            "finished": datetime.now(timezone.utc),
            "peak_memory": peak_memory(),
            "peak_gpu_memory": torch.cuda.max_memory_allocated() if on_gpu else None,
        }
        return about, frame

    def _load(self) -> Loaded:
        """The model; with a reduced input where that is large and the architecture takes less."""
        name, limit = self.task.name, self.settings.max_img_size
        loaded = self.options.open(name, None, None)
        size = loaded.input_size
        if limit is None or size is None or max(size[1:]) <= limit:
            return loaded
        for side in dict.fromkeys(s for s in (limit, *_REDUCED_SIZES) if s <= limit):
            try:
                return replace(self.options, img_size=side).open(name, None, None)
            except ModelError:
                continue  # an architecture of one size
        return loaded

    def _images(self, count: int) -> Inputs:
        options = replace(self.settings.measure_options(), num_images=count)
        return open_inputs(options, self.loaded)

    def _score(self) -> tuple[Provenance, pd.DataFrame]:
        options = self.settings.measure_options(self.task.batch_size)
        found, _ = measure_loaded(self.loaded, self.options, options)
        require_scores(found)
        frame = found.to_dataframe()
        lists = {
            "per_image": [list(s.per_image) or None for s in found.scores],
            "per_image_denominator": [list(s.per_image_denominator) or None for s in found.scores],
            "image_names": [list(found.image_names)] * len(frame),
        }
        frame = frame.assign(**{name: pd.Series(v, dtype=object) for name, v in lists.items()})
        return found.provenance, frame

    @cached_property
    def _layers_images(self) -> Inputs:
        return self._images(self.settings.layers_images)

    @cached_property
    def _layers_run(self) -> LayersRun:
        s = self.settings
        x = as_batch(self._layers_images, self.options)
        scheme = self._layers_images.scheme(s.scheme)
        action = domain_of(x).action(s.transforms, x, scheme, s.unit)  # type: ignore[arg-type]
        return LayersRun(
            self.loaded,
            x,
            action.generators,
            scheme,
            s.output_type,
            s.seed,
            chunk_size=None if self.task.batch_size is None else 1,
        )

    def _layers(self) -> tuple[Provenance, pd.DataFrame]:
        found = self._layers_run.attribution()
        if not found.lie_norm_squared.max() < float("inf"):
            raise ModelError("the Lie derivative of the output is not finite.")
        frame = found.to_dataframe()
        calls = [e.stage for e in found.entries]
        frame["stage"] = calls * len(found.generators)
        frame["output"] = found.output
        frame["total"] = frame["generator"].map(found.totals)
        frame["closure_error"], frame["coverage"] = found.closure_error, found.coverage
        origin = provenance_of(self.loaded, self._layers_images)
        return self._layers_run.describe(origin, found), frame

    def _aliasing(self) -> tuple[Provenance, pd.DataFrame]:
        found = self._layers_run.aliasing()
        frame = found.to_dataframe()
        if not len(frame):
            raise ModelError("aliasing has nothing to measure: no module has a known layout.")
        totals = dict(zip(found.generators, found.lie_norm_squared.mean(1), strict=True))
        frame["output"] = found.output
        frame["total"] = frame["generator"].map(totals)
        origin = replace(
            provenance_of(self.loaded, self._layers_images),
            num_images=len(self._layers_images),
            scheme=found.scheme,
            representation=found.output,
            dtype=self.settings.dtype,
            device=str(self.options.torch_device),
            seed=found.seed,
        )
        return origin, frame


def _register(module: str) -> None:
    """Import a module of the user's, whose sources are known thereafter."""
    try:
        with users_code(f"Module {module!r}"):
            import_module(module)
    except ImportError as error:
        raise ModelError(
            f"Module {module!r}, which registers the model's source, cannot be imported here "
            f"({one_line(error)}); run from the folder that holds it, or install it."
        ) from error


def peak_memory() -> int | None:
    """Most memory that this process has had at once, in bytes; None where nobody counts."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) * 1024
