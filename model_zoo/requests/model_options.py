"""One model as a command line or a scan asks for it: name, weights, preprocessing, device.

All fields are plain text and numbers, so that a request travels to other processes and files.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from liederiv.errors import LieDerivError

if TYPE_CHECKING:
    import torch

    from ..sources.loaded import Loaded

__all__ = ["ModelOptions"]


@dataclass(frozen=True)
class ModelOptions:
    """What of the command line says which model, and how its images are prepared."""

    pretrained: bool = True
    num_classes: int | None = None
    model_kwargs: Sequence[str] = ()
    img_size: int | None = None
    crop_pct: float | None = None
    mean: str | None = None
    std: str | None = None
    interpolation: str | None = None
    seed: int = 0
    device: str = "auto"
    dtype: str = "float32"

    def open(self, name: str | None, flag: str | None, checkpoint: Path | None) -> Loaded:
        """Load the model and move it to device and dtype.

        Raises:
            LieDerivError: for bad input, in one sentence.
        """
        from ..sources.registry import source_of

        self.check()
        if name is not None and flag is not None and name != flag:
            raise LieDerivError(
                f"MODEL={name!r} and --model={flag!r} name different models; give one of them."
            )
        chosen = name or flag
        if chosen is None:
            raise LieDerivError(
                "MODEL is missing; name one, e.g. `liederiv score tf_efficientnet_lite0`."
            )
        source = source_of(chosen)
        given = {k: v for k, v in self._options().items() if v is not None and v != {}}
        for option in given:
            if option not in source.options():
                raise LieDerivError(
                    f"--{option.replace('_', '-')} is for models of images, but {chosen!r} takes "
                    f"{source.inputs}; leave it out."
                )
        loaded = source.load(checkpoint, self.pretrained, **given)
        loaded.model.to(device=self.torch_device, dtype=self.torch_dtype)
        return loaded

    def _options(self) -> dict[str, Any]:
        """What is asked of a model, under the names that `Source.load` has for it."""
        return {
            "num_classes": self.num_classes,
            "model_kwargs": _kwargs(self.model_kwargs),
            "img_size": self.img_size,
            "crop_pct": self.crop_pct,
            "mean": _numbers("--mean", self.mean),
            "std": _numbers("--std", self.std),
            "interpolation": self.interpolation,
            "seed": self.seed,
        }

    def check(self) -> None:
        """Refuse values out of range.

        Raises:
            LieDerivError: naming the first one.
        """
        if not 0 <= self.seed < 2**32:
            raise LieDerivError(f"--seed={self.seed} must be a whole number from 0 to 2³² − 1.")
        if self.num_classes is not None and self.num_classes < 0:
            raise LieDerivError(
                f"--num-classes={self.num_classes} must be 0 (no classifier) or more."
            )
        if self.crop_pct is not None and not 0.05 <= self.crop_pct <= 20:
            raise LieDerivError(
                f"--crop-pct={self.crop_pct} must be a fraction such as 0.875, from 0.05 to 20."
            )

    def check_preprocessing(self) -> None:
        """Refuse a normalisation or filter that no network of images can have.

        Raises:
            LieDerivError: naming what is wrong.
        """
        from ..inputs.data_config import DataConfig

        mean, std = _numbers("--mean", self.mean), _numbers("--std", self.std)
        channels = max(len(mean or ()), len(std or ()))
        DataConfig().override(
            img_size=self.img_size,
            crop_pct=self.crop_pct,
            mean=0.5 if mean is None else mean,
            std=0.5 if std is None else std,
            interpolation=self.interpolation,
            in_chans=channels if channels > 1 else None,
        )

    @property
    def named_device(self) -> torch.device:
        """The device by its name, which may be that of another machine.

        Raises:
            LieDerivError: if no machine has such a device, or none that computes.
        """
        import torch

        with suppress(RuntimeError):
            device = torch.device(self.device)
            if device.type != "meta":
                return device
        raise LieDerivError(f"--device={self.device!r} is unknown; use auto, cpu or cuda.")

    @property
    def torch_device(self) -> torch.device:
        """The device, checked for presence."""
        import torch

        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        device = self.named_device
        if device.type == "cuda" and not torch.cuda.is_available():
            raise LieDerivError(
                f"--device={self.device} was asked for, but this torch sees no CUDA device; "
                "use --device cpu, or install a CUDA build of torch and its driver."
            )
        try:
            torch.empty(1, device=device).cpu()
        except Exception as error:  # every backend has errors of its own
            reason = str(error).splitlines()[0].rstrip(".;")
            raise LieDerivError(
                f"--device={self.device} cannot be used here: {reason}; use cpu or cuda."
            ) from error
        return device

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype, checked."""
        import torch

        known = {"float32": torch.float32, "float64": torch.float64}
        if self.dtype not in known:
            raise LieDerivError(
                f"--dtype={self.dtype!r} is not supported; derivatives need float32 or float64."
            )
        return known[self.dtype]


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or not all(math.isfinite(number) for number in numbers):
        raise LieDerivError(f"{option}={text!r} must be comma-separated numbers, e.g. 0.5,0.5,0.5.")
    return numbers


def _kwargs(items: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE pairs; values are Python literals, or else text."""
    out: dict[str, Any] = {}
    for item in items:
        key, sign, value = item.partition("=")
        if not sign or not key.isidentifier():
            raise LieDerivError(f"--model-kwargs={item!r} must have the form KEY=VALUE.")
        try:
            out[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            out[key] = value
    return out
