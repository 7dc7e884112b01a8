"""Does a penalty teach equivariance? Small networks on scikit-learn's handwritten digits.

The same network, trained for as many steps plainly, with augmentation, and plainly plus one of the
losses of `liederiv.training.penalty`. All that move images move them equally far. Each penalty has
the weight of a small grid that does best on images set aside for that choice. Reported on others,
as mean and standard deviation over seeds: accuracy, accuracy on rotated and on shifted images, and,
of the probabilities, the local equivariance error (LEE), the same over a motion of the size of
those, and the reach of the derivative.

    python benchmarks/digits.py [--seeds 3] [--epochs 20] [--json table.json]
    python benchmarks/digits.py --choose --seeds 1  (the weights)
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from digits_data import NETWORKS, Digits, load_digits
from torch import Tensor, nn
from tqdm import tqdm

from liederiv.domains import domain_of
from liederiv.draws import draw_coordinates
from liederiv.files import json_ready, write_atomically
from liederiv.measurement.measuring import measure
from liederiv.steps import base_name
from liederiv.training.penalty import equivariance_penalty, multitask_loss

__all__ = [
    "AMPLITUDES",
    "METHODS",
    "NETWORKS",
    "WEIGHTS",
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
STEP = "translation=2px;rotation=0.5rad"
"""As large as the largest motion: from −1 to 1 pixel, from −14 to 14 degrees."""
GRID = (1.0, 10.0, 100.0)
"""Weights of the penalties beside the cross entropy, to choose from."""
WEIGHTS = {
    ("CNN", "Lie penalty"): 100.0,
    ("CNN", "step penalty"): 100.0,
    ("CNN", "finite penalty"): 100.0,
    ("ViT", "Lie penalty"): 10.0,
    ("ViT", "step penalty"): 10.0,
    ("ViT", "finite penalty"): 100.0,
}
"""What `choose` found, by network and method."""

Loss = Callable[[nn.Module, Tensor, Tensor, torch.Generator, float], Tensor]
"""Of a model, images, labels, a source of randomness and the weight of a penalty."""


def _plain(model: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator, weight: float) -> Tensor:
    return F.cross_entropy(model(x), y)


def _augmented(
    model: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator, weight: float
) -> Tensor:
    return F.cross_entropy(model(move(x, rng)), y)


def _penalised(**how: Any) -> Loss:
    def loss(model: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator, weight: float) -> Tensor:
        penalty = equivariance_penalty(model, x, TRANSFORMS, amplitudes=AMPLITUDES, rng=rng, **how)
        return F.cross_entropy(model(x), y) + weight * penalty

    return loss


def _multitask(
    model: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator, weight: float
) -> Tensor:
    moved = multitask_loss(model, x, y, F.cross_entropy, TRANSFORMS, amplitudes=AMPLITUDES, rng=rng)
    return F.cross_entropy(model(x), y) + moved


PENALTIES: dict[str, Loss] = {
    "Lie penalty": _penalised(),
    "step penalty": _penalised(step=STEP),
    "finite penalty": _penalised(method="finite"),
}
METHODS: dict[str, Loss] = {
    "plain": _plain,
    **PENALTIES,
    "augmentation": _augmented,
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
    model: nn.Module,
    digits: Digits,
    loss: Loss,
    *,
    weight: float = 10.0,
    epochs: int = 20,
    seed: int = 0,
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
            loss(model, digits.x[batch], digits.y[batch], rng, weight).backward()
            optimiser.step()
            schedule.step()
    return model.eval()


def accuracies(model: nn.Module, digits: Digits) -> dict[str, float]:
    """Fractions of all test images, as they are, rotated and shifted."""
    rng = torch.Generator().manual_seed(1)  # the same moves for every network

    def accuracy(x: Tensor) -> float:
        with torch.no_grad():
            return float((model(x).argmax(1) == digits.test_y).float().mean())

    x = digits.test_x
    return {
        "accuracy": accuracy(x),
        "accuracy_rotated": accuracy(move(x, rng, {"rotation": AMPLITUDES["rotation"]})),
        "accuracy_shifted": accuracy(move(x, rng, {"translation": AMPLITUDES["translation"]})),
    }


def evaluate(model: nn.Module, digits: Digits, *, num_images: int = 200) -> dict[str, Any]:
    """Accuracies on all test images; on the first ones LEE, at the step of the motions, and reach.

    A reach beyond the largest step, or below the smallest, is its status.
    """
    scores = measure(
        model, digits.test_x[:num_images], TRANSFORMS, "lee,relative,lee_step,reach",
        output_type="probs", steps=STEP, batch_size=50,
        verify=False, resamples=1,
    )  # fmt: skip

    def value(metric: str, name: str) -> Any:
        score = scores.get(metric, name)
        if metric == "reach" and score.value is None:
            return score.status
        return float("nan") if score.value is None else score.value

    rows = [s.transform for s in scores.scores if s.metric == "lee_step"]
    steps = {base_name(row): row for row in rows}
    found = accuracies(model, digits)
    for name in ("rotation", "translation"):
        found[f"lee_{name}"] = value("lee", name)
        found[f"lee_step_{name}"] = value("lee_step", steps[name])
        found[f"reach_{name}"] = value("reach", name)
    return {**found, "relative_rotation": value("relative_norm", "rotation")}


def _trained(
    network: str, method: str, seed: int, epochs: int, weight: float, *, choosing: bool = False
) -> tuple[nn.Module, Digits]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        digits, model = load_digits(seed, choosing=choosing), NETWORKS[network]()
        loss = METHODS[method]
        return train(model, digits, loss, weight=weight, epochs=epochs, seed=seed), digits


def choose(
    networks: Iterable[str] = tuple(NETWORKS),
    methods: Iterable[str] = tuple(PENALTIES),
    *,
    weights: Iterable[float] = GRID,
    seeds: int = 1,
    epochs: int = 20,
    progress: bool = True,
) -> pd.DataFrame:
    """Accuracies for each weight on the images set aside; mean is over still, rotated, shifted."""
    runs = [(n, m, w) for n in networks for m in methods for w in weights]
    rows = []
    for network, method, weight in tqdm(runs, "weights", unit="weight", disable=not progress):
        trained = [
            _trained(network, method, seed, epochs, weight, choosing=True) for seed in range(seeds)
        ]
        own = pd.DataFrame([accuracies(*one) for one in trained]).mean()
        row = {"network": network, "method": method, "weight": weight, **own.to_dict()}
        rows.append({**row, "mean": own.mean()})
    return pd.DataFrame(rows)


def table(
    networks: Iterable[str] = tuple(NETWORKS),
    methods: Iterable[str] = tuple(METHODS),
    *,
    seeds: int = 3,
    epochs: int = 20,
    progress: bool = True,
) -> pd.DataFrame:
    """Train and evaluate all combinations; one row per network, method and seed."""
    runs = [(n, m, s) for n in networks for m in methods for s in range(seeds)]
    rows = []
    for network, method, seed in tqdm(runs, "training", unit="network", disable=not progress):
        weight = WEIGHTS.get((network, method), 10.0)
        model, digits = _trained(network, method, seed, epochs, weight)
        row = {"network": network, "method": method, "seed": seed}
        row |= {"weight": weight} if method in PENALTIES else {}
        rows.append({**row, **evaluate(model, digits)})
    return pd.DataFrame(rows)


def _reach(values: pd.Series[Any]) -> str:
    """Mean ± standard deviation, and the first word of what is said instead of a number."""
    numbers = [v for v in values if not isinstance(v, str)]
    said = {v: sum(v == other for other in values) for v in values if isinstance(v, str)}
    spread = f" ± {np.std(numbers):.1g}" if len(numbers) > 1 else ""
    parts = [f"{np.mean(numbers):.2g}{spread}"] if numbers else []
    parts += [f"{text.split()[0]} ({n} of {len(values)})" for text, n in said.items()]
    return ", ".join(parts)


def summary(rows: pd.DataFrame) -> str:
    """Mean ± standard deviation over seeds, as a Markdown table."""
    percent = ["accuracy", "accuracy_rotated", "accuracy_shifted"]
    lines = [
        "| network | trained | weight | accuracy, % | rotated ±29°, % | shifted ±2 px, % | "
        "LEE rotation, prob²/rad² | LEE(29°) | reach of rotation, ° | "
        "LEE translation, prob²/px² | LEE(2 px) | reach of translation, px |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (network, method), own in rows.groupby(["network", "method"], sort=False):
        weight = own["weight"].iloc[0] if "weight" in own else math.nan
        cells = ["" if math.isnan(weight) else f"{weight:g}"]
        cells += [f"{100 * own[c].mean():.1f} ± {100 * own[c].std(ddof=0):.1f}" for c in percent]
        for name in ("rotation", "translation"):
            sizes = [own[c] for c in (f"lee_{name}", f"lee_step_{name}")]
            cells += [f"{v.mean():.2g} ± {v.std(ddof=0):.1g}" for v in sizes]
            cells.append(_reach(own[f"reach_{name}"]))
        lines.append("| " + " | ".join([str(network), str(method), *cells]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Train everything and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="trained networks per row")
    parser.add_argument("--epochs", type=int, default=20, help="passes over the 1,000 digits")
    parser.add_argument("--networks", default=",".join(NETWORKS), help="default: all")
    parser.add_argument("--choose", action="store_true", help="try the weights of the penalties")
    parser.add_argument("--json", type=Path, help="write one entry per trained network here")
    options = parser.parse_args()
    networks = options.networks.split(",")
    if options.choose:
        rows = choose(networks, seeds=options.seeds, epochs=options.epochs)
        print(rows.round(4).to_string(index=False))
    else:
        rows = table(networks, seeds=options.seeds, epochs=options.epochs)
        print(summary(rows))
    if options.json:
        text = json.dumps(json_ready(rows.replace({np.nan: None}).to_dict("records")), indent=1)
        write_atomically(options.json, lambda p: p.write_text(text + "\n", encoding="utf-8"))


if __name__ == "__main__":
    main()
