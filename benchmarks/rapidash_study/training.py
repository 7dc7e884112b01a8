"""Train a variant on the charged N-body system: seeded, resumable, on one core in minutes."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from liederiv.errors import ModelError
from liederiv.files import write_atomically
from liederiv.model_zoo.inputs.nbody_data import NBodyData, random_rotations
from liederiv.model_zoo.rapidash.inputs import RapidashOnClouds
from liederiv.model_zoo.rapidash.variants import Variant

__all__ = ["TrainingSettings", "mean_squared_error", "predict", "target_of", "train"]


@dataclass(frozen=True)
class TrainingSettings:
    """How a variant is trained.

    Attributes:
        epochs: passes over the training systems.
        batch_size: systems per step.
        learning_rate: highest value; it rises over the first tenth and falls as a cosine to 0.
        weight_decay: of AdamW.
        clip: largest norm of the gradient.
        seed: of initial weights, order of the systems and random rotations.
    """

    epochs: int = 60
    batch_size: int = 100
    learning_rate: float = 4e-3
    weight_decay: float = 1e-5
    clip: float = 1.0
    seed: int = 0


def target_of(variant: Variant, data: NBodyData) -> Tensor:
    """What the variant predicts: displacements [S, n, 3] or distances [S, n, 1]."""
    return data.target if variant.output == "vector" else data.target.norm(dim=-1, keepdim=True)


def predict(model: RapidashOnClouds, data: NBodyData) -> Tensor:
    """Outputs for S systems, [S, n, …]."""
    systems, n = data.pos.shape[:2]
    batch = torch.arange(systems).repeat_interleave(n)
    velocity = data.velocity.reshape(-1, 1, 3)
    pose = data.pose[:, None].expand(-1, n, -1, -1).reshape(-1, 3, 3)
    scalars = {"charge": data.charge.reshape(-1, 1), "speed": velocity.norm(dim=-1)}
    vectors = {"velocity": velocity, "pose": pose}
    out = model.run(data.pos.reshape(-1, 3), batch, scalars, vectors, systems)
    return out.reshape(systems, n, -1)


@torch.no_grad()
def mean_squared_error(
    variant: Variant, model: RapidashOnClouds, data: NBodyData, chunk: int = 500
) -> float:
    """Mean over particles and components of the squared error, in units of length²."""
    total = torch.zeros((), dtype=torch.float64)
    for start in range(0, len(data), chunk):
        part = data[start : start + chunk]
        error = predict(model, part) - target_of(variant, part)
        total += error.double().square().mean() * len(part)
    return float(total) / len(data)


def train(
    variant: Variant,
    data: dict[str, NBodyData],
    settings: TrainingSettings,
    checkpoint: Path | None = None,
    progress: bool = True,
) -> tuple[RapidashOnClouds, dict[str, Any]]:
    """Train one variant, from the beginning or from where its checkpoint stopped.

    Args:
        variant: which.
        data: "train" and "val", float32.
        settings: how.
        checkpoint: file that is written after every tenth epoch and read at the start; what is in
            it must come from the same variant and settings.
        progress: show a progress bar.

    Returns:
        The model in evaluation mode, and the history: "epoch", "train" and "val" errors, and
        "seconds" of training.

    Raises:
        ModelError: if the checkpoint belongs to another variant or other settings.
    """
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(settings.seed)
        model = variant.build()
    systems = len(data["train"])
    steps = math.ceil(systems / settings.batch_size)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _warm_cosine(settings.epochs * steps))
    history: dict[str, Any] = {"epoch": [], "train": [], "val": [], "seconds": 0.0}
    first = _resume(checkpoint, variant, settings, model, optimizer, schedule, history)
    if first == 0:
        with torch.no_grad(), model.net.calibrating():
            predict(model, data["train"][: settings.batch_size])
    bar = tqdm(range(first, settings.epochs), desc=variant.name, unit="epoch", disable=not progress)
    for epoch in bar:
        began = time.perf_counter()
        error = _epoch(variant, model, data["train"], settings, epoch, optimizer, schedule)
        history["seconds"] += time.perf_counter() - began
        if (epoch + 1) % 10 == 0 or epoch + 1 == settings.epochs:
            val = mean_squared_error(variant, model.eval(), data["val"])
            for key, value in (("epoch", epoch + 1), ("train", error), ("val", val)):
                history[key].append(value)
            bar.set_postfix(train=f"{error:.4f}", val=f"{val:.4f}")
            _save(checkpoint, variant, settings, epoch + 1, model, optimizer, schedule, history)
    return model.eval(), history


def _warm_cosine(total: int) -> Callable[[int], float]:
    warm = max(1, total // 10)

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))

    return factor


def _epoch(
    variant: Variant,
    model: RapidashOnClouds,
    data: NBodyData,
    settings: TrainingSettings,
    epoch: int,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
) -> float:
    """One pass over the data; its randomness depends on the seed and the epoch alone."""
    seed = 1_000_003 * settings.seed + epoch
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    turned = data[order]
    if variant.augment:
        turned = turned.rotated(random_rotations(len(data), seed))
    model.train()
    total = 0.0
    for start in range(0, len(data), settings.batch_size):
        part = turned[start : start + settings.batch_size]
        loss = (predict(model, part) - target_of(variant, part)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimizer.step()
        schedule.step()
        total += loss.item() * len(part)
    return total / len(data)


def _identity(variant: Variant, settings: TrainingSettings) -> str:
    return json.dumps({"variant": asdict(variant), "settings": asdict(settings)}, sort_keys=True)


def _save(
    path: Path | None,
    variant: Variant,
    settings: TrainingSettings,
    epoch: int,
    model: RapidashOnClouds,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
    history: dict[str, Any],
) -> None:
    if path is None:
        return
    content = {
        "identity": _identity(variant, settings),
        "epoch": epoch,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "history": history,
    }
    write_atomically(path, lambda temporary: torch.save(content, temporary))


def _resume(
    path: Path | None,
    variant: Variant,
    settings: TrainingSettings,
    model: RapidashOnClouds,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
    history: dict[str, Any],
) -> int:
    """Epochs that are done."""
    if path is None or not path.exists():
        return 0
    content = torch.load(path, weights_only=True)
    if content["identity"] != _identity(variant, settings):
        raise ModelError(
            f"{str(path)!r} was written for another variant or other settings; remove it or "
            "choose another folder."
        )
    model.load_state_dict(content["model"])
    optimizer.load_state_dict(content["optimizer"])
    schedule.load_state_dict(content["schedule"])
    history.update(content["history"])
    return int(content["epoch"])
