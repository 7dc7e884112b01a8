"""`liederiv compare`: the same images, two models, paired differences."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from liederiv.analysis.scan_comparison import compare_scans, summarise_differences
from liederiv.cli import options as o
from liederiv.cli.tables import comparison_tables, console, scan_tables
from liederiv.comparison import compare as compare_measurements
from liederiv.errors import LieDerivError
from liederiv.measurement import DEFAULT_TRANSFORMS
from liederiv.model_zoo.measuring import MeasureOptions, clusters, measure_loaded
from liederiv.model_zoo.model_options import ModelOptions
from liederiv.model_zoo.store import Store
from liederiv.results import write_atomically

__all__ = ["compare"]

_FILES = (".safetensors", ".pth", ".pt", ".tar", ".bin", ".ckpt")


def compare(
    a: Annotated[
        str, typer.Argument(metavar="A", help="Model, checkpoint of --model, or folder of a scan.")
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="The same.")],
    model: Annotated[
        str | None, typer.Option("--model", help="Architecture of checkpoint files A and B.")
    ] = None,
    pretrained: o.Pretrained = True,
    num_classes: o.NumClasses = None,
    model_kwargs: o.ModelKwargs = None,
    images: o.Images = "samples",
    num_images: o.NumImages = 16,
    split: o.Split = None,
    data_dir: o.DataDir = None,
    img_size: o.ImgSize = None,
    crop_pct: o.CropPct = None,
    mean: o.Mean = None,
    std: o.Std = None,
    interpolation: o.Interpolation = None,
    transforms: o.Transforms = DEFAULT_TRANSFORMS,
    scheme: o.Scheme = "bspline",
    metrics: o.Metrics = "lee,relative",
    output_type: o.OutputType = "auto",
    unit: o.Unit = "pixel",
    device: o.Device = "auto",
    dtype: o.Dtype = "float32",
    batch_size: o.BatchSize = "auto",
    seed: o.Seed = 0,
    amp: o.Amp = False,
    csv: Annotated[Path | None, typer.Option(help="Write one row per difference here.")] = None,
    quiet: o.Quiet = False,
) -> None:
    """Compare two models or checkpoints on the same images.

    Prints B − A for every score with a paired bootstrap interval over the images. Each model sees
    the photographs at its own input size and normalisation.

    Examples:  liederiv compare tf_efficientnet_lite0 tf_efficientnet_lite1

    liederiv compare before.pth after.pth --model resnet18 --num-classes 10

    liederiv compare scan1 scan2 (folders of `liederiv scan`; other options are theirs)
    """
    o.refuse_amp(amp)
    o.writable(csv)
    o.check_endings({"--csv": (csv, ".csv")})
    if all((Path(side) / "manifest.json").is_file() for side in (a, b)):
        _compare_scans(a, b, seed, csv, quiet)
        return
    how = MeasureOptions(
        images=images,
        num_images=num_images,
        split=split,
        data_dir=data_dir,
        transforms=transforms,
        scheme=scheme,
        metrics=metrics,
        output_type=output_type,
        unit=unit,
        batch_size=batch_size,
        seed=seed,
        progress=not quiet,
    )
    chosen = ModelOptions(
        pretrained=pretrained,
        num_classes=num_classes,
        model_kwargs=model_kwargs or (),
        img_size=img_size,
        crop_pct=crop_pct,
        mean=mean,
        std=std,
        interpolation=interpolation,
        seed=seed,
        device=device,
        dtype=dtype,
    )
    results = []
    for side in (a, b):
        name, checkpoint = _resolve(side, model)
        loaded = chosen.open(name, None, checkpoint)
        results.append(measure_loaded(loaded, chosen, how))
    (first, photographs), (second, _) = results
    labels = clusters(images, photographs)
    rows = compare_measurements(first, second, seed=seed, clusters=labels)
    if not rows:
        raise LieDerivError(
            f"{a!r} and {b!r} have no score in common: their outputs are of different kinds "
            "(classes, maps, features); choose one that both have with --output-type."
        )
    if csv is not None:
        frame = pd.DataFrame([asdict(row) for row in rows])
        write_atomically(csv, lambda path: frame.to_csv(path, index=False))
    if not quiet:
        out = console()
        for item in comparison_tables(rows, a, b):
            out.print(item)
        for note in dict.fromkeys(first.provenance.warnings + second.provenance.warnings):
            out.print(f"Note: {note}")


def _compare_scans(a: str, b: str, seed: int, csv: Path | None, quiet: bool) -> None:
    first, second = (Store.open(side).read("score") for side in (a, b))
    differences = compare_scans(first, second, seed=seed)
    if csv is not None:
        write_atomically(csv, lambda path: differences.to_csv(path, index=False))
    if not quiet:
        for item in scan_tables(differences, summarise_differences(differences), a, b):
            console().print(item)


def _resolve(side: str, model: str | None) -> tuple[str, Path | None]:
    """A side of the comparison as model name and checkpoint file."""
    if not side.endswith(_FILES):
        return side, None
    if model is None:
        raise LieDerivError(
            f"{side!r} is a checkpoint file; say which architecture it holds with --model NAME."
        )
    return model, Path(side)
