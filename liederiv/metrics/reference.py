"""An exactly invariant network, measured like any other: what the pipeline reports for error 0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from liederiv.domains import domain_of
from liederiv.measurement.results import Score
from liederiv.measurement.scoring import empty_score, make_score
from liederiv.metrics.base import Context, Metric, Response, Rows
from liederiv.metrics.lee import RelativeNorm
from liederiv.metrics.local import LocalBatch, linearise
from liederiv.representations import Invariant

__all__ = ["Reference"]


class Reference(Metric):
    """The ``relative_norm`` of the reference network of a kind of input.

    Measured in the dtype and on the device of x, images with the ``fourier`` scheme. Anything but
    rounding here would be a defect of the pipeline.
    """

    name, family = "reference", "reference"
    summary = "an exactly invariant network's error"
    needs = frozenset({"reference"})
    of_model = False

    def measure(self, c: Context, x: Any) -> Response | None:
        """What one batch says; None where no such network is known."""
        domain = domain_of(x)
        network = domain.reference(x)
        if network is None:
            return None
        action = domain.action(domain.reference_transform, x, "fourier")
        seeds = domain.seeds(x, c.seed)
        lin = linearise(network, x, action, output=Invariant(), seeds=seeds, verify=False)
        return RelativeNorm().respond(LocalBatch.of(lin, x, action))

    def rows(self, parts: Sequence[Response | None], to: Rows) -> list[Score]:
        """See `Metric.rows`."""
        found = [p for p in parts if p is not None]
        key = (self.name, to.domain.reference_transform or "any", "reference")
        if len(found) < len(parts):
            reason = f"no network is known that is invariant for {to.domain.item}s exactly"
            return [empty_score(key, "1", "not applicable", reason)]
        joined = Response.join(found)
        above, below, kept = joined.over(range(len(joined.top)))
        return [make_score(*key, "1", above, below, to.bootstrap, kept=kept)]
