"""Train the Rapidash variants that ship with liederiv.

``python benchmarks/train_rapidash.py`` writes, for each variant, ``NAME.safetensors`` and
``NAME.json`` (settings, errors, baselines) into a folder; a run that was interrupted goes on where
it stopped.
"""

from __future__ import annotations

import fnmatch
import json
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rapidash_study.training import TrainingSettings, mean_squared_error, target_of, train
from safetensors.torch import load_file, save_file
from torch import Tensor

from liederiv._version import __version__
from liederiv.errors import LieDerivError, ModelError
from liederiv.files import write_atomically
from liederiv.model_zoo.inputs.nbody_data import (
    BURN_IN,
    DT,
    HORIZON,
    SPLITS,
    NBodyData,
    nbody_data,
    random_rotations,
)
from liederiv.model_zoo.rapidash.variants import VARIANTS, Variant

__all__ = ["baselines", "main"]

ROTATIONS_SEED = 7  # of the rotations of the test set


def main(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Variants, or patterns such as 'rapidash_sen_*'; all if none."),
    ] = None,
    output: Annotated[
        Path, typer.Option(help="Folder for data, checkpoints, weights and records.")
    ] = Path("rapidash_training"),
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the 3000 training systems.")] = 60,
    seed: Annotated[int, typer.Option(help="Of initial weights, order and rotations.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="Processor cores to use.")] = 1,
    systems: Annotated[
        int | None, typer.Option(min=1, help="Only so many systems per split, for a trial run.")
    ] = None,
    collect: Annotated[
        Path | None,
        typer.Option(help="Copy all finished weights and one record.json to this folder."),
    ] = None,
) -> None:
    """Train Rapidash variants on the charged N-body system.

    Simulates the data on first use (about a minute). With the defaults, a variant on R³ takes half
    a minute and one on R³ × S² two minutes on one core. What is finished is not trained
    again; what was interrupted goes on from its last checkpoint. The same seed gives the same
    weights on the same machine.
    """
    try:
        chosen = _chosen(names or ["*"])
        output.mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(threads)
        data = _data(output, systems)
        settings = TrainingSettings(epochs=epochs, seed=seed)
        for variant in chosen:
            _train_one(variant, data, settings, output)
        if collect is not None:
            _collect(output, collect)
    except LieDerivError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error


def _chosen(patterns: list[str]) -> list[Variant]:
    chosen: dict[str, Variant] = {}
    for pattern in patterns:
        found = {n: v for n, v in VARIANTS.items() if fnmatch.fnmatchcase(n, pattern)}
        if not found:
            raise ModelError(f"`names` {pattern!r} fits none of {', '.join(VARIANTS)}.")
        chosen |= found
    return list(chosen.values())


def _data(folder: Path, systems: int | None) -> dict[str, NBodyData]:
    """The three splits in float32, from the folder or newly simulated."""
    found = {}
    for split, (usual, _) in SPLITS.items():
        path = folder / f"nbody_{split}_{systems or usual}.safetensors"
        if not path.exists():
            new = nbody_data(split, systems, progress=True)
            content = {k: getattr(new, k).contiguous() for k in new.__dataclass_fields__}
            write_atomically(path, lambda p, c=content: save_file(c, p))  # type: ignore[misc]
        found[split] = NBodyData(**load_file(path)).to(torch.float32)
    return found


def _train_one(
    variant: Variant, data: dict[str, NBodyData], settings: TrainingSettings, folder: Path
) -> None:
    record_path = folder / f"{variant.name}.json"
    if record_path.exists():
        typer.echo(f"{variant.name} is finished: {record_path}")
        return
    checkpoint = folder / f"{variant.name}.checkpoint.pt"
    model, history = train(variant, data, settings, checkpoint)
    weights = {k: v.contiguous() for k, v in model.net.state_dict().items()}
    write_atomically(
        folder / f"{variant.name}.safetensors", lambda p: save_file(weights, p, _NO_CODE)
    )
    record = _record(variant, data, settings, history, model)
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    write_atomically(record_path, lambda p: p.write_text(text, encoding="utf-8"))
    checkpoint.unlink(missing_ok=True)
    test = record["test"]
    typer.echo(
        f"{variant.name}: test error {test['aligned']:.4f} aligned, {test['rotated']:.4f} rotated "
        f"(linear motion {record['baselines']['linear']:.4f}), in length²"
    )


_NO_CODE = {"format": "pt"}


def baselines(variant: Variant, data: NBodyData) -> dict[str, float]:
    """Errors of guesses that know no forces, in length².

    Returns:
        "still": nothing moves; "linear": everything keeps its velocity; "fitted linear": it moves
        by the best multiple of its velocity.
    """

    def error(motion: Tensor) -> float:
        guess = motion if variant.output == "vector" else motion.norm(dim=-1, keepdim=True)
        return float((guess - target_of(variant, data)).double().square().mean())

    time = HORIZON * DT
    best = (data.velocity * data.target).sum() / data.velocity.square().sum()
    return {
        "still": error(0 * data.velocity),
        "linear": error(time * data.velocity),
        "fitted linear": error(best * data.velocity),
    }


def _collect(source: Path, target: Path) -> None:
    """Gather what ships with liederiv: weights, and the records of all variants in one file."""
    target.mkdir(parents=True, exist_ok=True)
    records = []
    for name in VARIANTS:
        path = source / f"{name}.json"
        if path.exists():
            records.append(json.loads(path.read_text(encoding="utf-8")))
            weights = (source / f"{name}.safetensors").read_bytes()
            write_atomically(target / f"{name}.safetensors", lambda p, w=weights: p.write_bytes(w))  # type: ignore[misc]
    text = json.dumps(records, indent=1, ensure_ascii=False) + "\n"
    write_atomically(target / "record.json", lambda p: p.write_text(text, encoding="utf-8"))
    typer.echo(f"{len(records)} variants in {target}")


def _record(
    variant: Variant,
    data: dict[str, NBodyData],
    settings: TrainingSettings,
    history: dict[str, Any],
    model: torch.nn.Module,
) -> dict[str, Any]:
    test = data["test"]
    turned = test.rotated(random_rotations(len(test), ROTATIONS_SEED))
    return {
        "name": variant.name,
        "config": asdict(variant.config),
        "inputs": asdict(variant.inputs),
        "output": variant.output,
        "augment": variant.augment,
        "data": {
            "systems": {split: len(part) for split, part in data.items()},
            "seeds": {split: seed for split, (_, seed) in SPLITS.items()},
            "particles": test.pos.shape[1],
            "burn_in_steps": BURN_IN,
            "horizon_steps": HORIZON,
            "step": DT,
            "aligned": "principal axes of the input positions",
        },
        "settings": asdict(settings),
        "history": history,
        "test": {
            "aligned": mean_squared_error(variant, model, test),  # type: ignore[arg-type]
            "rotated": mean_squared_error(variant, model, turned),  # type: ignore[arg-type]
        },
        "baselines": baselines(variant, test),
        "unit": "length² per component",
        "command": f"python benchmarks/train_rapidash.py {variant.name} "
        f"--epochs {settings.epochs} --seed {settings.seed}",
        "versions": {
            "liederiv": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }


if __name__ == "__main__":
    typer.run(main)
