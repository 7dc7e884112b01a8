"""The folder in which a scan keeps its results.

    DIR/manifest.json                 schema version and configuration
    DIR/score/MODEL-KEY.parquet       one file per model and measurement, failures included
    DIR/layers/…, DIR/aliasing/…
    DIR/logs/MODEL-KEY.log            what failed models printed

Files appear by renaming, complete or not at all; unfinished ones lie in DIR/.partial, outside of
what a reader's wildcard finds. Any number of processes may use one folder at once.
"""

from __future__ import annotations

import json
import re
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import filelock  # comes with torch and the hub's client
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from liederiv.errors import LieDerivError
from liederiv.files import write_atomically
from liederiv.foreign import one_line, printable, unblocking

from .columns import MEASUREMENTS, SCHEMA_VERSION, Origin, columns_of, schema_of

__all__ = ["Configuration", "Store", "StoreWarning", "TableError"]

_MANIFEST = "manifest.json"
_ABANDONED_SECONDS = 24 * 3600  # files half written by scans that were killed go after a day
_INTEGERS = {pa.int64(): pd.Int64Dtype()}
Configuration = Mapping[str, Mapping[str, Any]]


class StoreWarning(UserWarning):
    """A file in a scan's folder was passed over."""


class TableError(LieDerivError):
    """Rows that do not fit the columns of their measurement."""


