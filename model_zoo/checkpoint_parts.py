"""Which mappings in a checkpoint file may be the weights, in the order in which they are tried.

Training scripts keep metrics, optimisers, averages and students beside the weights. Nothing but the
model can say which part is its own, so all that hold tensors are offered: averages (EMA, a teacher)
before raw weights, as timm loads them, then what lies under the usual names, then the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

__all__ = ["Part", "is_average", "parts_of"]

WEIGHT_KEYS = (
    "state_dict",
    "model_state_dict",
    "model",
    "module",
    "net",
    "network",
    "weights",
    "params",
)
_OTHERS = ("optim", "scheduler", "scaler", "loss", "criterion", "rng", "meters")
_DEEPEST, _MOST = 12, 10_000  # nested mappings that are looked into


@dataclass(frozen=True)
class Part:
    """One mapping with tensors.

    Attributes:
        key: dotted path inside the file; empty for the whole of it.
        state_dict: its tensors by name.
    """

    key: str
    state_dict: dict[str, Tensor]


def parts_of(content: Mapping[Any, Any]) -> list[Part]:
    """All mappings with tensors, the most likely weights first."""
    found = list(_walk(content))
    most = max((len(part.state_dict) for part in found), default=0)

    def rank(part: Part) -> tuple[bool, bool, bool, int, int]:
        few = 2 * len(part.state_dict) < most  # metrics, buffers of a scaler, one layer
        return few, *_rank(part.key.split(".") if part.key else [])

    return sorted(found, key=rank)


def is_average(name: str) -> bool:
    """Whether a key or prefix speaks of averaged weights."""
    words = name.lower().replace(".", "_").split("_")
    return "ema" in words or "teacher" in words or "averaged" in words or "swa" in words


def _walk(content: Mapping[Any, Any]) -> Iterator[Part]:
    """Breadth first, each mapping once: a file may refer to itself, or be very deep."""
    level: list[tuple[str, Mapping[Any, Any]]] = [("", content)]
    seen = {id(content)}
    for _ in range(_DEEPEST):
        below: list[tuple[str, Mapping[Any, Any]]] = []
        for key, mapping in level:
            tensors = {k: v for k, v in mapping.items() if isinstance(v, Tensor)}
            if any(isinstance(k, str) for k in tensors):
                yield Part(key, {str(k): v for k, v in tensors.items()})
            for name, value in mapping.items():
                if isinstance(value, Mapping) and id(value) not in seen and len(seen) < _MOST:
                    seen.add(id(value))
                    below.append((f"{key}.{name}".lstrip("."), value))
        level = below


def _rank(path: list[str]) -> tuple[bool, bool, int, int]:
    """Smaller is tried sooner."""
    aside = any(word in step.lower() for step in path for word in _OTHERS)
    usual = [WEIGHT_KEYS.index(step) for step in path if step in WEIGHT_KEYS]
    place = min(usual, default=0 if not path else len(WEIGHT_KEYS))
    return aside, not is_average(".".join(path)), place, len(path)
