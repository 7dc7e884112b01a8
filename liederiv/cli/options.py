"""Options that several commands share, under timm's own names where its users know them."""

from __future__ import annotations

import ast
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import nn

from liederiv.derivatives import SCHEMES
from liederiv.errors import LieDerivError, ModelError, UnknownLayoutError
from liederiv.metrics.registry import FAMILIES
from liederiv.model_zoo import ImageSet, LoadedModel, load, load_images
from liederiv.representations import FeatureMap, Invariant, Representation, TokenGrid

_MODEL = "Model"
_IMAGES = "Images"
_MEASURE = "Measurement"

ModelName = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="timm name or tag, hf-hub:org/name, local-dir:/path or package.module:factory. "
        "`liederiv models` lists names.",
    ),
]
ModelFlag = Annotated[
    str | None, typer.Option("--model", help="The same as MODEL.", rich_help_panel=_MODEL)
]
CheckpointOption = Annotated[
    Path | None,
    typer.Option(
        help="File with weights: .safetensors, .pth, .pt, .pth.tar. Nothing in it is executed.",
        rich_help_panel=_MODEL,
    ),
]
Pretrained = Annotated[
    bool,
    typer.Option(help="Published weights, or random ones (from --seed).", rich_help_panel=_MODEL),
]
NumClasses = Annotated[
    int | None,
    typer.Option(help="Size of the classifier; default: the weights'.", rich_help_panel=_MODEL),
]
ModelKwargs = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="Argument of the model's constructor; may be repeated.",
        rich_help_panel=_MODEL,
    ),
]
ImgSize = Annotated[
    int | None,
    typer.Option(help="Input size in pixels; default: the model's.", rich_help_panel=_IMAGES),
]
CropPct = Annotated[
    float | None,
    typer.Option(help="Fraction kept by the centre crop.", rich_help_panel=_IMAGES),
]
Mean = Annotated[
    str | None,
    typer.Option(help="Mean per channel, comma-separated, 0 … 1.", rich_help_panel=_IMAGES),
]
Std = Annotated[
    str | None,
    typer.Option(help="Deviation per channel, comma-separated.", rich_help_panel=_IMAGES),
]
Interpolation = Annotated[
    str | None,
    typer.Option(help="Filter of the resizing: bilinear, bicubic, …", rich_help_panel=_IMAGES),
]
Images = Annotated[
    str,
    typer.Option(
        metavar="samples|DIR|DATASET",
        help="Photographs that come with the `samples` extra, a folder, or a timm data set.",
        rich_help_panel=_IMAGES,
    ),
]
NumImages = Annotated[
    int, typer.Option(help="How many images to measure.", rich_help_panel=_IMAGES)
]
Split = Annotated[
    str | None,
    typer.Option(help="Split or subfolder of the images.", rich_help_panel=_IMAGES),
]
DataDir = Annotated[
    Path | None,
    typer.Option(help="Where the files of a named data set lie.", rich_help_panel=_IMAGES),
]
Transforms = Annotated[
    str,
    typer.Option(
        help="Comma-separated generators or groups (translation, rotation, scale, stretch, shear, "
        "hyperbolic_rotation, saturation, brightness, contrast, spatial, intensity, all).",
        rich_help_panel=_MEASURE,
    ),
]
Scheme = Annotated[
    str,
    typer.Option(
        help=f"How images are continued between pixels: {', '.join(SCHEMES)}.",
        rich_help_panel=_MEASURE,
    ),
]
Metrics = Annotated[
    str,
    typer.Option(
        help=f"Comma-separated metrics or families: {', '.join(FAMILIES)}.",
        rich_help_panel=_MEASURE,
    ),
]
OutputType = Annotated[
    str,
    typer.Option(
        metavar="auto|probs|logits|features|output",
        help="What of the model is measured; several with commas. auto: probs and logits of a "
        "classifier, else the output as it is.",
        rich_help_panel=_MEASURE,
    ),
]
Unit = Annotated[
    str,
    typer.Option(
        metavar="pixel|grid",
        help="Of translations: pixels of the input, or half-widths as in the paper's code.",
        rich_help_panel=_MEASURE,
    ),
]
Device = Annotated[
    str,
    typer.Option(help="auto, cpu, cuda, cuda:1, …", rich_help_panel=_MEASURE),
]
Dtype = Annotated[str, typer.Option(help="float32 or float64.", rich_help_panel=_MEASURE)]
BatchSize = Annotated[
    str,
    typer.Option(
        metavar="auto|N", help="Images per pass; no effect on results.", rich_help_panel=_MEASURE
    ),
]
Seed = Annotated[int, typer.Option(help="Of everything random.", rich_help_panel=_MEASURE)]
Amp = Annotated[
    bool,
    typer.Option("--amp", help="Refused: see the message.", hidden=True, rich_help_panel=_MEASURE),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar, no table.")]


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

    def open(self, name: str | None, flag: str | None, checkpoint: Path | None) -> LoadedModel:
        """Load the model and move it to device and dtype.

        Raises:
            LieDerivError: for bad input, in one sentence.
        """
        self._check_ranges()
        if name is not None and flag is not None and name != flag:
            raise LieDerivError(
                f"MODEL={name!r} and --model={flag!r} name different models; give one of them."
            )
        chosen = name or flag
        if chosen is None:
            raise LieDerivError(
                "MODEL is missing; name one, e.g. `liederiv score tf_efficientnet_lite0`."
            )
        loaded = load(
            chosen,
            checkpoint,
            self.pretrained,
            num_classes=self.num_classes,
            img_size=self.img_size,
            crop_pct=self.crop_pct,
            mean=_numbers("--mean", self.mean),
            std=_numbers("--std", self.std),
            interpolation=self.interpolation,
            model_kwargs=_kwargs(self.model_kwargs),
            seed=self.seed,
        )
        loaded.model.to(device=self.torch_device, dtype=self.torch_dtype)
        return loaded

    def _check_ranges(self) -> None:
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

    @property
    def torch_device(self) -> torch.device:
        """The device, checked for presence."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(self.device)
        except RuntimeError:
            raise LieDerivError(
                f"--device={self.device!r} is unknown; use auto, cpu or cuda."
            ) from None
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
        known = {"float32": torch.float32, "float64": torch.float64}
        if self.dtype not in known:
            raise LieDerivError(
                f"--dtype={self.dtype!r} is not supported; derivatives need float32 or float64."
            )
        return known[self.dtype]


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


def open_images(
    source: str, loaded: LoadedModel, num_images: int, seed: int, split: str | None, data_dir: Any
) -> ImageSet:
    """Load images as the model expects them."""
    return load_images(source, loaded.data_config, num_images, seed, split, data_dir=data_dir)


def clusters(source: str, images: ImageSet) -> list[str] | None:
    """Which samples are crops of the same photograph: labels for the bootstrap."""
    return [name.split("/")[0] for name in images.names] if source == "samples" else None


def parse_batch_size(text: str) -> int | None:
    """``auto`` or a positive whole number."""
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise LieDerivError(f"--batch-size={text!r} must be auto or a whole number from 1.")
    return int(text)


def refuse_amp(amp: bool) -> None:
    """Mixed precision would drown the derivative in rounding."""
    if amp:
        raise LieDerivError(
            "--amp is refused: half-precision rounding is as large as the errors to be measured; "
            "leave it out (float32), or use --dtype float64."
        )


def writable(*paths: Path | None) -> None:
    """Check before a long run that results can be written after it."""
    for path in paths:
        if path is not None and not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
            raise LieDerivError(
                f"cannot write {str(path)!r}: {str(path.parent)!r} is no writable folder; "
                "create it or choose another."
            )
        if path is not None and path.is_dir():
            raise LieDerivError(f"cannot write {str(path)!r}: it is a folder; name a file.")


def check_endings(files: dict[str, tuple[Path | None, str]]) -> None:
    """Check that result files have the ending of their format."""
    for option, (path, ending) in files.items():
        if path is not None and path.suffix != ending:
            raise LieDerivError(f"{option}={str(path)!r} must end in {ending}.")


class Features(nn.Module):
    """A timm model's `forward_features` as a model of its own."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Unpooled features of images [B, C, H, W]."""
        return self.model.forward_features(x)  # type: ignore[operator]


def try_model(model: nn.Module, x: torch.Tensor) -> object:
    """The output for one image; an error of the model itself becomes one line.

    Raises:
        ModelError: naming what the model raised.
    """
    try:
        with torch.no_grad():
            return model(x)
    except LieDerivError:
        raise
    except Exception as error:  # a model may raise anything
        reason = (str(error).strip().splitlines() or ["no message"])[0].rstrip(".")
        raise ModelError(
            f"the model fails on images of shape {list(x.shape[1:])}: {type(error).__name__}: "
            f"{reason}; check --img-size and --model-kwargs, or the model's own code."
        ) from error


def output_of(loaded: LoadedModel, output_type: str) -> tuple[nn.Module, str | Representation]:
    """The module to measure and the representation that timm's metadata declares for it.

    Raises:
        UnknownLayoutError: if features are asked for and nothing declares their layout.
    """
    if "features" not in output_type:
        declared = Invariant() if loaded.layout.is_classifier else "auto"
        return loaded.model, declared
    if output_type != "features":
        raise LieDerivError(
            f"--output-type={output_type!r} mixes features with others; measure them separately."
        )
    layout = loaded.layout
    features = Features(loaded.model).eval()
    if layout.features_format == "NLC" and layout.grid:
        return features, TokenGrid(layout.grid, layout.num_prefix_tokens)
    if layout.features_format in ("NCHW", "NHWC"):
        return features, FeatureMap(layout.features_format)  # type: ignore[arg-type]
    raise UnknownLayoutError(
        f"--output-type=features: {loaded.name} does not declare how its features are laid out; "
        "measure probs or logits, or call liederiv.measure(…, output=…) with a representation."
    )


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
