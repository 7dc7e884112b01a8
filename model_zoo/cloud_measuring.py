"""One network on point clouds, one set of clouds, one measurement; see `measuring` for images."""

from __future__ import annotations

import hashlib
from dataclasses import fields
from pathlib import Path
from typing import Any

from liederiv.errors import LieDerivError
from liederiv.measurement.measuring import measure
from liederiv.measurement.results import Measurement, Provenance
from liederiv.points import PointCloud

from .clouds import CloudSet, load_clouds
from .measure_options import MeasureOptions
from .point_models import LoadedPointModel

__all__ = [
    "clouds_fingerprint",
    "describe_clouds",
    "measure_clouds",
    "open_clouds",
    "provenance_of_clouds",
    "refuse_image_options",
]

_ONLY_IMAGES = {
    "num_classes": None,
    "model_kwargs": (),
    "img_size": None,
    "crop_pct": None,
    "mean": None,
    "std": None,
    "interpolation": None,
}


def refuse_image_options(name: str, options: Any) -> None:
    """Say so if an option was given that means nothing to point clouds.

    Raises:
        LieDerivError: naming the option.
    """
    for option, default in _ONLY_IMAGES.items():
        if getattr(options, option) not in (default, []):
            flag = "--" + option.replace("_", "-")
            raise LieDerivError(
                f"{flag} is for models of images, but {name!r} takes point clouds; leave it out."
            )


def open_clouds(options: MeasureOptions, loaded: LoadedPointModel) -> CloudSet:
    """The clouds that a network is to be measured on.

    Args:
        options: their ``images`` are ``samples`` for clouds of the network's own task, a name of
            `CLOUD_SOURCES`, or a folder that holds the data set of the network's task; the split is
            ``test`` unless said otherwise.
        loaded: the network.
    """
    source, folder = options.images, options.data_dir
    if source == "samples":
        source = loaded.data
    elif source and Path(source).is_dir():
        source, folder = loaded.data, Path(source)
    split = options.split or "test"
    return load_clouds(source, options.num_images, split=split, data_dir=folder, seed=options.seed)


def measure_clouds(
    loaded: LoadedPointModel, model_options: Any, options: MeasureOptions
) -> tuple[Measurement, CloudSet]:
    """Measure a loaded network on the clouds it is asked for."""
    found = open_clouds(options, loaded)
    measurement = measure(
        loaded.model,
        found.clouds.to(model_options.torch_device, model_options.torch_dtype),
        options.transforms,
        options.metrics,
        scheme=options.scheme,
        output=options.representation,
        output_type=options.output_type,
        unit=options.unit,  # type: ignore[arg-type]
        batch_size=options.images_per_pass,
        seed=options.seed,
        dynamic_range=options.dynamic_range,
        margin=options.margin,
        steps=options.steps,
        image_names=found.names,
        provenance=provenance_of_clouds(loaded, found),
        progress=options.progress,
    )
    return measurement, found


def provenance_of_clouds(loaded: LoadedPointModel, found: CloudSet) -> Provenance:
    """What is known about network and clouds before anything is measured."""
    return Provenance(
        model=loaded.name,
        weights=loaded.weights,
        weights_fingerprint=loaded.weights_fingerprint,
        inputs="clouds",
        images=found.source,
        images_fingerprint=clouds_fingerprint(found.clouds),
        preprocessing={"inputs": loaded.variant.described_inputs},
    )


def clouds_fingerprint(clouds: PointCloud) -> str:
    """Sixteen hexadecimal digits that name the content and the order of the clouds."""
    digest = hashlib.sha256()
    for field in fields(clouds):
        value = getattr(clouds, field.name)
        tensors = value.items() if isinstance(value, dict) else [(field.name, value)]
        for name, tensor in tensors:
            if hasattr(tensor, "numpy"):
                digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def describe_clouds(found: CloudSet) -> str:
    """How many points there are, in words."""
    sizes = found.clouds.sizes
    low, high = int(sizes.min()), int(sizes.max())
    return f"{low} points each" if low == high else f"{low} to {high} points"
