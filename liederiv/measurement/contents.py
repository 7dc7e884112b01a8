"""What was measured, in a form that two results can be compared by: inputs and generators."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from liederiv.domains import domain_of
from liederiv.generators import Generator
from liederiv.measurement.scoring import targets
from liederiv.steps import Step, step_label

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
        """Take in one batch: images [B, C, H, W], or another kind of input."""
        if isinstance(x, Tensor):
            self.input_size = tuple(x.shape[1:])
        if self._known:
            return
        for name, part in domain_of(x).fields(x):
            self._digest.update(name.encode())
            self._digest.update(f"{part.dtype}{list(part.shape)}".encode())
            self._digest.update(part.detach().cpu().contiguous().numpy().tobytes())

    def hexdigest(self) -> str:
        """The name that is known, or sixteen hexadecimal digits."""
        return self._known or self._digest.hexdigest()[:16]


def definitions_of(
    generators: Sequence[Generator], plan: Sequence[Sequence[Step]] = ()
) -> dict[str, tuple[str, ...]]:
    """For each row of the results, the generators that it sums over, with all their numbers.

    Args:
        generators: K generators.
        plan: steps of each, whose rows are listed too.
    """
    found = {}
    for name, _, indices in targets(generators):
        words = tuple(_definition(generators[i]) for i in indices)
        found[name] = words
        steps = plan[indices[0]] if plan else ()
        found |= {step_label(name, step): words for step in steps if step.chosen}
    return found


def _definition(generator: Generator) -> str:
    """A generator in words that are the same in every process."""
    words = repr(generator)
    plain = f"{type(generator).__qualname__}({generator.name}, {generator.unit})"
    return plain if " at 0x" in words else words
