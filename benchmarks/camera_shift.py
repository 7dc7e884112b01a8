"""Which derivative scheme is nearest to what a camera that moves would do to the network?

A network sees a photograph only after its own resize, crop and normalisation. If the camera moves,
it is the *photograph* that changes, and the network's input follows through that pipeline. Resizing
and cropping are linear in the pixels, so the tangent of the input under a camera motion is known
without interpolating the input:

    true tangent = (resize-crop of the photograph's own derivative along the motion) / std,

the motion's velocity field expressed in pixels of the photograph: moving by one pixel of the input
moves by (photograph's width / resized width) pixels of the photograph. A scheme has to guess the
same tangent from the small input alone.

Where the photograph is much larger than the input, the resize removes what lies near the
photograph's Nyquist frequency, and its derivative can be taken by any accurate formula: central
differences of eighth order here, which none of the schemes uses. How much the spectral derivative
would have changed the truth is printed beside the result: a few per cent. Photographs with a
shorter side below 500 pixels are left out, because there it is 8 to 54 per cent (the resize of a
303-pixel photograph to 256 keeps nearly all of its spectrum, so there is no truth to know).

For every model and transform, over all photographs:

* error: ‖L − L_true‖ / ‖L_true‖, L = J·(X x) (dimensionless, 0 is best);
* LEE ratio: mean ‖L‖² over mean ‖L_true‖² (dimensionless, 1 is best).

    python benchmarks/camera_shift.py [--models a,b] [--num-images 11] [--transforms a,b]
                                      [--schemes a,b] [--images DIR] [--json out.json]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib
import torch
from PIL import Image
from rich import box
from rich.console import Console
from rich.table import Table
from timm.data import create_transform
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor
from tqdm import tqdm

from liederiv import resolve_generators
from liederiv.actions import ImageAction
from liederiv.base_representation import softmax_pushforward
from liederiv.derivatives import SCHEMES, Scheme
from liederiv.differentiation import pushforward
from liederiv.errors import ImageError
from liederiv.generators import Generator, SpatialGenerator
from liederiv.model_zoo import DataConfig, LoadedModel, load, load_images
from liederiv.model_zoo.inputs.image_items import file_item

MODELS = ("tf_efficientnet_lite0", "tf_efficientnet_lite1", "tf_efficientnet_lite2")
TRANSFORMS = "translation,rotation,scale"
OUTPUTS = ("logits", "probs")
SHORTER_SIDE = 500  # pixels; see above
# Photographs that scikit-image and Matplotlib install. Of a stereo pair one is taken.
SCIKIT_IMAGE = (
    "astronaut.png",
    "retina.jpg",
    "hubble_deep_field.jpg",
    "motorcycle_left.png",
    "ihc.png",
    "camera.png",
    "moon.png",
    "gravel.png",
    "brick.png",
    "grass.png",
)
MATPLOTLIB = ("grace_hopper.jpg",)


class OneSided(Scheme):
    """The forward difference, v[j + 1] − v[j]: what bilinear sampling gives above every pixel."""

    name = "one-sided"
    boundary = "mirror"

    def derivative(self, n: int, dtype: torch.dtype, device: Any = "cpu") -> Tensor:
        """D [n, n], per pixel."""
        return self._derivative64(n).to(device=device, dtype=dtype)

    def _derivative64(self, n: int) -> Tensor:
        D = torch.diag(torch.ones(n - 1), 1).double() - torch.eye(n).double()
        D[-1, -1] = 0
        return D


def photographs(folder: Path | None, count: int) -> dict[str, Image.Image]:
    """Photographs that are large enough, by name.

    Raises:
        ImageError: if there is none.
    """
    if folder is None:
        skimage = importlib.util.find_spec("skimage")
        data = Path((skimage.submodule_search_locations or [""])[0] if skimage else "") / "data"
        paths = [data / name for name in SCIKIT_IMAGE]
        paths[1:1] = [Path(matplotlib.get_data_path()) / "sample_data" / n for n in MATPLOTLIB]
        items = [file_item(path, path.stem) for path in paths if path.is_file()]
    else:
        items = list(load_images(folder).items)
    images = ((item.name, item.read("RGB")[0]) for item in items)
    large = {name: image for name, image in images if min(image.size) >= SHORTER_SIDE}
    if not large:
        raise ImageError(f"no photograph has a shorter side of {SHORTER_SIDE} pixels or more.")
    return dict(list(large.items())[:count])


class BSpline(Scheme):
    """Spline interpolation of odd degree with mirrored edges; degree 3 is the scheme bspline."""

    boundary = "mirror"

    def __init__(self, degree: int) -> None:
        self.degree = degree
        self.name = f"bspline-{degree}"

    def derivative(self, n: int, dtype: torch.dtype, device: Any = "cpu") -> Tensor:
        """D [n, n], per pixel."""
        return self._derivative64(n).to(device=device, dtype=dtype)

    def _derivative64(self, n: int) -> Tensor:
        reach = self.degree // 2
        values, slopes = torch.zeros(2, n, n, dtype=torch.float64)
        for k in range(-reach, reach + 1):
            index = (torch.arange(n) + k).remainder(2 * n)
            index = torch.minimum(index, 2 * n - 1 - index)[:, None]
            left, right = (b_spline(self.degree - 1, -k + side / 2) for side in (1, -1))
            ones = torch.ones(n, 1, dtype=torch.float64)
            values.scatter_add_(1, index, b_spline(self.degree, k) * ones)
            slopes.scatter_add_(1, index, (left - right) * ones)
        return slopes @ torch.linalg.inv(values)


def b_spline(degree: int, x: float) -> float:
    """The centred B-spline, as the sum of truncated powers that defines it."""
    terms = (
        (-1) ** k * math.comb(degree + 1, k) * max(x + (degree + 1) / 2 - k, 0.0) ** degree
        for k in range(degree + 2)
    )
    return sum(terms) / math.factorial(degree)


def contestants() -> dict[str, Scheme]:
    """The schemes to be judged: those of liederiv, and three more."""
    names = ("bspline", "fourier_mirror", "central", "fourier", "bilinear")
    schemes = [*(SCHEMES[name] for name in names), OneSided(), BSpline(5), BSpline(7)]
    return {scheme.name: scheme for scheme in schemes}


def eighth_order(v: Tensor, axis: int) -> Tensor:
    """Slope of v per sample along an axis, from nine mirrored neighbours; exact to degree 8."""
    n = v.shape[axis]
    out = torch.zeros_like(v)
    for step, weight in enumerate((4 / 5, -1 / 5, 4 / 105, -1 / 280), start=1):
        for sign in (1, -1):
            index = (torch.arange(n) + sign * step).remainder(2 * n)
            index = torch.minimum(index, 2 * n - 1 - index)
            out += sign * weight * v.index_select(axis, index)
    return out


def spectral(v: Tensor, axis: int) -> Tensor:
    """Slope of v per sample along an axis, of the trigonometric interpolant of v and its mirror."""
    n = v.shape[axis]
    doubled = torch.cat([v, v.flip(axis)], axis)
    shape = [1] * v.ndim
    shape[axis] = -1
    frequency = 2j * torch.pi * torch.fft.rfftfreq(2 * n, dtype=v.dtype)
    frequency[-1] = 0
    slope = torch.fft.rfft(doubled, dim=axis) * frequency.reshape(shape)
    return torch.fft.irfft(slope, 2 * n, dim=axis).narrow(axis, 0, n)


TRUTHS = {"eighth order": eighth_order, "spectral": spectral}


@dataclass(frozen=True)
class Pipeline:
    """A model's resize and crop, on float tensors, with the coordinates of what it does."""

    config: DataConfig

    def steps(self) -> list[Any]:
        """Timm's evaluation transform: resize, crop, to tensor, normalise."""
        c = self.config
        return create_transform(
            input_size=c.input_size,
            is_training=False,
            interpolation=c.interpolation,
            mean=c.mean,
            std=c.std,
            crop_pct=c.crop_pct,
            crop_mode=c.crop_mode,
        ).transforms

    def resample(self, photograph: Tensor) -> Tensor:
        """Resize and crop [..., H, W], linear in the values: no rounding, no clipping."""
        resize, crop = self.steps()[:2]
        return crop(resize(photograph))

    def tangent_of(self, photograph_tangents: Tensor) -> Tensor:
        """What a change of the photograph, full scale 1, does to the normalised input."""
        std = torch.tensor(self.config.std, dtype=photograph_tangents.dtype)[:, None, None]
        return self.resample(photograph_tangents) / std

    def axes(self, photograph: Tensor) -> list[tuple[Tensor, float]]:
        """For x, then y: position of each photograph pixel and pixels of it per input pixel.

        Positions count pixels of the input from the centre of the crop.
        """
        resized = self.steps()[0](photograph).shape[-2:]
        out = []
        for axis in (1, 0):
            n, m = photograph.shape[-2:][axis], resized[axis]
            size = self.config.input_size[1:][axis]
            first = round((m - size) / 2)  # as torchvision's CenterCrop
            centre = first + size / 2
            positions = (torch.arange(n, dtype=torch.float64) + 0.5) * (m / n) - centre
            out.append((positions, n / m))
        return out


