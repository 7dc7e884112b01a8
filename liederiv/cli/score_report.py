"""What `liederiv score` prints."""

from __future__ import annotations

from liederiv.cli.tables import console, count, described_inputs, headline, score_tables
from liederiv.measurement.results import Measurement
from liederiv.model_zoo import Inputs, Loaded

__all__ = ["print_scores"]


def print_scores(measurement: Measurement, loaded: Loaded, found: Inputs) -> None:
    """What was measured, how, and the tables."""
    out, p = console(), measurement.provenance
    size = f" of {found.size_in_words}" if found.size_in_words else ""
    about = f"{p.weights} · {count(loaded.num_parameters)} parameters"
    out.print(headline(p.model, about))
    out.print(
        f"{described_inputs(p)}{size} · scheme {p.scheme} · "
        f"{p.dtype} on {p.device} · engine {p.engine} · output {p.representation}"
    )
    if p.verification:
        out.print(f"verified: {p.verification}")
    out.print()
    for item in score_tables(measurement):
        out.print(item)
