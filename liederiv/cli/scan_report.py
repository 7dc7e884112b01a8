"""What `liederiv scan` says before and after it runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from liederiv.cli.arguments import as_given
from liederiv.cli.tables import console, new_table
from liederiv.cli.terminal import say
from liederiv.model_zoo.scan import Job, Reporter, Selection, Summary

__all__ = ["announce", "conclude", "show"]


def _states(jobs: Sequence[Job]) -> str:
    counts = Counter(state for job in jobs for state in job.states.values())
    return ", ".join(f"{counts[s]} {s}" for s in ("to do", "done", "failed") if counts[s])


def announce(jobs: Sequence[Job], selection: Selection, reporter: Reporter) -> None:
    """What is left to do."""
    for note in selection.notes:
        reporter.note(note)
    hint = ""
    if any("failed" in job.states.values() for job in jobs):
        hint = " (--retry-failed tries failures again)"
    reporter.note(f"{len(jobs)} models, measurements: {_states(jobs)}{hint}")


def conclude(summary: Summary, out: Path) -> None:
    """What was done."""
    parts = [f"{summary.measured} measured", f"{summary.failed} failed"]
    if summary.left:
        parts.append(f"{summary.left} left: run the same command to go on")
    say(f"{', '.join(parts)}; {summary.seconds:.0f} s; results in {as_given(out)}")


def show(jobs: Sequence[Job], selection: Selection) -> None:
    """What would be measured."""
    table = new_table("What would be measured", "model")
    table.add_column("parameters", justify="right")
    for header in ("measurement", "key", "state"):
        table.add_column(header, no_wrap=True)
    for job in jobs:
        size = job.candidate.parameters
        for m, key in job.keys.items():
            table.add_row(
                job.candidate.name, "?" if size is None else f"{size:,}", m, key, job.states[m]
            )
    screen = console()
    screen.print(table)
    for note in selection.notes:
        screen.print(note)
    screen.print(f"{len(jobs)} models, measurements: {_states(jobs)}")
