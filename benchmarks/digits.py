"""Does a penalty teach equivariance? Small networks on scikit-learn's handwritten digits.

Five ways to train the same network for as many steps: plainly, with augmentation, and plainly
plus one of the losses of `liederiv.training.penalty`. All that move images move them equally far.
Reported on images that were not trained on, as mean and standard deviation over seeds: accuracy,
accuracy on rotated and on shifted images, and the local equivariance error (LEE) of the
probabilities.

    python benchmarks/digits.py [--seeds 3] [--epochs 40] [--json table.json]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from liederiv.domains import domain_of
from liederiv.draws import draw_coordinates
from liederiv.errors import LieDerivError
from liederiv.files import json_ready, write_atomically
from liederiv.measurement.measuring import measure
from liederiv.training.penalty import equivariance_penalty, multitask_loss

__all__ = [
    "AMPLITUDES",
    "METHODS",
    "NETWORKS",
    "Digits",
    "evaluate",
    "load_digits",
    "move",
    "table",
    "train",
]

TRANSFORMS = "translation,rotation"
AMPLITUDES = {"translation": 2.0, "rotation": 0.5}
"""Pixels of the 16 × 16 images, and radians (29°)."""
WEIGHT = 10.0
"""Of the penalties beside the cross entropy; probabilities differ by far less than 1."""


@dataclass(frozen=True)
class Digits:
    """Images [N, 1, 16, 16] in 0 … 1 and labels [N], to train on and to test on."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor


