"""What is loaded: a model, the kind of its inputs, and where it comes from."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from torch import nn

from liederiv.errors import LieDerivError, UnknownLayoutError
from liederiv.representations import FeatureMap, Representation, TokenGrid

from ..inputs.data_config import DataConfig
from ..weights.state import Weighted
from .layouts import OutputLayout, declared_layout

__all__ = ["Features", "Loaded", "LoadedModel", "Target"]


@dataclass(frozen=True)
class Target:
    """What of a model is measured.

    Attributes:
        model: the module to call.
        representation: how its output transforms, declared or by name.
        output_type: which output it is, as `liederiv.measure` has it.
    """

    model: nn.Module
    representation: str | Representation
    output_type: str


@dataclass(frozen=True)
class Loaded(Weighted):
    """A model ready to be measured, and where it comes from.

    Attributes:
        model: In evaluation mode, no parameter requires a gradient.
        name: Full current name.
        requested_name: The name that was asked for.
        weights: Where the weights come from, in words.
        kind: Of its inputs, see `liederiv.model_zoo.inputs.register_inputs`.
    """

    model: nn.Module
    name: str
    requested_name: str
    weights: str
    kind: str = field(default="images", kw_only=True)

    @property
    def expects(self) -> Any:
        """What it declares about its inputs, as `Inputs.open` of its kind understands it."""
        return self.model

    @property
    def preprocessing(self) -> dict[str, Any]:
        """The same as plain data, for provenance."""
        return {}

    @property
    def input_size(self) -> tuple[int, int, int] | None:
        """Channels, height and width of a model of images; None for others."""
        return None

    @property
    def classes(self) -> int | None:
        """How many classes it declares; None where it does not say."""
        found = getattr(self.model, "num_classes", None)
        return found if isinstance(found, int) else None

    def target(self, output_type: str, representation: str = "auto") -> Target:
        """What is measured where an output is asked for.

        Args:
            output_type: which one.
            representation: how it transforms, by name; ``auto`` leaves it to the model.

        Raises:
            UnknownLayoutError: if features are asked for and nothing declares their layout.
        """
        if "features" in output_type:
            raise UnknownLayoutError(
                f"--output-type=features: {self.name} does not declare how its features are laid "
                "out; measure its output."
            )
        return Target(self.model, representation, output_type)


class Features(nn.Module):
    """A timm model's `forward_features` as a model of its own."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Any) -> Any:
        """Unpooled features of images [B, C, H, W]."""
        return self.model.forward_features(x)  # type: ignore[operator]


@dataclass(frozen=True)
class LoadedModel(Loaded):
    """A model of images ready to be measured, and where it comes from.

    Attributes:
        data_config: How images are prepared for it.
        num_classes: Number of logits; 0 for a model without classifier, None where not declared.
    """

    data_config: DataConfig
    num_classes: int | None

    @cached_property
    def layout(self) -> OutputLayout:
        """What the model declares about its outputs; takes one forward pass, on first use."""
        return declared_layout(self.model, self.data_config.input_size)

    @property
    def expects(self) -> DataConfig:
        """See `Loaded.expects`."""
        return self.data_config

    @property
    def preprocessing(self) -> dict[str, Any]:
        """See `Loaded.preprocessing`."""
        return asdict(self.data_config)

    @property
    def input_size(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return self.data_config.input_size

    @property
    def classes(self) -> int | None:
        """See `Loaded.classes`."""
        return self.num_classes

    def target(self, output_type: str, representation: str = "auto") -> Target:
        """See `Loaded.target`; ``auto`` never takes pooled features for logits.

        Raises:
            UnknownLayoutError: if features are asked for and nothing declares their layout.
        """
        if "features" not in output_type:
            headless = output_type == "auto" and self.layout.is_classifier is False
            return Target(self.model, representation, "output" if headless else output_type)
        if output_type != "features":
            raise LieDerivError(
                f"--output-type={output_type!r} mixes features with others; measure them "
                "separately."
            )
        layout, model = self.layout, Features(self.model).eval()
        declared: Representation
        if layout.features_format == "NLC" and layout.grid:
            declared = TokenGrid(layout.grid, layout.num_prefix_tokens)
        elif layout.features_format in ("NCHW", "NHWC"):
            form: Any = layout.features_format
            declared = FeatureMap(form, extent=layout.extent)
        else:
            raise UnknownLayoutError(
                f"--output-type=features: {self.name} does not declare how its features are laid "
                "out; measure probs or logits, or call liederiv.measure(…, output=…) with a "
                "representation."
            )
        return Target(model, declared if representation == "auto" else representation, output_type)
