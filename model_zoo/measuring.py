"""One model, one set of images, one measurement: what `score`, `compare` and a scan share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch

from liederiv.errors import LieDerivError
from liederiv.measurement.measuring import measure
from liederiv.measurement.results import Measurement, Provenance

from .cloud_measuring import measure_clouds, open_clouds, provenance_of_clouds
from .clouds import CloudSet
from .images import ImageSet, load_images
from .measure_options import MeasureOptions
from .measured_output import output_of, try_model
from .model_options import ModelOptions
from .point_models import LoadedPointModel
from .timm_models import LoadedModel

__all__ = [
    "DeviceBatches",
    "as_batch",
    "clusters",
    "measure_loaded",
    "open_inputs",
    "provenance_of",
    "require_scores",
]


class DeviceBatches:
    """Batches of an `ImageSet` on a device and in a dtype, with a known number of images."""

    def __init__(
        self,
        images: ImageSet,
        size: int,
        device: torch.device,
        dtype: torch.dtype,
        *,
        labelled: bool = False,
    ) -> None:
        self.images, self.size, self.device, self.dtype = images, size, device, dtype
        self.labelled = labelled
        self.num_images = len(images)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
        for x, labels in self.images.batches(self.size):
            yield x.to(self.device, self.dtype), labels if self.labelled else None


def open_inputs(
    options: MeasureOptions, loaded: LoadedModel | LoadedPointModel
) -> ImageSet | CloudSet:
    """Load what the model takes: images as it expects them, or clouds of points."""
    if isinstance(loaded, LoadedPointModel):
        return open_clouds(options, loaded)
    return _open_images(options, loaded)


def _open_images(options: MeasureOptions, loaded: LoadedModel) -> ImageSet:
    return load_images(
        options.images,
        loaded.data_config,
        options.num_images,
        options.seed,
        options.split,
        data_dir=options.data_dir,
    )


def as_batch(found: ImageSet | CloudSet, options: ModelOptions) -> Any:
    """All images [B, C, H, W], or all clouds, on the device and in the dtype asked for."""
    batch = found.clouds if isinstance(found, CloudSet) else torch.stack(found[:])
    return batch.to(options.torch_device, options.torch_dtype)


def clusters(source: str, images: ImageSet | CloudSet) -> list[str] | None:
    """Which samples are crops of the same photograph: labels for the bootstrap."""
    if isinstance(images, CloudSet):
        return None
    return [name.split("/")[0] for name in images.names] if source == "samples" else None


def measure_loaded(
    loaded: LoadedModel | LoadedPointModel, model_options: ModelOptions, options: MeasureOptions
) -> tuple[Measurement, ImageSet | CloudSet]:
    """Measure a loaded model on the images, or point clouds, it is asked for."""
    if isinstance(loaded, LoadedPointModel):
        return measure_clouds(loaded, model_options, options)
    size = options.images_per_pass
    images = _open_images(options, loaded)
    device, dtype = model_options.torch_device, model_options.torch_dtype
    model, declared = output_of(loaded, options.output_type)
    output = declared if options.representation == "auto" else options.representation
    try_model(model, images[0][None].to(device, dtype))
    # Labels count as the model's classes only where the numbers of classes agree.
    labelled = images.labels is not None and len(images.class_names) == loaded.num_classes
    step = size or (32 if device.type == "cuda" else 4)
    batches = DeviceBatches(images, step, device, dtype, labelled=labelled)
    measurement = measure(
        model,
        batches,
        options.transforms,
        options.metrics,
        scheme=options.scheme,
        output=output,
        output_type=_output_type(loaded, options.output_type),
        unit=options.unit,  # type: ignore[arg-type]
        batch_size=size,
        chunk_size=options.chunk_size,
        seed=options.seed,
        dynamic_range=options.dynamic_range,
        margin=options.margin,
        steps=options.steps,
        clusters=clusters(options.images, images),
        image_names=images.names,
        provenance=provenance_of(loaded, images),
        progress=options.progress,
    )
    return measurement, images


def require_scores(measurement: Measurement) -> None:
    """Refuse a table without any number of the model.

    Raises:
        LieDerivError: with the first row's reason.
    """
    own = [s for s in measurement.scores if s.metric != "reference"]
    if not any(s.status == "measured" for s in own):
        raise LieDerivError(next((s.reason for s in own if s.reason), "nothing was measured."))


def _output_type(loaded: LoadedModel, asked: str) -> str:
    """``auto`` must not take the pooled features of a model without classifier for logits."""
    headless = asked == "auto" and loaded.layout.is_classifier is False
    return "output" if headless else asked


def provenance_of(
    loaded: LoadedModel | LoadedPointModel, images: ImageSet | CloudSet
) -> Provenance:
    """What is known about model and images or clouds before anything is measured."""
    if isinstance(loaded, LoadedPointModel) or isinstance(images, CloudSet):
        assert isinstance(loaded, LoadedPointModel)
        assert isinstance(images, CloudSet)
        return provenance_of_clouds(loaded, images)
    notes = [*images.notes]
    if images.skipped:
        first, why = images.skipped[0]
        notes.append(f"{len(images.skipped)} files skipped (first: {first}: {why})")
    return Provenance(
        model=loaded.name,
        weights=loaded.weights,
        weights_fingerprint=loaded.weights_fingerprint,
        images=images.source,
        images_fingerprint=images.fingerprint,
        preprocessing=asdict(loaded.data_config),
        warnings=tuple(notes),
    )