@dataclass(frozen=True)
class Store:
    """Results of a scan; make one with `open` or `create`.

    Attributes:
        folder: where they lie.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> store = Store.create(folder, {"score": {"scheme": "bspline"}})
        >>> origin = Origin("0" * 16, "score", "failed", "resnet18", "resnet18", "no such file")
        >>> store.write(origin).name
        'resnet18-0000000000000000.parquet'
        >>> store.read("score")[["model", "outcome", "reason"]].values.tolist()
        [['resnet18', 'failed', 'no such file']]
    """

    folder: Path

    @classmethod
    def open(cls, folder: str | Path) -> Store:
        """The store in an existing folder.

        Raises:
            LieDerivError: if the folder holds none, or one of a newer schema.
        """
        store = cls(Path(folder))
        store._manifest()
        return store

    @classmethod
    def create(cls, folder: str | Path, configuration: Configuration) -> Store:
        """The store in a folder, made if there is none.

        Args:
            folder: is created where needed.
            configuration: settings of each measurement, as plain data.

        Raises:
            LieDerivError: if a measurement was made there with other settings, or the folder
                cannot be written to.
        """
        store = cls(Path(folder))
        try:
            for name in (*MEASUREMENTS, "logs", ".partial", ".claims"):
                (store.folder / name).mkdir(parents=True, exist_ok=True)
            for leftover in (store.folder / ".partial").iterdir():  # of scans that were killed
                with suppress(FileNotFoundError):
                    if leftover.stat().st_mtime < time.time() - _ABANDONED_SECONDS:
                        leftover.unlink()
            with filelock.FileLock(store.folder / ".claims" / "manifest"):
                store._register(configuration)
        except OSError as error:
            raise LieDerivError(
                f"folder={str(folder)!r} cannot be used for results "
                f"({printable(error.strerror or error)}); choose one that can be written to."
            ) from error
        return store

    @property
    def configuration(self) -> dict[str, dict[str, Any]]:
        """Settings of each measurement."""
        found: dict[str, dict[str, Any]] = self._manifest()["configuration"]
        return found

    @property
    def measurements(self) -> tuple[str, ...]:
        """Measurements of which there is at least one file."""
        return tuple(m for m in MEASUREMENTS if any((self.folder / m).glob("*.parquet")))

    def path(self, measurement: str, model: str, key: str) -> Path:
        """Where the results of one model lie."""
        return self.folder / measurement / f"{_file_name(model)}-{key}.parquet"

    def write_log(self, model: str, key: str, text: str) -> str:
        """Keep what a model has printed; returns the path relative to the folder."""
        path = self.folder / "logs" / f"{_file_name(model)}-{key}.log"
        safe = printable(text.replace("\r\n", "\n").replace("\r", "\n"))  # progress bars return
        with self._writing():
            write_atomically(path, lambda p: p.write_text(safe, encoding="utf-8"))
        return path.relative_to(self.folder).as_posix()

    def outcome(self, measurement: str, model: str, key: str) -> str | None:
        """`Origin.outcome` of what is stored; None if there is nothing readable."""
        path = self.path(measurement, model, key)
        table = _read_file(path, measurement, ["outcome"]) if path.is_file() else None
        return None if table is None or not len(table) else str(table["outcome"][0])

    def modified(self, measurement: str, model: str, key: str) -> int | None:
        """When what is stored was written, in ns since 1970; None if there is nothing."""
        try:
            return self.path(measurement, model, key).stat().st_mtime_ns
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, origin: Origin, frame: pd.DataFrame | None = None) -> Path:
        """Keep the results of one model and measurement, in place of earlier ones.

        Args:
            origin: becomes part of every row.
            frame: rows with exactly the columns that the measurement has beyond those of `Origin`
                (`columns_of`); None for a failure, which becomes one row without them.

        Returns:
            The file.

        Raises:
            TableError: for columns that the measurement does not have or that are missing, and
                values that are none of the column's.
            LieDerivError: where the folder takes no more.
        """
        rows = pd.DataFrame({"status": ["failed"]}) if frame is None else frame
        constant = asdict(origin)
        if frame is not None:
            del constant["reason"]  # each row has its own
            _check_columns(frame, origin.measurement)
        schema = schema_of(origin.measurement)
        columns = [_checked_column(f, rows, constant) for f in schema]
        table = pa.Table.from_arrays(columns, schema=schema)
        path = self.path(origin.measurement, origin.model, origin.key)
        with self._writing():
            return write_atomically(
                path, lambda p: pq.write_table(table, p), scratch=self.folder / ".partial"
            )

    def read(self, measurement: str) -> pd.DataFrame:
        """All rows of one measurement, failures included; empty if there are none.

        Whole numbers are of pandas' nullable `Int64`. Files that are no results of a scan are
        passed over with a `StoreWarning`.

        Raises:
            LieDerivError: for an unknown measurement.
        """
        if measurement not in MEASUREMENTS:
            raise LieDerivError(
                f"measurement={measurement!r} is unknown; choose one of {', '.join(MEASUREMENTS)}."
            )
        schema = schema_of(measurement)
        files = sorted((self.folder / measurement).glob("*.parquet"))
        tables = [t for f in files if (t := _read_file(f, measurement)) is not None]
        whole = pa.concat_tables(tables) if tables else schema.empty_table()
        frame: pd.DataFrame = whole.to_pandas(types_mapper=_INTEGERS.get)
        return frame

    @contextmanager
    def claim(self, key: str) -> Iterator[bool]:
        """Claim one measurement of one model for this process while inside the context.

        Yields:
            False if another process has claimed it. The claim of a dead process does not count.
        """
        lock = filelock.FileLock(self.folder / ".claims" / key, timeout=0)
        try:
            with self._writing():
                lock.acquire()
        except filelock.Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Say in a sentence that the folder takes no more; what is stored stays readable."""
        try:
            yield
        except filelock.Timeout:
            raise
        except (OSError, LieDerivError) as error:
            why = getattr(error, "strerror", None) or one_line(error).rstrip(".")
            raise LieDerivError(
                f"folder={str(self.folder)!r} takes no more results ({why}); what is stored there "
                "stays: make room, then run the same command to go on."
            ) from error

    def _manifest(self) -> dict[str, Any]:
        path = self.folder / _MANIFEST
        try:
            manifest: dict[str, Any] = json.loads(unblocking(path).read_text(encoding="utf-8"))
            version = int(manifest["schema_version"])
            dict(manifest["configuration"])
        except FileNotFoundError:
            raise LieDerivError(
                f"{str(self.folder)!r} holds no results of a scan ({_MANIFEST} is missing); make "
                "them with `liederiv scan … --out DIR`."
            ) from None
        except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise LieDerivError(
                f"{str(path)!r} is no manifest of a scan ({type(error).__name__}: {error}); name "
                "the folder that `liederiv scan` wrote."
            ) from error
        if version > SCHEMA_VERSION:
            raise LieDerivError(
                f"{str(path)!r} is of schema version {version}, this liederiv reads up to "
                f"{SCHEMA_VERSION}; use a newer one."
            )
        return manifest

    def _register(self, configuration: Configuration) -> None:
        """Add settings to the manifest; refuse those that differ from what is there."""
        path = self.folder / _MANIFEST
        new: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "configuration": {}}
        manifest = self._manifest() if path.exists() else new
        known = manifest["configuration"]
        wanted = json.loads(json.dumps(configuration))
        for measurement, settings in wanted.items():
            before = known.get(measurement, settings)
            differing = [k for k in {**before, **settings} if before.get(k) != settings.get(k)]
            if differing:
                name = sorted(differing)[0]
                raise LieDerivError(
                    f"folder={str(self.folder)!r} holds {measurement} results made with "
                    f"{name}={before.get(name)!r}, not {settings.get(name)!r}; choose another "
                    "folder, or the same settings."
                )
        if not wanted.items() <= known.items():
            text = json.dumps({**manifest, "configuration": {**known, **wanted}}, indent=1)
            write_atomically(
                path,
                lambda p: p.write_text(text + "\n", encoding="utf-8"),
                scratch=self.folder / ".partial",
            )


def _file_name(model: str) -> str:
    """A model's name as part of a file's name on any system."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", model).strip("._")[-100:] or "model"


