"""How fast is `lie_derivative`, next to plain forward passes and to the published algorithm?

For one model of each of five families, random weights, K = 8 generators:

* time over one plain forward pass of the same batch (fused attention, no gradient);
* that over the floor 1 + K: one primal and K tangents cannot cost less than so many passes;
* time over the double-backward algorithm of arXiv 2210.02984 (own implementation: per generator,
  the transform of the image is differentiated through bilinear sampling and the network by two
  reverse passes), and over the same fed with our tangents;
* what the witness costs, once per model: the first call less a later one, in plain forward passes
  of one image by time, and the passes themselves counted (those in float64 take longer);
* peak memory per image, from a process of its own.

All ratios come from one run; candidates take turns, and medians over the rounds are reported.

    python benchmarks/end_to_end.py [--models a,b] [--batch-size 4] [--rounds 5] [--json out.json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from tqdm import tqdm

from liederiv import forward_mode, lie_derivative, resolve_generators
from liederiv.actions import ImageAction
from liederiv.differentiation import double_backward_jvp, forget
from liederiv.generators import SpatialGenerator

MODELS = (
    "resnet18",
    "resnet50",
    "vit_small_patch16_224",
    "convnext_tiny",
    "tf_efficientnet_lite0",
)
NAMES = "translation_x,translation_y,rotation,scale,shear_x,shear_y,hyperbolic_rotation,saturation"
GENERATORS = resolve_generators(NAMES, unit="grid")
K = len(GENERATORS)


def published(model: nn.Module, x: Tensor) -> list[Tensor]:
    """One generator at a time: double backward through sampling and network, as published."""
    out = []
    with forward_mode():
        for g in GENERATORS:
            t = torch.zeros((), requires_grad=True, device=x.device)
            with torch.enable_grad():
                y = model(_sampled(g, x, t))
                u = torch.zeros_like(y, requires_grad=True)
                (pulled,) = torch.autograd.grad(y, t, u, create_graph=True)
                out.append(torch.autograd.grad(pulled, u)[0])
    return out


def _sampled(g: object, x: Tensor, t: Tensor) -> Tensor:
    """T_t x by bilinear sampling, differentiable in t."""
    if not isinstance(g, SpatialGenerator):
        return x * (1 + t)
    field = g.affine(1.0, 1.0).to(x)
    matrix = (torch.eye(2, 3, device=x.device) + t * field).expand(len(x), 2, 3)
    grid = F.affine_grid(matrix, list(x.shape), align_corners=True)
    return _bilinear(x, grid)


def _bilinear(x: Tensor, grid: Tensor) -> Tensor:
    """Bilinear sampling that can be differentiated twice (grid_sample cannot)."""
    H, W = x.shape[-2:]
    u = ((grid[..., 0] + 1) / 2 * (W - 1)).clamp(0, W - 1)
    v = ((grid[..., 1] + 1) / 2 * (H - 1)).clamp(0, H - 1)
    u0, v0 = u.detach().floor().clamp(max=W - 2), v.detach().floor().clamp(max=H - 2)
    a, b = (u - u0)[:, None], (v - v0)[:, None]
    flat = x.flatten(2)
    base = (v0 * W + u0).long().flatten(1)[:, None]

    def at(offset: int) -> Tensor:
        index = (base + offset).expand(-1, x.shape[1], -1)
        return flat.gather(2, index).unflatten(2, (H, W))

    top = at(0) * (1 - a) + at(1) * a
    bottom = at(W) * (1 - a) + at(W + 1) * a
    return top * (1 - b) + bottom * b


def double_backward(model: nn.Module, x: Tensor) -> Tensor:
    """Our tangents, all generators on one graph: the best the double-backward engine can do."""
    action = ImageAction(GENERATORS, x.shape[-2], x.shape[-1])
    with forward_mode():
        return double_backward_jvp(model, x, action.tangents(x))[1]


def candidates(model: nn.Module, x: Tensor) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""

    def forward() -> Tensor:
        with torch.no_grad():
            return model(x)

    def one_image() -> Tensor:
        with torch.no_grad():
            return model(x[:1])

    def first_call() -> Tensor:
        forget(model)
        return lie_derivative(model, x, GENERATORS)

    return {
        "forward": forward,
        "one image": one_image,
        "first call": first_call,
        "liederiv": lambda: lie_derivative(model, x, GENERATORS),
        "published": lambda: published(model, x),
        "double-backward": lambda: double_backward(model, x),
    }


def witness_passes(model: nn.Module, runs: dict[str, Callable[[], object]]) -> int:
    """Images that go through the model in a first call less those in a later one."""
    seen = 0

    def count(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal seen
        seen += len(inputs[0])

    counts = []
    with model.register_forward_pre_hook(count):
        for key in ("liederiv", "first call", "liederiv"):  # the first of them verifies the hook
            seen = 0
            runs[key]()
            counts.append(seen)
    return counts[1] - counts[2]


def timed(run: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def build(name: str, batch_size: int, device: str) -> tuple[nn.Module, Tensor]:
    """A random model of that name and a batch for it."""
    torch.manual_seed(0)
    model = timm.create_model(name).eval().requires_grad_(False).to(device)
    size = model.pretrained_cfg["input_size"]
    return model, torch.randn(batch_size, *size, device=device)


def measure_model(name: str, batch_size: int, rounds: int, device: str) -> dict[str, object]:
    """Median seconds of every candidate, and peak memory."""
    model, x = build(name, batch_size, device)
    runs = candidates(model, x)
    seconds: dict[str, list[float]] = {key: [] for key in runs}
    for run in runs.values():
        run()
    for _ in range(rounds):
        for key, run in runs.items():
            repeats = 3 if key in ("forward", "one image") else 1
            seconds[key] += [timed(run) for _ in range(repeats)]
    row: dict[str, object] = {k: statistics.median(v) for k, v in seconds.items()}
    row["witness passes"] = witness_passes(model, runs)
    row["memory"] = {key: peak_memory(name, key, batch_size) for key in ("forward", "liederiv")}
    return row


def peak_memory(name: str, key: str, batch_size: int) -> float:
    """MiB of resident memory per image beyond the loaded model, in a process of its own."""
    command = [sys.executable, __file__, "--peak", name, key, str(batch_size)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_peak(name: str, key: str, batch_size: int) -> None:
    """The child process of `peak_memory`."""
    model, x = build(name, batch_size, "cpu")
    before = _high_water()
    candidates(model, x)[key]()
    print((_high_water() - before) / 1024 / batch_size)


def _high_water() -> int:
    """Peak resident memory of this process so far, KiB (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def report(rows: dict[str, dict], batch_size: int) -> None:
    """Print ratios."""
    table = Table(
        title=f"{K} generators, batch of {batch_size}; medians of one run", box=box.SIMPLE_HEAD
    )
    for header in (
        "model",
        "forward, ms",
        "liederiv ÷ forward",
        f"÷ floor ({1 + K})",
        "published ÷ liederiv",
        "double-backward ÷ liederiv",
        "witness ÷ forward of one image (passes)",
        "MiB per image (forward)",
    ):
        table.add_column(header, justify="left" if header == "model" else "right")
    for name, r in rows.items():
        ratio = r["liederiv"] / r["forward"]
        table.add_row(
            name,
            f"{1e3 * r['forward']:.1f}",
            f"{ratio:.1f}",
            f"{ratio / (1 + K):.2f}",
            f"{r['published'] / r['liederiv']:.1f}",
            f"{r['double-backward'] / r['liederiv']:.1f}",
            f"{(r['first call'] - r['liederiv']) / r['one image']:.1f} ({r['witness passes']})",
            f"{r['memory']['liederiv']:.0f} ({r['memory']['forward']:.0f})",
        )
    Console(width=130).print(table)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak:
        print_peak(args.peak[0], args.peak[1], int(args.peak[2]))
        return
    rows = {
        name: measure_model(name, args.batch_size, args.rounds, args.device)
        for name in tqdm(args.models.split(","), unit="model")
    }
    report(rows, args.batch_size)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