def true_tangents(
    photograph: Tensor, pipeline: Pipeline, generators: Sequence[Generator], slope: Any
) -> Tensor:
    """Tangents of the input when the photograph moves.

    Args:
        photograph: float64 [C, H, W], 0 … 1.
        pipeline: of the model.
        generators: K spatial generators.
        slope: one of `TRUTHS`.

    Returns:
        float64 [K, C, h, w], per unit of each generator, normalised as the model's input.
    """
    (qx, per_x), (qy, per_y) = pipeline.axes(photograph)
    slope_x, slope_y = slope(photograph, -1) * per_x, slope(photograph, -2) * per_y
    moved = []
    for g in generators:
        assert isinstance(g, SpatialGenerator)
        (xx, xy, bx), (yx, yy, by) = g.affine(1.0, 1.0).tolist()
        velocity_x = xx * qx + xy * qy[:, None] + bx
        velocity_y = yx * qx + yy * qy[:, None] + by
        moved.append(velocity_x * slope_x + velocity_y * slope_y)
    return pipeline.tangent_of(torch.stack(moved))


@dataclass(frozen=True)
class Row:
    """One scheme on one model under one transform.

    Attributes:
        output: ``logits`` or ``probs``.
        error: ‖L − L_true‖ / ‖L_true‖ over all photographs.
        error_per_image: the same for each photograph.
        lee: mean ‖L‖² / dim.
        lee_true: mean ‖L_true‖² / dim.
        unit: of both.
    """

    model: str
    transform: str
    output: str
    scheme: str
    error: float
    error_per_image: tuple[float, ...]
    lee: float
    lee_true: float
    unit: str

    @property
    def lee_ratio(self) -> float:
        """LEE over its true value."""
        return self.lee / self.lee_true


