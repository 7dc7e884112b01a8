"""What a Lie derivative of a Rapidash network costs, over points and orientations.

One run measures everything it prints, on random clouds with random weights:

* forward: the plain network, no gradients, graph construction included; points per second;
* derivative: `liederiv.lie_derivative` along translation ×3, rotation ×3 and scale, K = 7, in
  units of that forward pass; the floor of one primal and K tangents is 8;
* double-backward: the same derivatives by two reverse passes, the engine of arXiv 2210.02984, in
  units of ours.

    python benchmarks/rapidash.py [--points 64,256,1024,2048] [--orientations 0,4,8,16]
                                  [--edges knn-16] [--repeats 3] [--threads 1]

On one thread, times are CPU time, so that other work on the machine disturbs the ratios less.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from liederiv import lie_derivative
from liederiv.lie_derivatives import lie_derivative_with_output
from liederiv.model_zoo.rapidash import RapidashConfig
from liederiv.model_zoo.rapidash.inputs import RapidashInputs, RapidashOnClouds
from liederiv.points import PointCloud

GENERATORS = "translation,rotation,scale"
COUNT = 7


@dataclass(frozen=True)
class Result:
    """One line of the table.

    Attributes:
        points: in the cloud.
        orientations: of the network.
        forward: seconds of a plain forward pass.
        derivative: seconds of all Lie derivatives.
        double_backward: seconds of the same by double backward.
    """

    points: int
    orientations: int
    forward: float
    derivative: float
    double_backward: float


def now() -> float:
    """CPU time of this process on one thread, which other processes disturb less; else seconds."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def clock(f: Callable[[], Any], repeats: int) -> float:
    """Shortest of several runs after one to warm up, in seconds."""
    f()
    best = float("inf")
    for _ in range(repeats):
        start = now()
        f()
        best = min(best, now() - start)
    return best


def network(orientations: int, edges: str, hidden: int = 32, layers: int = 3) -> RapidashOnClouds:
    """A network of the size of the trained variants, SEn, velocity as vectors (or scalars)."""
    moving = ("velocity",)
    inputs = RapidashInputs((), () if orientations else moving, moving if orientations else ())
    config = RapidashConfig(
        input_dim=sum(inputs.width(3)),
        hidden_dim=hidden,
        output_dim=0 if orientations else 3,
        output_dim_vec=1 if orientations else 0,
        num_layers=layers,
        num_ori=orientations,
        edge_types=edges,
        widening_factor=2,
    )
    return RapidashOnClouds(config, inputs, "vector").eval().requires_grad_(False)


def measure_one(points: int, orientations: int, edges: str, repeats: int) -> Result:
    """Time one size."""
    torch.manual_seed(0)
    model = network(orientations, edges)
    cloud = PointCloud(torch.randn(points, 3), vectors={"velocity": torch.randn(points, 3)})

    @torch.no_grad()
    def forward() -> Any:
        return model(cloud)

    def slow() -> Any:
        return lie_derivative_with_output(model, cloud, GENERATORS, engine="double-backward")

    return Result(
        points,
        orientations,
        clock(forward, repeats),
        clock(lambda: lie_derivative(model, cloud, GENERATORS), repeats),
        clock(slow, repeats),
    )


def table(results: Sequence[Result]) -> Table:
    """Ratios, and the throughput of the plain pass."""
    out = Table(title=f"Rapidash: {COUNT} Lie derivatives, floor {COUNT + 1} forward passes")
    for name in ("points", "orientations", "points/s forward", "derivative ÷ forward"):
        out.add_column(name, justify="right")
    out.add_column("double-backward ÷ derivative", justify="right")
    for r in results:
        out.add_row(
            f"{r.points}",
            f"{r.orientations}",
            f"{r.points / r.forward:,.0f}",
            f"{r.derivative / r.forward:.1f}",
            f"{r.double_backward / r.derivative:.1f}",
        )
    return out


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--points", default="64,256,1024,2048")
    parser.add_argument("--orientations", default="0,4,8,16")
    parser.add_argument("--edges", default="knn-16", help="fc, knn-16, r-0.5")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    sizes = [int(n) for n in args.points.split(",")]
    orientations = [int(n) for n in args.orientations.split(",")]
    results = [measure_one(n, o, args.edges, args.repeats) for o in orientations for n in sizes]
    Console(width=110).print(table(results))


if __name__ == "__main__":
    main()
