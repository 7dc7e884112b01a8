"""An exactly equivariant reference network: what the whole pipeline reports for error zero."""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch
from typing import Any

import torch
from torch import nn

from liederiv.actions import ImageAction
from liederiv.generators import resolve_generators
from liederiv.metrics.local import LocalBatch, local_batch

__all__ = ["reference_batch", "reference_network", "reference_transform"]


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


@singledispatch
def reference_transform(x: Any) -> str:
    """The group of transforms under which the reference network for inputs like x is invariant."""
    return "translation"


@singledispatch
def reference_batch(x: Any, seeds: Sequence[int]) -> LocalBatch:
    """Translation LEE of the reference network, and its response to noise of equal norm.

    Measured like any model, in the dtype and on the device of x, with the ``fourier`` scheme.
    Anything but rounding here would be a defect of the pipeline.
    """
    model = reference_network(x.shape[1]).to(x)
    action = ImageAction(resolve_generators("translation"), x.shape[-2], x.shape[-1], "fourier")
    batch, _ = local_batch(
        model, x, action, output="invariant", directions=2, seeds=seeds, verify=False
    )
    return batch["output"]
