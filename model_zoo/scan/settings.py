"""What a scan measures and how: plain data that names itself, travels and is written down."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from liederiv._version import __version__
from liederiv.errors import LieDerivError
from liederiv.names import MEASUREMENTS, OUTPUT_TYPES

from ..requests.measure_options import MeasureOptions, MeasureRequest
from ..requests.model_options import ModelOptions

__all__ = ["ScanSettings"]

# What does not change the numbers: how much at once, and where files lie (their content counts).
_NEUTRAL = ("measurements", "images", "data_dir", "batch_size", "layers_images")
_ONLY_SCORE = ("metrics", "dynamic_range", "margin", "steps")


@dataclass(frozen=True)
class ScanSettings(MeasureRequest):
    """Settings that all models of a scan share; the flags of `liederiv score` under their names.

    Attributes:
        measurements: some of ``score``, ``layers``, ``aliasing``.
        pretrained: published weights, or random ones.
        calibrate: make random networks measurable, see `liederiv.model_zoo.sources.random_weights`.
        images: source of the images.
        num_images: for ``score``.
        layers_images: for ``layers`` and ``aliasing``.
        split: of the images.
        data_dir: where a named data set lies.
        img_size: in pixels; the model's if None.
        max_img_size: larger inputs are reduced to this where the architecture allows it.
        crop_pct: see `liederiv.model_zoo.DataConfig`; so the next three.
        mean: comma-separated.
        std: comma-separated.
        interpolation: name of the filter.
        transforms: comma-separated.
        scheme: of interpolation.
        metrics: comma-separated.
        output_type: what of the model is measured.
        unit: of translations.
        dynamic_range: of the output, see `liederiv.measure`; so the next.
        margin: pixels of output maps that are left out along the border.
        steps: sizes of motions, see `liederiv.steps`.
        device: resolved: ``cpu``, ``cuda``, ….
        dtype: of the computation.
        batch_size: ``auto`` or a number.
        seed: of everything random.
        images_fingerprint: content of the images, see `with_images`.
    """

    measurements: tuple[str, ...] = ("score",)
    pretrained: bool = True
    calibrate: bool = False
    layers_images: int = 4
    img_size: int | None = None
    max_img_size: int | None = None
    crop_pct: float | None = None
    mean: str | None = None
    std: str | None = None
    interpolation: str | None = None
    device: str = "cpu"
    dtype: str = "float32"
    images_fingerprint: str = ""

    def check(self) -> None:
        """Refuse what would fail for every model.

        Raises:
            LieDerivError: naming the first setting that is not understood.
        """
        from liederiv.derivatives import get_scheme
        from liederiv.measurement.row_names import check_steps, row_names, step_rows
        from liederiv.metrics.registry import resolve_metrics
        from liederiv.metrics.sampled import check_sampling

        unknown = [m for m in self.measurements if m not in MEASUREMENTS]
        if unknown or not self.measurements:
            raise LieDerivError(
                f"--measure={','.join(self.measurements)!r} must be some of "
                f"{', '.join(MEASUREMENTS)}, comma-separated."
            )
        for name in ("num_images", "layers_images", "img_size", "max_img_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise LieDerivError(f"--{name.replace('_', '-')}={value} must be 1 or more.")
        row_names(self.transforms, self.unit)  # type: ignore[arg-type]
        self._check_output_type()
        resolve_metrics(self.metrics)
        if self.scheme != "camera":  # which photographs bring along
            get_scheme(self.scheme)
        check_sampling(self.dynamic_range, self.margin)
        if self.steps is not None:
            check_steps(self.steps, resolve_metrics(self.metrics))
            step_rows(self.transforms, self.steps, self.unit)  # type: ignore[arg-type]
        _ = self.images_per_pass
        options = self.model_options()
        options.check()
        _ = options.torch_dtype
        if self.device != "auto":
            _ = options.named_device
        options.check_preprocessing()

    def _check_output_type(self) -> None:
        kinds = self.output_type.split(",")
        unknown = [kind for kind in kinds if kind not in OUTPUT_TYPES]
        if unknown:
            raise LieDerivError(
                f"--output-type={self.output_type!r}: {unknown[0]!r} is unknown; choose from "
                f"{', '.join(OUTPUT_TYPES)}."
            )
        alone = "features" in kinds or self.measurements != ("score",)
        if alone and len(kinds) > 1:
            raise LieDerivError(
                f"--output-type={self.output_type!r}: features, layers and aliasing are measured "
                "on one output at a time; name one."
            )

    def with_images(self) -> ScanSettings:
        """The same with the images' fingerprint, for which they are read once.

        Raises:
            ImageError: if there are none.
        """
        from ..inputs.images import load_images

        count = max(self.num_images, self.layers_images)
        found = load_images(self.images, None, count, self.seed, self.split, data_dir=self.data_dir)
        return replace(self, images_fingerprint=found.fingerprint)

    def model_options(self) -> ModelOptions:
        """How each model is loaded."""
        names = {f.name for f in fields(ModelOptions)} & {f.name for f in fields(self)}
        return ModelOptions(**{name: getattr(self, name) for name in names})

    def measure_options(self, batch_size: int | None = None) -> MeasureOptions:
        """How each model is scored.

        Args:
            batch_size: in place of the setting's, when memory has not sufficed; with 1, tangents
                are taken one at a time too.
        """
        values = {f.name: getattr(self, f.name) for f in fields(MeasureRequest)}
        if batch_size is not None:
            values["batch_size"] = str(batch_size)
        chunk_size = 1 if batch_size == 1 else None
        return MeasureOptions(**values, chunk_size=chunk_size)

    def images_of(self, measurement: str) -> int:
        """How many images a measurement takes."""
        return self.num_images if measurement == "score" else self.layers_images

    def of(self, measurement: str) -> dict[str, Any]:
        """All settings that affect the results of one measurement."""
        hidden = _NEUTRAL if measurement == "score" else (*_NEUTRAL, *_ONLY_SCORE)
        known = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in hidden}
        return {**known, "num_images": self.images_of(measurement)}

    def text_of(self, measurement: str) -> str:
        """`of` as JSON with sorted keys."""
        return json.dumps(self.of(measurement), sort_keys=True)

    def configuration(self) -> dict[str, dict[str, Any]]:
        """Settings by measurement, for the store's manifest."""
        return {m: self.of(m) for m in self.measurements}

    def key(self, measurement: str, model: str, weights: Mapping[str, Any]) -> str:
        """Name one result: sixteen hexadecimal digits.

        Args:
            measurement: of `measurements`.
            model: full name.
            weights: what identifies them, see `Source.identity`.
        """
        content = [measurement, model, dict(weights), self.of(measurement), __version__]
        text = json.dumps(content, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
