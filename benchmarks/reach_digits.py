"""What shortens the reach? Small networks on handwritten digits, one thing changed at a time.

A CNN of three convolutions with ReLU and one stride of 2, and a vision transformer, trained anew
for each variant and seed on scikit-learn's digits (1,000 images of 16 × 16 pixels, as in
benchmarks/digits.py), measured on 64 others: reach of the logits along translations and
rotations, LEE(h)/LEE at 1 px, accuracy on 797. Beside it stands the ratio of the reach to that of
the first of its kind, seeds in pairs: geometric mean and 95 % t interval over seeds.

    python benchmarks/reach_digits.py [--seeds 5] [--epochs 12] [--json out.json]
    python benchmarks/reach_digits.py --read out.json
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from digits_data import Digits, ViT, load_digits
from rich import box
from rich.console import Console
from rich.table import Table
from scipy import stats
from torch import nn

from liederiv import measure
from liederiv.analysis.aliasing.interventions import intervene, repairable

STEPS = "rotation=64deg"  # beside the usual ones, which end at 32°
Row = dict[str, Any]


def cnn(
    activation: Callable[[], nn.Module] = nn.ReLU,
    strides: tuple[int, ...] = (1, 2, 1),
    repair: tuple[str, ...] = (),
) -> nn.Module:
    """Convolutions of these strides, each with batch norm and activation, 16 to 32 channels wide.

    Args:
        activation: makes one.
        strides: of the convolutions.
        repair: names of `liederiv.analysis.aliasing.repairs`, built in before the training.
    """
    layers: list[nn.Module] = []
    width = 1
    for i, stride in enumerate(strides):
        wide = 32 if i else 16
        layers += [nn.Conv2d(width, wide, 3, stride, 1), nn.BatchNorm2d(wide), activation()]
        width = wide
    net: nn.Module = nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, 10)
    )
    if repair:
        x = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
        names = [name for name, _ in net.named_modules()]
        found = list(repairable(net.eval(), names, repair, x))
        net = intervene(net, found, repair, example=x)
    return net


class FinePatches(ViT):
    """The transformer with patches of 2 × 2 pixels."""

    def __init__(self) -> None:
        super().__init__()
        width = self.position.shape[-1]
        self.patches = nn.Conv2d(1, width, 2, stride=2)
        self.position = nn.Parameter(0.02 * torch.randn(1, 64, width))


CNN, TRANSFORMER = "CNN", "transformer"
VARIANTS: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "CNN: 3 convolutions, ReLU, one stride of 2": (CNN, cnn),
    "GELU": (CNN, lambda: cnn(nn.GELU)),
    "9 convolutions": (CNN, lambda: cnn(strides=(1, 2, *[1] * 7))),
    "no stride": (CNN, lambda: cnn(strides=(1, 1, 1))),
    "three strides of 2": (CNN, lambda: cnn(strides=(2, 2, 2))),
    "low-pass before the stride": (CNN, lambda: cnn(repair=("low_pass",))),
    "the same, alias-free ReLU": (CNN, lambda: cnn(repair=("alias_free", "low_pass"))),
    "transformer: 2 blocks, patches of 4 × 4": (TRANSFORMER, ViT),
    "8 blocks": (TRANSFORMER, lambda: ViT(depth=8)),
    "patches of 2 × 2": (TRANSFORMER, FinePatches),
}


def trained(build: Callable[[], nn.Module], digits: Digits, epochs: int, seed: int) -> nn.Module:
    """A network after so many epochs; equal seeds see equal batches."""
    torch.manual_seed(seed)
    model = build().train()
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3)
    source = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for batch in torch.randperm(len(digits.x), generator=source).split(50):
            optimiser.zero_grad()
            F.cross_entropy(model(digits.x[batch]), digits.y[batch]).backward()
            optimiser.step()
    return model.eval()


def row(name: str, seed: int, epochs: int, images: int) -> Row:
    """Train one network and measure it."""
    kind, build = VARIANTS[name]
    digits = load_digits(seed=0)
    model = trained(build, digits, epochs, seed)
    with torch.no_grad():
        right = (model(digits.test_x).argmax(1) == digits.test_y).float().mean()
    found = measure(
        model, digits.test_x[:images], "translation_x,rotation", "lee,reach,lee_step,lee_share",
        steps=STEPS, output="invariant", output_type="logits", resamples=200,
    )  # fmt: skip
    reaches = {t: found.get("reach", t, "logits") for t in ("translation_x", "rotation")}
    return {
        "network": name,
        "kind": kind,
        "seed": seed,
        "accuracy": float(right),
        "reach": {t: s.value for t, s in reaches.items()},
        "status": {t: s.status for t, s in reaches.items()},
        "share": found.get("lee_share", "translation_x@1px", "logits").value,
    }


def _interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean and 95 % t interval."""
    mean, n = float(values.mean()), len(values)
    if n < 2:
        return mean, math.nan, math.nan
    half = float(stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / n**0.5)
    return mean, mean - half, mean + half


def _cells(rows: list[Row], first: list[Row], transform: str) -> list[str]:
    """The reach, and its ratio to that of the first of the kind."""
    logs = [[r["reach"][transform] for r in some] for some in (rows, first)]
    if None in logs[0]:
        return [f"{sum(v is None for v in logs[0])} of {len(rows)} beyond", ""]
    own = np.log(np.array(logs[0]))
    text = "{:.3g} [{:.3g}, {:.3g}]".format(*np.exp(_interval(own)))
    if rows is first or None in logs[1]:
        return [text, "" if rows is not first else "1"]
    ratio = np.exp(_interval(own - np.log(np.array(logs[1]))))
    return [text, "{:.2f} [{:.2f}, {:.2f}]".format(*ratio)]


def report(rows: list[Row]) -> None:
    """Print the table."""
    table = Table("network", box=box.SIMPLE_HEAD)
    for title in ("accuracy", "share at 1 px", "reach, px", "ratio", "reach, degrees", "ratio"):
        table.add_column(title, justify="right")
    for name in dict.fromkeys(r["network"] for r in rows):
        own = [r for r in rows if r["network"] == name]
        start = next(r["network"] for r in rows if r["kind"] == own[0]["kind"])
        first = own if start == name else [r for r in rows if r["network"] == start]
        accuracy, share = (float(np.mean([r[key] for r in own])) for key in ("accuracy", "share"))
        cells = [c for t in ("translation_x", "rotation") for c in _cells(own, first, t)]
        table.add_row(name, f"{accuracy:.1%}", f"{share:.2f}", *cells)
    Console(width=160).print(table)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--num-images", type=int, default=64)
    parser.add_argument(
        "--variants", type=int, default=len(VARIANTS), help="only the first so many"
    )
    parser.add_argument("--read", type=Path, nargs="*", help="files of --json, not measured again")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    if given.read:
        report([row for path in given.read for row in json.loads(path.read_text())])
        return
    torch.set_num_threads(1)  # the images are tiny
    rows: list[Row] = []
    for seed in range(given.first_seed, given.first_seed + given.seeds):
        for name in list(VARIANTS)[: given.variants]:
            rows += [row(name, seed, given.epochs, given.num_images)]
            if given.json:
                given.json.write_text(json.dumps(rows, indent=1))
    report(rows)


if __name__ == "__main__":
    main()
