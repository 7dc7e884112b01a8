"""One model, some inputs, one measurement: what `score`, `compare` and a scan share."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from liederiv.errors import LieDerivError, ModelError
from liederiv.foreign import printable
from liederiv.foreign_code import users_code
from liederiv.measurement.measuring import measure
from liederiv.measurement.results import Measurement, Provenance

from ..inputs.base import Asked, Inputs
from ..inputs.kinds import inputs_of_kind
from ..sources.loaded import Loaded
from .measure_options import MeasureOptions
from .model_options import ModelOptions

__all__ = [
    "as_batch",
    "measure_loaded",
    "open_inputs",
    "provenance_of",
    "require_scores",
    "try_model",
]


def open_inputs(options: MeasureOptions, loaded: Loaded) -> Inputs:
    """Load what the model takes, as it expects it."""
    o = options
    asked = Asked(o.images, o.num_images, o.split, o.data_dir, o.seed)
    found = inputs_of_kind(loaded.kind).open(asked, loaded.expects)
    return found.photographed() if o.scheme == "camera" else found


def as_batch(found: Inputs, options: ModelOptions) -> Any:
    """All inputs as one batch, on the device and in the dtype asked for."""
    return found.batch(options.torch_device, options.torch_dtype)


def try_model(model: nn.Module, x: Any) -> object:
    """The output for one input, or some; an error of the model itself becomes one line.

    Raises:
        ModelError: naming what the model raised.
    """
    try:
        with torch.no_grad(), users_code("the model"):
            return model(x)
    except LieDerivError:
        raise
    except Exception as error:  # a model may raise anything
        reason = (printable(error).strip().splitlines() or ["no message"])[0].rstrip(".")
        what = f"images of shape {list(x.shape[1:])}" if isinstance(x, torch.Tensor) else repr(x)
        raise ModelError(
            f"the model fails on {what}: {type(error).__name__}: {reason}; check --img-size and "
            "--model-kwargs, or the model's own code."
        ) from error


def measure_loaded(
    loaded: Loaded, model_options: ModelOptions, options: MeasureOptions
) -> tuple[Measurement, Inputs]:
    """Measure a loaded model on the inputs that it is asked for."""
    size = options.images_per_pass
    found = open_inputs(options, loaded)
    device, dtype = model_options.torch_device, model_options.torch_dtype
    target = loaded.target(options.output_type, options.representation)
    try_model(target.model, found.first(device, dtype))
    # Labels count as the model's classes only where the numbers of classes agree.
    labelled = found.labels is not None and len(found.class_names) == loaded.classes
    measurement = measure(
        target.model,
        found.feed(device, dtype, size, labelled),
        options.transforms,
        options.metrics,
        scheme=found.scheme(options.scheme),
        output=target.representation,
        output_type=target.output_type,
        unit=options.unit,  # type: ignore[arg-type]
        batch_size=size,
        chunk_size=options.chunk_size,
        seed=options.seed,
        dynamic_range=options.dynamic_range,
        margin=options.margin,
        steps=options.steps,
        clusters=found.clusters,
        image_names=found.names,
        provenance=provenance_of(loaded, found),
        progress=options.progress,
    )
    return measurement, found


def require_scores(measurement: Measurement) -> None:
    """Refuse a table without any number of the model.

    Raises:
        LieDerivError: with the first row's reason.
    """
    own = [s for s in measurement.scores if s.metric != "reference"]
    if not any(s.status == "measured" for s in own):
        raise LieDerivError(next((s.reason for s in own if s.reason), "nothing was measured."))


def provenance_of(loaded: Loaded, found: Inputs) -> Provenance:
    """What is known about model and inputs before anything is measured."""
    notes = [*found.notes]
    if found.skipped:
        first, why = found.skipped[0]
        notes.append(f"{len(found.skipped)} files skipped (first: {first}: {why})")
    return Provenance(
        model=loaded.name,
        weights=loaded.weights,
        weights_fingerprint=loaded.weights_fingerprint,
        inputs=found.kind,
        images=found.source,
        images_fingerprint=found.fingerprint,
        preprocessing=loaded.preprocessing,
        warnings=tuple(notes),
    )
