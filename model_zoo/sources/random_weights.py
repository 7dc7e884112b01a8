"""Make a network of random weights measurable, as its training would.

With the initial statistics 0 and 1 of their batch norms, deep random networks fade or explode, and
a classifier that starts at zero makes the output depend on nothing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["calibrate"]


def calibrate(model: nn.Module, x: Tensor, seed: int = 0) -> None:
    """Give batch norms the statistics of some images, and zero classifiers random weights.

    Args:
        model: In eval mode, and left in it.
        x: Several images [B, C, H, W].
        seed: Of the classifier's weights.
    """
    _randomise_zero_classifier(model, seed)
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    try:
        with torch.no_grad():
            model(x)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()


def _randomise_zero_classifier(model: nn.Module, seed: int) -> None:
    find = getattr(model, "get_classifier", None)
    head = find() if callable(find) else None
    for p in head.parameters() if isinstance(head, nn.Module) else ():
        if p.ndim > 1 and not p.any():
            generator = torch.Generator().manual_seed(seed)
            values = torch.randn(p.shape, generator=generator) / math.sqrt(p.shape[1])
            p.data.copy_(values)
