"""Which attribution says best which repairs help?

For each photograph and transform, every module that can be repaired is repaired alone, in a copy of
the network, and the error is measured again: over a step of 1 pixel or 1 degree, and at zero (the
Lie derivative), of the logits and of the probabilities. What the attribution of the unrepaired
network says of that module (its signed share) is compared with by how much the error falls:

* of the derivative at zero or of the change over a step, of the logits or of the probabilities;
* rank correlation over modules (Spearman), mean over transforms, with an interval from a bootstrap
  over photographs; differences from the best predictor with intervals of their own (paired). Of the
  signed share and the fall of the error (does it help?), and of their sizes (does it matter?);
* what remains of the error when the five modules of the largest shares are repaired together,
  beside five at random;
* Σ|share| of the modules that can be repaired and of the rest as one.

    python benchmarks/repair_prediction.py [--models a,b] [--photographs 8] [--json out.json]
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from liederiv.analysis import attribute, intervene, rank_correlation
from liederiv.analysis.aliasing.interventions import repairable
from liederiv.analysis.layers.results import Attribution
from liederiv.files import json_ready, write_json
from liederiv.generators import Generator, resolve_generators
from liederiv.measurement.bootstrap import bootstrap_mean
from liederiv.model_zoo import load, load_images
from liederiv.steps import Step, step_of, unit_of
from liederiv.transforms import transform

OUTPUTS = ("probs", "logits")
PLACES = {"zero": 0.02, "step": 1.0}  # of the step
CELLS = tuple(f"{output} {place}" for output in OUTPUTS for place in PLACES)
K = 5  # modules repaired together
DRAWS = 2  # of as many at random


def errors(model: nn.Module, x: Tensor, moves: Mapping[Generator, Step]) -> dict[str, list[float]]:
    """‖change‖²/h² of each output over the step, and over one so small that it stands for zero."""
    sizes = [(place, part * step.t) for step in moves.values() for place, part in PLACES.items()]
    names = [g.name for g in moves for _ in PLACES]
    wide = x.double()  # so that a small step is not rounded
    ends = torch.cat(
        [transform(wide, n, end * h) for n, (_, h) in zip(names, sizes, strict=True)
         for end in (0.5, -0.5)]
    )  # fmt: skip
    with torch.no_grad():
        y = model(ends.to(x.dtype)).double()
    found: dict[str, list[float]] = {cell: [] for cell in CELLS}
    for output, z in (("logits", y), ("probs", y.softmax(-1))):
        changes = (z[0::2] - z[1::2]).square().sum(-1)
        for change, (place, h) in zip(changes, sizes, strict=True):
            found[f"{output} {place}"].append(float(change) / h**2)
    return found


def shares(a: Attribution, modules: Iterable[str]) -> np.ndarray:
    """What each module, with everything inside and all of its calls, is said to contribute [E, K].

    A share by which repairs are ranked: of the module that would be replaced.
    """
    rows = a.shares(exclusive=False)
    return np.array(
        [np.nansum([r for r, e in zip(rows, a.entries, strict=True) if e.path == m], 0)
         for m in modules]
    )  # fmt: skip


def predictions(
    model: nn.Module, x: Tensor, moves: Mapping[Generator, Step], tolerance: float
) -> tuple[dict[str, Attribution], list[str]]:
    """The four attributions of one photograph, and what of the network can be repaired."""
    paths = [path for path, _ in model.named_modules() if path]
    modules = list(repairable(model, paths, "auto", x))
    found = {}
    for cell in CELLS:
        output, place = cell.split()
        sizes = {g.name: s.t for g, s in moves.items()} if place == "step" else None
        found[cell] = attribute(
            model, x, list(moves), output_type=output, step=sizes, step_tolerance=tolerance,
            verify=False, probes=1, modules=modules,
        )  # fmt: skip
    return found, modules


def measure_photograph(
    model: nn.Module, x: Tensor, name: str, moves: Mapping[Generator, Step], given: Any
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows per module and transform, and rows per set of modules repaired together."""
    said, modules = predictions(model, x, moves, given.tolerance)
    predicted = {cell: shares(a, modules) for cell, a in said.items()}
    before = errors(model, x, moves)

    def reduction(names: Sequence[str]) -> list[dict[str, float]]:
        repaired = intervene(model, list(names), "auto", example=x)
        after = errors(repaired, x, moves)
        return [{c: 1 - after[c][k] / before[c][k] for c in CELLS} for k in range(len(moves))]

    rows, sets = [], []
    for i, module in enumerate(modules):
        for k, (g, gain) in enumerate(zip(moves, reduction([module]), strict=True)):
            known = {"photograph": name, "transform": g.name, "module": module}
            rows.append(known | {f"share {c}": predicted[c][i, k] for c in CELLS}
                        | {f"gain {c}": v for c, v in gain.items()})  # fmt: skip
    random = np.random.default_rng(given.seed)
    for k, g in enumerate(moves):
        told = [c for c in CELLS if said[c].known[k]]  # the integral may not be
        chosen = [(c, np.argsort(-predicted[c][:, k])[:K]) for c in told]
        chosen += [("random", random.choice(len(modules), K, replace=False)) for _ in range(DRAWS)]
        for by, index in chosen:
            gain = reduction([modules[i] for i in index])[k]
            known = {"photograph": name, "transform": g.name, "by": by}
            sets.append(known | {f"gain {c}": v for c, v in gain.items()})
    for c, a in said.items():
        errors_ = a.share_errors if a.steps else [None] * len(moves)
        for g, row, error in zip(moves, a.shares().T, errors_, strict=True):
            known = {"photograph": name, "transform": g.name, "by": f"sum {c}"}
            total = float(np.nansum(np.abs(row)))
            sets.append(known | {"total": total, "quadrature": error})
    return rows, sets


