"""CNN, transformer, mixer or hybrid: what a network mixes positions with, read off its modules.

Three things carry information from one position to another: attention between positions, mixing
layers across tokens (MLPs or recurrent layers along the token axis), and convolutions wider than
one position. A convolution whose kernel is its stride only cuts patches and is not counted, nor is
one inside an attention module. Squeeze-and-excite and its kin weigh channels, and pooling by
attention at the end reads out: neither is attention between positions here.
"""

from __future__ import annotations

import csv
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources

import timm
import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

__all__ = ["CLASSES", "Mixing", "architecture_class", "architecture_classes", "mixing_of"]

CLASSES = ("CNN", "transformer", "mixer", "hybrid", "other")
"""Classes of architectures; `other` mixes positions in none of the three ways, or is unknown."""

_ATTENTION = ("attention", "attn", "lambdalayer", "mhsa", "gpsa", "shsa", "shma", "litemla")
# Weigh channels, gather a context or read out; or are whole blocks around an attention.
_NOT_ATTENTION = (
    *("squeeze", "channel", "eca", "se", "splitattn", "selectivekernel", "globalcontext", "cbam"),
    *("spatialattn", "nonlocal", "pool", "block", "gather", "batnonlocal"),
)
_TOKEN_MIXERS = ("mlp_tokens", "linear_tokens", "sgu", "rnn_tokens")
_TOKEN_MIXER_CLASSES = ("SpatialGatingUnit", "LSTM2d", "RNN2d")
_STEM = 4
"""Convolutions that a stem may have without making a transformer a hybrid."""


@dataclass(frozen=True)
class Mixing:
    """How often a network mixes positions, by means.

    Attributes:
        attention: attention modules, the outermost ones.
        tokens: mixing layers across tokens.
        convolutions: wider than one position and overlapping, outside of attention.
    """

    attention: int
    tokens: int
    convolutions: int

    @property
    def architecture_class(self) -> str:
        """One of `CLASSES`.

        A transformer has attention and not more convolutions than a stem and one for every second
        attention; with more it is a hybrid, as is attention with token mixers.
        """
        if self.attention:
            few = self.convolutions <= max(_STEM, self.attention // 2)
            return "transformer" if few and not self.tokens else "hybrid"
        if self.tokens:
            return "mixer" if self.convolutions <= max(_STEM, self.tokens // 2) else "hybrid"
        return "CNN" if self.convolutions else "other"


def mixing_of(model: nn.Module) -> Mixing:
    """Count what mixes positions in a network.

    Example:
        >>> mixing_of(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1)))
        Mixing(attention=0, tokens=0, convolutions=1)
    """
    attention: list[str] = []
    tokens = convolutions = 0
    for path, module in model.named_modules():
        if any(path.startswith(f"{outer}.") for outer in attention):
            continue
        if _is_attention(module):
            attention.append(path)
        elif _mixes_tokens(path, module):
            tokens += 1
        elif isinstance(module, _ConvNd) and _overlaps(module):
            convolutions += 1
    return Mixing(len(attention), tokens, convolutions)


def architecture_class(model: nn.Module) -> str:
    """One of `CLASSES`, for a network."""
    return mixing_of(model).architecture_class


def architecture_classes(names: Iterable[str]) -> dict[str, str]:
    """Classes of timm architectures, by name without tag; `other` for what timm does not know.

    Those of the timm release that this package was made with are known; others are built once,
    without memory for their weights.
    """
    known = _known()
    return {name: known.get(name) or _of_name(name) for name in dict.fromkeys(names)}


def _is_attention(module: nn.Module) -> bool:
    if isinstance(module, nn.MultiheadAttention):
        return True
    name = type(module).__name__.lower()
    if hasattr(module, "group_conv3x3"):  # NextViT's "attention" by convolution
        return False
    if not any(part in name for part in _ATTENTION):
        return False
    if any(part in name for part in _NOT_ATTENTION if part not in ("se", "eca")):
        return False
    return not name.startswith(("se", "eca", "ceca")) or "self" in name


def _mixes_tokens(path: str, module: nn.Module) -> bool:
    last = path.rpartition(".")[2]
    return last in _TOKEN_MIXERS or type(module).__name__ in _TOKEN_MIXER_CLASSES


def _overlaps(conv: _ConvNd) -> bool:
    wide = max(conv.kernel_size) > 1
    return wide and any(k > s for k, s in zip(conv.kernel_size, conv.stride, strict=True))


@cache
def _known() -> dict[str, str]:
    source = resources.files("liederiv.analysis.models") / "data" / "architectures.csv"
    rows = csv.DictReader(source.read_text(encoding="utf-8").splitlines())
    return {row["architecture"]: row["class"] for row in rows}


@cache
def _of_name(name: str) -> str:
    if not timm.is_model(name):
        return "other"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # timm's own, while it builds
        try:
            with torch.device("meta"):
                model = timm.create_model(name)
        except (RuntimeError, NotImplementedError):  # some constructors compute with tensors
            model = timm.create_model(name)
    return architecture_class(model)
