"""Columns of a scan's results: one Arrow schema per measurement, the same in every file.

Every row carries where it comes from (`ORIGIN`), so that a single file explains itself and any
reader of Parquet can concatenate a folder. docs/scan.md describes the columns for readers;
`SCHEMA_VERSION` grows whenever one is removed or changes its meaning.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

import pyarrow as pa

from liederiv.measurement.results import Provenance

__all__ = [
    "MEASUREMENTS",
    "ORIGIN",
    "OTHERWISE_KEPT",
    "SCHEMA_VERSION",
    "Origin",
    "columns_of",
    "columns_of_provenance",
    "schema_of",
    "versions_of",
]

SCHEMA_VERSION = 1

_TEXT, _NUMBER, _INTEGER, _TIME = pa.string(), pa.float64(), pa.int64(), pa.timestamp("us", "UTC")

# Parquet calls the items of a list "element".
_NUMBERS, _TEXTS = (pa.list_(pa.field("element", kind)) for kind in (_NUMBER, _TEXT))


@dataclass(frozen=True)
class Origin:
    """What every row of one measurement of one model says about where it comes from.

    Attributes:
        key: names model, weights, images, settings and package version; also in the file's name.
        measurement: ``score``, ``layers`` or ``aliasing``.
        outcome: of the measurement as a whole: ``measured``, ``failed`` (an exception, or nothing
            measurable), ``out of memory``, ``timeout``, ``crashed`` (the process ended by itself),
            ``killed`` (by the system),
            ``interrupted`` (ended from outside, time after time; a resumed scan tries again).
        reason: why it was not measured, else empty; in a measured table, why a row was not.
        log: path of the log relative to the folder of the scan; empty if there is none.
        requested_model: name that was asked for.
        model: current full name; the requested one if the model could not be loaded.
        architecture: the name without its tag.
        tag: of the weights; empty where there is none.
        family: timm's module that defines the architecture; empty for others' models.
        weights: where they come from, in words.
        weights_fingerprint: hash of parameters and buffers; empty if not loaded.
        images: where they come from.
        images_fingerprint: hash of their content.
        num_images: how many were measured.
        parameters: number of values in all parameters.
        input_channels: of the images.
        input_height: in pixels.
        input_width: in pixels.
        scheme: interpolation scheme.
        dtype: of the computation.
        device: of the computation.
        seed: of everything random.
        settings: all that affects the result, as JSON with sorted keys.
        engine: how derivatives were computed.
        verification: how they were verified on this model.
        representation: how the output transforms.
        warnings: what a reader of the numbers should know, joined by line breaks.
        version_liederiv: of the packages; so the next four.
        version_torch: of torch.
        version_timm: of timm.
        version_numpy: of numpy.
        version_python: of the interpreter.
        seconds: the measurement took, loading of the model excluded.
        peak_memory: of the process, in bytes.
        peak_gpu_memory: allocated by torch, in bytes; None on a CPU.
        batch_size: images per pass; None if chosen by memory.
        started: in UTC.
        finished: in UTC.
    """

    key: str
    measurement: str
    outcome: str
    requested_model: str
    model: str
    reason: str = ""
    log: str = ""
    architecture: str = ""
    tag: str = ""
    family: str = ""
    weights: str = ""
    weights_fingerprint: str = ""
    images: str = ""
    images_fingerprint: str = ""
    num_images: int | None = None
    parameters: int | None = None
    input_channels: int | None = None
    input_height: int | None = None
    input_width: int | None = None
    scheme: str = ""
    dtype: str = ""
    device: str = ""
    seed: int | None = None
    settings: str = ""
    engine: str = ""
    verification: str = ""
    representation: str = ""
    warnings: str = ""
    version_liederiv: str = ""
    version_torch: str = ""
    version_timm: str = ""
    version_numpy: str = ""
    version_python: str = ""
    seconds: float | None = None
    peak_memory: int | None = None
    peak_gpu_memory: int | None = None
    batch_size: int | None = None
    started: datetime | None = None
    finished: datetime | None = None


OTHERWISE_KEPT = frozenset(
    {"inputs", "input_size", "output_size", "transforms", "preprocessing", "versions"}
)
"""Fields of `Provenance` without a column: a scan has them in its settings, rows or by parts."""

_OF_THE_SCAN = frozenset({"model", "settings"})  # mean more there: full name, all that matters

_ARROW = {
    "str": _TEXT,
    "int | None": _INTEGER,
    "float | None": _NUMBER,
    "datetime | None": _TIME,
}
ORIGIN = (*((f.name, _ARROW[str(f.type)]) for f in fields(Origin)), ("status", _TEXT))

_SCORE = (
    ("metric", _TEXT),
    ("transform", _TEXT),
    ("output", _TEXT),
    ("value", _NUMBER),
    ("ci_low", _NUMBER),
    ("ci_high", _NUMBER),
    ("unit", _TEXT),
    ("floor", _NUMBER),
    ("per_image", _NUMBERS),
    ("per_image_denominator", _NUMBERS),
    ("image_names", _TEXTS),
)

_MODULE = (
    ("module", _TEXT),
    ("class", _TEXT),
    ("kind", _TEXT),
    ("call", _INTEGER),
    ("input_layout", _TEXT),
    ("output_layout", _TEXT),
    ("generator", _TEXT),
    ("unit", _TEXT),
    ("output", _TEXT),
    ("total", _NUMBER),
    ("share", _NUMBER),
)

_LAYERS = (
    ("depth", _INTEGER),
    ("stage", _TEXT),
    ("inclusive", _NUMBER),
    ("exclusive", _NUMBER),
    ("inclusive_error", _NUMBER),
    ("exclusive_error", _NUMBER),
    ("inclusive_projection", _NUMBER),
    ("exclusive_projection", _NUMBER),
    ("closure_error", _NUMBER),
    ("coverage", _NUMBER),
)

_ALIASING = (
    ("error", _NUMBER),
    ("aliasing_share", _NUMBER),
    ("boundary_share", _NUMBER),
    ("padding_share", _NUMBER),
    ("aliased_energy", _NUMBER),
    ("above_nyquist", _NUMBER),
    ("counterpart", _TEXT),
)

_COLUMNS = {"score": _SCORE, "layers": _MODULE + _LAYERS, "aliasing": _MODULE + _ALIASING}

MEASUREMENTS = tuple(_COLUMNS)


def columns_of_provenance(p: Provenance, origin: type[Origin] = Origin) -> dict[str, Any]:
    """Columns that a `Provenance` fills: those that have the name of one of its fields.

    Args:
        p: how a measurement was made.
        origin: the class whose fields are the columns.

    Returns:
        Values by column, versions of the software among them, warnings joined by line breaks.

    Example:
        >>> found = columns_of_provenance(Provenance(scheme="fourier", warnings=("a", "b")))
        >>> found["scheme"], found["warnings"].splitlines()
        ('fourier', ['a', 'b'])
    """
    columns = {f.name for f in fields(origin)} - _OF_THE_SCAN
    own = {f.name: getattr(p, f.name) for f in fields(p) if f.name in columns}
    return {**own, **versions_of(p), "warnings": "\n".join(p.warnings)}


def versions_of(p: Provenance) -> dict[str, str]:
    """Versions of the software by column."""
    return {f"version_{name}": version for name, version in p.versions.items()}


def columns_of(measurement: str) -> tuple[str, ...]:
    """Names of the columns that the table of one measurement brings, beyond those of `Origin`."""
    return ("status", "reason", *(name for name, _ in _COLUMNS[measurement]))


def schema_of(measurement: str) -> pa.Schema:
    """The columns of one measurement's files.

    Args:
        measurement: one of `MEASUREMENTS`.

    Returns:
        The schema, all columns nullable, with the version in its metadata.
    """
    fields = [pa.field(name, kind) for name, kind in (*ORIGIN, *_COLUMNS[measurement])]
    return pa.schema(fields, {"liederiv_schema_version": str(SCHEMA_VERSION)})