def correlations(rows: pd.DataFrame, *, size: bool) -> pd.DataFrame:
    """Per photograph: rank correlation of share and fall of the error, mean over transforms.

    Columns are pairs (what is said, what is measured); with ``size`` of |share| and of how many
    times the error becomes larger or smaller, whichever.
    """

    def ranked(v: pd.DataFrame, said: str, measured: str) -> float:
        share, fall = v[f"share {said}"], -np.log(1 - v[f"gain {measured}"])
        pair = (share.abs(), fall.abs()) if size else (share, fall)
        return rank_correlation(*pair, resamples=2).value

    found: dict[str, dict[tuple[str, str], float]] = {}
    for photograph, group in rows.groupby("photograph", sort=False):
        parts = [v for _, v in group.groupby("transform")]
        found[str(photograph)] = {
            (said, measured): float(np.nanmean([ranked(v, said, measured) for v in parts]))
            for said in CELLS
            for measured in CELLS
        }
    return pd.DataFrame(found).T


def _interval(values: pd.Series, *, factor: bool = False) -> str:
    """Mean over photographs with its interval; of logarithms the factor."""
    found = bootstrap_mean(values.to_numpy(dtype=np.float64))
    mean, low, high = (math.exp(v) for v in found) if factor else found
    return f"{mean:.2f} [{low:.2f}, {high:.2f}]"


def _ranks(rows: pd.DataFrame, title: str, *, size: bool) -> Iterable[Table]:
    """Correlations, and what each lacks of the best."""
    found = correlations(rows, size=size)
    columns = ("share in", *(f"error: {c}" for c in CELLS))
    wide = Table(*columns, title=title, box=box.SIMPLE_HEAD)
    apart = Table(*columns, title="The same less that of the best", box=box.SIMPLE_HEAD)
    best = {c: max(CELLS, key=lambda said, c=c: found[said, c].mean()) for c in CELLS}
    for said in CELLS:
        wide.add_row(said, *(_interval(found[said, c]) for c in CELLS))
        gaps = ["best" if best[c] == said else _interval(found[said, c] - found[best[c], c])
                for c in CELLS]  # fmt: skip
        apart.add_row(said, *gaps)
    yield wide
    yield apart


