"""How every command runs: its arguments checked, the user's code fenced in, one exit code.

0 after its end, 2 and one line for whatever cannot be done, 130 when interrupted, or the code of
`Leave`. Nothing else decides it: what a model raises is the model's failure, `typer.Exit` too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import typer

from liederiv.cli.arguments import checked
from liederiv.cli.failures import complain, report_failure
from liederiv.cli.supervision import can_supervise, supervised
from liederiv.cli.terminal import own_streams, safe_warnings, streams_in_use
from liederiv.errors import LieDerivError, ModelError
from liederiv.foreign_code import users_code

__all__ = ["Leave", "guarded", "run_application"]

INTERRUPTED = 130
Command = Callable[..., None]
_UsageError: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


class Leave(typer.Exit):
    """The end of a command with an exit code of its own."""


def guarded(*, runs_models: bool = False) -> Callable[[Command], Command]:
    """Fence in a command, see the module's docstring.

    Args:
        runs_models: it calls the user's code in this process, which `supervised` therefore forks.
    """

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def run(**given: Any) -> None:
            arguments = checked(command, given)
            streams = streams_in_use()
            if not runs_models or streams is None or not can_supervise():
                _fenced(command, arguments)
                return
            code = supervised(lambda: _exit_code(lambda: _fenced(command, arguments)), streams)
            if code:
                raise Leave(code)

        return run

    return decorate


def _fenced(command: Command, arguments: dict[str, Any]) -> None:
    """Call a command; it ends by returning, with `Leave`, or with an `Exception`."""
    try:
        with users_code("the model") as watch:
            try:
                command(**arguments)
            except Leave:
                raise
            except (typer.Exit, typer.Abort) as stop:
                raise ModelError(
                    f"the model raised {type(stop).__name__} of typer, which would end the "
                    "program that measures it; let it return, or raise another Exception."
                ) from stop
    except LieDerivError:
        raise
    except (KeyboardInterrupt, SystemExit, GeneratorExit) as stop:  # those of the outside
        complain("interrupted.")
        raise Leave(INTERRUPTED) from stop
    if watch.interrupted:
        complain("interrupted; what was measured until then has been written and printed.")
        raise Leave(INTERRUPTED)


def run_application(application: typer.Typer) -> int:
    """Run the command line of this process and return its exit code."""
    with own_streams(), safe_warnings():
        return _exit_code(lambda: application(standalone_mode=False, prog_name="liederiv"))


def _exit_code(call: Callable[[], Any]) -> int:
    """Call; whatever it raises is printed as a line and becomes an exit code, not 0.

    Nor is it 0 where what was printed went nowhere.
    """
    code = _attempt(call)
    streams = streams_in_use()
    if streams is None:
        return code
    streams.restore()
    streams.flush()
    if streams.failure is None or code:
        return code
    complain(f"standard output cannot be written ({streams.failure.strerror}); redirect it.")
    return 2


def _attempt(call: Callable[[], Any]) -> int:
    try:
        code = call()
    except typer.Exit as stop:
        return int(stop.exit_code)
    except _UsageError as error:
        return _wrong_usage(error)
    except KeyboardInterrupt:
        complain("interrupted.")
        return INTERRUPTED
    except BaseException as error:
        report_failure(error)
        return 2
    return code if isinstance(code, int) else 0


def _wrong_usage(error: Any) -> int:
    """Options that do not exist, values of the wrong type; no arguments at all show the help."""
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        return 2  # it has been shown
    path = "liederiv" if context is None else context.command_path
    text = error.format_message().rstrip(".")
    complain(f"{text}; see `{path} --help`.", who=path)
    return 2
