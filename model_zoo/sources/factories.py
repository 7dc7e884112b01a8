"""Models from the user's own code, named `package.module:factory`."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from torch import nn

from liederiv.errors import LieDerivError, ModelError
from liederiv.foreign import one_line, printable
from liederiv.foreign_code import users_code

from ..inputs.data_config import DataConfig
from ..weights.files import shown
from ..weights.fitting import find_weights, load_weights
from ..weights.parts import Target
from ..weights.state import Mismatch
from .contents import hash_of
from .image_source import Built, ImageSource, Wanted

__all__ = ["Factory"]

_FACTORY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


class Factory(ImageSource):
    """A function or class of the user's that returns a model: "package.module:factory".

    If it takes something else than images, the model names the kind in an attribute ``input_kind``.
    """

    inputs = ""

    @classmethod
    def accepts(cls, name: str) -> bool:
        """Any two dotted names around a colon, whatever the module is called."""
        return _FACTORY.fullmatch(name) is not None

    def build(self, wanted: Wanted) -> Built:
        """See `ImageSource.build`."""
        if wanted.num_classes is not None:
            raise ModelError(
                f"`num_classes`={wanted.num_classes} has no meaning for the factory "
                f"{self.name!r}; pass what it needs in `model_kwargs`."
            )
        model = _build(self.name, wanted.model_kwargs)
        weights = f"as built by {self.name} (seed {wanted.seed})"
        file = wanted.checkpoint
        if file is not None:
            found = find_weights(file, model, Target.of(model))
            if isinstance(found, Mismatch):
                raise ModelError(
                    f"`checkpoint` {shown(file.path)} does not fit {self.name!r}: "
                    f"{found.describe()}; check that factory and file belong together."
                )
            weights = f"checkpoint {one_line(file.path.name)}{load_weights(file, found, model)}"
        kind = _attribute(model, "input_kind", "the model") or "images"
        return Built(model, weights, _data_config(model) if kind == "images" else None, kind)

    def identity(self, pretrained: bool) -> dict[str, Any]:
        """See `Source.identity`: the source file of the module."""
        return {"source": _source_of(self.name.partition(":")[0])}


def _build(name: str, model_kwargs: Mapping[str, Any]) -> nn.Module:
    """Import the user's module and call the factory in it.

    The current directory is searched too, as `python -m` does.

    Args:
        name: `package.module:factory`; the factory may be a function or a class.
        model_kwargs: Arguments of the factory.

    Returns:
        The module that the factory returns.

    Raises:
        ModelError: If the module or the factory is missing, raises, or returns something else.
    """
    module_name, _, factory_name = name.partition(":")
    with _current_directory_on_path():
        factory = _find_factory(module_name, factory_name)
        try:
            with users_code(f"Model factory {name!r}"):
                model = factory(**model_kwargs)
        except LieDerivError:
            raise
        except Exception as error:  # the user's code may raise anything
            raise ModelError(f"Model factory {name!r} raised {_one_line(error)}.") from error
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"Model factory {name!r} returned a {type(model).__name__}; it must return a "
            "torch.nn.Module."
        )
    return model


def _data_config(model: nn.Module) -> DataConfig:
    """Read the model's `data_config` (a DataConfig or a mapping) or `pretrained_cfg`.

    Args:
        model: The user's model.

    Returns:
        Its data config; 3 × 224 × 224 with ImageNet's mean and std where it has none.

    Raises:
        ModelError: If the attribute has values out of range.
    """
    for attribute in ("data_config", "pretrained_cfg"):
        config = _attribute(model, attribute, "the model")
        if isinstance(config, DataConfig):
            return config
        if isinstance(config, Mapping):
            return DataConfig.from_mapping(config)
    return DataConfig()


def _source_of(module: str) -> str:
    """Hash of a module's source; its packages are located and not imported."""
    path: list[str] | None = ["", *sys.path]
    spec: ModuleSpec | None = None
    for end in range(1, module.count(".") + 2):
        spec = PathFinder.find_spec(".".join(module.split(".")[:end]), path)
        if spec is None:
            return ""  # loading says so
        path = list(spec.submodule_search_locations or ())
    origin = Path(spec.origin) if spec is not None and spec.origin else None
    return hash_of(origin) if origin is not None and origin.is_file() else ""


def _find_factory(module_name: str, factory_name: str) -> Callable[..., Any]:
    try:
        with users_code(f"Module {module_name!r}"):
            found: Any = importlib.import_module(module_name)
    except LieDerivError:
        raise
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name + ".").startswith(error.name + "."):
            raise ModelError(
                f"Module {module_name!r} was not found; run from the folder that holds it, or "
                "install it."
            ) from error
        raise ModelError(f"Module {module_name!r} cannot be imported: {error}.") from error
    except Exception as error:  # the user's code may raise anything
        raise ModelError(
            f"Module {module_name!r} cannot be imported: it raised {_one_line(error)}."
        ) from error
    for part in factory_name.split("."):
        found = _attribute(found, part, f"Module {module_name!r}")
        if found is None:
            raise ModelError(
                f"Module {module_name!r} has no {factory_name!r}; check the name after the colon."
            )
    if not callable(found):
        raise ModelError(
            f"{module_name}:{factory_name} is a {type(found).__name__}; it must be a function or "
            "class that returns a torch.nn.Module."
        )
    return found


@contextmanager
def _current_directory_on_path() -> Iterator[None]:
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


def _attribute(owner: object, name: str, what: str) -> Any:
    """An attribute of the user's, which may be computed; None where there is none.

    Raises:
        ModelError: naming what its computation raised.
    """
    try:
        with users_code(f"{what}, asked for {name!r},"):
            return getattr(owner, name, None)
    except LieDerivError:
        raise
    except Exception as error:
        raise ModelError(f"{what}, asked for {name!r}, raised {_one_line(error)}.") from error


def _one_line(error: Exception) -> str:
    """Type and first line of the message."""
    lines = printable(error).strip().splitlines()
    name = type(error).__name__
    return f"{name}: {one_line(lines[0]).rstrip('.')}" if lines else name
