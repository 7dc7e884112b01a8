"""The command line: one module per command, assembled in `liederiv.cli.application`."""

from liederiv.cli.application import app, main

__all__ = ["app", "main"]
