"""Options that several commands share, under timm's own names where its users know them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from liederiv.cli.arguments import as_given
from liederiv.errors import LieDerivError
from liederiv.names import FAMILIES, REPRESENTATIONS, SCHEMES

MODELS = "Models"
_MODEL = "Model"
_IMAGES = "Images"
_MEASURE = "Measurement"

ModelName = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="timm name or tag, hf-hub:org/name, local-dir:/path, package.module:factory or a "
        "checkpoint that names its architecture. "
        "`liederiv models` lists names.",
    ),
]
ModelFlag = Annotated[
    str | None, typer.Option("--model", help="The same as MODEL.", rich_help_panel=_MODEL)
]
CheckpointOption = Annotated[
    Path | None,
    typer.Option(
        help="File with weights: .safetensors, .pth, .pt, .pth.tar. Nothing in it is executed. "
        "FILE#KEY takes the part under that key.",
        rich_help_panel=_MODEL,
    ),
]
Amp = Annotated[
    bool,
    typer.Option("--amp", help="Refused: see the message.", hidden=True, rich_help_panel=_MEASURE),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar, no table.")]
Accuracy = Annotated[
    str | None,
    typer.Option(
        metavar="CSV",
        help="Add accuracies: a file or address in the format of timm's results-imagenet.csv.",
    ),
]
MeasuredOutput = Annotated[
    str | None,
    typer.Option("--output-type", "--output", metavar="probs|logits|…", help="Measured on what."),
]

# By name of the field of `ModelOptions`, `MeasureOptions` or `ScanSettings`, see `groups`;
# in the order of the help.
OPTIONS: dict[str, Any] = {
    "pretrained": Annotated[
        bool,
        typer.Option(
            help="Published weights, or random ones (from --seed).", rich_help_panel=_MODEL
        ),
    ],
    "calibrate": Annotated[
        bool,
        typer.Option(
            help="With --no-pretrained: give batch norms the statistics of some images and zero "
            "classifiers random weights, else deep random networks fade or explode.",
            rich_help_panel=MODELS,
        ),
    ],
    "num_classes": Annotated[
        int | None,
        typer.Option(help="Size of the classifier; default: the weights'.", rich_help_panel=_MODEL),
    ],
    "model_kwargs": Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Argument of the model's constructor; may be repeated.",
            rich_help_panel=_MODEL,
        ),
    ],
    "images": Annotated[
        str,
        typer.Option(
            metavar="samples|DIR|DATASET",
            help="Photographs that come with the `samples` extra, a folder, or a timm data set. "
            "For networks on point clouds: systems of their own task, a folder, or nbody, "
            "shapenet, ….",
            rich_help_panel=_IMAGES,
        ),
    ],
    "num_images": Annotated[
        int, typer.Option(help="How many images or clouds to measure.", rich_help_panel=_IMAGES)
    ],
    "layers_images": Annotated[
        int,
        typer.Option(help="How many images for layers and aliasing.", rich_help_panel=_IMAGES),
    ],
    "split": Annotated[
        str | None,
        typer.Option(help="Split or subfolder of the images.", rich_help_panel=_IMAGES),
    ],
    "data_dir": Annotated[
        Path | None,
        typer.Option(help="Where the files of a named data set lie.", rich_help_panel=_IMAGES),
    ],
    "img_size": Annotated[
        int | None,
        typer.Option(help="Input size in pixels; default: the model's.", rich_help_panel=_IMAGES),
    ],
    "max_img_size": Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Reduce larger inputs to this many pixels where the architecture allows it.",
            rich_help_panel=_IMAGES,
        ),
    ],
    "crop_pct": Annotated[
        float | None,
        typer.Option(help="Fraction kept by the centre crop.", rich_help_panel=_IMAGES),
    ],
    "mean": Annotated[
        str | None,
        typer.Option(help="Mean per channel, comma-separated, 0 … 1.", rich_help_panel=_IMAGES),
    ],
    "std": Annotated[
        str | None,
        typer.Option(help="Deviation per channel, comma-separated.", rich_help_panel=_IMAGES),
    ],
    "interpolation": Annotated[
        str | None,
        typer.Option(help="Filter of the resizing: bilinear, bicubic, …", rich_help_panel=_IMAGES),
    ],
    "transforms": Annotated[
        str,
        typer.Option(
            help="Comma-separated generators or groups (translation, rotation, scale, stretch, "
            "shear, hyperbolic_rotation, saturation, brightness, contrast, spatial, intensity, "
            "all). Of point clouds: translation, rotation, scale, rigid, all.",
            rich_help_panel=_MEASURE,
        ),
    ],
    "scheme": Annotated[
        str,
        typer.Option(
            help=f"How images are continued between pixels: {', '.join(SCHEMES)}; "
            "or as a camera moves photographs that are large enough: camera.",
            rich_help_panel=_MEASURE,
        ),
    ],
    "metrics": Annotated[
        str,
        typer.Option(
            help=f"Comma-separated metrics or families: {', '.join(FAMILIES)}, all.",
            rich_help_panel=_MEASURE,
        ),
    ],
    "output_type": Annotated[
        str,
        typer.Option(
            metavar="auto|probs|logits|features|output",
            help="What of the model is measured; several with commas. auto: probs and logits of a "
            "classifier (layers: logits), else the output as it is.",
            rich_help_panel=_MEASURE,
        ),
    ],
    "representation": Annotated[
        str,
        typer.Option(
            "--output",
            "--representation",
            metavar="auto|" + "|".join(REPRESENTATIONS),
            help="How the output transforms, where the model does not declare it "
            "(output_representation): not at all, or as a map over the whole image.",
            rich_help_panel=_MEASURE,
        ),
    ],
    "unit": Annotated[
        str,
        typer.Option(
            metavar="pixel|grid",
            help="Of translations: pixels of the input, or half-widths as in the paper's code.",
            rich_help_panel=_MEASURE,
        ),
    ],
    "dynamic_range": Annotated[
        float | None,
        typer.Option(
            metavar="I_MAX",
            help="Of eq_t, eq_t_frac, eq_r: largest difference of two values of the output; 2 for "
            "pictures in [−1, 1]. Default: 1 for probabilities; other outputs have none.",
            rich_help_panel=_MEASURE,
        ),
    ],
    "margin": Annotated[
        float,
        typer.Option(
            help="Pixels of output maps that random transforms leave out along the border.",
            rich_help_panel=_MEASURE,
        ),
    ],
    "steps": Annotated[
        str | None,
        typer.Option(
            metavar="TRANSFORM=SIZE,…;…",
            help="Sizes of motions for the family scale, in px, deg or %, e.g. "
            "'translation=0.5px,2px;rotation=1deg'. Default: 1 px, 1 degree, 1 %.",
            rich_help_panel=_MEASURE,
        ),
    ],
    "device": Annotated[
        str,
        typer.Option(help="auto, cpu, cuda, cuda:1, …", rich_help_panel=_MEASURE),
    ],
    "dtype": Annotated[str, typer.Option(help="float32 or float64.", rich_help_panel=_MEASURE)],
    "batch_size": Annotated[
        str,
        typer.Option(
            metavar="auto|N",
            help="Images per pass; no effect on results.",
            rich_help_panel=_MEASURE,
        ),
    ],
    "seed": Annotated[int, typer.Option(help="Of everything random.", rich_help_panel=_MEASURE)],
}


def refuse_amp(amp: bool) -> None:
    """Mixed precision would drown the derivative in rounding."""
    if amp:
        raise LieDerivError(
            "--amp is refused: half-precision rounding is as large as the errors to be measured; "
            "leave it out (float32), or use --dtype float64."
        )


def check_endings(files: dict[str, tuple[Path | None, str]]) -> None:
    """Check that result files have the ending of their format."""
    for option, (path, ending) in files.items():
        if path is not None and path.suffix != ending:
            raise LieDerivError(f"{option}={as_given(path)!r} must end in {ending}.")
