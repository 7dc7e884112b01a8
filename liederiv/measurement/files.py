"""Files of measurements: .json, .csv and .parquet, each with the whole provenance inside.

What is written is read back exactly: numbers bit by bit, NaN and ∞ included. Only Parquet holds
values per image. Its provenance lies in the metadata of its schema (key ``liederiv``), that of CSV
in the column ``provenance`` of every row, as JSON. A file that others have rewritten without it,
shortened or put together from several says so instead of passing for a measurement.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Protocol, get_args

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from liederiv.errors import LieDerivError
from liederiv.files import json_text, writable_text, write_atomically
from liederiv.foreign import one_line, printable
from liederiv.measurement.scores import Provenance, Score, Status
from liederiv.spreadsheets import unquoted, write_csv

__all__ = ["load", "save"]

_KEY = b"liederiv"
_NUMBERS = ("value", "ci_low", "ci_high", "floor")
_TEXTS = ("metric", "transform", "output", "unit", "status", "reason")
_STATUS = get_args(Status)
_LARGEST = 2**30  # bytes; no measurement comes near


Contents = tuple[tuple[Score, ...], Provenance, tuple[str, ...]]
"""What a measurement is made of: scores, provenance, names of the images."""


class _Saved(Protocol):
    """What is written of a `liederiv.measurement.results.Measurement`."""

    @property
    def scores(self) -> tuple[Score, ...]: ...

    @property
    def image_names(self) -> tuple[str, ...]: ...

    def to_dict(self) -> dict[str, Any]: ...

    def to_dataframe(self) -> pd.DataFrame: ...

    def per_image(self) -> pd.DataFrame: ...


class _UnreadableError(Exception):
    """What is wrong with a file, in words."""


# --- writing -------------------------------------------------------------------------------------


def save(measurement: _Saved, path: Path) -> Path:
    """See `Measurement.save`."""
    writers: dict[str, Callable[[_Saved, Path], Any]] = {
        ".json": lambda m, p: p.write_text(json_text(m.to_dict()), encoding="utf-8"),
        ".csv": _write_csv,
        ".parquet": _write_parquet,
    }
    if path.suffix not in writers:
        raise LieDerivError(
            f"path={str(path)!r} ends in {path.suffix or 'nothing'}; "
            f"use one of {', '.join(writers)}."
        )
    return write_atomically(path, lambda file: writers[path.suffix](measurement, file))


def _write_csv(m: _Saved, path: Path) -> None:
    about = m.to_dict()
    exact = {
        str(i): {k: row[k] for k in ("non_finite", "definition") if k in row}
        for i, row in enumerate(about.pop("results"))
    }
    about |= {"rows": len(m.scores), "exact": {i: row for i, row in exact.items() if row}}
    frame = m.to_dataframe()
    for name in _TEXTS:
        frame[name] = [printable(text) for text in frame[name]]
    frame["provenance"] = json.dumps(about, ensure_ascii=False, allow_nan=False)
    write_csv(path, frame)


def _write_parquet(m: _Saved, path: Path) -> None:
    about = m.to_dict()
    for row, score in zip(about["results"], m.scores, strict=True):
        row |= {"images": len(score.per_image), "ratio": bool(score.per_image_denominator)}
    about["image_names"] = [writable_text(name) for name in m.image_names]
    table = pa.Table.from_pandas(m.per_image(), preserve_index=False)
    known = table.schema.metadata or {}
    text = json.dumps(about, ensure_ascii=False, allow_nan=False).encode()
    pq.write_table(table.replace_schema_metadata({**known, _KEY: text}), path)


# --- reading -------------------------------------------------------------------------------------


def load(path: Path) -> Contents:
    """See `Measurement.load`."""
    readers = {".json": _read_json, ".csv": _read_csv, ".parquet": _read_parquet}
    if path.suffix not in readers:
        raise LieDerivError(f"{str(path)!r} must end in {', '.join(readers)}.")
    try:
        _look_at(path)
        return readers[path.suffix](path)
    except Exception as error:  # a file that is not ours may be wrong in any way
        kind = "" if isinstance(error, _UnreadableError) else f"{type(error).__name__}: "
        raise LieDerivError(
            f"{one_line(path)!r} cannot be read as results ({(kind + one_line(error))[:160]}); "
            "write it with `liederiv score … --per-image FILE.parquet`, `--json FILE.json` or "
            "`--csv FILE.csv`."
        ) from error


def _look_at(path: Path) -> None:
    """Raise for what cannot be a file of results, before it is opened: a pipe would hang."""
    if not path.exists():
        raise _UnreadableError("no such file")
    if not path.is_file():
        raise _UnreadableError("it is no regular file")
    if path.stat().st_size > _LARGEST:
        raise _UnreadableError("it is larger than any measurement")


def _read_json(path: Path) -> Contents:
    data = _mapping(json.loads(path.read_text(encoding="utf-8")), "the file")
    return _scores(data, _list(data, "results")), _provenance(data), ()


def _read_csv(path: Path) -> Contents:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, strict=True))
    origins = {row.get("provenance") or "" for row in rows}
    if len(origins) != 1 or origins == {""}:
        raise _UnreadableError(
            "its rows come from several measurements"
            if len(origins) > 1
            else "it does not say how it was measured, in a column `provenance`"
        )
    about = _mapping(json.loads(origins.pop()), "provenance")
    if about.get("rows") != len(rows):
        raise _UnreadableError(f"it has {len(rows)} of {one_line(about.get('rows'))} rows")
    exact = _mapping(about.get("exact"), "exact")
    found: list[dict[str, Any]] = []
    for i, row in enumerate(rows):
        numbers = {k: None if row[k] == "" else float(row[k]) for k in _NUMBERS}
        extra = _mapping(exact.get(str(i), {}), "exact")
        texts = {k: unquoted(row[k]) for k in _TEXTS}
        found.append({**row, **texts, **numbers, **extra})
    return _scores(about, found), _provenance(about), ()


def _read_parquet(path: Path) -> Contents:
    table = pq.ParquetFile(path).read()
    text = (table.schema.metadata or {}).get(_KEY)
    if text is None:
        raise _UnreadableError("it does not say how it was measured; other programs leave that out")
    data = _mapping(json.loads(text), "the metadata")
    rows, names = _list(data, "results"), tuple(_list(data, "image_names"))
    if not all(isinstance(name, str) for name in names):
        raise _UnreadableError("image_names holds something else than names")
    scores = _with_images(_scores(data, rows), rows, names, table.to_pandas())
    return scores, _provenance(data), names


def _with_images(
    scores: Sequence[Score], rows: Sequence[Any], names: Sequence[str], frame: pd.DataFrame
) -> tuple[Score, ...]:
    """The scores with their values per image, every one of which must be there once."""
    keys = ["metric", "transform", "output"]
    parts = dict(iter(frame.groupby(keys, sort=False)))
    found = []
    for score, row in zip(scores, rows, strict=True):
        n = row["images"]
        part = parts.pop((score.metric, score.transform, score.output), frame[:0])
        where = f"{score.metric}/{score.transform}/{score.output}"
        part = part.sort_values("index", kind="stable")
        expected = [names[i] if i < len(names) else str(i) for i in range(n)]
        if list(part["index"]) != list(range(n)) or list(part["image"]) != expected:
            raise _UnreadableError(f"{where} has other images than it says")
        top, bottom = (tuple(part[name].astype(float)) for name in ("value", "denominator"))
        _must_agree(score, top, bottom, where)
        found.append(
            replace(score, per_image=top, per_image_denominator=bottom if row["ratio"] else ())
        )
    if parts:
        raise _UnreadableError(f"it has rows of {len(parts)} scores more than it says")
    return tuple(found)


def _must_agree(score: Score, top: Sequence[float], bottom: Sequence[float], where: str) -> None:
    """Raise unless the value is what its images say; decibels are of another scale."""
    if score.value is None or not top or score.unit == "dB" or not math.isfinite(score.value):
        return
    below = math.fsum(bottom)
    found = math.fsum(top) / below if below else math.nan
    if not math.isclose(found, score.value, rel_tol=1e-6):  # other tools may store float32
        raise _UnreadableError(f"{where} is {score.value:g}, its images say {found:g}")


def _scores(data: Mapping[str, Any], rows: Sequence[Any]) -> tuple[Score, ...]:
    definitions = _mapping(data.get("definitions"), "definitions")
    scores = tuple(_score(_mapping(row, "a row of the results"), definitions) for row in rows)
    seen: set[tuple[str, str, str]] = set()
    for s in scores:
        key = (s.metric, s.transform, s.output)
        if key in seen:
            raise _UnreadableError(f"it has {'/'.join(key)} twice")
        seen.add(key)
    return scores


def _score(row: Mapping[str, Any], definitions: Mapping[str, Any]) -> Score:
    for name in (*_TEXTS, *_NUMBERS):
        if name not in row:
            raise _UnreadableError(f"a row has no {name}")
    texts = {name: row[name] for name in _TEXTS}
    texts["definition"] = row.get("definition", definitions.get(str(row["metric"]), ""))
    wrong = next((k for k, v in texts.items() if not isinstance(v, str)), None)
    if wrong is not None or row["status"] not in _STATUS:
        raise _UnreadableError(
            f"a row has {wrong or 'status'}={one_line(row[wrong or 'status'])[:40]}"
        )
    special = _mapping(row.get("non_finite", {}), "non_finite")
    values: dict[str, Any] = {k: _number(k, special.get(k, row[k])) for k in _NUMBERS}
    return Score(**texts, **values)


def _number(name: str, value: Any) -> float | None:
    if value in ("nan", "inf", "-inf"):
        return float(value)
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return None if value is None else float(value)
    raise _UnreadableError(f"a row has {name}={one_line(value)[:40]!r}, no number")


def _provenance(data: Mapping[str, Any]) -> Provenance:
    """All fields must be there: what a file does not say cannot be compared."""
    default, values = Provenance(), {}
    for f in fields(Provenance):
        if f.name not in data:
            raise _UnreadableError(
                f"it does not say {f.name}; an older liederiv wrote it: measure again"
            )
        value, like = data[f.name], getattr(default, f.name)
        kind: Any = (
            list if isinstance(like, tuple) else dict if isinstance(like, dict) else type(like)
        )
        if not isinstance(value, kind) or isinstance(value, bool):
            raise _UnreadableError(f"{f.name} is {one_line(value)[:40]!r}")
        values[f.name] = value
    return Provenance(**values)


def _mapping(data: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(data, Mapping):
        raise _UnreadableError(f"{what} is no table of names and values")
    return data


def _list(data: Mapping[str, Any], name: str) -> list[Any]:
    found = data.get(name)
    if not isinstance(found, list):
        raise _UnreadableError(f"it has no list of {name}")
    return found
