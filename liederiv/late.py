"""Packages whose public names are imported when the first of them is asked for, torch with them."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

__all__ = ["import_late", "names_moved"]


def import_late(package: str, exports: str) -> None:
    """Let a package take its public names from a module that is not imported yet.

    Args:
        package: its ``__name__``.
        exports: the module that holds them, with ``__all__``.
    """

    class Package(ModuleType):
        def __getattr__(self, name: str) -> Any:
            if name.startswith("__") and name != "__all__":
                raise AttributeError(f"module {package!r} has no attribute {name!r}")
            module = f"{package}.{name}"
            if find_spec(module) is not None:
                return import_module(module)  # which may be one that the exports are made of
            try:
                value = getattr(import_module(exports), name)
            except AttributeError:
                raise AttributeError(f"module {package!r} has no attribute {name!r}") from None
            self.__dict__[name] = value
            return value

        def __dir__(self) -> list[str]:
            return sorted({*self.__dict__, *self.__getattr__("__all__")})

    sys.modules[package].__class__ = Package


def names_moved(module: str, places: Mapping[str, str]) -> None:
    """Let names be imported from a module that is no more, with a `DeprecationWarning`.

    Args:
        module: the former one, of a package that is being imported.
        places: what it held, and the dotted name under which that is found now.
    """

    class Former(ModuleType):
        def __getattr__(self, name: str) -> Any:
            if name not in places:
                raise AttributeError(f"module {module!r} has no attribute {name!r}")
            new = places[name]
            warnings.warn(f"{module}.{name} is now {new}", DeprecationWarning, stacklevel=2)
            home, _, known = new.rpartition(".")
            return getattr(import_module(home), known)

    package, _, short = module.rpartition(".")
    sys.modules[module] = Former(module)
    setattr(sys.modules[package], short, sys.modules[module])
