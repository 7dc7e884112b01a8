"""What of a loaded model is measured, and whether it runs at all."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from liederiv.errors import LieDerivError, ModelError, UnknownLayoutError
from liederiv.foreign import printable
from liederiv.foreign_code import users_code
from liederiv.representations import FeatureMap, Representation, TokenGrid

from .sources.loaded import LoadedModel

__all__ = ["Features", "output_of", "try_model"]


class Features(nn.Module):
    """A timm model's `forward_features` as a model of its own."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Unpooled features of images [B, C, H, W]."""
        return self.model.forward_features(x)  # type: ignore[operator]


def try_model(model: nn.Module, x: Any) -> object:
    """The output for one image or batch of clouds; an error of the model itself becomes one line.

    Raises:
        ModelError: naming what the model raised.
    """
    try:
        with torch.no_grad(), users_code("the model"):
            return model(x)
    except LieDerivError:
        raise
    except Exception as error:  # a model may raise anything
        reason = (printable(error).strip().splitlines() or ["no message"])[0].rstrip(".")
        what = f"images of shape {list(x.shape[1:])}" if isinstance(x, torch.Tensor) else repr(x)
        raise ModelError(
            f"the model fails on {what}: {type(error).__name__}: {reason}; check --img-size and "
            "--model-kwargs, or the model's own code."
        ) from error


def output_of(loaded: LoadedModel, output_type: str) -> tuple[nn.Module, str | Representation]:
    """The module to measure and the representation that timm's metadata declares for it.

    Raises:
        UnknownLayoutError: if features are asked for and nothing declares their layout.
    """
    if "features" not in output_type:
        return loaded.model, "auto"  # the model says of how many classes it has scores
    if output_type != "features":
        raise LieDerivError(
            f"--output-type={output_type!r} mixes features with others; measure them separately."
        )
    layout = loaded.layout
    features = Features(loaded.model).eval()
    if layout.features_format == "NLC" and layout.grid:
        return features, TokenGrid(layout.grid, layout.num_prefix_tokens)
    if layout.features_format in ("NCHW", "NHWC"):
        return features, FeatureMap(layout.features_format, extent=layout.extent)  # type: ignore[arg-type]
    raise UnknownLayoutError(
        f"--output-type=features: {loaded.name} does not declare how its features are laid out; "
        "measure probs or logits, or call liederiv.measure(…, output=…) with a representation."
    )
