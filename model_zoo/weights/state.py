"""How weights differ from what a model needs, and their name by their content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from liederiv.foreign import one_line

__all__ = ["FilterFn", "Mismatch", "StateDict", "Weighted", "weights_fingerprint"]

StateDict = dict[str, Tensor]
FilterFn = Callable[[StateDict, nn.Module], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Mismatch:
    """How a state dict differs from what a model needs; empty when it fits.

    Attributes:
        missing: Names that the model has and the state dict lacks.
        unexpected: Names that the state dict has and the model lacks.
        shapes: Names that both have, with the shapes (in the state dict, in the model).
        total: Number of tensors that the model has.
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    shapes: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    total: int

    @property
    def count(self) -> int:
        """Number of tensors that do not fit."""
        return len(self.missing) + len(self.unexpected) + len(self.shapes)

    def describe(self) -> str:
        """Say in half a sentence how many tensors do not fit, and name the first few."""
        parts = []
        if self.missing:
            parts.append(f"{len(self.missing)} missing ({_first(self.missing)})")
        if self.unexpected:
            parts.append(f"{len(self.unexpected)} unexpected ({_first(self.unexpected)})")
        if self.shapes:
            shown = [f"{name} {list(a)} for {list(b)}" for name, a, b in self.shapes]
            parts.append(f"{len(self.shapes)} of another shape ({_first(shown)})")
        return f"of {self.total} tensors " + ", ".join(parts)


def weights_fingerprint(model: nn.Module) -> str:
    """Name a model's weights by their content: the first 16 hex digits of a SHA-256.

    It covers names, dtypes, shapes and values of all parameters and buffers, in the order of their
    names, and nothing of the file that they came from.

    Args:
        model: Any module.

    Returns:
        Sixteen hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(
            f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode(errors="surrogatepass")
        )
        values = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(values.view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


class Weighted:
    """Something with a ``model``: how many weights it has, and which."""

    model: nn.Module

    @property
    def num_parameters(self) -> int:
        """Number of values in all parameters, buffers excluded."""
        return sum(p.numel() for p in self.model.parameters())

    @cached_property
    def weights_fingerprint(self) -> str:
        """Content hash of parameters and buffers, see `weights_fingerprint`."""
        return weights_fingerprint(self.model)


def _first(items: Collection[str], count: int = 3) -> str:
    shown = ", ".join(one_line(item)[:120] for item in list(items)[:count])
    return f"{shown}, …" if len(items) > count else shown
