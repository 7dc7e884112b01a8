"""Names that can be asked for, where nothing needs torch: help texts and options are made of these.

What the names stand for is elsewhere; a test holds both to each other.
"""

from __future__ import annotations

__all__ = [
    "DEFAULT_METRICS",
    "DEFAULT_TRANSFORMS",
    "FAMILIES",
    "GROUPS",
    "MEASUREMENTS",
    "OUTPUT_TYPES",
    "PRESETS",
    "REPRESENTATIONS",
    "SCHEMES",
]

DEFAULT_TRANSFORMS = "translation,rotation,scale"
DEFAULT_METRICS = "lee,relative,scale,reference"

OUTPUT_TYPES = ("auto", "probs", "logits", "features", "output")
"""What of an output can be measured, see `liederiv.measure`."""

FAMILIES = ["lee", "relative", "reference", "scale", "sampled", "decisions", "discrete", "accuracy"]
"""Families of metrics, in order; registering a metric of another adds it."""

SCHEMES = ("bspline", "fourier", "fourier_mirror", "central", "bilinear")
"""Interpolation schemes, see `liederiv.derivatives.SCHEMES`."""

REPRESENTATIONS = ("invariant", "NCHW", "NHWC", "NHW")
"""Representations of outputs that have a name, see `liederiv.representations.NAMED`."""

MEASUREMENTS = ("score", "layers", "aliasing")
"""What a scan can do to a model."""

GROUPS = ("family", "architecture", "class")
"""What models can be grouped by, see `liederiv.analysis.models.leaderboard`."""

PRESETS = {
    "paper-e2e": "models of the paper's end-to-end sweep, with the weights of 2022",
    "paper-layerwise": "models of the paper's layerwise sweep, with the weights of 2022",
    "families": "the smallest model of each of timm's families (modules)",
    "imagenet1k": "all pretrained ImageNet-1k classifiers of timm",
}
"""Lists of models that a scan can take, and what they hold."""
