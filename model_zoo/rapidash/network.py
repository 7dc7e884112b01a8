"""The Rapidash network: separable group convolutions on R², R³, R² × S¹ and R³ × S².

Every tensor carries the name it has in the authors' checkpoints. Differences from their code, none
of which changes a number on their default path, are listed in docs/rapidash.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from liederiv.errors import ModelError
from liederiv.points import PointRepresentation, Scalars, Vectors

from .config import RapidashConfig
from .fibers import LiftVectors, OrientationMean, OrientationVectors, PairInvariants
from .graphs import build_edges, coarsen
from .grids import orientation_grid
from .invariants import (
    basis_network,
    cutoff,
    safe_norm,
    spherical_invariants,
)
from .layers import Block, Links

__all__ = ["Rapidash"]


class Rapidash(nn.Module):
    """A network on point clouds whose symmetry is a setting.

    Args:
        config: all axes of variation.

    Example:
        >>> import torch
        >>> config = RapidashConfig(input_dim=1, hidden_dim=4, output_dim=2, num_layers=1)
        >>> net = Rapidash(config).eval()
        >>> scalar, vector = net(torch.ones(5, 1), torch.randn(5, 3))
        >>> scalar.shape, vector
        (torch.Size([5, 2]), None)
    """

    sphere_grid: Tensor | None

    def __init__(self, config: RapidashConfig) -> None:
        super().__init__()
        self.config = config
        hidden, basis = config.basis_dims
        oriented = config.num_ori > 0
        grid = orientation_grid(config.dim, config.num_ori, config.grid) if oriented else None
        self.register_buffer("sphere_grid", None if grid is None else _default_dtype(grid))
        self.invariants = PairInvariants(config.equivariance, config.orthogonal_2d)
        self.lift_vectors = LiftVectors()
        self.orientation_mean, self.orientation_vectors = OrientationMean(), OrientationVectors()
        self.spatial_basis_fn = basis_network(config.num_invariants, config.degree, hidden, basis)
        if oriented:
            self.spherical_basis_fn = basis_network(1, config.degree, hidden, basis)
        self.x_embedder = nn.Linear(self.input_channels, config.hidden_dims[0], bias=False)
        self.layers = nn.ModuleList(
            Block(
                stage.channels_in,
                stage.channels_out,
                basis,
                oriented=oriented,
                widening=config.widening_factor,
                layer_scale=config.layer_scale,
                residual=stage.kind == "layer",
            )
            for stage in config.stages
        )
        self.readout = nn.Linear(config.readout_width, config.output_dim + config.output_dim_vec)
        self.declare()

    @property
    def fiber_grid(self) -> Tensor | None:
        """The orientations [O, n] on which features are functions; None without."""
        return self.sphere_grid

    def declare(self, *, components: bool = False) -> None:
        """Say how tensors inside transform, for attribution: what shapes alone do not tell.

        Args:
            components: the scalar outputs are the components of one vector.
        """
        level: Literal["node", "graph"] = "graph" if self.config.task_level == "graph" else "node"
        outputs: list[PointRepresentation] = [Vectors(level) if components else Scalars(level)]
        if self.config.output_dim_vec:
            outputs.append(Vectors(level))
        self.output_representation = outputs
        if components:
            _attach(self.readout, output_representation=Vectors())
        if self.sphere_grid is None and self.config.equivariance == "Tn":
            for module in (self.spatial_basis_fn, self.spatial_basis_fn[0]):
                _attach(module, input_representation=Vectors())

    @property
    def input_channels(self) -> int:
        """Scalar and vector input channels together."""
        return self.config.input_dim + self.config.last_feature_conditioning

    def forward(
        self,
        x: Tensor | None,
        pos: Tensor,
        batch: Tensor | None = None,
        vec: Tensor | None = None,
        num_clouds: int | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Run the network on a batch of clouds.

        Args:
            x: scalar inputs [N, S], or None.
            pos: positions [N, n] of all points of all clouds.
            batch: cloud of each point, integers [N] from 0 on; None for a single cloud.
            vec: vector inputs [N, V, n], or None. S + V channels in all.
            num_clouds: number of clouds, where the last ones may be empty; None takes it from
                `batch`.

        Returns:
            Scalars [N, output_dim] and vectors [N, output_dim_vec, n], or None where no vectors
            are asked for; with task_level "graph" the sums over each cloud, [B, …].

        Raises:
            ModelError: if shapes do not agree with each other or with the configuration.
        """
        batch = check_inputs(self.config, self.input_channels, x, pos, batch, vec)
        features = self.x_embedder(self.lift(x, vec))
        links, batch = self.geometry(pos, batch)
        skips: list[Tensor] = []
        for block, stage, link in zip(self.layers, self.config.stages, links, strict=True):
            if stage.kind == "down" and self.config.skip_connections:
                skips.append(features)
            features = block(
                features, link.spatial, link.spherical, link.edges, link.receivers, link.window
            )
            if stage.kind == "up" and self.config.skip_connections:
                features = features + skips.pop()
        return self.read_out(features, batch, num_clouds)

    def lift(self, x: Tensor | None, vec: Tensor | None) -> Tensor:
        """Inputs on the fiber, [N, O, S + V]: scalars constant, vectors as ⟨v, o⟩.

        Without orientations the scalars themselves, [N, S].
        """
        if self.sphere_grid is None:
            assert x is not None
            return x
        parts = []
        if x is not None:
            parts.append(x[:, None, :].expand(-1, self.config.num_ori, -1))
        if vec is not None:
            parts.append(self.lift_vectors(vec, self.sphere_grid))
        return torch.cat(parts, -1)

    def geometry(self, pos: Tensor, batch: Tensor) -> tuple[list[Links], Tensor]:
        """Graphs and kernel bases of all blocks, and the cloud of each point at the output."""
        spherical = None
        if self.sphere_grid is not None:
            spherical = self.spherical_basis_fn(spherical_invariants(self.sphere_grid))
        within, between, finest = [], [], batch
        for scale, edge_type in enumerate(self.config.edges):
            radius = edge_type.radius
            edges = build_edges(pos, batch, edge_type)
            if edge_type.kind == "knn" and self.config.knn_flow == "send":
                edges = edges.flip(0)
            within.append(self._link(edges, pos, pos, spherical, radius))
            if scale + 1 < self.config.num_scales:
                coarse = coarsen(pos, batch, self.config.ratios[scale])
                kept = pos[coarse.kept]
                between.append(self._link(coarse.edges, pos, kept, spherical, radius))
                pos, batch = kept, coarse.batch
        links = []
        for stage in self.config.stages:
            if stage.kind == "up":
                down = between[stage.scale - 1]
                finer = within[stage.scale - 1].receivers
                links.append(replace(down, edges=down.edges.flip(0), receivers=finer))
            else:
                links.append((within if stage.kind == "layer" else between)[stage.scale])
        return links, finest if self.config.upsamples else batch

    def _link(
        self, edges: Tensor, send: Tensor, receive: Tensor, spherical: Tensor | None, radius: float
    ) -> Links:
        relative = send[edges[0]] - receive[edges[1]]
        invariants = self.invariants(relative, self.sphere_grid)
        window = cutoff(safe_norm(relative)[:, 0], radius) if radius else None
        if window is not None and self.config.window == "invariants":
            invariants = invariants * window.reshape(-1, *[1] * (invariants.ndim - 1))
            window = None
        basis = self.spatial_basis_fn(invariants)
        return Links(edges, receive.shape[0], basis, spherical, window)

    def read_out(
        self, features: Tensor, batch: Tensor, num_clouds: int | None
    ) -> tuple[Tensor, Tensor | None]:
        """Scalars as the mean over orientations, vectors as the orientation-weighted mean."""
        sizes = [self.config.output_dim, self.config.output_dim_vec]
        scalar, vector = self.readout(features).split(sizes, -1)
        directions = None
        if self.sphere_grid is not None:
            scalar = self.orientation_mean(scalar)
            if self.config.output_dim_vec:
                directions = self.orientation_vectors(vector, self.sphere_grid)
        if self.config.task_level == "node":
            return scalar, directions
        clouds = (int(batch.max()) + 1 if len(batch) else 0) if num_clouds is None else num_clouds
        pooled = [_sum_by(t, batch, clouds) for t in (scalar, directions) if t is not None]
        return pooled[0], pooled[1] if directions is not None else None

    @contextmanager
    def calibrating(self) -> Iterator[None]:
        """Rescale each block's kernels once, in the first forward pass inside this context.

        Afterwards signals keep their size through the convolutions. The authors' code does this
        inside its first training step; here a forward pass changes weights only when asked to.
        Blocks that were calibrated before are left alone.

        Example:
            >>> import torch
            >>> net = Rapidash(RapidashConfig(1, 4, 2, 1))
            >>> with torch.no_grad(), net.calibrating():
            ...     _ = net(torch.ones(5, 1), torch.randn(5, 3))
            >>> net.layers[0].conv.callibrated
            tensor(True)
        """
        handles = [block.register_forward_pre_hook(_calibrate_block) for block in self.layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _attach(module: nn.Module, **declarations: PointRepresentation) -> None:
    for name, value in declarations.items():
        setattr(module, name, value)


def _calibrate_block(block: nn.Module, inputs: tuple[Any, ...]) -> None:
    assert isinstance(block, Block)
    if not block.conv.callibrated:
        block.conv.calibrate(*inputs)


def _default_dtype(grid: Tensor) -> Tensor:
    return grid.to(torch.get_default_dtype())


def _sum_by(values: Tensor, batch: Tensor, clouds: int) -> Tensor:
    zero = torch.zeros((clouds, *values.shape[1:]), dtype=values.dtype, device=values.device)
    return zero.index_add(0, batch, values)


def check_inputs(
    config: RapidashConfig,
    channels: int,
    x: Tensor | None,
    pos: Tensor,
    batch: Tensor | None,
    vec: Tensor | None,
) -> Tensor:
    """Say in one sentence what does not fit; return the cloud of each point, [N]."""
    if pos.ndim != 2 or pos.shape[1] != config.dim:
        raise ModelError(
            f"`pos` has shape {list(pos.shape)}; the network needs [points, {config.dim}]."
        )
    n = pos.shape[0]
    if x is not None and (x.ndim != 2 or x.shape[0] != n):
        raise ModelError(f"`x` has shape {list(x.shape)}; with {n} points it must be [{n}, S].")
    if vec is not None and (vec.ndim != 3 or vec.shape[::2] != (n, config.dim)):
        raise ModelError(
            f"`vec` has shape {list(vec.shape)}; with {n} points it must be [{n}, V, {config.dim}]."
        )
    if vec is not None and not config.num_ori:
        raise ModelError(
            "`vec` was given to a network without orientations, which has no place for vectors; "
            "set `num_ori`, or pass the components in `x`."
        )
    given = (0 if x is None else x.shape[1]) + (0 if vec is None else vec.shape[1])
    if given != channels:
        raise ModelError(
            f"`x` and `vec` have {given} channels together, but the network takes {channels} "
            "(`input_dim`)."
        )
    if batch is None:
        return torch.zeros(n, dtype=torch.long, device=pos.device)
    if batch.shape != (n,) or batch.is_floating_point():
        raise ModelError(
            f"`batch` has shape {list(batch.shape)} and dtype {batch.dtype}; it must hold one "
            f"integer for each of the {n} points."
        )
    return batch
