"""What kind of operation a module is, and which modules commute with every generator exactly."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from .layouts import Layout

__all__ = ["KINDS", "commutes", "kind_of", "takes_maps"]

KINDS = (
    "activation",
    "convolution",
    "downsampling",
    "normalisation",
    "attention",
    "mlp",
    "linear",
    "pooling",
    "embedding",
    "upsampling",
    "identity",
    "container",
)

_ACTIVATIONS = {
    *nn.modules.activation.__all__,
    *("Swish", "Mish", "Sigmoid", "Tanh", "PReLU", "GELU", "GELUTanh", "QuickGELU", "SiLU"),
    *("HardSwish", "HardSigmoid", "HardMish", "HardSwishMe", "SwishMe", "MishMe", "StarReLU"),
    *("SquaredReLU", "GluAct", "ReLUSquared"),
} - {"MultiheadAttention"}
_POOLS = (
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.modules.pooling._LPPoolNd,
)
_BY_NAME = (
    ("embedding", ("patchembed", "embed")),
    ("downsampling", ("patchmerging", "downsample", "blurpool")),
    ("attention", ("attention", "attn", "squeezeexcite", "semodule")),
    ("mlp", ("mlp", "feedforward")),
    ("normalisation", ("norm",)),
    ("pooling", ("pool",)),
    ("upsampling", ("upsample", "pixelshuffle")),
    ("identity", ("identity", "dropout", "droppath")),
)


def kind_of(module: nn.Module) -> str:
    """One of `KINDS`, from the module's type and, for unknown types, from its class name.

    Example:
        >>> kind_of(nn.Conv2d(3, 8, 3)), kind_of(nn.Conv2d(3, 8, 3, stride=2)), kind_of(nn.GELU())
        ('convolution', 'downsampling', 'activation')
    """
    name = type(module).__name__
    if isinstance(module, _ConvNd):
        return _convolution_kind(module)
    if isinstance(module, nn.Linear):
        return "linear"
    if name in _ACTIVATIONS and not any(True for _ in module.children()):
        return "activation"
    if isinstance(module, _BatchNorm | nn.LayerNorm | nn.GroupNorm):
        return "normalisation"
    if isinstance(module, _POOLS):
        stride = _pair(getattr(module, "stride", None) or 1)
        adaptive = "Adaptive" in name
        return "downsampling" if max(stride) > 1 and not adaptive else "pooling"
    lowered = name.lower()
    for kind, fragments in _BY_NAME:
        if any(f in lowered for f in fragments):
            return kind
    return "container"


def _convolution_kind(module: _ConvNd) -> str:
    if module.transposed:
        return "upsampling"
    stride = max(module.stride)
    patches = tuple(module.kernel_size) == tuple(module.stride)
    if stride >= 4 and patches:
        return "embedding"
    return "downsampling" if stride > 1 else "convolution"


def takes_maps(module: nn.Module) -> bool:
    """Whether a module of this type takes and returns NCHW maps, whatever the shape looks like."""
    two_dimensional = (
        nn.Conv2d,
        nn.ConvTranspose2d,
        nn.BatchNorm2d,
        nn.InstanceNorm2d,
        nn.GroupNorm,
        nn.MaxPool2d,
        nn.AvgPool2d,
        nn.AdaptiveAvgPool2d,
        nn.AdaptiveMaxPool2d,
        nn.LPPool2d,
        nn.Dropout2d,
        nn.PixelShuffle,
        nn.PixelUnshuffle,
        nn.UpsamplingBilinear2d,
        nn.UpsamplingNearest2d,
    )
    return isinstance(module, two_dimensional)


def commutes(
    module: nn.Module, inputs: Sequence[Layout | None], outputs: Sequence[Layout | None]
) -> str:
    """Why the module's violation δ is exactly zero for every generator; empty if it may not be.

    Anything from vectors to vectors (G = 0 on both sides), and what acts on the channels of each
    position alike and affinely: G is linear along the grid and annihilates constants.

    Args:
        module: in eval mode.
        inputs: layouts of its input tensors that depend on the image.
        outputs: of its output tensors that do.
    """
    if not inputs or not outputs or None in (*inputs, *outputs):
        return ""
    layouts = {*inputs, *outputs}
    if not any(layout is None or layout.spatial for layout in layouts):
        return "acts on vectors" if Layout("vector") in layouts else "acts on scalars"
    if len(layouts) > 1 or _has_hooks(module):
        return ""
    layout = next(iter(layouts))
    assert layout is not None
    forward = type(module).forward
    if isinstance(module, nn.Conv2d) and layout.kind == "NCHW":
        same_padding = type(module).__name__ == "Conv2dSame"
        unpadded = module.padding in ((0, 0), "same", "valid")
        pointwise = {*module.kernel_size, *module.stride} == {1} and unpadded
        plain = forward is nn.Conv2d.forward or same_padding
        return "acts on channels" if pointwise and plain else ""
    if isinstance(module, nn.Linear) and forward is nn.Linear.forward:
        last = (layout.kind in ("NHWC", "NLC") and not layout.flat) or layout.channels_last
        return "acts on channels" if last else ""
    if isinstance(module, nn.BatchNorm2d) and forward is nn.BatchNorm2d.forward:
        frozen = not module.training and module.running_mean is not None
        return "acts on channels" if frozen else ""
    inert = isinstance(module, nn.Identity | nn.modules.dropout._DropoutNd)
    return "identity" if inert and not module.training else ""


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _pair(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)
