"""`liederiv layers`: which modules break each symmetry."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer
from torch import Tensor

from liederiv.analysis import (
    AliasingReport,
    Attribution,
    FiniteLayers,
    WhatIf,
    attribute,
    measure_aliasing,
    measure_finite,
    what_if,
)
from liederiv.cli import options as o
from liederiv.cli.layer_report import LayerReport, by_columns
from liederiv.cli.layer_tables import layer_tables
from liederiv.cli.measuring import provenance_of
from liederiv.cli.tables import console
from liederiv.errors import LieDerivError
from liederiv.generators import Generator, resolve_generators
from liederiv.measurement import DEFAULT_TRANSFORMS
from liederiv.model_zoo import LoadedModel
from liederiv.representations import OutputSpec
from liederiv.results import Provenance

__all__ = ["layers"]

_LAYERS = "Layers"
_PLOT_ENDINGS = (".png", ".svg", ".pdf")


def layers(
    model: o.ModelName = None,
    model_flag: o.ModelFlag = None,
    checkpoint: o.CheckpointOption = None,
    pretrained: o.Pretrained = True,
    num_classes: o.NumClasses = None,
    model_kwargs: o.ModelKwargs = None,
    images: o.Images = "samples",
    num_images: o.NumImages = 4,
    split: o.Split = None,
    data_dir: o.DataDir = None,
    img_size: o.ImgSize = None,
    crop_pct: o.CropPct = None,
    mean: o.Mean = None,
    std: o.Std = None,
    interpolation: o.Interpolation = None,
    transforms: o.Transforms = DEFAULT_TRANSFORMS,
    scheme: o.Scheme = "bspline",
    output_type: o.OutputType = "auto",
    unit: o.Unit = "pixel",
    device: o.Device = "auto",
    dtype: o.Dtype = "float32",
    seed: o.Seed = 0,
    amp: o.Amp = False,
    top: Annotated[
        int, typer.Option(help="How many modules to list.", rich_help_panel=_LAYERS)
    ] = 12,
    by: Annotated[
        str,
        typer.Option(
            metavar="module|kind|stage",
            help="A tree of stages and their worst modules, or sums only.",
            rich_help_panel=_LAYERS,
        ),
    ] = "module",
    aliasing: Annotated[
        bool,
        typer.Option(
            "--aliasing", help="How much of it is aliasing (slower).", rich_help_panel=_LAYERS
        ),
    ] = False,
    finite: Annotated[
        bool,
        typer.Option(
            "--finite",
            help="EQ-T and EQ-R of single modules, under finite transforms (slower).",
            rich_help_panel=_LAYERS,
        ),
    ] = False,
    what_if: Annotated[
        int | None,
        typer.Option(
            metavar="K",
            help="Repair the K worst modules and measure again (slower).",
            rich_help_panel=_LAYERS,
        ),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw it here (.png, .svg, .pdf).")] = None,
    json: Annotated[Path | None, typer.Option(help="Write rows and provenance here.")] = None,
    parquet: Annotated[
        Path | None, typer.Option(help="Write one row per module, transform and image here.")
    ] = None,
    quiet: o.Quiet = False,
) -> None:
    """Attribute the equivariance error of a model to its modules.

    Prints which modules break which symmetry, as shares of ‖L f‖² that add up to 100 % for each
    transform. Shares are signed: a negative one cancels what other modules break.

    Example:  liederiv layers tf_efficientnet_lite0 --transforms translation --aliasing
    """
    o.refuse_amp(amp)
    _check_numbers(top, by, what_if)
    o.writable(json, parquet, plot)
    o.check_endings({"--json": (json, ".json"), "--parquet": (parquet, ".parquet")})
    if plot is not None and plot.suffix not in _PLOT_ENDINGS:
        raise LieDerivError(f"--plot={str(plot)!r} must end in {', '.join(_PLOT_ENDINGS)}.")
    generators = resolve_generators(transforms, unit=unit)  # type: ignore[arg-type]
    chosen = o.ModelOptions(
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
    loaded = chosen.open(model, model_flag, checkpoint)
    photographs = o.open_images(images, loaded, num_images, seed, split, data_dir)
    x = torch.stack(photographs[:]).to(chosen.torch_device, chosen.torch_dtype)
    run = _Run(loaded, x, generators, scheme, output_type, seed, progress=not quiet)
    origin = provenance_of(loaded, photographs)
    report = run.report(
        origin, photographs.names, aliasing=aliasing, finite=finite, repairs=what_if
    )
    report.save(json=json, parquet=parquet, plot=plot)
    if not quiet:
        out = console()
        for item in layer_tables(report, loaded.num_parameters, by=by, top=top):
            out.print(item)


def _check_numbers(top: int, by: str, repairs: int | None) -> None:
    if top < 1:
        raise LieDerivError(f"--top={top} must be 1 or more.")
    if by not in by_columns():
        raise LieDerivError(f"--by={by!r} is unknown; choose one of {', '.join(by_columns())}.")
    if repairs is not None and repairs < 1:
        raise LieDerivError(f"--what-if={repairs} must be 1 or more modules to repair.")


@dataclass(frozen=True)
class _Run:
    """Measures one model on its images [B, C, H, W]."""

    loaded: LoadedModel
    x: Tensor
    generators: tuple[Generator, ...]
    scheme: str
    output_type: str
    seed: int
    progress: bool

    def report(
        self,
        origin: Provenance,
        image_names: tuple[str, ...],
        *,
        aliasing: bool,
        finite: bool,
        repairs: int | None,
    ) -> LayerReport:
        """Attribution, and what else is asked for."""
        model, output = self._model_and_output()
        attribution = attribute(
            model,
            self.x,
            self.generators,
            scheme=self.scheme,
            output=output,
            seed=self.seed,
            progress=self.progress,
        )
        return LayerReport(
            attribution=attribution,
            provenance=self._describe(origin, attribution),
            image_names=image_names,
            aliasing=self._aliasing(model, output) if aliasing else None,
            finite=self._finite(model) if finite else None,
            what_if=self._what_if(attribution, repairs) if repairs is not None else None,
        )

    def _model_and_output(self) -> tuple[torch.nn.Module, OutputSpec]:
        """The module to measure and what is measured on it; ``auto``: a classifier's probs."""
        if self.output_type not in ("auto", "probs", "logits", "features", "output"):
            raise LieDerivError(
                f"--output-type={self.output_type!r} must be one of auto, probs, logits, features "
                "and output; layers attributes one at a time."
            )
        model, declared = o.output_of(self.loaded, self.output_type)
        y = o.try_model(model, self.x[:1])
        if self.output_type in ("probs", "logits"):
            return model, self.output_type
        classifier = (
            self.output_type == "auto"
            and self.loaded.layout.is_classifier is not False
            and isinstance(y, Tensor)
            and y.ndim == 2
        )
        return model, "probs" if classifier else declared

    def _aliasing(self, model: torch.nn.Module, output: OutputSpec) -> AliasingReport:
        """Under translations where they are asked for: there, theory says what to expect."""
        moves = tuple(g for g in self.generators if g.group == "translation") or self.generators
        with self._status("measuring aliasing, module by module"):
            return measure_aliasing(model, self.x, moves, output=output, seed=self.seed)

    def _finite(self, model: torch.nn.Module) -> FiniteLayers:
        return measure_finite(
            model, self.x, scheme=self.scheme, seed=self.seed, progress=self.progress
        )

    def _what_if(self, attribution: Attribution, k: int) -> WhatIf:
        if attribution.output not in ("probs", "logits"):
            raise LieDerivError("--what-if needs a classifier; leave it out for this output.")
        # Repairs change how confident a classifier is: unless asked otherwise, compare its logits.
        output: Literal["probs", "logits"] = "probs" if self.output_type == "probs" else "logits"
        with self._status("repairing modules, measuring again"):
            return what_if(
                self.loaded.model,
                self.x,
                self.generators,
                k=k,
                scheme=self.scheme,
                output=output,
                attribution=attribution if attribution.output == output else None,
                seed=self.seed,
            )

    def _status(self, text: str) -> AbstractContextManager[object]:
        return console(stderr=True).status(f"{text} …") if self.progress else nullcontext()

    def _describe(self, known: Provenance, attribution: Attribution) -> Provenance:
        return replace(
            known,
            num_images=len(self.x),
            scheme=attribution.scheme,
            representation=attribution.output,
            engine=attribution.engine,
            dtype=str(self.x.dtype).removeprefix("torch."),
            device=str(self.x.device),
            seed=self.seed,
        )
