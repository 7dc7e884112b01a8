"""What do the metric and the penalty cost, next to a plain training step?

For small and usual networks, in one run, candidates taking turns, medians over the rounds:

* a plain training step (cross-entropy, forward and backward pass, SGD) on a batch;
* the same with `equivariance_penalty`, one generator drawn of three, for half of the images (the
  default) and for a quarter of them, and with its finite form on half of them;
* one update of `LocalEquivarianceError` for three generators on that batch, and on a quarter of it.

    python benchmarks/training.py [--models a,b] [--batch-size 16] [--rounds 5] [--json out.json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from tqdm import tqdm

from liederiv import LocalEquivarianceError, equivariance_penalty

MODELS = ("resnet18", "vit_tiny_patch16_224")
GENERATORS = "translation,rotation"  # K = 3
PLAIN = "training step"
LIE = "step + penalty, ½ of the images (default)"
LIE_SOME = "step + penalty, ¼ of the images"
FINITE = "step + finite penalty, ½ of the images"
METRIC = "metric, all images"
METRIC_SOME = "metric, ¼ of the images"


def candidates(model: nn.Module, x: Tensor, labels: Tensor) -> dict[str, Callable[[], None]]:
    """What is timed, by name."""
    optimiser = torch.optim.SGD(model.parameters(), 1e-4)
    some = max(2, len(x) // 4)  # batch norms in training need two

    def step(penalty: Callable[[], Tensor] | None = None) -> None:
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(model(x), labels)
        (loss if penalty is None else loss + penalty()).backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    def metric(images_per_update: int | None) -> None:
        LocalEquivarianceError(GENERATORS, images_per_update=images_per_update).update(model, x)

    return {
        PLAIN: step,
        LIE: lambda: step(lambda: equivariance_penalty(model, x, GENERATORS)),
        LIE_SOME: lambda: step(lambda: equivariance_penalty(model, x, GENERATORS, num_images=some)),
        FINITE: lambda: step(lambda: equivariance_penalty(model, x, GENERATORS, method="finite")),
        METRIC: lambda: metric(None),
        METRIC_SOME: lambda: metric(some),
    }


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def timed(run: Callable[[], None], clock: str) -> float:
    """Seconds of one call."""
    start = CLOCKS[clock]()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return CLOCKS[clock]() - start


def measure_model(
    name: str,
    batch_size: int,
    rounds: int,
    device: str = "cpu",
    image_size: int | None = None,
    clock: str = "wall",
) -> dict[str, float]:
    """Median seconds of every candidate."""
    torch.manual_seed(0)
    model = timm.create_model(name).train().to(device)
    size = image_size or model.pretrained_cfg["input_size"][-1]
    x = torch.randn(batch_size, 3, size, size, device=device)
    labels = torch.randint(model.num_classes, (batch_size,), device=device)
    runs = candidates(model, x, labels)
    seconds: dict[str, list[float]] = {key: [] for key in runs}
    for run in runs.values():
        run()
    for _ in range(rounds):
        for key, run in runs.items():
            seconds[key].append(timed(run, clock))
    return {key: statistics.median(v) for key, v in seconds.items()}


def report(rows: dict[str, dict[str, float]], batch_size: int) -> None:
    """Print ratios to the plain training step."""
    title = f"batch of {batch_size}; in units of a plain training step; medians of one run"
    table = Table(title=title, box=box.SIMPLE_HEAD)
    table.add_column("")
    for name, r in rows.items():
        table.add_column(f"{name}\n({1e3 * r[PLAIN]:.0f} ms per step)", justify="right")
    for key in next(iter(rows.values())):
        table.add_row(key, *(f"{r[key] / r[PLAIN]:.2f}" for r in rows.values()))
    Console(width=130).print(table)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--image-size", type=int, help="pixels; default: the model's")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="cpu: if it is busy")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = {
        name: measure_model(
            name, args.batch_size, args.rounds, args.device, args.image_size, args.clock
        )
        for name in tqdm(args.models.split(","), unit="model")
    }
    report(rows, args.batch_size)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
