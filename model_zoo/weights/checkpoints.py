"""A checkpoint file as its tensors and their places, without executing anything in it.

Which of them are the weights is not decided here: a training script's file holds averaged weights
beside raw ones, a teacher beside a student, an optimizer's state and metrics, and only the model
that is to receive them tells which part fits (`parts`).
"""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from liederiv.errors import ModelError
from liederiv.foreign import at_home, one_line

from .files import read_content, shown

__all__ = ["Checkpoint", "Entry", "read_checkpoint"]

MAX_DEPTH = 64


@dataclass(frozen=True)
class Entry:
    """One tensor of a file.

    Attributes:
        path: Where it lies: keys of the containers around it and its own name, split at dots.
        container: How many of these belong to the containers, the rest to its name.
        tensor: On the CPU.
    """

    path: tuple[str, ...]
    container: int
    tensor: Tensor


@dataclass(frozen=True)
class Checkpoint:
    """What one file holds.

    Attributes:
        path: The file.
        entries: Its tensors.
        arch: Name of the architecture that the file states, or None.
        hyper_parameters: Settings that a Lightning checkpoint keeps beside the weights.
        wanted: Part that the caller has named, split at dots; empty for any.
    """

    path: Path
    entries: tuple[Entry, ...] = field(repr=False)
    arch: str | None
    hyper_parameters: Mapping[str, Any] = field(default_factory=dict)
    wanted: tuple[str, ...] = ()

    @cached_property
    def state_dict(self) -> dict[str, Tensor]:
        """All tensors by place and name, joined by dots."""
        return {".".join(entry.path): entry.tensor for entry in self.entries}

    @property
    def num_parameters(self) -> int:
        """Number of values in all tensors, buffers included."""
        return sum(entry.tensor.numel() for entry in self.entries)


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read the tensors of a checkpoint file; nothing in the file is executed.

    Args:
        path: A `.safetensors` file or one written by `torch.save`: a state dict, or containers
            around one or several. `FILE#KEY` takes only the part of it under a dotted key.

    Returns:
        The tensors and what the file says about them.

    Raises:
        ModelError: If the file is missing, truncated, no checkpoint, or holds anything but data.
    """
    path, wanted = _split_key(path)
    content = read_content(path)
    if isinstance(content, list | tuple) and any(isinstance(part, Mapping) for part in content):
        content = {str(number): part for number, part in enumerate(content)}
    if not isinstance(content, Mapping):
        raise ModelError(
            f"`checkpoint` {shown(path)} holds a {type(content).__name__} where a state dict "
            "(tensors by name) was expected; save `model.state_dict()`."
        )
    entries = tuple(_entries(content, path))
    if not entries:
        listed = ", ".join(one_line(repr(k))[:60] for k in list(content)[:8]) or "nothing"
        raise ModelError(
            f"`checkpoint` {shown(path)} holds no state dict: it holds {listed}; save the weights "
            "as a bare state dict or under 'state_dict'."
        )
    if wanted:
        chosen = tuple(e for e in entries if e.path[: len(wanted)] == wanted)
        if not chosen:
            tops = ", ".join(dict.fromkeys(one_line(e.path[0])[:60] for e in entries[:10_000]))
            raise ModelError(
                f"`checkpoint` {shown(path)} has no tensors under '{one_line('.'.join(wanted))}'; "
                f"name what it has: {tops[:300]}."
            )
        entries = chosen
    arch, settings = _stated_architecture(content), _stated_settings(content)
    return Checkpoint(path, entries, arch, settings, wanted)


def _split_key(given: str | Path) -> tuple[Path, tuple[str, ...]]:
    """Tell FILE#KEY from a file whose name has such a sign in it."""
    try:
        path = at_home(given)
        name, sign, key = path.name.rpartition("#")
        if sign and name and key and not path.exists() and path.with_name(name).exists():
            return path.with_name(name), tuple(key.split("."))
    except (OSError, RuntimeError, ValueError) as error:
        reason = one_line(getattr(error, "strerror", None) or error).rstrip(".")
        raise ModelError(
            f"`checkpoint` {one_line(given)[:200]} is no path ({reason}); check it."
        ) from error
    return path, ()


def _entries(content: Mapping[Any, Any], path: Path) -> Iterator[Entry]:
    """All tensors, each container visited once: files may refer to themselves."""
    waiting: deque[tuple[Any, tuple[str, ...]]] = deque([(content, ())])
    seen = {id(content)}
    while waiting:
        container, place = waiting.popleft()
        if len(place) > MAX_DEPTH:
            raise ModelError(
                f"`checkpoint` {shown(path)} is nested more than {MAX_DEPTH} levels deep; save "
                "`model.state_dict()` alone."
            )
        named = container.items() if isinstance(container, Mapping) else enumerate(container)
        for key, value in named:
            if isinstance(value, Tensor):
                name = str(key) if isinstance(key, str | int) else one_line(repr(key))
                yield Entry((*place, *name.split(".")), len(place), value)
            elif isinstance(value, Mapping | list | tuple) and id(value) not in seen:
                seen.add(id(value))
                waiting.append((value, (*place, *str(key).split("."))))


def _stated_architecture(content: Mapping[Any, Any]) -> str | None:
    """Architecture named by timm's training script ('arch', or 'model' in its arguments)."""
    arch = content.get("arch")
    if not isinstance(arch, str):
        arch = getattr(content.get("args"), "model", None)
    return arch if isinstance(arch, str) else None


def _stated_settings(content: Mapping[Any, Any]) -> dict[str, Any]:
    """Lightning's `hyper_parameters`, also where they are an `argparse.Namespace` inside."""
    found = content.get("hyper_parameters")
    if isinstance(found, Mapping) and len(found) == 1:
        (inner,) = found.values()
        found = inner if isinstance(inner, argparse.Namespace) else found
    if isinstance(found, argparse.Namespace):
        found = vars(found)
    return {str(k): v for k, v in found.items()} if isinstance(found, Mapping) else {}