def derivatives(
    loaded: LoadedModel,
    image: Image.Image,
    generators: Sequence[Generator],
    schemes: Sequence[Scheme],
) -> dict[str, dict[str, Tensor]]:
    """L of one photograph by scheme or truth and by output, float64 [K, classes]."""
    pipeline = Pipeline(loaded.data_config)
    x: Any = image
    for step in pipeline.steps():
        x = step(x)
    x = x[None]
    photograph = pil_to_tensor(image).double() / 255
    tangents = {
        name: true_tangents(photograph, pipeline, generators, slope)[:, None].float()
        for name, slope in TRUTHS.items()
    }
    for scheme in schemes:
        tangents[scheme.name] = ImageAction(generators, *x.shape[-2:], scheme).tangents(x)
    y, jv, _ = pushforward(loaded.model, x, torch.cat(list(tangents.values())), chunk_size=8)
    y, jv = y.double(), jv.double()
    both = {"logits": jv[:, 0], "probs": softmax_pushforward(y, jv, -1)[1][:, 0]}
    K = len(generators)
    return {
        name: {output: both[output][i * K : (i + 1) * K] for output in OUTPUTS}
        for i, name in enumerate(tangents)
    }


def judge(
    model: str,
    images: Sequence[Image.Image],
    generators: Sequence[Generator],
    schemes: Sequence[Scheme],
) -> list[Row]:
    """All rows of one model; the axes of a group (translation) are taken together."""
    loaded = load(model)
    found = [derivatives(loaded, image, generators, schemes) for image in tqdm(images, desc=model)]
    groups = list(dict.fromkeys(g.group for g in generators))
    rows = []
    for group in groups:
        members = [k for k, g in enumerate(generators) if g.group == group]
        unit = generators[members[0]].unit
        for output in OUTPUTS:
            truth = torch.stack([f["eighth order"][output][members] for f in found])
            for scheme in found[0]:
                L = torch.stack([f[scheme][output][members] for f in found])
                gap, norm = (L - truth).flatten(1).norm(dim=1), truth.flatten(1).norm(dim=1)
                rows.append(
                    Row(
                        model=model,
                        transform=group,
                        output=output,
                        scheme=scheme,
                        error=float(gap.norm() / norm.norm()),
                        error_per_image=tuple((gap / norm).tolist()),
                        lee=float(L.square().mean()),
                        lee_true=float(truth.square().mean()),
                        unit=f"{output.rstrip('s')}²/({unit})²",
                    )
                )
    return rows


