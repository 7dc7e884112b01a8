"""What a model declares about the layout of its features, checked against their actual shape.

A layout is stated only where timm's metadata states it (`output_fmt`, `feature_info`, the patch
grid, the number of prefix tokens) and the tensor that comes out agrees; anything else is None.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["FeatureLevel", "OutputLayout", "declared_layout"]

FORMATS = ("NCHW", "NHWC", "NLC")


@dataclass(frozen=True)
class FeatureLevel:
    """One output of a `features_only` model.

    Attributes:
        channels: Number of channels.
        reduction: Pixels of the input for one step of the map (stride).
        features_format: "NCHW" or "NHWC", or None where the shape contradicts the declaration.
        grid: Height and width of the map.
    """

    channels: int
    reduction: int
    features_format: str | None
    grid: tuple[int, int] | None


@dataclass(frozen=True)
class OutputLayout:
    """Declared facts about a model's outputs, each None where nothing is declared.

    Attributes:
        is_classifier: Whether `model(x)` gives class logits.
        features_format: Layout of `model.forward_features(x)`: "NCHW", "NHWC" or "NLC".
        grid: Height and width of that feature map or token grid.
        num_prefix_tokens: Tokens (class, register) in front of the grid; 0 without tokens.
        features: The outputs of a `features_only` model, finest first; empty for others.
        extent: Height and width of what the map covers in pixels, where that is not the image: its
            grid times the stride that the model declares.
    """

    is_classifier: bool | None = None
    features_format: str | None = None
    grid: tuple[int, int] | None = None
    num_prefix_tokens: int = 0
    features: tuple[FeatureLevel, ...] = ()
    extent: tuple[int, int] | None = None


def declared_layout(model: nn.Module, input_size: tuple[int, int, int]) -> OutputLayout:
    """Collect what `model` declares and check it on one forward pass of a zero image.

    Args:
        model: A timm model, or one with the same attributes, in eval mode.
        input_size: Channels, height and width of the input.

    Returns:
        The declared layout; None for every fact that is undeclared or contradicted.
    """
    first = next(model.parameters(), None)
    x = torch.zeros(1, *input_size)
    if first is not None:
        x = x.to(first.device, first.dtype)
    info = getattr(model, "feature_info", None)
    with torch.no_grad():
        if hasattr(info, "channels") and hasattr(info, "reduction"):
            return OutputLayout(is_classifier=False, features=_feature_levels(model, x))
        is_classifier = _is_classifier(model)
        features = _forward_features(model, x)
    if features is None:
        return OutputLayout(is_classifier=is_classifier)
    if features.ndim == 3:
        return _token_layout(model, features, input_size, is_classifier)
    if features.ndim == 4:
        declared = _declared_format(model)
        reduction = _last_reduction(info)
        grid = _verified_grid(
            features, declared, getattr(model, "num_features", None), reduction, x
        )
        if grid is not None:
            extent = None if reduction is None else (grid[0] * reduction, grid[1] * reduction)
            part = None if extent == tuple(x.shape[2:]) else extent
            return OutputLayout(is_classifier, declared, grid, extent=part)
    return OutputLayout(is_classifier=is_classifier)


def _is_classifier(model: nn.Module) -> bool | None:
    num_classes = getattr(model, "num_classes", None)
    return None if num_classes is None else num_classes > 0


def _forward_features(model: nn.Module, x: Tensor) -> Tensor | None:
    forward = getattr(model, "forward_features", None)
    if forward is None:
        return None
    try:
        features = forward(x)
    except (AssertionError, NotImplementedError, RuntimeError, TypeError, ValueError):
        return None  # a zero image of this size is not what the model takes
    return features if isinstance(features, Tensor) else None


def _declared_format(model: nn.Module) -> str | None:
    """Read `output_fmt`; timm's models with `feature_info` and no such attribute are NCHW."""
    declared = getattr(model, "output_fmt", None)
    if declared is None:
        return "NCHW" if getattr(model, "feature_info", None) else None
    name = str(getattr(declared, "value", declared))
    return name if name in FORMATS else None


def _last_reduction(info: Any) -> int | None:
    """Stride of the last stage; `feature_info` is a list of dictionaries on plain models."""
    if isinstance(info, Sequence) and info and isinstance(info[-1], dict):
        return info[-1].get("reduction")
    return None


def _verified_grid(
    features: Tensor, declared: str | None, channels: int | None, reduction: int | None, x: Tensor
) -> tuple[int, int] | None:
    """Grid of a map if its shape is what format, channels and stride say, else None."""
    if features.ndim != 4 or declared not in ("NCHW", "NHWC") or channels is None:
        return None
    last_first = features if declared == "NCHW" else features.permute(0, 3, 1, 2)
    height, width = int(last_first.shape[2]), int(last_first.shape[3])
    expected = [_steps(s, reduction) for s in x.shape[2:]]
    if int(last_first.shape[1]) != channels:
        return None
    if reduction is not None and not (height in expected[0] and width in expected[1]):
        return None
    return height, width


def _steps(size: int, reduction: int | None) -> tuple[int, ...]:
    """Map sizes that a total stride may give: rounded down or up."""
    return () if reduction is None else (size // reduction, -(-size // reduction))


def _token_layout(
    model: nn.Module,
    features: Tensor,
    input_size: tuple[int, int, int],
    is_classifier: bool | None,
) -> OutputLayout:
    embed: Any = getattr(model, "patch_embed", None) or getattr(model, "stem", None)
    grid = getattr(embed, "grid_size", None)
    if hasattr(embed, "dynamic_feat_size") and getattr(embed, "img_size", None) is None:
        grid = embed.dynamic_feat_size(input_size[1:])
    prefix = int(getattr(model, "num_prefix_tokens", 0))
    channels = getattr(model, "num_features", None)
    counted = grid is not None and grid[0] * grid[1] + prefix == features.shape[1]
    if not counted or grid is None or features.shape[2] != channels:
        return OutputLayout(is_classifier=is_classifier)
    return OutputLayout(is_classifier, "NLC", (int(grid[0]), int(grid[1])), prefix)


def _feature_levels(model: nn.Module, x: Tensor) -> tuple[FeatureLevel, ...]:
    info: Any = model.feature_info
    declared = _declared_format(model)
    outputs = model(x)
    maps = list(outputs.values()) if isinstance(outputs, dict) else list(outputs)
    levels = []
    for channels, reduction, features in zip(info.channels(), info.reduction(), maps, strict=True):
        grid = _verified_grid(features, declared, channels, reduction, x)
        levels.append(FeatureLevel(channels, int(reduction), declared if grid else None, grid))
    return tuple(levels)
