"""Models per hour of a scan, what it adds per model, and what scanning all of timm would cost.

One run measures everything it prints, with random weights and the default metrics:

* plain: a loop of `liederiv score`, one process after the other: what a shell script would do;
* scan with 1 worker, and with 2; every process has the same number of threads in all three;
* order: how long several workers would take for the same models in other orders, each worker taking
  the next model when it is free: arithmetic on the seconds measured with 1 worker, or on those of a
  scan that exists (--durations DIR), against the least that is possible;
* overhead: time per model beyond the measurement's own seconds. For plain it contains starting
  Python and importing torch and timm; for the scan it is the median time between the end of one
  model and the begin of the next (a new process, loading), and its start is printed by itself.

The estimate for timm's pretrained weights is arithmetic on stated assumptions, not a measurement:
floating point operations of a random sample of the models (counted on torch's meta device, with a
standard error over the sample; --sample 0 counts all), times what a score costs in forward passes
per image and per model, over the assumed speed; plus the overhead per model and the downloads. What
a score costs is measured here, on a model of usual size and a tiny one.

    python benchmarks/scan.py [--models a,b,…] [--images 4] [--threads 1] [--durations DIR]
                              [--sample 60] [--large resnet50]
                              [--tflops 10] [--bandwidth 100] [--price 3]
"""

from __future__ import annotations

import argparse
import heapq
import logging
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import timm
import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from liederiv.model_zoo import load
from liederiv.model_zoo.requests.measure_options import MeasureOptions
from liederiv.model_zoo.requests.measuring import measure_loaded
from liederiv.model_zoo.requests.model_options import ModelOptions
from liederiv.model_zoo.scan.store import Store
from liederiv.model_zoo.sources.parameters import parameter_count

MODELS = (
    "test_resnet,test_vit,test_convnext,test_efficientnet,"
    "mobilenetv3_small_050,lcnet_050,resnet10t,efficientvit_b0"
)
IMAGES_OF_ESTIMATE = 16
MAIN = [sys.executable, "-c", "from liederiv.cli import main; main()"]


@dataclass(frozen=True)
class Run:
    """One way to measure all models.

    Attributes:
        name: for the table.
        seconds: wall time.
        measuring: seconds in the measurements themselves.
        overhead: seconds per model beyond them; None with several models at once.
        startup: seconds before the first model and after the last.
        durations: seconds of each model's measurements, the largest model first.
    """

    name: str
    seconds: float
    measuring: float
    overhead: float | None
    startup: float = 0.0
    durations: tuple[float, ...] = ()


def flags(options: argparse.Namespace) -> list[str]:
    """Common to both commands."""
    return ["--no-pretrained", "--num-images", str(options.images), "--device", options.device]


def plain(names: list[str], options: argparse.Namespace, measuring: float) -> Run:
    """`liederiv score`, once per model."""
    start = time.perf_counter()
    for name in names:
        subprocess.run(
            [*MAIN, "score", name, *flags(options), "--quiet"],
            check=True,
            env=threads_environment(options.threads),
        )
    seconds = time.perf_counter() - start
    overhead = (seconds - measuring) / len(names)
    return Run("loop of `liederiv score`", seconds, measuring, overhead)


def scan(names: list[str], options: argparse.Namespace, workers: int) -> Run:
    """`liederiv scan` into a fresh folder."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        running = ["--workers", str(workers), "--threads", str(options.threads)]
        subprocess.run(
            [*MAIN, "scan", *names, *flags(options), *running, "--out", folder, "--quiet"],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=threads_environment(options.threads),
        )
        seconds = time.perf_counter() - start
        store = Store.open(folder)
        rows, durations = store.read("score"), durations_of(store)
    failed = rows[rows["outcome"] != "measured"]
    if len(failed):
        raise SystemExit(f"{failed['model'].iloc[0]}: {failed['reason'].iloc[0]}")
    models = rows.groupby("model").first().sort_values("started")
    gaps = (models["started"].iloc[1:].array - models["finished"].iloc[:-1].array).total_seconds()
    whole = (models["finished"].max() - models["started"].min()).total_seconds()
    return Run(
        f"scan, {workers} worker{'s' * (workers > 1)}",
        seconds,
        float(models["seconds"].sum()),
        statistics.median(gaps) if workers == 1 else None,
        seconds - whole,
        durations,
    )


def durations_of(store: Store) -> tuple[float, ...]:
    """Seconds of each model's measurements, in the order of the scan: the largest model first."""
    rows = pd.concat([store.read(name) for name in store.measurements])
    each = rows.groupby(["model", "measurement"], as_index=False)[["parameters", "seconds"]].first()
    models = each.groupby("model", as_index=False).agg({"parameters": "max", "seconds": "sum"})
    models = models.sort_values(["parameters", "model"], ascending=[False, True])
    return tuple(models["seconds"])


