"""What `liederiv orbit` found, as plain data and in files."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from liederiv.files import json_ready, write_atomically, write_json
from liederiv.measurement.results import SCHEMA_VERSION, Provenance

from .results import Array, Estimate, OrbitCurve, Orbits, Worst

__all__ = ["OrbitReport", "described"]


def described(known: Provenance, orbits: Orbits, x: Any) -> Provenance:
    """Provenance completed by what was measured.

    Args:
        known: of model and images.
        orbits: what was found.
        x: the input.
    """
    return replace(
        known,
        num_images=len(x),
        scheme=orbits.scheme,
        representation=orbits.representation,
        engine=orbits.engine,
        verification=orbits.verification,
        dtype=str(x.dtype).removeprefix("torch."),
        device=str(x.device),
        seed=orbits.seed,
        warnings=(*known.warnings, *orbits.warnings),
    )


@dataclass(frozen=True)
class OrbitReport:
    """Everything measured by one call of the command.

    Attributes:
        orbits: what was found.
        provenance: how it was obtained.
    """

    orbits: Orbits
    provenance: Provenance

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data (NaN and ∞ become null)."""
        o = self.orbits
        data = {
            "schema_version": SCHEMA_VERSION,
            **asdict(self.provenance),
            "output": o.output,
            "border": o.border,
            "image_names": o.image_names,
            "clusters": o.clusters,
            "orbits": [_curve(o, c) for c in o.curves],
            "periods": [asdict(p) for p in o.periods],
            "worst": None if o.worst is None else _worst(o, o.worst),
        }
        out: dict[str, Any] = json_ready(data)
        return out

    def save(self, *, json: Path | None = None, figure: Path | None = None) -> None:
        """Write files, each atomically."""
        if json is not None:
            write_json(json, self.to_dict())
        if figure is not None:
            from .figure import orbits_figure

            drawn = orbits_figure(self.orbits, title=self.provenance.model)
            write_atomically(figure, lambda p: drawn.savefig(p, dpi=130))


def _curve(o: Orbits, c: OrbitCurve) -> dict[str, Any]:
    """One orbit: means with intervals at every point, and all values per image."""
    total = c.total_path
    one = {
        "generator": c.generator,
        "group": c.group,
        "unit": c.unit,
        "shown_unit": c.shown_unit,
        "range": float(c.t[-1]),
        "size": asdict(o.mean(c.size)),
        "asymmetry": asdict(o.mean(c.asymmetry)),
        "asymmetry_loss": _estimate(o, c.asymmetry_loss),
        "path_length": _estimate(o, total),
        "path_length_error": None
        if total is None
        else float((c.path_error[:, 0] + c.path_error[:, -1]).mean()),
        "bound_holds": c.bound_holds,
        "status": "measured" if c.bound_holds else "path length failed",
        "reason": c.reason,
        "points": [_point(o, c, i) for i in range(len(c.t))],
    }
    arrays = {
        f.name: getattr(c, f.name)
        for f in fields(c)
        if f.name not in ("t", "shown", "on_grid") and isinstance(getattr(c, f.name), np.ndarray)
    }
    if total is None:  # an integral that is known to be wrong is no number
        arrays = {k: v for k, v in arrays.items() if not k.startswith("path")}
    return one | {"per_image": {k: v.tolist() for k, v in arrays.items()}}


def _point(o: Orbits, c: OrbitCurve, i: int) -> dict[str, Any]:
    path = None if not c.bound_holds else c.length[:, i]
    return {
        "t": float(c.t[i]),
        "shown": float(c.shown[i]),
        "on_grid": bool(c.on_grid[i]),
        "change": asdict(o.mean(c.change[:, i])),
        "relative_change": asdict(o.ratio(c.change[:, i], c.size)),
        "lee": asdict(o.mean(c.lee[:, i])),
        "lee_error": float(c.lee_error[:, i].mean()),
        "path": _estimate(o, path),
        "path_error": None if path is None else float(c.path_error[:, i].mean()),
        "chords": asdict(o.mean(c.chords[:, i])),
        "kept": _estimate(o, None if c.kept is None else c.kept[:, i]),
        "correct": _estimate(o, None if c.correct is None else c.correct[:, i]),
        "loss": _estimate(o, None if c.loss is None else c.loss[:, i]),
    }


def _estimate(o: Orbits, values: Array | None) -> dict[str, float] | None:
    return None if values is None else asdict(o.mean(values))


def _worst(o: Orbits, w: Worst) -> dict[str, Any]:
    ascent, grid = w.won
    gap: Estimate = o.mean(w.ascent - w.grid)
    return {
        "generators": w.generators,
        "units": w.units,
        "ranges": w.ranges,
        "left_out": w.left_out,
        "objective": w.objective,
        "starts": w.starts,
        "ascent_passes": w.ascent_passes,
        "grid_passes": w.grid_passes,
        "ascent": asdict(o.mean(w.ascent)),
        "grid": asdict(o.mean(w.grid)),
        "ascent_minus_grid": asdict(gap),
        "ascent_found_more": ascent,
        "grid_found_more": grid,
        "per_image": {
            "ascent": w.ascent.tolist(),
            "ascent_at": w.ascent_at.tolist(),
            "grid": w.grid.tolist(),
            "grid_at": w.grid_at.tolist(),
        },
    }
