"""Images [B, C, H, W] as a kind of input: see `liederiv.domains`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from liederiv.actions import ImageAction, check_images
from liederiv.derivatives import Scheme
from liederiv.domains import Comparisons, Domain, register_domain
from liederiv.errors import ImageError
from liederiv.generators import IMAGES, Generator, SpatialGenerator
from liederiv.metrics.agreement import quarter_turns
from liederiv.metrics.directions import blur, same_norm, same_spectrum, seeded_noise
from liederiv.metrics.discrete import discrete_checks
from liederiv.metrics.sampled import random_transforms
from liederiv.metrics.values import DiscreteCheck
from liederiv.representations import OutputSpec, Resolved, resolve
from liederiv.steps import Step, halvings, step_label, unit_of
from liederiv.transforms import FiniteTransform

__all__ = ["ImageDomain", "reference_network"]


class ImageDomain(Domain):
    """Images [B, C, H, W]."""

    item = "image"
    catalogues = (IMAGES,)
    reference_transform = "translation"
    sampled = ("translation_x", "translation_y", "rotation")
    viewed = "rotation, translation"
    is_images = True

    def accepts(self, x: Any) -> bool:
        """See `Domain.accepts`."""
        return isinstance(x, Tensor) and x.ndim == 4

    def check(self, x: Any, argument: str = "x") -> None:
        """See `Domain.check`."""
        if not isinstance(x, Tensor):
            raise ImageError(
                f"{argument} must be a tensor of images [B, C, H, W] or a PointCloud, not "
                f"{type(x).__name__}."
            )
        check_images(x, argument)
        if x.is_meta:
            return  # nothing to see; placement is another check
        fine = x.isfinite().flatten(1).all(1)
        if not fine.all():
            wrong = (~fine).nonzero().flatten().tolist()
            raise ImageError(
                f"{argument} has NaN or infinite pixels in {len(wrong)} of {len(x)} images (first: "
                f"number {wrong[0]}); repair or leave out those images."
            )

    def bind(self, generators: Sequence[Generator], x: Tensor, scheme: str | Scheme) -> ImageAction:
        """See `Domain.bind`."""
        return ImageAction(generators, x.shape[-2], x.shape[-1], scheme)

    def resolve(self, output: OutputSpec, y: Tensor, action: ImageAction) -> Resolved:
        """See `Domain.resolve`."""
        return resolve(output, y, (action.height, action.width))

    def comparisons(
        self,
        x: Tensor,
        tangents: Tensor,
        action: ImageAction,
        directions: int,
        seeds: Sequence[int],
    ) -> Comparisons:
        """See `Domain.comparisons`."""
        K = len(action)
        noises = seeded_noise(x, seeds, directions + 1)
        blocks = [torch.stack([same_norm(n) for n in noises[1:]])]
        blocks += [same_spectrum(tangents, noises[0]), blur(x, action.scheme)[None]]
        norms = tangents.flatten(2).double().square().sum(-1)

        def read(responses: Tensor) -> dict[str, Tensor]:
            return {
                "moves": norms > 0,
                "noise": responses[:directions].mean(0) * norms,
                "spectrum": responses[directions : directions + K],
                "blur": responses[-1],
            }

        return Comparisons(torch.cat(blocks), read)

    def step_grid(self, g: Generator, x: Tensor) -> Sequence[float]:
        """See `Domain.step_grid`: up to what moves the border of the image by some 4 pixels."""
        half, unit = max(x.shape[-2:]) / 2, unit_of(g.unit)
        if not isinstance(g, SpatialGenerator) or unit.symbol == "px":
            return super().step_grid(g, x)
        pixels = {"deg": math.radians(half), "%": half / 100}.get(unit.symbol, half)
        return halvings(2.0 ** round(math.log2(4 / pixels)))

    def out_of_sight(
        self, generators: Sequence[Generator], plan: Sequence[Sequence[Step]], x: Tensor
    ) -> list[str]:
        """See `Domain.out_of_sight`: translations by at least half of the image."""
        notes = []
        for g, steps in zip(generators, plan, strict=True):
            if g.group != "translation" or not isinstance(g, SpatialGenerator):
                continue
            width = x.shape[-1 if g.name.endswith("x") else -2]
            half = width / 2 if unit_of(g.unit).symbol == "px" else 1.0
            notes += [
                f"{step_label(g.name, step)} moves images of {width} pixels by half of themselves "
                "or more: much of what is measured is how the scheme continues them"
                for step in steps
                if step.chosen and step.size >= half > 0
            ]
        return notes

    def step_noise(
        self, x: Tensor, moved: Tensor, action: ImageAction, seeds: Sequence[int]
    ) -> dict[str, Tensor]:
        """See `Domain.step_noise`."""
        scrambled, plain = seeded_noise(x, seeds, 2)
        norms = moved.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
        return {
            "noise": same_norm(plain) * norms,
            "spectrum": same_spectrum(moved[None], scrambled)[0],
        }

    def transform(self, action: ImageAction, t: Tensor) -> FiniteTransform:
        """See `Domain.transform`."""
        return FiniteTransform(action, t)

    def customary_range(self, g: Generator, x: Tensor) -> float:
        """See `Domain.customary_range`."""
        sizes = {"translation_x": x.shape[-1], "translation_y": x.shape[-2]}
        if g.name in sizes:
            return 1 / 4 if g.unit == "half-width" else sizes[g.name] / 8
        return math.pi / 16 if g.name == "rotation" else super().customary_range(g, x)

    def discrete(
        self, f: Callable[[Any], Tensor], x: Tensor, output: OutputSpec
    ) -> Sequence[DiscreteCheck]:
        """See `Domain.discrete`."""
        return discrete_checks(f, x, output=output)

    def views(
        self, x: Tensor, seed: int, scheme: str | Scheme
    ) -> Iterator[tuple[str, Iterable[Tensor] | str]]:
        """See `Domain.views`."""
        reach = [x.shape[-1] / 8, x.shape[-2] / 8]
        moved = random_transforms(
            x,
            "translation",
            reach,
            num_samples=4,
            seed=seed,
            stream="effective_invariance",
            scheme=scheme,
        )
        yield "translation, ±0.125 of the size", (t.on_input(x) for t in moved)
        H, W = x.shape[-2:]
        reason = f"quarter turns need square images, not {H} × {W} pixels"
        yield "rotation by 90°, 180°, 270°", quarter_turns(x) if H == W else reason

    def reference(self, x: Tensor) -> nn.Module:
        """See `Domain.reference`."""
        return reference_network(x.shape[1]).to(x)

    def rebind(self, action: ImageAction, x: Tensor) -> ImageAction:
        """See `Domain.rebind`; images of one measurement are of one size."""
        return action


def reference_network(channels: int, *, seed: int = 0) -> nn.Module:
    """A classifier that is invariant to (periodic) translation for every input.

    Circular convolutions and the global mean commute with the spectral derivative exactly, and
    no nonlinearity acts before the mean, so its Lie derivative is zero in exact arithmetic.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(channels, 16, 5, padding=2, padding_mode="circular"),
            nn.Conv2d(16, 16, 3, padding=1, padding_mode="circular"),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(16, 10),
            nn.Softmax(dim=-1),
        ).eval()


register_domain(ImageDomain(), speaks=True)
