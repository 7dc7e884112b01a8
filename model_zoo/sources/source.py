"""A source of models: a name, read once, as an object that knows all that follows from it."""

from __future__ import annotations

import fnmatch
import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from ..weights.origin import WeightsSource
from .loaded import Loaded

__all__ = ["ModelEntry", "Source"]


@dataclass(frozen=True)
class ModelEntry:
    """One model, or architecture, that is known by name.

    Attributes:
        name: Its name.
        tags: Tags of its pretrained weights, in natural order.
        pretrained: Whether any pretrained weights exist.
        offline: Whether weights are installed as a package, so that no download is needed.
    """

    name: str
    tags: tuple[str, ...]
    pretrained: bool
    offline: bool


class Source(ABC):
    """Models of one origin; an object is one name among theirs.

    A name with a colon belongs to the source that has what stands before it among its `prefixes`,
    else to a factory: a source of plain names is not asked, and cannot take the user's
    ``package.module:build`` for one of its own.

    Args:
        name: as the user has given it.

    Attributes:
        prefixes: what stands before the colon; none for a source of plain names.
        inputs: what its models take, in words; empty if only the model says.
    """

    prefixes: ClassVar[tuple[str, ...]] = ()
    inputs: ClassVar[str] = "images"

    def __init__(self, name: str) -> None:
        self.name = name

    @classmethod
    def accepts(cls, name: str) -> bool:
        """Whether a name is of this source."""
        prefix, colon, _ = name.partition(":")
        return prefix in cls.prefixes if colon else cls.knows(name)

    @classmethod
    def knows(cls, name: str) -> bool:
        """Whether a name without a colon is of this source."""
        return False

    @classmethod
    def entries(cls, pattern: str = "*", pretrained: bool = False) -> Sequence[ModelEntry]:
        """The models that can be listed.

        Args:
            pattern: shell wildcard that the name, with or without a tag, must match.
            pretrained: only those with published weights.
        """
        return ()

    @classmethod
    def matching(cls, pattern: str, pretrained: bool = False) -> list[str]:
        """The names that a wildcard stands for in a scan."""
        found = [entry.name for entry in cls.entries(pattern, pretrained)]
        return [name for name in found if fnmatch.fnmatchcase(name, pattern)]

    @cached_property
    def full_name(self) -> str:
        """The current and complete name.

        Raises:
            ModelError: if there is no such model.
        """
        return self.name

    @property
    def architecture(self) -> str:
        """The name without what only tells apart sets of weights; a wildcard may match it, too."""
        return self.name

    @property
    def tag(self) -> str:
        """What only tells apart sets of weights; empty if the name has no such part."""
        return ""

    @property
    def family(self) -> str:
        """Which models it is to be grouped with; empty if it is not known."""
        return ""

    @abstractmethod
    def load(self, *args: Any, **kwargs: Any) -> Loaded:
        """Load the model and prepare it for measuring.

        Args:
            args: ``checkpoint``, a file with the weights, which then count instead of the published
                ones (None), and ``pretrained``: published weights (True) or random ones.
            kwargs: the options that its models take, which a source names as keywords that stand
                alone; all have ``seed``, of what is random.

        Raises:
            ModelError: if it cannot be loaded.
        """

    @classmethod
    def options(cls) -> tuple[str, ...]:
        """Names of the options that `load` takes."""
        kinds = inspect.signature(cls.load).parameters.values()
        return tuple(p.name for p in kinds if p.kind is inspect.Parameter.KEYWORD_ONLY)

    @abstractmethod
    def identity(self, pretrained: bool) -> dict[str, Any]:
        """What a result's key in a scan says about weights and preprocessing.

        Nothing of the model is executed and nothing downloaded.

        Args:
            pretrained: published weights; False for random ones, whose seed is in the settings.

        Returns:
            Plain data, the same for the same weights, whether or not there is such a model.
        """

    def download(self) -> WeightsSource | None:
        """The file with published weights; nothing is downloaded.

        Returns:
            None where nothing need or can be: weights of an installed package, of a folder or of
            the user's own code, or none published.

        Raises:
            ModelError: if there is no such model.
        """
        return None

    def parameters(self) -> int | None:
        """How many parameters it has; None if that is not known without building it."""
        return None
