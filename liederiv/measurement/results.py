"""Typed results: one row per score, with everything needed to know how it was obtained."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from liederiv.errors import LieDerivError
from liederiv.files import json_ready, writable_text
from liederiv.measurement.scores import Provenance, Score, Status
from liederiv.spreadsheets import frame_of

__all__ = ["SCHEMA_VERSION", "Measurement", "Provenance", "Score", "Status"]

SCHEMA_VERSION = 1
_PER_IMAGE_COLUMNS = [
    "image",
    "index",
    "metric",
    "transform",
    "output",
    "value",
    "denominator",
    "unit",
]
_APART = ("per_image", "per_image_denominator", "definition")


@dataclass(frozen=True)
class Measurement:
    """Scores of one model on one set of images.

    Attributes:
        scores: the rows.
        provenance: how they were obtained.
        image_names: names of the measured images, in the order of `Score.per_image`.
    """

    scores: tuple[Score, ...]
    provenance: Provenance
    image_names: tuple[str, ...] = ()

    def get(self, metric: str, transform: str, output: str | None = None) -> Score:
        """The row of that metric and transform (and output, if there are several).

        Raises:
            LieDerivError: if there is no such row, or more than one.
        """
        rows = [
            s
            for s in self.scores
            if (s.metric, s.transform) == (metric, transform) and output in (None, s.output)
        ]
        if len(rows) != 1:
            have = ", ".join(sorted({f"{s.metric}/{s.transform}/{s.output}" for s in self.scores}))
            raise LieDerivError(
                f"{len(rows)} scores fit metric={metric!r}, transform={transform!r}, "
                f"output={output!r}; there are: {have}."
            )
        return rows[0]

    @property
    def definitions(self) -> dict[str, str]:
        """Formula and source of the metrics whose name does not say all."""
        return {s.metric: s.definition for s in self.scores if s.definition}

    def to_dataframe(self) -> pd.DataFrame:
        """One row per score, without the values per image."""
        frame = frame_of([asdict(s) for s in self.scores], [f.name for f in fields(Score)])
        return frame.drop(columns=list(_APART))

    def per_image(self) -> pd.DataFrame:
        """One row per score and image; a ratio's numerator and denominator stand apart."""
        names = self.image_names
        rows = [
            {
                "image": writable_text(names[i]) if i < len(names) else str(i),
                "index": i,
                "metric": s.metric,
                "transform": s.transform,
                "output": s.output,
                "value": v,
                "denominator": s.per_image_denominator[i] if s.per_image_denominator else 1.0,
                "unit": "1" if s.unit == "dB" else s.unit,  # the ratio before the logarithm
            }
            for s in self.scores
            for i, v in enumerate(s.per_image)
        ]
        return frame_of(rows, _PER_IMAGE_COLUMNS)

    def to_dict(self) -> dict[str, Any]:
        """The measurement as plain data, as it is written to JSON.

        NaN and ∞ become null; a row that has some names them in its field ``non_finite``.
        """
        origin = asdict(self.provenance)
        rows = [_row(s, self.definitions) for s in self.scores]
        about = {"definitions": self.definitions, "results": rows}
        return json_ready({"schema_version": SCHEMA_VERSION, **origin, **about})

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write to a .json, .csv or .parquet file, atomically; .parquet holds values per image.

        Raises:
            LieDerivError: for another ending.
        """
        from liederiv.measurement.files import save  # pandas and pyarrow are slow to import

        return save(self, Path(path))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Measurement:
        """Read what `save` has written; values per image come from .parquet only.

        Raises:
            LieDerivError: if the file cannot be read or holds something else.
        """
        from liederiv.measurement.files import load

        return cls(*load(Path(path)))


def _row(score: Score, definitions: Mapping[str, str]) -> dict[str, Any]:
    """One row as plain data, with what JSON's numbers and ``definitions`` cannot say."""
    row = {k: v for k, v in asdict(score).items() if k not in _APART}
    numbers = {k: v for k, v in row.items() if isinstance(v, float) and not math.isfinite(v)}
    if numbers:
        row["non_finite"] = {k: repr(v) for k, v in numbers.items()}
    if score.definition != definitions.get(score.metric, ""):
        row["definition"] = score.definition
    return row
