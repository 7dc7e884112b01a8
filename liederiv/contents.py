"""What was measured, in a form that two results can be compared by: inputs and generators."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from torch import Tensor

from liederiv.generators import Generator
from liederiv.points import PointCloud
from liederiv.scoring import targets

__all__ = ["ContentHash", "definitions_of"]


class ContentHash:
    """Names the content and the order of images or clouds, however they come in batches.

    Args:
        known: the name where there is one already; then nothing is read.
    """

    def __init__(self, known: str = "") -> None:
        self.input_size: tuple[int, ...] = ()
        self._known = known
        self._digest = hashlib.sha256()

    def add(self, x: Any) -> None:
        """Take in one batch: images [B, C, H, W], or a `PointCloud`."""
        if isinstance(x, Tensor):
            self.input_size = tuple(x.shape[1:])
        if self._known:
            return
        if isinstance(x, Tensor):
            for image in x:
                self._add(image)
            return
        for i in range(len(x)):
            one: PointCloud = x[i : i + 1]
            for field in fields(one):
                value = getattr(one, field.name)
                for name, part in value.items() if isinstance(value, dict) else [("", value)]:
                    if isinstance(part, Tensor):
                        self._digest.update(f"{field.name}.{name}".encode())
                        self._add(part)

    def hexdigest(self) -> str:
        """The name that is known, or sixteen hexadecimal digits."""
        return self._known or self._digest.hexdigest()[:16]

    def _add(self, tensor: Tensor) -> None:
        self._digest.update(f"{tensor.dtype}{list(tensor.shape)}".encode())
        self._digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())


def definitions_of(generators: Sequence[Generator]) -> dict[str, tuple[str, ...]]:
    """For each row of the results, the generators that it sums over, with all their numbers."""
    return {
        name: tuple(_definition(generators[i]) for i in indices)
        for name, _, indices in targets(generators)
    }


def _definition(generator: Generator) -> str:
    """A generator in words that are the same in every process."""
    words = repr(generator)
    plain = f"{type(generator).__qualname__}({generator.name}, {generator.unit})"
    return plain if " at 0x" in words else words
