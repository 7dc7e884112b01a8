"""All axes along which Rapidash networks vary, as one validated, frozen configuration.

Source: Vadgama et al., "On the Utility of Equivariance and Symmetry Breaking in Deep Learning
Architectures on Point Clouds", arXiv 2501.01999. Fields carry the names that the settings of the
authors' checkpoints have.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

from liederiv.errors import ModelError

__all__ = ["EdgeType", "RapidashConfig", "Stage"]


@dataclass(frozen=True)
class EdgeType:
    """Who sends to whom.

    Attributes:
        kind: "fc" (everyone in the same cloud, oneself included), "knn" or "radius".
        k: neighbours per point, oneself included; 0 unless kind is "knn".
        radius: largest distance; 0 unless kind is "radius".
    """

    kind: str
    k: int = 0
    radius: float = 0.0

    @staticmethod
    def parse(text: str) -> EdgeType:
        """Read "fc", "knn-8" or "r-0.5".

        Raises:
            ModelError: if the text is none of these.
        """
        kind, _, value = text.lower().partition("-")
        try:
            if kind == "fc" and not value:
                return EdgeType("fc")
            if kind == "knn" and int(value) >= 1:
                return EdgeType("knn", k=int(value))
            if kind == "r" and 0 < float(value) < math.inf:
                return EdgeType("radius", radius=float(value))
        except ValueError:
            pass
        raise ModelError(
            f"`edge_types` has {text!r}; use 'fc', 'knn-8' (neighbours, at least 1) or 'r-0.5' "
            "(a positive radius)."
        )


@dataclass(frozen=True)
class Stage:
    """One block of the network in the order of computation.

    Attributes:
        kind: "layer" within a scale, "down" to the next coarser scale or "up" to the next finer.
        scale: index of the scale that sends; 0 is the input cloud.
        channels_in: width before.
        channels_out: width after.
    """

    kind: str
    scale: int
    channels_in: int
    channels_out: int


@dataclass(frozen=True)
class RapidashConfig:
    """A Rapidash network.

    Attributes:
        input_dim: input channels: scalars plus vectors (each vector is one channel on the fiber).
        hidden_dim: width, one for all scales or one per scale.
        output_dim: scalar outputs.
        num_layers: blocks, one number (one scale) or one per scale.
        edge_types: "fc", "knn-8" or "r-0.5", one for all scales or one per scale.
        equivariance: "Tn" (the kernel sees relative positions) or "SEn" (only invariants).
        ratios: share of points that farthest-point sampling keeps from scale to scale; one less
            than there are scales.
        output_dim_vec: vector outputs; need orientations.
        dim: dimension of space, 2 or 3.
        num_ori: orientations; 0 puts features on Rⁿ, more on Rⁿ × Sⁿ⁻¹.
        degree: polynomial features of the invariants go up to order degree + 1.
        widening_factor: hidden width of each block in units of its input width.
        layer_scale: initial value of the learned scale of each block; None for none.
        task_level: "node" (outputs per point) or "graph" (summed over each cloud).
        last_feature_conditioning: one further input channel, as some checkpoints have.
        skip_connections: add the features before each downsampling after the upsampling.
        basis_dim: width of the kernel basis; the (first) hidden width by default.
        basis_hidden_dim: hidden width of the basis network; `basis_dim` by default.
        grid: orientations in 3-D: "fibonacci" or "repulsion" (deterministic here).
        window: what the cutoff of a radius graph multiplies: "kernel" (messages vanish at the
            radius) or "invariants" (as the authors' code does: they do not).
        knn_flow: on a nearest-neighbour graph every point either "receive"s from its k nearest, or
            "send"s to them (as the authors' code does: a point that is nobody's neighbour hears
            itself alone).
        orthogonal_2d: second invariant in 2-D: "signed" (invariant under rotation) or "sum" (as
            the authors' code does: it is not).
    """

    input_dim: int
    hidden_dim: int | tuple[int, ...]
    output_dim: int
    num_layers: int | tuple[int, ...]
    edge_types: str | tuple[str, ...] = "fc"
    equivariance: str = "SEn"
    ratios: tuple[float, ...] = ()
    output_dim_vec: int = 0
    dim: int = 3
    num_ori: int = 8
    degree: int = 2
    widening_factor: int = 4
    layer_scale: float | None = None
    task_level: str = "node"
    last_feature_conditioning: bool = False
    skip_connections: bool = False
    basis_dim: int | None = None
    basis_hidden_dim: int | None = None
    grid: str = "fibonacci"
    window: str = "kernel"
    knn_flow: str = "receive"
    orthogonal_2d: str = "signed"

    def __post_init__(self) -> None:
        for field in fields(self):  # lists, as JSON and argparse give them
            value = getattr(self, field.name)
            if isinstance(value, list):
                object.__setattr__(self, field.name, tuple(value))
        self._check_numbers()
        self._check_choices()
        self._check_scales()
        self.edges  # noqa: B018  raises on an unknown edge type

    def _check_numbers(self) -> None:
        least = {
            "input_dim": 1,
            "output_dim": 0,
            "output_dim_vec": 0,
            "num_ori": 0,
            "degree": 0,
            "widening_factor": 1,
        }
        for name, low in least.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise ModelError(f"`{name}`={value!r} must be a whole number of at least {low}.")
        if self.output_dim + self.output_dim_vec == 0:
            raise ModelError("`output_dim` and `output_dim_vec` are both 0; ask for an output.")
        if self.output_dim_vec and not self.num_ori:
            raise ModelError(
                f"`output_dim_vec`={self.output_dim_vec} needs orientations; set `num_ori`, or ask "
                "for the components as scalars."
            )
        if self.num_ori == 1:
            raise ModelError("`num_ori`=1 is no grid of orientations; use 0 (none) or 2 and more.")

    def _check_choices(self) -> None:
        choices = {
            "equivariance": ("Tn", "SEn"),
            "dim": (2, 3),
            "task_level": ("node", "graph"),
            "grid": ("fibonacci", "repulsion"),
            "window": ("kernel", "invariants"),
            "knn_flow": ("receive", "send"),
            "orthogonal_2d": ("signed", "sum"),
        }
        for name, known in choices.items():
            value = getattr(self, name)
            if value not in known:
                listed = " or ".join(repr(k) for k in known)
                raise ModelError(f"`{name}`={value!r} is unknown; use {listed}.")

    def _check_scales(self) -> None:
        n = self.num_scales
        for name, values in (("hidden_dim", self.hidden_dims), ("edge_types", self.edges)):
            if len(values) != n:
                raise ModelError(
                    f"`{name}` has {len(values)} entries for {n} scales (`num_layers`); give one "
                    "for all or one per scale."
                )
        if len(self.ratios) != n - 1:
            raise ModelError(
                f"`ratios` has {len(self.ratios)} entries; {n} scales (`num_layers`) need {n - 1}."
            )
        if not all(0 < r < 1 for r in self.ratios):
            raise ModelError(f"`ratios`={self.ratios} must lie between 0 and 1, both excluded.")
        if min(self.layers_per_scale) < 0 or min(self.hidden_dims) < 1:
            raise ModelError(
                f"`num_layers`={self.num_layers} and `hidden_dim`={self.hidden_dim} must not be "
                "negative; widths are at least 1."
            )

    @property
    def layers_per_scale(self) -> tuple[int, ...]:
        """Blocks at each scale."""
        return (self.num_layers,) if isinstance(self.num_layers, int) else self.num_layers

    @property
    def num_scales(self) -> int:
        """Number of resolutions, the input cloud included."""
        return len(self.layers_per_scale)

    @property
    def hidden_dims(self) -> tuple[int, ...]:
        """Width at each scale."""
        one = isinstance(self.hidden_dim, int)
        return (self.hidden_dim,) * self.num_scales if one else self.hidden_dim  # type: ignore[return-value]

    @property
    def edges(self) -> tuple[EdgeType, ...]:
        """Graph at each scale."""
        texts: Sequence[str] = (
            (self.edge_types,) * self.num_scales
            if isinstance(self.edge_types, str)
            else self.edge_types
        )
        if len(texts) == 1:
            texts = tuple(texts) * self.num_scales
        return tuple(EdgeType.parse(t) for t in texts)

    @property
    def upsamples(self) -> bool:
        """Whether the network returns to the resolution of the input (node tasks)."""
        return self.task_level == "node" and self.num_scales > 1

    @property
    def basis_dims(self) -> tuple[int, int]:
        """(hidden, output) width of the kernel basis network."""
        out = self.basis_dim or self.hidden_dims[0]
        return self.basis_hidden_dim or out, out

    @property
    def num_invariants(self) -> int:
        """Spatial invariants per edge (and orientation)."""
        own = 2 if self.num_ori else 0
        relative = self.dim if self.equivariance == "Tn" else 0
        return own + relative or 1

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The blocks in order, as `layers.N` counts them."""
        widths = self.hidden_dims
        down: list[Stage] = []
        up: list[Stage] = []
        for s, count in enumerate(self.layers_per_scale):
            layers = [Stage("layer", s, widths[s], widths[s])] * count
            down += layers
            up = layers + up
            if s + 1 < self.num_scales:
                down.append(Stage("down", s, widths[s], widths[s + 1]))
                up = [Stage("up", s + 1, widths[s + 1], widths[s]), *up]
        return tuple(down + up) if self.upsamples else tuple(down)

    @property
    def readout_width(self) -> int:
        """Width of the features that the readout takes."""
        return self.hidden_dims[0] if self.upsamples else self.hidden_dims[-1]
