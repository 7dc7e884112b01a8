"""What models are fed: `Inputs` of one kind, and the register of kinds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch

from liederiv.derivatives import Scheme
from liederiv.errors import LieDerivError
from liederiv.measurement.contents import ContentHash

__all__ = ["INPUTS", "Asked", "Inputs", "register_inputs"]


@dataclass(frozen=True)
class Asked:
    """Which inputs are asked for.

    Attributes:
        source: name or folder; ``samples`` stands for what is at hand for any model.
        count: how many; fewer where there are not so many.
        split: of the source, where it has some; None for the customary one.
        data_dir: where a named source lies.
        seed: of the choice.
    """

    source: str
    count: int
    split: str | None = None
    data_dir: Path | None = None
    seed: int = 0


class Inputs(ABC):
    """Some inputs of one kind, in an order.

    What `liederiv.measure` must know about them, their `liederiv.domains.Domain` says; this is
    where they come from and what they are called.

    Attributes:
        kind: its name; the plural of the domain's ``item``.
        title: the same in words.
        source: where they come from, in words.
        names: one per input.
        labels: class index of each input, or None where any has none.
        class_names: names of the classes; a model's only if it has as many.
        clusters: a label per input where several are parts of one whole, for the bootstrap.
        skipped: name and reason of each that could not be read.
        notes: what else a reader of the results should know.
    """

    kind: ClassVar[str]
    title: ClassVar[str]
    source: str
    names: tuple[str, ...]
    labels: tuple[int, ...] | None = None
    class_names: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    @abstractmethod
    def open(cls, asked: Asked, expects: Any) -> Inputs:
        """Choose inputs.

        Args:
            asked: which and how many.
            expects: what the model declares about its inputs, see `Loaded.expects`.

        Raises:
            LieDerivError: if there are none.
        """

    @abstractmethod
    def __len__(self) -> int:
        """How many there are."""

    @abstractmethod
    def batch(self, device: torch.device, dtype: torch.dtype) -> Any:
        """All of them as one input of their domain, on a device and in a dtype."""

    def first(self, device: torch.device, dtype: torch.dtype) -> Any:
        """The first alone, as a batch of one."""
        return self.batch(device, dtype)[:1]

    def feed(
        self, device: torch.device, dtype: torch.dtype, size: int | None, labelled: bool
    ) -> Any:
        """What `liederiv.measure` is given: by default `batch`.

        Args:
            device: of the inputs.
            dtype: of the inputs.
            size: how many at once; None: as fit.
            labelled: give the labels, too.
        """
        return self.batch(device, dtype)

    def photographed(self) -> Inputs:
        """The same, as the camera saw them: for scheme ``camera``.

        Raises:
            LieDerivError: if they are no photographs, or too small ones.
        """
        raise LieDerivError(
            f"--scheme='camera' moves photographs, but the model takes {self.title}; leave it out."
        )

    def scheme(self, name: str) -> str | Scheme:
        """The interpolation scheme of that name; inputs may bring their own."""
        return name

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that name the content and the order of the inputs."""
        content = ContentHash()
        content.add(self.batch(torch.device("cpu"), torch.float32))
        return content.hexdigest()

    @property
    def clusters(self) -> list[str] | None:
        """See the attributes."""
        return None

    @property
    def size_in_words(self) -> str:
        """How large each is; empty where there is nothing to say."""
        return ""


INPUTS: dict[str, type[Inputs]] = {}
"""Kinds of input by name."""


def register_inputs(kind: type[Inputs]) -> type[Inputs]:
    """Let models that take inputs of a kind be fed; may decorate the class.

    Raises:
        LieDerivError: if the name is taken.
    """
    if INPUTS.get(kind.kind, kind) is not kind:
        raise LieDerivError(
            f"kind={kind.kind!r} of {kind.__name__} is the name of {INPUTS[kind.kind].__name__}; "
            "choose another."
        )
    INPUTS[kind.kind] = kind
    return kind
