"""How a command line or a scan asks for a measurement: inputs, transforms, metrics, batches.

All fields are plain text and numbers, so that a request travels to other processes and files.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from liederiv.errors import LieDerivError
from liederiv.foreign import shortened
from liederiv.names import DEFAULT_METRICS, DEFAULT_TRANSFORMS

__all__ = ["MeasureOptions", "MeasureRequest"]


@dataclass(frozen=True)
class MeasureRequest:
    """On what and how to measure; the flags of `liederiv score` under their names."""

    images: str = "samples"
    num_images: int = 16
    split: str | None = None
    data_dir: Path | None = None
    transforms: str = DEFAULT_TRANSFORMS
    scheme: str = "bspline"
    metrics: str = DEFAULT_METRICS
    output_type: str = "auto"
    unit: str = "pixel"
    dynamic_range: float | None = None
    margin: float = 0.0
    steps: str | None = None
    batch_size: str = "auto"
    seed: int = 0

    @property
    def images_per_pass(self) -> int | None:
        """The batch size as a number; None for ``auto``.

        Raises:
            LieDerivError: for anything but ``auto`` and whole numbers from 1.
        """
        text = self.batch_size
        if text == "auto":
            return None
        # Python refuses to convert thousands of digits; no memory holds so many images.
        if not text.isdecimal() or len(text) > 9 or int(text) < 1:
            raise LieDerivError(
                f"--batch-size={shortened(text, 40)!r} must be auto or a whole number from 1."
            )
        return int(text)


@dataclass(frozen=True)
class MeasureOptions(MeasureRequest):
    """A request for a model of the user's, and how it is carried out.

    Attributes:
        representation: how the output transforms, by name; ``auto`` leaves it to the model.
        progress: show a progress bar.
        chunk_size: tangents per pass; None chooses by memory.
    """

    representation: str = "auto"
    progress: bool = False
    chunk_size: int | None = None
