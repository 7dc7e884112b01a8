"""The metrics of the Lie derivative: the local equivariance error, and what to compare it with."""

from __future__ import annotations

from collections.abc import Sequence

from liederiv.generators import Generator
from liederiv.metrics.base import LocalMetric, Response
from liederiv.metrics.local import LocalBatch

__all__ = ["BlurResponse", "Lee", "MeanAbs", "RelativeNorm", "RelativeSpectrum"]


class Lee(LocalMetric):
    """Local equivariance error, E_x ‖L_X f(x)‖² / dim(out).

    Unit: (unit of the output)² per (unit of the generator)². For a group of generators
    (translation) it is the mean over them, the error along a random direction of the group.
    Source: Gruver et al., arXiv 2210.02984.
    """

    name, family = "lee", "lee"
    summary = "mean squared Lie derivative per output dimension"
    title, heading, shown = "local equivariance error", "LEE", "all"
    power, rounding, gated = 2, "squared", True

    def respond(self, batch: LocalBatch) -> Response:
        """See `LocalMetric.respond`."""
        return Response(batch.squared)


class MeanAbs(LocalMetric):
    """E_x mean |L_X f(x)|, what the paper's code reports. Source: its public code."""

    name, family = "mean_abs", "lee"
    summary = "mean absolute Lie derivative, as in the paper's code"
    heading = "mean |L|"
    power, rounding, gated = 1, "absolute", True

    def respond(self, batch: LocalBatch) -> Response:
        """See `LocalMetric.respond`."""
        return Response(batch.means(batch.lie.abs()))


class _Relative(LocalMetric):
    """The local equivariance error over the same quantity along another direction."""

    family, shown = "relative", "interval"
    power, rounding, gated = 0, "squared", True

    def respond(self, batch: LocalBatch) -> Response:
        """See `LocalMetric.respond`."""
        return Response(batch.squared, batch.compared[self.direction], batch.compared.get("moves"))


class RelativeNorm(_Relative):
    """Relative to Gaussian noise of the tangent's norm.

    1 means that the network reacts to the symmetry as to noise.
    """

    name, direction = "relative_norm", "noise"
    summary = "lee over response to equal-norm noise"
    heading = "LEE ÷ noise of\nequal norm"


class RelativeSpectrum(_Relative):
    """Relative to the tangent with scrambled Fourier phases.

    That is noise with the frequencies and colours of the symmetry's own tangent. Images only.
    """

    name, direction = "relative_spectrum", "spectrum"
    summary = "lee over response to noise of the tangent's power spectrum"
    heading = "LEE ÷ noise of\nequal spectrum"


class BlurResponse(LocalMetric):
    """E ‖J_f (½ Δx)‖² / dim, the response to a small blur, per (px²)². Images only."""

    name, family, direction = "blur_response", "relative", "blur"
    summary = "response to a small Gaussian blur"
    larger_is_better = None

    def respond(self, batch: LocalBatch) -> Response:
        """See `LocalMetric.respond`."""
        return Response(batch.compared[self.direction][None])

    def unit(self, output: str, transform: str) -> str:
        """See `LocalMetric.unit`."""
        return f"{output}²/px⁴"

    def targets(self, generators: Sequence[Generator]) -> list[tuple[str, str, list[int]]]:
        """See `LocalMetric.targets`: one row, whatever the generators."""
        return [("blur", "px²", [0])]