def _check_columns(frame: pd.DataFrame, measurement: str) -> None:
    """Refuse a misspelt column: it would be null in every file, and nobody would notice."""
    wanted, found = set(columns_of(measurement)), set(map(str, frame.columns))
    for what, names in (("does not have", found - wanted), ("is lacking", wanted - found)):
        if names:
            raise TableError(
                f"a table of {measurement} {what} the column{'s' * (len(names) > 1)} "
                f"{', '.join(sorted(names))}; the columns are listed in store_schema.py."
            )


def _checked_column(field: pa.Field, rows: pd.DataFrame, constant: Mapping[str, Any]) -> pa.Array:
    try:
        return _column(field, rows, constant)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise TableError(
            f"the column {field.name} of type {field.type} cannot hold what was measured "
            f"({one_line(error)})."
        ) from error


def _column(field: pa.Field, rows: pd.DataFrame, constant: Mapping[str, Any]) -> pa.Array:
    """One column: the same value in all rows, the frame's, or nothing; NaN becomes null."""
    if field.name in constant:
        return pa.array([_printable(constant[field.name])] * len(rows), field.type)
    if field.name in rows:
        values: Any = rows[field.name]
        if pa.types.is_string(field.type) or pa.types.is_list(field.type):
            values = [_printable(value) for value in values]
        return pa.array(values, field.type, from_pandas=True)
    return pa.nulls(len(rows), field.type)


def _printable(value: Any) -> Any:
    """Text of others, alone or in a list, as any reader of Parquet takes it."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list | tuple):
        return [_printable(v) for v in value] if any(isinstance(v, str) for v in value) else value
    return value


def _read_file(path: Path, measurement: str, columns: list[str] | None = None) -> pa.Table | None:
    """One file in the present schema; None, with a warning, for what is no result of a scan."""
    schema = schema_of(measurement)
    wanted = pa.schema([schema.field(c) for c in columns]) if columns else schema
    try:
        return pq.ParquetFile(unblocking(path)).read(wanted.names).select(wanted.names).cast(wanted)
    except (OSError, KeyError, ValueError) as error:  # pyarrow's own errors are among them
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        warnings.warn(f"{path} is passed over: {reason}", StoreWarning, stacklevel=3)
        return None
