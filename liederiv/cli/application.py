"""The commands, assembled: `command` says how each is run, `failures` turns errors into one line.

What a command needs to run, torch first of all, is imported when it runs, and before any code of
the user's: help, completion and wrong options are answered without it.
"""

from __future__ import annotations

import sys

import typer

from liederiv.cli.check import check
from liederiv.cli.command import guarded, run_application
from liederiv.cli.compare import compare
from liederiv.cli.gate import gate
from liederiv.cli.info import info
from liederiv.cli.layers import layers
from liederiv.cli.models import models
from liederiv.cli.orbit import orbit
from liederiv.cli.report import report
from liederiv.cli.results import results
from liederiv.cli.scan import scan
from liederiv.cli.score import score
from liederiv.cli.track import track

__all__ = ["app", "main"]

app = typer.Typer(
    name="liederiv",
    help="How equivariant is this network really?\n\n"
    "Measures Lie derivatives of PyTorch vision models under translation, rotation, scaling and "
    "other continuous transforms. Start with:  liederiv score tf_efficientnet_lite0\n\n"
    "What cannot be done is one line and exit code 2; LIEDERIV_DEBUG=1 shows the traceback.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    score,
    layers,
    orbit,
    compare,
    scan,
    results,
    report,
    gate,
    track,
    check,
    models,
    info,
):
    # A scan runs models in processes of their own.
    runs_models = command in (score, layers, orbit, compare, gate, track, check)
    app.command()(guarded(runs_models=runs_models)(command))


def main() -> None:
    """Entry point: exit code 2 and one line on bad input, 130 when interrupted."""
    sys.exit(run_application(app))
