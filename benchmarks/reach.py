"""How far do the derivatives of trained networks speak, and what shortens that?

On sample photographs, for translations along x, rotations and scalings:

* ``networks``: EfficientNet-Lite0, 1 and 2 with their packaged ImageNet weights, Lite0 with random
  ones too, and the vision transformer of `packaged_vit`, where it is installed. Logits, and the
  pooled features before them; of the transformer the class token and the mean patch token;
* ``repairs``: copies of Lite0 in which one thing is changed and the weights stay, on its logits, at
  128 pixels.

For each LEE(h)/LEE, the reach with its interval, and the response beside noise of equal norm: of
the derivative, and of a step of 1 px, 1 degree, 1 %.

    python benchmarks/reach.py [--parts networks,repairs] [--num-images 8] [--json out.json]
    python benchmarks/reach.py --read out.json [--plot scale_networks.png]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from packaged_vit import NAME as VIT
from packaged_vit import packaged_vit
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from liederiv import Measurement, measure
from liederiv.analysis.aliasing.interventions import intervene, repairable
from liederiv.model_zoo import load, load_images

LITE = "tf_efficientnet_lite0"
STEPS = {"translation_x": "1px", "rotation": "1deg", "scale": "1%"}
COLUMNS = (("share", "LEE(h) ÷ LEE"), ("noise", "LEE ÷ noise"), ("noise_step", "at the step"))
SMALL = 128  # pixels of what the repaired copies see
Row = dict[str, Any]
Subject = tuple[str, str, Callable[[], tuple[nn.Module, Tensor]]]


class SmoothClamp(nn.Module):
    """ReLU6 whose kinks are rounded over ``width``, in units of its argument."""

    def __init__(self, width: float) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        """Tends to ``x.clamp(0, 6)`` for a small width."""
        return self.width * (F.softplus(x / self.width) - F.softplus((x - 6) / self.width))


class MeanToken(nn.Module):
    """Mean of the patch tokens of a vision transformer, [B, width]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Of images [B, 3, H, W]."""
        tokens: Tensor = self.model.forward_features(x)  # type: ignore[operator]
        return tokens[:, 1:].mean(1)


def networks(num_images: int) -> Iterator[Subject]:
    """Name, what of it is measured, and what makes the network and the photographs at its size."""
    for name in (LITE, "tf_efficientnet_lite2", "tf_efficientnet_lite1"):
        yield name, "logits", lambda name=name: _lite(name, num_images)
        if name == LITE:
            yield name, "features", lambda: _lite(LITE, num_images, classes=False)
            yield f"{LITE}, random", "logits", lambda: _random(LITE, num_images)
    vit = packaged_vit()
    if vit is not None:
        yield VIT, "class token", lambda: (vit, _standardised(num_images))
        yield VIT, "mean token", lambda: (MeanToken(vit).eval(), _standardised(num_images))


def _lite(
    name: str, num_images: int, *, classes: bool = True, size: int | None = None
) -> tuple[nn.Module, Tensor]:
    loaded = load(name, img_size=size)
    if not classes:
        loaded.model.reset_classifier(0)  # type: ignore[operator]
    return loaded.model, photographs(loaded.data_config, num_images)


def _random(name: str, num_images: int) -> tuple[nn.Module, Tensor]:
    """Batch norms set to what the photographs do."""
    torch.manual_seed(0)
    model, x = load(name, pretrained=False).model, _lite(name, num_images)[1]
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # type: ignore[assignment]
    with torch.no_grad():
        model.train()(x)
    return model.eval(), x


def _standardised(num_images: int) -> Tensor:
    """The photographs as DINOv2 wants them, in place of [−1, 1]."""
    return (_lite(LITE, num_images)[1] * 0.5 + 0.5 - MEAN) / STD


MEAN = torch.tensor((0.485, 0.456, 0.406)).reshape(3, 1, 1)
STD = torch.tensor((0.229, 0.224, 0.225)).reshape(3, 1, 1)


def photographs(config: Any, count: int) -> Tensor:
    """[count, 3, H, W] as a network wants them."""
    (batch,) = load_images("samples", config, num_images=count).batches(count)
    x = batch[0] if isinstance(batch, tuple) else batch
    assert isinstance(x, Tensor)
    return x


def repairs(num_images: int) -> Iterator[Subject]:
    """Copies of Lite0, one thing changed at a time; weights stay, nothing is trained again."""
    yield "as it is", "logits", lambda: _lite(LITE, num_images, size=SMALL)
    for names in (("alias_free", "low_pass"), ("low_pass",), ("alias_free",), ("mirror_padding",)):
        yield " and ".join(names), "logits", lambda names=names: _repaired(names, num_images)
    for width in (0.3, 0.1):
        name = f"kinks rounded over {width:g}"
        yield name, "logits", lambda width=width: _smooth(width, num_images)


def _repaired(names: tuple[str, ...], num_images: int) -> tuple[nn.Module, Tensor]:
    model, x = _lite(LITE, num_images, size=SMALL)
    found = repairable(model, [name for name, _ in model.named_modules()], names, x[:1])
    return intervene(model, list(found), names, example=x[:1]).eval(), x


def _smooth(width: float, num_images: int) -> tuple[nn.Module, Tensor]:
    model, x = _lite(LITE, num_images, size=SMALL)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU6):
                setattr(module, name, SmoothClamp(width))
    return model.eval(), x


def rows_of(result: Measurement, **about: Any) -> list[Row]:
    """One row per transform."""
    rows: list[Row] = []
    for name, step in STEPS.items():
        if (name, "output") not in {(r.transform, r.output) for r in result.scores}:
            continue
        reach = result.get("reach", name)
        curve = [s for s in result.scores if s.metric == "lee_share"]
        curve = [s for s in curve if s.transform.startswith(f"{name}@") and s.value is not None]
        sizes = [s.transform.partition("@")[2].rstrip("pxdeg%") for s in curve]
        at = {s.transform: s.value for s in curve}
        rows.append(
            {
                **about,
                "transform": name,
                "unit": reach.unit,
                "reach": [reach.value, reach.ci_low, reach.ci_high],
                "status": reach.status,
                "reason": reach.reason,
                "h": [float(v) for v in sizes],
                "shares": [s.value for s in curve],
                "share": at.get(f"{name}@{step}"),
                "noise": result.get("relative_norm", name).value,
                "noise_step": result.get("relative_norm_step", f"{name}@{step}").value,
                "verification": result.provenance.verification,
            }
        )
    return rows


def run(part: Callable[[int], Iterator[Subject]], only: str, images: int) -> Iterator[list[Row]]:
    """Measure all that a part yields, one network after the other."""
    first = None
    for name, output, build in part(images):
        if only not in f"{name} {output}":
            continue
        model, x = build()
        with torch.no_grad():
            decided = model(x).argmax(1)
        first = decided if first is None else first
        found = measure(
            model, x, TRANSFORMS[part], "lee,relative,scale",
            output="invariant", output_type="output", batch_size=8,
        )  # fmt: skip
        same = float((decided == first).float().mean()) if part is repairs else None
        yield rows_of(found, part=part.__name__, network=name, measured=output, same=same)


TRANSFORMS = {networks: tuple(STEPS), repairs: ("translation_x", "rotation")}


def show(rows: list[Row]) -> None:
    """Print a table."""
    table = Table("network", "output", "transform", "reach", box=box.SIMPLE_HEAD)
    for _, title in COLUMNS:
        table.add_column(title, justify="right")
    table.add_column("same class", justify="right")
    for r in rows:
        value, low, high = r["reach"]
        ends = [f"{v:.2g}" if v is not None else "…" for v in (low, high)]
        text = f"{value:.2g} [{', '.join(ends)}] {r['unit']}" if value is not None else r["status"]
        cells = [f"{r[key]:.2g}" if r[key] is not None else "–" for key, _ in COLUMNS]
        same = "" if r["same"] is None else f"{r['same']:.0%}"
        table.add_row(r["network"], r["measured"], r["transform"], text, *cells, same)
    Console(width=150).print(table)


COLOURS = {LITE: "#0072B2", "tf_efficientnet_lite1": "#56B4E9", "tf_efficientnet_lite2": "#009E73",
           VIT: "#D55E00"}  # fmt: skip
DASHES = {"logits": "-", "features": "--", "class token": "-", "mean token": "--"}


def plot(rows: list[Row], path: Path) -> None:
    """Curves over the step, one panel per transform."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), sharey=True, layout="constrained")
    rows = [r for r in rows if r["part"] == "networks"]
    for ax, name in zip(axes, STEPS, strict=True):
        for r in (r for r in rows if r["transform"] == name):
            colour = COLOURS.get(r["network"], "#8a8a8a")
            ax.plot(r["h"], r["shares"], DASHES[r["measured"]], color=colour, lw=1.6,
                    label=f"{r['network'].removeprefix('tf_')}: {r['measured']}")  # fmt: skip
        ax.axhline(0.5, color="#5b6675", lw=0.8, ls=":")
        ax.set_xscale("log", base=2)
        ax.set_xlabel(f"step h of {name.replace('_', ' ')} ({r['unit']})")
        ax.grid(color="#e3e6ea", lw=0.6)
        ax.set_ylim(0, None)
    axes[0].set_ylabel("LEE(h) ÷ LEE")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    figure.savefig(path, dpi=130)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--parts", default="networks,repairs")
    parser.add_argument("--only", default="", help="networks with this in their names")
    parser.add_argument("--num-images", type=int, default=8)
    parser.add_argument("--read", type=Path, nargs="*", help="files of --json, not measured again")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args(arguments)
    rows: list[Row] = []
    if given.read:
        rows = [row for path in given.read for row in json.loads(path.read_text())]
    for part in (networks, repairs) if not given.read else ():
        if part.__name__ in given.parts.split(","):
            for some in run(part, given.only, given.num_images):
                show(some)
                rows += some
                if given.json:
                    given.json.write_text(json.dumps(rows, indent=1))
    show(rows)
    if given.plot:
        plot(rows, given.plot)


if __name__ == "__main__":
    main()