def makespan(durations: Sequence[float], workers: int) -> float:
    """Seconds until all is done if a free worker takes the next model of the list."""
    free = [0.0] * workers
    for seconds in durations:
        heapq.heappush(free, heapq.heappop(free) + seconds)
    return max(free)


def print_orders(durations: Sequence[float], console: Console) -> None:
    """Largest first (by parameters, as the scan does) against random orders and smallest first."""
    shuffles = [random.Random(seed).sample(durations, len(durations)) for seed in range(200)]
    table = Table(title=f"Time ÷ the least possible, {len(durations)} models, by order")
    for header in ("workers", "largest first", "random (median, worst of 200)", "smallest first"):
        table.add_column(header, justify="right")
    for workers in (2, 8):
        least = max(sum(durations) / workers, *durations)
        mixed = sorted(makespan(order, workers) / least for order in shuffles)
        table.add_row(
            str(workers),
            f"{makespan(durations, workers) / least:.2f}",
            f"{statistics.median(mixed):.2f}, {mixed[-1]:.2f}",
            f"{makespan(durations[::-1], workers) / least:.2f}",
        )
    console.print(table)


def threads_environment(threads: int) -> dict[str, str]:
    """The same threads for every process."""
    return {**os.environ, "OMP_NUM_THREADS": str(threads)}


@dataclass(frozen=True)
class Price:
    """What a score of a model costs.

    Attributes:
        per_image: in forward passes of one image.
        per_model: the same: checks and rounding floor, on one image in float64.
        seconds: per model, not computing: what tiny models take beyond the other two.
    """

    per_image: float
    per_model: float
    seconds: float


def price_of_a_score(options: argparse.Namespace, tiny: str) -> Price:
    """Measured on a model of usual size with few and with more images, and on a tiny one."""
    torch.set_num_threads(options.threads)
    few, more = 4, IMAGES_OF_ESTIMATE
    large, one = score_seconds(options.large, few, options), forward_seconds(options.large, options)
    per_image = (score_seconds(options.large, more, options) - large) / (more - few) / one
    per_model = max(0.0, large / one - few * per_image)
    passes = few * per_image + per_model
    fixed = score_seconds(tiny, few, options) - passes * forward_seconds(tiny, options)
    return Price(per_image, per_model, max(0.0, fixed))


def score_seconds(name: str, images: int, options: argparse.Namespace) -> float:
    """Seconds of a score with default metrics, the second of two."""
    chosen = ModelOptions(pretrained=False, device=options.device)
    loaded = chosen.open(name, None, None)
    for _ in range(2):
        start = time.perf_counter()
        measure_loaded(loaded, chosen, MeasureOptions(num_images=images))
        seconds = time.perf_counter() - start
    return seconds


def forward_seconds(name: str, options: argparse.Namespace) -> float:
    """Seconds of a plain forward pass per image, in batches of 4."""
    loaded = load(name, pretrained=False)
    model = loaded.model.to(options.device)
    x = torch.randn(4, *loaded.data_config.input_size).to(options.device)
    times = []
    with torch.no_grad():
        model(x)
        for _ in range(5):
            start = time.perf_counter()
            model(x).sum().item()
            times.append(time.perf_counter() - start)
    return statistics.median(times) / len(x)


def gigaflops(name: str) -> float | None:
    """10⁹ floating point operations of a forward pass of one image; None if meta cannot do it."""
    logging.getLogger("timm").setLevel(logging.ERROR)
    config = timm.get_pretrained_cfg(name)
    counter = FlopCounterMode(display=False)
    try:
        with warnings.catch_warnings(), torch.device("meta"), torch.no_grad(), counter:
            warnings.simplefilter("ignore")
            timm.create_model(name).eval().requires_grad_(False)(torch.empty(1, *config.input_size))
    except (
        AssertionError,
        AttributeError,
        NotImplementedError,
        RuntimeError,
        TypeError,
        ValueError,
    ):
        return None
    return counter.get_total_flops() / 1e9