def pipeline_gap(model: str, images: Sequence[Image.Image]) -> tuple[float, float]:
    """How far the float pipeline is from timm's 8-bit one: root mean square and largest, levels.

    Pillow rounds after each of its two passes and clips the overshoot of the bicubic filter.
    """
    pipeline = Pipeline(load(model).data_config)
    resize, crop = pipeline.steps()[:2]
    gaps = []
    for image in images:
        exact = pipeline.resample(pil_to_tensor(image).double()).clamp(0, 255)
        gaps.append((exact - pil_to_tensor(crop(resize(image))).double()).flatten())
    gap = torch.cat(gaps)
    return float(gap.square().mean().sqrt()), float(gap.abs().max())


def span(values: Sequence[float]) -> str:
    """Range of some numbers, to three digits."""
    low, high = f"{min(values):.3g}", f"{max(values):.3g}"
    return low if low == high else f"{low} – {high}"


def scheme_table(rows: Sequence[Row], output: str) -> Table:
    """Schemes against transforms: ranges over the models."""
    mine = [r for r in rows if r.output == output and r.scheme not in TRUTHS]
    table = Table(
        title=f"{output}: ranges over {len({r.model for r in rows})} models (dimensionless)",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    transforms = list(dict.fromkeys(r.transform for r in mine))
    table.add_column("scheme")
    for transform in transforms:
        table.add_column(f"{transform}\n‖L − L_true‖ / ‖L_true‖", justify="right")
        table.add_column("\nLEE / true LEE", justify="right")
    for scheme in dict.fromkeys(r.scheme for r in mine):
        cells = [scheme]
        for transform in transforms:
            here = [r for r in mine if (r.scheme, r.transform) == (scheme, transform)]
            cells += [span([r.error for r in here]), span([r.lee_ratio for r in here])]
        table.add_row(*cells)
    return table


def truth_table(rows: Sequence[Row]) -> Table:
    """The true LEE, and how much of it hangs on how the photograph is differentiated."""
    table = Table(title="The truth", title_justify="left", box=box.SIMPLE_HEAD)
    for header in ("model", "transform", "true LEE", "unit", "spectral instead: L differs by"):
        table.add_column(header, justify="right" if header in ("true LEE",) else "left")
    for r in rows:
        if r.scheme == "spectral":
            table.add_row(r.model, r.transform, f"{r.lee_true:.3g}", r.unit, f"{r.error:.2%}")
    return table


def main(arguments: Sequence[str] | None = None) -> list[Row]:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--models", default=",".join(MODELS), help="comma-separated")
    parser.add_argument("--num-images", type=int, default=11)
    parser.add_argument("--images", type=Path, help="a folder of photographs of one's own")
    parser.add_argument("--transforms", default=TRANSFORMS, help="spatial generators or groups")
    parser.add_argument("--schemes", default=",".join(contestants()), help="comma-separated")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    named = photographs(args.images, args.num_images)
    images = list(named.values())
    generators = resolve_generators(args.transforms)
    models = args.models.split(",")
    schemes = [contestants()[name] for name in args.schemes.split(",")]
    rows = [row for model in models for row in judge(model, images, generators, schemes)]
    gaps = {model: pipeline_gap(model, images) for model in models}
    out = Console(width=150)
    out.print(f"{len(images)} photographs: {', '.join(named)}")
    for model, (rms, worst) in gaps.items():
        out.print(f"{model}: float resize against timm's: rms {rms:.2f}, max {worst:.1f} of 255")
    out.print(truth_table(rows))
    for output in OUTPUTS:
        out.print(scheme_table(rows, output))
    if args.json:
        results = [asdict(r) | {"lee_ratio": r.lee_ratio} for r in rows]
        report = {"photographs": list(named), "pipeline_gap": gaps, "results": results}
        args.json.write_text(json.dumps(report, indent=1))
    return rows


if __name__ == "__main__":
    main()
