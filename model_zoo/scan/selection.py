"""Which models a scan measures, in which order, and which part of them falls to this process."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from liederiv.errors import LieDerivError, ModelError
from liederiv.foreign import shortened

from ..sources.registry import SOURCES, source_of
from .presets import preset

__all__ = ["Candidate", "Selection", "select_models", "shard"]


@dataclass(frozen=True)
class Candidate:
    """A model to be measured.

    Attributes:
        name: full current name; the requested one where that is not known.
        requested: as it was asked for.
        parameters: their number, None if not known without building the model.
    """

    name: str
    requested: str
    parameters: int | None = None


@dataclass(frozen=True)
class Selection:
    """Models of a scan, and what was left out.

    Attributes:
        candidates: the largest first.
        notes: sentences about what was left out and why.
    """

    candidates: tuple[Candidate, ...]
    notes: tuple[str, ...] = ()


def select_models(
    patterns: Sequence[str] = (),
    *,
    models_file: Path | None = None,
    presets: Sequence[str] = (),
    exclude: Sequence[str] = (),
    max_params: float | None = None,
    pretrained: bool = True,
) -> Selection:
    """Collect models by name, wildcard, file and preset.

    Args:
        patterns: names that `load` takes, or wildcards of names that can be listed; of timm's,
            those with a dot match names with tags, others architectures, whose default tag is
            taken.
        models_file: one name or wildcard per line; ``#`` begins a comment. Names that
            nobody knows become failures of the scan.
        presets: see `liederiv.model_zoo.preset`.
        exclude: wildcards of names to leave out.
        max_params: largest number of parameters; models of unknown size stay.
        pretrained: wildcards and presets stand for models with published weights only.

    Returns:
        Every model once, the largest first: at the end, small ones fill the gaps.

    Raises:
        LieDerivError: for a name that does not exist, a pattern without match, an empty selection.
    """
    notes: list[str] = []
    requested = [name for p in patterns for name in _expand(p, pretrained)]
    found = {_resolve(name): name for name in requested}
    for name in presets:
        for full, asked in _of_preset(name, pretrained, notes):
            found.setdefault(full, asked)
    for line in _lines(models_file) if models_file is not None else ():
        for name in _expand(line, pretrained):
            found.setdefault(_resolve(name, strict=False), name)
    left = [n for n in found if not any(_matches(n, p) for p in exclude)]
    if len(left) < len(found):
        notes.append(f"{len(found) - len(left)} models left out by --exclude.")
    candidates = [Candidate(n, found[n], source_of(n).parameters()) for n in left]
    if max_params is not None:
        small = [c for c in candidates if c.parameters is None or c.parameters <= max_params]
        if len(small) < len(candidates):
            count = len(candidates) - len(small)
            notes.append(f"{count} models left out, larger than {max_params / 1e6:g} M parameters.")
        candidates = small
    if not candidates:
        raise LieDerivError(
            "no model is left to scan; name some, e.g. `liederiv scan 'resnet*'`, or a --preset. "
            + " ".join(notes)
        )
    candidates.sort(key=lambda c: (-(c.parameters or 0), c.name))
    return Selection(tuple(candidates), tuple(notes))


def shard(
    candidates: Sequence[Candidate], text: str | None, environment: Mapping[str, str] = os.environ
) -> tuple[Candidate, ...]:
    """The part of a static split that falls to this process: every n-th model from the i-th.

    Args:
        candidates: all models, in the same order in every process.
        text: ``i/n`` with i from 1 to n; None takes Slurm's array variables, else everything.
        environment: where these variables are.

    Raises:
        LieDerivError: if the text or the variables make no shard.
    """
    first = 0
    if text is None:
        names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_COUNT")
        if names[0] not in environment or names[2] not in environment:
            return tuple(candidates)
        index, low, count = (_whole(environment, n, "0") for n in names)
        step = max(1, _whole(environment, "SLURM_ARRAY_TASK_STEP", "1"))
        first, where = (index - low) // step, f"Slurm's array task {index}"
    else:
        before, sign, after = text.partition("/")
        if not (sign and before.isdecimal() and after.isdecimal() and len(text) < 20):
            raise LieDerivError(
                f"--shard={shortened(text, 40)!r} must have the form i/n, e.g. 1/8."
            )
        first, count, where = int(before) - 1, int(after), f"--shard={text}"
    if not 0 <= first < count:
        raise LieDerivError(
            f"{where} is none of the {count} shards 1/{count} … {count}/{count}; number array "
            "tasks without gaps, or name one with --shard i/n."
        )
    return tuple(candidates[first::count])


def _whole(environment: Mapping[str, str], name: str, default: str) -> int:
    """A variable of Slurm's as a number."""
    text = environment.get(name, default)
    if not re.fullmatch(r"-?[0-9]{1,18}", text.strip()):
        raise LieDerivError(
            f"{name}={shortened(text, 40)!r} of the environment is no whole number; unset it, or "
            "name a part with --shard i/n."
        )
    return int(text)


def _expand(text: str, pretrained: bool) -> list[str]:
    """Names that a wildcard stands for; a name stands for itself."""
    if ":" in text or not any(c in text for c in "*?["):
        return [text]
    names = [n for kind in reversed(SOURCES) for n in kind.matching(text, pretrained)]
    if not names:
        kind = "model with published weights" if pretrained else "model"
        raise ModelError(f"No {kind} matches {text!r}; 'liederiv models' lists names.")
    return names


def _resolve(name: str, *, strict: bool = True) -> str:
    try:
        return source_of(name).full_name
    except ModelError:
        if strict:
            raise
        return name


def _of_preset(name: str, pretrained: bool, notes: list[str]) -> Iterable[tuple[str, str]]:
    entries = preset(name)
    gone = [e for e in entries if not e.available]
    untrained = [e for e in entries if e.available and pretrained and not e.pretrained]
    if gone:
        names = ", ".join(e.paper_name or e.family for e in gone)
        notes.append(f"{len(gone)} models of preset {name} no longer exist: {names}.")
    if untrained:
        names = ", ".join(e.name for e in untrained)
        notes.append(
            f"{len(untrained)} models of preset {name} have no published weights and are left out "
            f"(--no-pretrained takes random ones): {names}."
        )
    for entry in entries:
        if entry.available and entry not in untrained:
            yield _resolve(entry.name), entry.paper_name or entry.name


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LieDerivError(
            f"--models-file={str(path)!r} cannot be read ({error}); give a text file with one "
            "name per line."
        ) from error
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line]


def _matches(name: str, pattern: str) -> bool:
    return any(fnmatch.fnmatchcase(n, pattern) for n in (name, source_of(name).architecture))