def tables(rows: pd.DataFrame, sets: pd.DataFrame) -> Iterable[Table]:
    """What is printed of one model."""
    count, modules = rows["photograph"].nunique(), rows["module"].nunique()
    of = f"{count} photographs, {modules} modules"
    yield from _ranks(rows, f"Does it help? ρ of share and fall of the error, {of}", size=False)
    yield from _ranks(rows, f"Does it matter? ρ of |share| and |log change|, {of}", size=True)
    title = f"Error that is left, × before, when the {K} modules of largest share are repaired"
    together = Table("chosen by", *(f"error: {c}" for c in CELLS), title=title, box=box.SIMPLE_HEAD)
    for said in (*CELLS, "random"):
        own = sets[sets["by"] == said].set_index("photograph")
        left = np.log(1 - own[[f"gain {c}" for c in CELLS]]).groupby(level=0, sort=False).mean()
        together.add_row(said, *(_interval(left[f"gain {c}"], factor=True) for c in CELLS))
    yield together
    sums = Table("attribution of", "Σ|share|", "largest", "quadrature, worst", box=box.SIMPLE_HEAD)
    for said in CELLS:
        own = sets[sets["by"] == f"sum {said}"]
        means = own.groupby("photograph", sort=False)["total"].mean()
        worst = pd.to_numeric(own["quadrature"]).max()
        error = "–" if math.isnan(worst) else f"{100 * worst:.0f} %"
        sums.add_row(said, _interval(means), f"{own['total'].max():.1f}", error)
    yield sums


def measure_model(name: str, given: argparse.Namespace) -> Iterator[tuple[list[Any], list[Any]]]:
    """What `measure_photograph` finds of each photograph."""
    generators = resolve_generators(given.transforms)
    moves = {g: step_of(g.name, unit_of(g.unit), given.size, "", chosen=True) for g in generators}
    loaded = load(name, img_size=given.img_size)
    last = given.first + given.photographs
    images = load_images("samples", loaded.data_config, num_images=last)
    for i in range(given.first, len(images)):
        yield measure_photograph(loaded.model, images[i][None], images.names[i], moves, given)


def _add(known: dict[str, Any], name: str, rows: list[Any], sets: list[Any]) -> None:
    kept = known.setdefault(name, {"rows": [], "sets": []})
    kept["rows"] += rows
    kept["sets"] += sets


def main(arguments: list[str] | None = None) -> None:
    """Measure and print, model by model; the file grows with every photograph."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="tf_efficientnet_lite0")
    parser.add_argument("--photographs", type=int, default=8)
    parser.add_argument("--first", type=int, default=0, help="photographs to leave out before")
    parser.add_argument("--transforms", default="translation_x,rotation")
    parser.add_argument("--size", type=float, default=1.0, help="of the step: px, degrees, %%")
    parser.add_argument("--tolerance", type=float, default=0.2, help="of the integral")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--img-size", type=int, help="of the photographs; default: the model's")
    parser.add_argument("--read", type=Path, nargs="+", help="print such files instead")
    given = parser.parse_args(arguments)
    known: dict[str, Any] = {}
    for path in given.read or ():
        for name, kept in json.loads(path.read_text()).items():
            _add(known, name, kept["rows"], kept["sets"])
    for name in () if given.read else given.models.split(","):
        for found in measure_model(name, given):
            _add(known, name, *found)
            if given.json:
                write_json(given.json, json_ready(known))
    console = Console(width=130)
    for name, kept in known.items():
        console.rule(name)
        for table in tables(pd.DataFrame(kept["rows"]), pd.DataFrame(kept["sets"])):
            console.print(table)


if __name__ == "__main__":
    main()