def load_digits(seed: int = 0, train_size: int = 1000) -> Digits:
    """The 1,797 digits of scikit-learn, 8 × 8 pixels enlarged to 16 × 16, split at random.

    Raises:
        LieDerivError: if scikit-learn is not installed.
    """
    try:
        from sklearn import datasets
    except ImportError:
        raise LieDerivError(
            "the digits come with scikit-learn, which is missing; pip install scikit-learn."
        ) from None
    data = datasets.load_digits()
    x = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    y = torch.tensor(data.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    first, rest = order[:train_size], order[train_size:]
    return Digits(x[first], y[first], x[rest], y[rest])


def cnn() -> nn.Module:
    """A convolutional network with one stride and a global average, 6,000 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip


class ViT(nn.Module):
    """A vision transformer: patches of 4 × 4 pixels, two blocks, 20,000 parameters."""

    def __init__(self, width: int = 32, depth: int = 2) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 4, stride=4)
        self.position = nn.Parameter(0.02 * torch.randn(1, 16, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, 4, 2 * width, 0.0, F.gelu, batch_first=True, norm_first=True
            )
            for _ in range(depth)
        )
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 10))

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, 10] of images [B, 1, 16, 16]."""
        z = self.patches(x).flatten(2).mT + self.position
        for block in self.blocks:
            z = block(z)
        out: Tensor = self.head(z.mean(1))
        return out


NETWORKS: dict[str, Callable[[], nn.Module]] = {"CNN": cnn, "ViT": ViT}
Loss = Callable[[nn.Module, Tensor, Tensor, torch.Generator], Tensor]


def _plain(model: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
    return F.cross_entropy(model(x), y)


def _augmented(model: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
    return F.cross_entropy(model(move(x, rng)), y)


def _penalised(method: Any) -> Loss:
    def loss(model: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        penalty = equivariance_penalty(
            model, x, TRANSFORMS, method=method, amplitudes=AMPLITUDES, rng=rng
        )
        return F.cross_entropy(model(x), y) + WEIGHT * penalty

    return loss


def _multitask(model: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
    moved = multitask_loss(model, x, y, F.cross_entropy, TRANSFORMS, amplitudes=AMPLITUDES, rng=rng)
    return F.cross_entropy(model(x), y) + moved


METHODS: dict[str, Loss] = {
    "plain": _plain,
    "augmentation": _augmented,
    "Lie penalty": _penalised("lie"),
    "finite penalty": _penalised("finite"),
    "multitask": _multitask,
}


def move(x: Tensor, rng: torch.Generator, amplitudes: dict[str, float] = AMPLITUDES) -> Tensor:
    """Images shifted and rotated at random, uniformly within ± the amplitudes."""
    domain = domain_of(x)
    action = domain.action(",".join(amplitudes), x)
    limits = [amplitudes[g.group] for g in action.generators]
    (t,) = draw_coordinates(len(x), limits, num_samples=1, rng=rng)
    moved: Tensor = domain.transform(action, t).on_input(x)
    return moved


def train(
    model: nn.Module, digits: Digits, loss: Loss, *, epochs: int = 40, seed: int = 0
) -> nn.Module:
    """Train with AdamW and a cosine schedule, in batches of 50; returns the model in eval mode."""
    rng = torch.Generator().manual_seed(seed)
    steps = epochs * (len(digits.x) // 50)
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(digits.x), generator=rng).split(50):
            optimiser.zero_grad()
            loss(model, digits.x[batch], digits.y[batch], rng).backward()
            optimiser.step()
            schedule.step()
    return model.eval()


def evaluate(model: nn.Module, digits: Digits, *, num_images: int = 200) -> dict[str, float]:
    """Accuracies (fractions) on all test images, LEE on the first ones."""
    rng = torch.Generator().manual_seed(1)  # the same moves for every network

    def accuracy(x: Tensor) -> float:
        with torch.no_grad():
            return float((model(x).argmax(1) == digits.test_y).float().mean())

    x = digits.test_x
    scores = measure(
        model, x[:num_images], TRANSFORMS, "lee,relative", output_type="probs",
        batch_size=50, verify=False, resamples=1,
    )  # fmt: skip
    return {
        "accuracy": accuracy(x),
        "accuracy_rotated": accuracy(move(x, rng, {"rotation": AMPLITUDES["rotation"]})),
        "accuracy_shifted": accuracy(move(x, rng, {"translation": AMPLITUDES["translation"]})),
        "lee_rotation": scores.get("lee", "rotation").value or float("nan"),
        "lee_translation": scores.get("lee", "translation").value or float("nan"),
        "relative_rotation": scores.get("relative_norm", "rotation").value or float("nan"),
    }


def table(
    networks: Iterable[str] = tuple(NETWORKS),
    methods: Iterable[str] = tuple(METHODS),
    *,
    seeds: int = 3,
    epochs: int = 40,
    progress: bool = True,
) -> pd.DataFrame:
    """Train and evaluate all combinations; one row per network, method and seed."""
    runs = [(n, m, s) for n in networks for m in methods for s in range(seeds)]
    rows = []
    for network, method, seed in tqdm(runs, "training", unit="network", disable=not progress):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            digits = load_digits(seed)
            model = train(NETWORKS[network](), digits, METHODS[method], epochs=epochs, seed=seed)
        rows.append({"network": network, "method": method, "seed": seed, **evaluate(model, digits)})
    return pd.DataFrame(rows)


def summary(rows: pd.DataFrame) -> str:
    """Mean ± standard deviation over seeds, as a Markdown table."""
    percent = ["accuracy", "accuracy_rotated", "accuracy_shifted"]
    lines = [
        "| network | trained | accuracy, % | rotated ±29°, % | shifted ±2 px, % | "
        "LEE rotation, prob²/rad² | LEE translation, prob²/px² | rotation ÷ noise |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (network, method), own in rows.groupby(["network", "method"], sort=False):
        cells = [f"{100 * own[c].mean():.1f} ± {100 * own[c].std(ddof=0):.1f}" for c in percent] + [
            f"{own[c].mean():.2g} ± {own[c].std(ddof=0):.1g}"
            for c in ("lee_rotation", "lee_translation", "relative_rotation")
        ]
        lines.append("| " + " | ".join([str(network), str(method), *cells]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Train everything and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="trained networks per row")
    parser.add_argument("--epochs", type=int, default=40, help="passes over the 1,000 digits")
    parser.add_argument("--json", type=Path, help="write one entry per trained network here")
    options = parser.parse_args()
    rows = table(seeds=options.seeds, epochs=options.epochs)
    print(summary(rows))
    if options.json:
        text = json.dumps(json_ready(rows.replace({np.nan: None}).to_dict("records")), indent=1)
        write_atomically(options.json, lambda p: p.write_text(text + "\n", encoding="utf-8"))


if __name__ == "__main__":
    main()
