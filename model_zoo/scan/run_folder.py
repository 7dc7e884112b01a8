"""The checkpoints of a training run, in the order in which they were written."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from liederiv.errors import ModelError

from ..inputs.image_items import natural_key

__all__ = ["RunCheckpoint", "find_checkpoints"]

_ENDINGS = (".safetensors", ".pth", ".pt", ".pth.tar", ".ckpt", ".bin")
# What training scripts put beside the weights.
_OTHERS = re.compile(r"(optimizer|optim|scheduler|scaler|rng_state|training_args)")


@dataclass(frozen=True)
class RunCheckpoint:
    """One file with weights.

    Attributes:
        path: of the file.
        name: path inside the run's folder.
        position: step, epoch or number, whichever `axis` says.
        axis: ``step``, ``epoch`` or ``checkpoint``, the same for all of a run.
    """

    path: Path
    name: str
    position: int
    axis: str


def find_checkpoints(folder: Path) -> tuple[list[RunCheckpoint], list[str]]:
    """Find the checkpoints in a folder and its subfolders.

    Where all names tell a step (``epoch=3-step=400.ckpt``) it places them, else an epoch
    (``epoch_3.pt``), else the last number (``checkpoint-12.pth.tar``, ``checkpoint-5/model.bin``).

    Args:
        folder: of the run.

    Returns:
        the checkpoints in order, and the names of those without any number (``model_best``,
        ``last``), which are copies of others and have no place in the order.

    Raises:
        ModelError: if there is no such folder or no numbered checkpoint in it.
    """
    if not folder.is_dir():
        raise ModelError(f"RUN_DIR={str(folder)!r} is no folder; give the one with checkpoints.")
    files = [p for p in folder.rglob("*") if p.is_file() and p.name.endswith(_ENDINGS)]
    names = sorted((p.relative_to(folder).as_posix() for p in files), key=natural_key)
    names = [n for n in names if not _OTHERS.search(Path(n).name.lower())]
    numbered = {n: v for n in names if (v := _numbers(n))}
    if not numbered:
        what = f"only {', '.join(names[:3])}, without a step" if names else "no checkpoint"
        raise ModelError(
            f"RUN_DIR={str(folder)!r} holds {what}; it needs files such as "
            f"checkpoint-12.pth.tar or epoch=3-step=400.ckpt ({', '.join(_ENDINGS)})."
        )
    axis = next(
        a for a in ("step", "epoch", "checkpoint") if all(a in v for v in numbered.values())
    )
    found = [RunCheckpoint(folder / n, n, v[axis], axis) for n, v in numbered.items()]
    found.sort(key=lambda c: c.position)
    return found, [n for n in names if n not in numbered]


def _numbers(name: str) -> dict[str, int]:
    """Step, epoch and last number that a name tells: of the file, else of its folder."""
    for part in reversed(Path(name).parts):
        stem = part
        for ending in sorted(_ENDINGS, key=len, reverse=True):
            stem = stem.removesuffix(ending)
        digits = re.findall(r"\d+", stem)
        if digits:
            found = {"checkpoint": int(digits[-1])}
            for axis in ("step", "epoch"):
                named = re.search(rf"{axis}s?[=_.\-]?(\d+)", stem.lower())
                found |= {axis: int(named[1])} if named else {}
            return found
    return {}
