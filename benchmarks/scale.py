"""What do finite steps cost, in forward passes and in time, next to the Lie derivative?

For each model, random weights, the default transforms (4 generators), a batch of random images:

* forward passes of an image that each part of the family ``scale`` takes: the chosen steps alone
  (``lee_step``), with displacements of the same size (``relative_*_step``), and with the grid that
  the reach is found on; counted as images that enter the model, in float32 and in float64;
* CPU time of ``measure`` over that of one plain forward pass of the batch, for the Lie derivatives
  (``lee,relative``) and for each of these.

    python benchmarks/scale.py [--models a,b] [--batch-size 4] [--rounds 3] [--json out.json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from liederiv import measure

MODELS = ("resnet18", "vit_tiny_patch16_224", "tf_efficientnet_lite0")
PARTS = {
    "lee, relative": "lee,relative",
    "chosen steps": "lee_step",
    "beside noise": "lee_step,relative_norm_step,relative_spectrum_step",
    "reach": "scale",
}


def passes(model: nn.Module, x: Tensor, metrics: str) -> dict[str, float]:
    """Images that enter the model for each image that is measured, by dtype."""
    seen: Counter[str] = Counter()

    def count(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen[str(inputs[0].dtype).removeprefix("torch.")] += len(inputs[0])

    handle = model.register_forward_pre_hook(count)
    try:
        measure(model, x, metrics=metrics, output_type="logits", verify=False)
    finally:
        handle.remove()
    return {dtype: n / len(x) for dtype, n in seen.items()}


def seconds(call: Callable[[], object], rounds: int) -> float:
    """Median CPU time of a call, after one that does not count."""
    call()
    times = []
    for _ in range(rounds):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return statistics.median(times)


def benchmark(name: str, batch_size: int, rounds: int) -> list[dict[str, object]]:
    """One row for each part."""
    model = timm.create_model(name).eval()
    size = model.default_cfg["input_size"]
    x = torch.randn(batch_size, *size, generator=torch.Generator().manual_seed(0))

    def forward() -> Tensor:
        with torch.no_grad():
            return model(x)

    plain = seconds(forward, rounds)
    rows = []
    for part, metrics in PARTS.items():
        counted = passes(model, x, metrics)
        one = {"metrics": metrics, "output_type": "logits", "verify": False, "resamples": 10}
        taken = seconds(lambda one=one: measure(model, x, **one), rounds) / plain
        rows.append({"model": name, "part": part, **counted, "time": taken})
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Print a table of all models."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    table = Table("model", "part", "passes", "in float64", "time ÷ forward", box=box.SIMPLE_HEAD)
    rows = []
    for name in given.models.split(","):
        for row in benchmark(name, given.batch_size, given.rounds):
            rows.append(row)
            counts = [f"{row.get(dtype, 0):.3g}" for dtype in ("float32", "float64")]
            table.add_row(name, str(row["part"]), *counts, f"{row['time']:.1f}")
    Console().print(table)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
