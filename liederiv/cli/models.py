"""`liederiv models`: what can be measured by name."""

from __future__ import annotations

from typing import Annotated

import typer

from liederiv.cli.terminal import say
from liederiv.errors import LieDerivError

__all__ = ["models"]


def models(
    pattern: Annotated[str, typer.Argument(help="Shell wildcard, e.g. 'resnet*'.")] = "*",
    pretrained: Annotated[
        bool, typer.Option("--pretrained", help="Only those with published weights.")
    ] = False,
    names_only: Annotated[
        bool, typer.Option("--names-only", help="One name per line, for scripts.")
    ] = False,
) -> None:
    """List models by name, with the tags of their weights and whether they work offline."""
    from liederiv.cli.tables import console, new_table
    from liederiv.model_zoo import list_models

    entries = list_models(pattern, pretrained)
    if not entries:
        raise LieDerivError(
            f"no model matches {pattern!r}; try a wildcard such as '*{pattern.strip('*')}*'."
        )
    if names_only:
        for entry in entries:
            say(entry.name)
        return
    table = new_table("", "model")
    table.add_column("weights (tags)")
    table.add_column("offline")
    for entry in entries:
        tags = ", ".join(entry.tags) or ("yes" if entry.pretrained else "–")
        table.add_row(entry.name, tags, "yes" if entry.offline else "")
    console().print(table)
    say(f"{len(entries)} model{'s' if len(entries) > 1 else ''}")
