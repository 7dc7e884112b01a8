"""Typed results: one row per score, with everything needed to know how it was obtained."""

from __future__ import annotations

import json
import math
import os
import platform
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import timm
import torch

from liederiv._version import __version__
from liederiv.errors import LieDerivError
from liederiv.foreign import printable
from liederiv.spreadsheets import frame_of

__all__ = [
    "SCHEMA_VERSION",
    "Measurement",
    "Provenance",
    "Score",
    "Status",
    "json_ready",
    "json_text",
    "writable_text",
    "write_atomically",
    "write_json",
]

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
Status = Literal["measured", "not applicable", "failed"]


@dataclass(frozen=True)
class Score:
    """One number with its interval, unit and status.

    Attributes:
        metric: what was measured, e.g. ``lee`` (definitions in `liederiv.metrics`).
        transform: generator or group of generators, e.g. ``translation_x``, ``translation``.
        output: what it was measured on: ``probs``, ``logits``, ``features`` or ``output``.
        value: the score; None unless measured.
        ci_low: lower end of the 95 % bootstrap interval over images; None if unknown.
        ci_high: upper end.
        unit: of value.
        floor: what rounding alone contributes to value, in the same unit; None if unknown.
        status: ``measured``, ``not applicable`` or ``failed``.
        reason: why it was not measured, or which images do not count; else empty.
        definition: formula and source, where the metric's name does not say all.
        per_image: value of each image; `value` is their mean, over that of the denominators. Of
            decibels: the squared error over I_max², before the logarithm.
        per_image_denominator: for a ratio of means, its denominator for each image; else empty.
    """

    metric: str
    transform: str
    output: str
    value: float | None
    ci_low: float | None
    ci_high: float | None
    unit: str
    floor: float | None = None
    status: Status = "measured"
    reason: str = ""
    definition: str = ""
    per_image: tuple[float, ...] = field(default=(), repr=False)
    per_image_denominator: tuple[float, ...] = field(default=(), repr=False)


def _with_tuples(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {k: _with_tuples(v) for k, v in data.items()}
    return tuple(_with_tuples(v) for v in data) if isinstance(data, list | tuple) else data


def _versions() -> dict[str, str]:
    return {
        "liederiv": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "numpy": np.__version__,
    }


@dataclass(frozen=True)
class Provenance:
    """How a measurement was made.

    Attributes:
        model: name of the model.
        weights: where its weights came from.
        weights_fingerprint: hash of the weights.
        images: where the images came from.
        images_fingerprint: hash of the images.
        num_images: how many were measured.
        inputs: what they are: ``images``, or ``clouds`` of points.
        scheme: interpolation scheme.
        representation: how the output transforms, and whether that was declared or recognised.
        engine: how derivatives were computed.
        verification: how they were verified on this model, and what could not be.
        dtype: of the computation.
        device: of the computation.
        seed: of everything random.
        input_size: channels, height and width of what entered the model; empty for clouds.
        output_size: shape of the output for one image, or one point; empty if unknown.
        transforms: for each row's transform, the generators that it is made of.
        settings: of the metrics: unit of translations, dynamic range, margin.
        preprocessing: size, crop, mean, std and interpolation.
        versions: of the software.
        warnings: what a reader of the numbers should know.
    """

    model: str = ""
    weights: str = ""
    weights_fingerprint: str = ""
    images: str = ""
    images_fingerprint: str = ""
    num_images: int = 0
    inputs: str = "images"
    scheme: str = ""
    representation: str = ""
    engine: str = ""
    verification: str = ""
    dtype: str = ""
    device: str = ""
    seed: int = 0
    input_size: tuple[int, ...] = ()
    output_size: tuple[int, ...] = ()
    transforms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=_versions)
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # Sequences become tuples, so that what comes back from a file equals what went in.
        for f in fields(self):
            object.__setattr__(self, f.name, _with_tuples(getattr(self, f.name)))


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
        from liederiv.result_files import save  # which reads and writes this class

        return save(self, Path(path))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Measurement:
        """Read what `save` has written; values per image come from .parquet only.

        Raises:
            LieDerivError: if the file cannot be read or holds something else.
        """
        from liederiv.result_files import load

        return load(Path(path))


def _row(score: Score, definitions: Mapping[str, str]) -> dict[str, Any]:
    """One row as plain data, with what JSON's numbers and ``definitions`` cannot say."""
    row = {k: v for k, v in asdict(score).items() if k not in _APART}
    numbers = {k: v for k, v in row.items() if isinstance(v, float) and not math.isfinite(v)}
    if numbers:
        row["non_finite"] = {k: repr(v) for k, v in numbers.items()}
    if score.definition != definitions.get(score.metric, ""):
        row["definition"] = score.definition
    return row


def write_json(path: Path, data: Any) -> Path:
    """Write plain data, see `json_ready`, to a .json file, atomically."""
    text = json_text(data)
    return write_atomically(path, lambda p: p.write_text(text, encoding="utf-8"))


def json_text(data: Any) -> str:
    """Plain data, see `json_ready`, as JSON."""
    return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write_atomically(
    path: Path, write: Callable[[Path], Any], *, scratch: Path | None = None
) -> Path:
    """Let ``write`` fill a temporary file, then rename it.

    Args:
        path: of the file; its folder must exist.
        write: fills the file whose path it is given.
        scratch: folder of the temporary file, on the same file system; beside path if None.

    Returns:
        path.

    Raises:
        LieDerivError: if the folder does not exist or cannot be written to.
    """
    try:
        handle, temporary = tempfile.mkstemp(dir=scratch or path.parent, suffix=path.suffix)
        os.close(handle)
    except OSError as error:
        raise LieDerivError(
            f"cannot write {str(path)!r} ({error.strerror}); choose an existing, writable folder."
        ) from error
    try:
        try:
            write(Path(temporary))
        except OSError as error:
            raise LieDerivError(
                f"cannot write {str(path)!r} ({error.strerror or error}); free space, or choose "
                "another folder."
            ) from error
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def json_ready(data: Any) -> Any:
    """Plain data that JSON can hold: NaN and ∞ become None, tuples lists, text printable."""
    if isinstance(data, str):
        return printable(data)
    if isinstance(data, Mapping):
        return {printable(k): json_ready(v) for k, v in data.items()}
    if isinstance(data, list | tuple):
        return [json_ready(v) for v in data]
    if isinstance(data, float) and not math.isfinite(data):
        return None
    return writable_text(data) if isinstance(data, str) else data


def writable_text(text: str) -> str:
    """The text, or its `printable` form where it is no valid Unicode and no file could hold it."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return printable(text)
    return text
