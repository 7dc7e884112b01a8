"""Measure a model in the middle of its training and leave no trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from liederiv.differentiation.models import as_it_was, evaluated, kept_randomness

__all__ = ["untouched"]


@contextmanager
def untouched(model: Any, device: torch.device) -> Iterator[None]:
    """Run in eval mode, outside inference mode; put everything back on every exit.

    What comes back: ``.training`` of every submodule (set directly, so that no ``train()`` of the
    user's own runs), the values and identities of all buffers, gradients, tensors kept as
    attributes, and torch's random states on the CPU and on ``device``.

    Args:
        model: a module, or any callable; modules behind one are found when they are called.
        device: where the images are.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(kept_randomness(torch.empty(0, device=device)))
        if isinstance(model, nn.Module):
            stack.enter_context(evaluated([model]))
            stack.enter_context(as_it_was([model]))
        yield