def estimate(options: argparse.Namespace, price: Price, overhead: float, console: Console) -> None:
    """Time and cost of all pretrained weights of timm."""
    names = timm.list_pretrained()
    sample = random.Random(0).sample(names, min(options.sample or len(names), len(names)))
    counted = [f for f in map(gigaflops, tqdm(sample, desc="counting", unit="model")) if f]
    mean, rest = statistics.mean(counted), 1 - len(counted) / len(names)
    error = statistics.stdev(counted) * (rest / len(counted)) ** 0.5 / mean
    passes = IMAGES_OF_ESTIMATE * price.per_image + price.per_model
    compute = mean * 1e9 * len(names) * passes / (options.tflops * 1e12)
    size = 4 * sum(parameter_count(n) or 0 for n in names)
    download = size / (options.bandwidth * 1e6)
    fixed = (overhead + price.seconds) * len(names)
    console.print(
        f"\nEstimate for {len(names)} pretrained weights of timm {timm.__version__}, default "
        f"metrics and transforms, {IMAGES_OF_ESTIMATE} images at each model's own size. "
        f"Assumed: {options.tflops:g} TFLOP/s sustained in float32 per GPU, downloads of "
        f"{options.bandwidth:g} MB/s in all, {options.price:g} $ per GPU and hour. "
        f"Counted: {mean:.1f} GFLOP per image (standard error {error:.0%}, {len(counted)} of "
        f"{len(sample)} models), {size / 1e12:.2f} TB of weights. "
        f"Measured here: {price.per_image:.0f} forward passes per image and {price.per_model:.0f} "
        f"per model ({options.large}), {price.seconds:.1f} s per model beside computing, "
        f"{overhead:.1f} s between models."
    )
    table = Table()
    for header in ("GPUs", "computing", "overhead", "download", "wall time", "cost"):
        table.add_column(header, justify="right")
    for gpus in (1, 8):
        # Downloads overlap measurements: the longer of the two counts.
        wall = max((compute + fixed) / gpus, download)
        hours = [t / 3600 for t in (compute / gpus, fixed / gpus, download, wall)]
        table.add_row(
            str(gpus), *(f"{h:.1f} h" for h in hours), f"{hours[-1] * gpus * options.price:.0f} $"
        )
    console.print(table)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sample", type=int, default=60)
    parser.add_argument("--large", default="resnet50")
    parser.add_argument("--tflops", type=float, default=10.0)
    parser.add_argument("--bandwidth", type=float, default=100.0)
    parser.add_argument("--price", type=float, default=3.0)
    parser.add_argument("--durations", metavar="DIR", help="folder of a scan, for the order")
    options = parser.parse_args()
    names = options.models.split(",")
    console = Console(width=120)
    one, two = (scan(names, options, workers) for workers in (1, 2))
    loop = plain(names, options, one.measuring)
    table = Table(title=f"{len(names)} models, {options.images} images, {options.threads} threads")
    headers = (
        "",
        "models per hour",
        "÷ loop",
        "overhead per model",
        "start",
        "÷ 1 worker, started",
    )
    for header in headers:
        table.add_column(header, justify="left" if not header else "right")
    started = one.seconds - one.startup
    for run in (loop, one, two):
        table.add_row(
            run.name,
            f"{3600 * len(names) / run.seconds:.0f}",
            f"{loop.seconds / run.seconds:.2f}",
            "–" if run.overhead is None else f"{run.overhead:.1f} s",
            f"{run.startup:.1f} s" if run.startup else "",
            f"{started / (run.seconds - run.startup):.2f}" if run.startup else "",
        )
    console.print(table)
    existing = options.durations
    known = durations_of(Store.open(existing)) if existing else one.durations
    print_orders(known, console)
    assert one.overhead is not None
    estimate(options, price_of_a_score(options, names[0]), one.overhead, console)


if __name__ == "__main__":
    main()
