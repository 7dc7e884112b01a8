"""Typed results of finite metrics per module."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from liederiv.errors import LieDerivError
from liederiv.metrics.eq import EqMetric
from liederiv.metrics.registry import METRICS
from liederiv.spreadsheets import frame_of

__all__ = ["FINITE_METRICS", "FiniteLayers", "FiniteRow"]

FINITE_METRICS = tuple(
    name for name, m in METRICS.items() if isinstance(m, EqMetric) and not m.relative
)
"""Whole-pixel translation, fractional translation, rotation by any angle."""


@dataclass(frozen=True)
class FiniteRow:
    """One metric of one call of one module.

    Attributes:
        path: name in ``named_modules()``; empty for the whole model.
        class_name: of the module.
        kind: see `liederiv.analysis.layers.kinds`.
        call_index: 0 for the module's first call in a forward pass.
        depth: number of calls that enclose it.
        input_layout: of the tensor that enters.
        output_layout: of the tensor that leaves.
        metric: one of `FINITE_METRICS`.
        error: E ‖M(T z) − T M(z)‖²/dim over the squared peak-to-peak range of M(z), [B]; without
            unit. NaN where M(z) is constant or no entry can be compared: such images do not count;
            ∞ where an output is not finite.
    """

    path: str
    class_name: str
    kind: str
    call_index: int
    depth: int
    input_layout: str
    output_layout: str
    metric: str
    error: NDArray[np.float64] = field(repr=False)

    @property
    def value(self) -> float:
        """−10 log₁₀ of the mean error over images, in dB; ∞ for an exactly equivariant module."""
        known = self.error[~np.isnan(self.error)]
        mean = float(known.mean()) if len(known) else math.nan
        return math.inf if mean == 0 else -10 * math.log10(mean)


@dataclass(frozen=True)
class FiniteLayers:
    """Finite metrics of all modules.

    Attributes:
        rows: in forward order, one per call and metric.
        skipped: paths of the calls that were not measured, with the reason.
        num_samples: transforms per module, metric and image.
        max_fraction: largest shift in units of the image's size.
        scheme: interpolation scheme.
        seed: of the transforms.
    """

    rows: tuple[FiniteRow, ...]
    skipped: tuple[tuple[str, str], ...]
    num_samples: int
    max_fraction: float
    scheme: str
    seed: int

    def get(self, path: str, metric: str, call_index: int = 0) -> FiniteRow:
        """The row of one call.

        Raises:
            LieDerivError: if it was not measured.
        """
        for row in self.rows:
            if (row.path, row.metric, row.call_index) == (path, metric, call_index):
                return row
        why = dict(self.skipped).get(path, "no such module or metric")
        raise LieDerivError(f"path={path!r}, metric={metric!r} was not measured: {why}.")

    def to_dataframe(self) -> pd.DataFrame:
        """One row per call and metric, ``value`` in dB."""
        names = [n for n in FiniteRow.__dataclass_fields__ if n != "error"]
        rows = [{n: getattr(r, n) for n in names} | {"value": r.value} for r in self.rows]
        return frame_of(rows, [*names, "value"]).assign(unit="dB")
