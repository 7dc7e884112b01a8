"""Arguments by the names that they had before one vocabulary was made for all functions."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from liederiv.names import OUTPUT_TYPES

__all__ = ["renamed"]

P = ParamSpec("P")
T = TypeVar("T")


def renamed(**names: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Let a function take keywords by their former names, with a `DeprecationWarning`.

    Args:
        names: the new name of each old one. ``output``, which is still there, is taken for the new
            one only where it holds an output type (``probs``, ``logits``, …).

    Example:
        >>> @renamed(f="model")
        ... def name_of(model):
        ...     return model.__name__
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore", DeprecationWarning)
        ...     name_of(f=abs)
        'abs'
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def call(*args: P.args, **given: P.kwargs) -> T:
            for old, new in names.items():
                if old not in given or (old == "output" and not _is_type(given[old])):
                    continue
                if new in given:
                    raise TypeError(
                        f"{function.__name__}: {old} is called {new} now; give it once."
                    )
                warnings.warn(
                    f"{function.__name__}: the argument {old} is called {new} now.",
                    DeprecationWarning,
                    stacklevel=2,
                )
                given[new] = given.pop(old)
            return function(*args, **given)

        return call

    return decorate


def _is_type(value: object) -> bool:
    return isinstance(value, str) and value != "auto" and value in OUTPUT_TYPES
