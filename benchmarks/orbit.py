"""What do whole orbits cost, in passes of the model and in time?

For each model, random weights, random images, one translation and the rotation:

* images that enter the model for each image that is followed, by what is asked for: the curves, the
  search for a period, the worst transform (gradient ascent and grid). A pass that differentiates
  enters once and carries tangents along, which costs more than a plain one;
* what these are made of, in words of the arguments;
* CPU time over that of one plain forward pass of the batch.

    python benchmarks/orbit.py [--models a,b] [--batch-size 2] [--points 8] [--json out.json]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path

import timm
import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from liederiv.analysis import orbit

MODELS = ("resnet18", "vit_tiny_patch16_224")
TRANSFORMS = "translation_x,rotation"
NOTHING = {"shifts": 0, "worst": 0}
PARTS: Mapping[str, Mapping[str, int]] = {
    "curves": {},
    "period": {"shifts": 64},
    "worst transform": {"worst": 60},
}


def passes(
    model: nn.Module, x: Tensor, points: int, part: Mapping[str, int]
) -> tuple[float, float]:
    """Images that enter the model for each that is followed, and CPU seconds."""
    seen = 0

    def count(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal seen
        seen += len(inputs[0])

    handle = model.register_forward_pre_hook(count)
    start = time.process_time()
    try:
        orbit(model, x, TRANSFORMS, points=points, resamples=2, **{**NOTHING, **part})
    finally:
        handle.remove()
    return seen / len(x), time.process_time() - start


def benchmark(name: str, batch_size: int, points: int) -> list[dict[str, object]]:
    """One row for each part; what is common to all, the curves, is taken off the others."""
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    size = model.default_cfg["input_size"]
    x = torch.randn(batch_size, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model(x)
        start = time.process_time()
        model(x)
    plain = time.process_time() - start
    passes(model, x, points, {})  # verified once, and remembered
    curves, seconds = passes(model, x, points, PARTS["curves"])
    rows: list[dict[str, object]] = []
    for part, given in PARTS.items():
        entered, taken = (curves, seconds) if not given else passes(model, x, points, given)
        base = (0.0, 0.0) if not given else (curves, seconds)
        rows.append(
            {
                "model": name,
                "part": part,
                "passes": entered - base[0],
                "made_of": made_of(part, points),
                "time": (taken - base[1]) / plain,
            }
        )
    return rows


def made_of(part: str, points: int) -> str:
    """The number of passes in words of the arguments."""
    given = PARTS[part]
    if part == "curves":
        return f"2 generators × {2 * points + 1} points"
    if part == "period":
        return f"{given['shifts'] + 1} shifts, and 65 within pixels where they show nothing"
    return f"{given['worst']} for each way, a tangent counted as one"


def main(arguments: list[str] | None = None) -> None:
    """Print a table of all models."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--points", type=int, default=8)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    table = Table("model", "part", "passes", "made of", "time ÷ forward", box=box.SIMPLE_HEAD)
    rows = []
    for name in given.models.split(","):
        for row in benchmark(name, given.batch_size, given.points):
            rows.append(row)
            cells = [str(row["model"]), str(row["part"]), f"{row['passes']:.4g}"]
            table.add_row(*cells, str(row["made_of"]), f"{row['time']:.1f}")
    Console(width=120).print(table)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
