"""Typed results of the aliasing report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from liederiv.errors import LieDerivError
from liederiv.spreadsheets import frame_of

from ..models.rank_correlation import RankCorrelation, rank_correlation
from .spectra import Spectrum

__all__ = ["AliasingReport", "ModuleAliasing"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ModuleAliasing:
    """One call of one module. Arrays [K, B] are for K generators and B images.

    Attributes:
        path: name in ``named_modules()``.
        class_name: of the module.
        kind: see `liederiv.analysis.layers.kinds`.
        call_index: 0 for the module's first call in a forward pass.
        input_layout: of what enters.
        output_layout: of what leaves.
        counterpart: ``alias_free``, ``low_pass``, or ``none``.
        status: ``measured``; ``not applicable`` (no counterpart: the aliasing columns are NaN).
        reason: why there is no counterpart.
        error: ‖c‖², squared norm of the module's contribution to L f.
        error_alias_free: the same with the counterpart in its place, at the same input and pushed
            along the same gradients.
        error_interior: the same with the border of the module's violation set to zero.
        error_continued: the same with the module's padding replaced by the continuation that the
            scheme assumes; NaN for modules without padding.
        floor: what rounding alone contributes to ``error``; shares of an error that is not well
            above it are NaN.
        projection: ⟨c, L f⟩.
        output_power: ‖M(z)‖², [B].
        aliased_power: ‖M(z) − M_AF(z)‖², [B].
        before: spectrum of what enters; cycles per pixel of its grid.
        after: spectrum of the result before it is sampled: on the finer grid for nonlinearities,
            on the output's grid for other modules; cycles per pixel of the input's grid.
    """

    path: str
    class_name: str
    kind: str
    call_index: int
    input_layout: str
    output_layout: str
    counterpart: Literal["alias_free", "low_pass", "none"]
    status: Literal["measured", "not applicable"]
    reason: str
    error: Array
    error_alias_free: Array
    error_interior: Array
    error_continued: Array
    floor: Array
    projection: Array
    output_power: Array
    aliased_power: Array
    before: Spectrum
    after: Spectrum

    @property
    def aliased_energy(self) -> float:
        """‖M(z) − M_AF(z)‖² / ‖M(z)‖² over all images."""
        return _ratio(self.aliased_power.sum(), self.output_power.sum())

    @property
    def above_nyquist(self) -> float:
        """Share of the power above the Nyquist limit of the grid that has to carry it.

        For nonlinearities, of their result on the finer grid; for strided affine layers, of what
        enters (their own filter may still remove some of it); NaN for modules of one grid.
        """
        return self.after.above if self.counterpart == "alias_free" else self.before.above

    def aliasing_share(self) -> Array:
        """1 − ‖c_AF‖/‖c‖ per generator over all images, [K]; negative if the error grows."""
        return self._removed(self.error_alias_free)

    def boundary_share(self) -> Array:
        """1 − ‖c_interior‖/‖c‖ per generator over all images, [K]; may be negative.

        The derivatives of the ``fourier`` schemes reach far, so they carry what happens at the
        border into the interior; ``bspline`` keeps it within a few pixels.
        """
        return self._removed(self.error_interior)

    def padding_share(self) -> Array:
        """1 − ‖c_continued‖/‖c‖ per generator over all images, [K]; NaN without padding."""
        return self._removed(self.error_continued)

    def _removed(self, left: Array) -> Array:
        whole = self.error.sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            share = 1 - np.sqrt(left.sum(1) / whole)
        # Both are squares: rounding is below a hundredth of the norm whose share is told.
        out: Array = np.where(whole > 1e4 * self.floor.sum(1), share, np.nan)
        return out


@dataclass(frozen=True)
class AliasingReport:
    """How much of each module's violation is aliasing, and how much comes from the border.

    Attributes:
        rows: modules in the order of their calls.
        generators: K names.
        units: of the generators' parameters.
        lie_norm_squared: ‖L f‖², [K, B].
        scheme: of the derivatives.
        boundary: of the counterparts.
        factor: upsampling of nonlinearities.
        border: pixels of each module's output that count as its border.
        output: what was measured.
        seed: of random probes.
        skipped: calls that have a share in the attribution but no row: path and why.
    """

    rows: tuple[ModuleAliasing, ...]
    generators: tuple[str, ...]
    units: tuple[str, ...]
    lie_norm_squared: Array
    scheme: str
    boundary: str
    factor: int
    border: int
    output: str
    seed: int
    skipped: tuple[tuple[str, str], ...] = ()

    def get(self, path: str, call_index: int = 0) -> ModuleAliasing:
        """The row of one call.

        Raises:
            LieDerivError: if there is none.
        """
        for row in self.rows:
            if (row.path, row.call_index) == (path, call_index):
                return row
        raise LieDerivError(f"path={path!r} has no row; see report.rows and report.skipped.")

    def to_dataframe(self) -> pd.DataFrame:
        """One row per module and generator; squared norms are means over images."""
        total = self.lie_norm_squared.sum(1)
        records = []
        for row in self.rows:
            aliasing, border = row.aliasing_share(), row.boundary_share()
            padding = row.padding_share()
            for k, name in enumerate(self.generators):
                records.append(
                    {
                        "module": row.path,
                        "class": row.class_name,
                        "kind": row.kind,
                        "call": row.call_index,
                        "input_layout": row.input_layout,
                        "output_layout": row.output_layout,
                        "generator": name,
                        "unit": self.units[k],
                        "error": float(row.error[k].mean()),
                        "share": _ratio(row.projection[k].sum(), total[k]),
                        "aliasing_share": float(aliasing[k]),
                        "boundary_share": float(border[k]),
                        "padding_share": float(padding[k]),
                        "aliased_energy": row.aliased_energy,
                        "above_nyquist": row.above_nyquist,
                        "counterpart": row.counterpart,
                        "status": row.status,
                        "reason": row.reason,
                    }
                )
        return frame_of(records)

    def explained(self) -> dict[str, float]:
        """Per generator, 1 − Σ‖c_AF‖²/Σ‖c‖² over the modules that have a counterpart."""
        rows = [r for r in self.rows if r.status == "measured"]
        out = {}
        for k, name in enumerate(self.generators):
            left = sum(r.error_alias_free[k].sum() for r in rows)
            out[name] = 1 - _ratio(left, sum(r.error[k].sum() for r in rows))
        return out

    def correlation(
        self,
        generator: str | None = None,
        *,
        relative: bool = True,
        resamples: int = 2000,
        seed: int = 0,
    ) -> RankCorrelation:
        """Rank correlation over modules between aliased energy and attributed error.

        Only modules with a counterpart take part.

        Args:
            generator: name; the first one if not given.
            relative: correlate the aliased share of the output's energy; else the energy itself.
            resamples: bootstrap samples over modules.
            seed: of the bootstrap.
        """
        k = 0 if generator is None else self.generators.index(generator)
        rows = [r for r in self.rows if r.status == "measured"]
        energy = [r.aliased_energy if relative else r.aliased_power.mean() for r in rows]
        error = [r.error[k].mean() for r in rows]
        return rank_correlation(energy, error, resamples=resamples, seed=seed)


def _ratio(a: float, b: float) -> float:
    return float(a / b) if b > 0 else float("nan")
