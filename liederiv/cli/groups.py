"""Groups of options: a command takes a dataclass, the user gives its fields."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection
from dataclasses import fields, is_dataclass, replace
from typing import Any

from liederiv.cli.options import OPTIONS

__all__ = ["grouped"]

Command = Callable[..., None]


def grouped(*, omit: Collection[str] = ()) -> Callable[[Command], Command]:
    """Let a command take groups of options: dataclasses whose fields are options of their own.

    A parameter whose default is a dataclass becomes one option for each field that `OPTIONS` names;
    the default's fields are their defaults. A field that several groups share is one option, and a
    parameter of the command itself goes before fields of its name.

    Args:
        omit: fields that are no options of this command; they keep the default's value.
    """

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        own = {n: p for n, p in signature.parameters.items() if not is_dataclass(p.default)}
        groups = {n: p.default for n, p in signature.parameters.items() if n not in own}
        offered = {
            name: [f.name for f in fields(g) if f.name in OPTIONS and f.name not in (*own, *omit)]
            for name, g in groups.items()
        }
        parameters: dict[str, inspect.Parameter] = {}
        for name, parameter in signature.parameters.items():
            if name in own:
                parameters[name] = parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for field in offered.get(name, ()):
                default = getattr(groups[name], field)
                parameters[field] = inspect.Parameter(
                    field,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=None if default == () else default,
                    annotation=OPTIONS[field],
                )

        @functools.wraps(command)
        def run(**given: Any) -> None:
            chosen = {name: given[name] for name in own}
            for name, names in offered.items():
                values = {f: given[f] for f in names if given[f] is not None}
                chosen[name] = replace(groups[name], **values)
            command(**chosen)

        shown = _in_order(parameters)
        run.__signature__ = signature.replace(parameters=shown)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in shown}
        return run

    return decorate


def _in_order(parameters: dict[str, inspect.Parameter]) -> list[inspect.Parameter]:
    """Shared options in the order of `OPTIONS`, the others where they are."""
    shared = iter([parameters[name] for name in OPTIONS if name in parameters])
    return [next(shared) if name in OPTIONS else p for name, p in parameters.items()]
