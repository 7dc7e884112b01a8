"""What a Rapidash network is fed with, and the adapter that takes a `PointCloud`.

Which symmetry a network has is decided as much here as in its kernels: coordinates as vectors know
where the origin is, vectors as scalars know where the axes are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from liederiv.errors import ModelError
from liederiv.points import PointCloud, Scalars, Vectors

from .config import RapidashConfig
from .network import Rapidash

__all__ = ["FIXED", "RapidashInputs", "RapidashOnClouds"]

# In the order in which the authors' code joins them, with the vectors that each consists of.
GEOMETRIC = {"coords": 1, "velocity": 1, "normals": 1, "pose": 3}
FIXED = "fixed_pose"


@dataclass(frozen=True)
class RapidashInputs:
    """How the fields of a cloud enter the network.

    Attributes:
        invariants: scalar fields that are taken as they are, with their number of channels
            (("charge", 1), …).
        scalars: geometric features whose components enter as scalars: of "coords", "velocity",
            "normals", "pose".
        vectors: geometric features that enter as vectors; also "fixed_pose", the axes of the
            coordinate system themselves, which do not turn with the data.
    """

    invariants: tuple[tuple[str, int], ...] = ()
    scalars: tuple[str, ...] = ()
    vectors: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        pairs = tuple((str(name), int(width)) for name, width in self.invariants)
        object.__setattr__(self, "invariants", pairs)
        for kind, known in (("scalars", tuple(GEOMETRIC)), ("vectors", (*GEOMETRIC, FIXED))):
            given = tuple(getattr(self, kind))
            unknown = [name for name in given if name not in known]
            if unknown:
                raise ModelError(
                    f"`{kind}` has {unknown[0]!r}; choose from {', '.join(map(repr, known))}."
                )
            object.__setattr__(self, kind, tuple(n for n in known if n in given))

    def width(self, dim: int) -> tuple[int, int]:
        """Channels of scalars and of vectors; without any input a constant 1 is fed."""
        scalars = sum(w for _, w in self.invariants)
        scalars += sum(dim * _count(name, dim) for name in self.scalars)
        vectors = sum(_count(name, dim) for name in self.vectors)
        return (scalars, vectors) if scalars + vectors else (1, 0)

    def assemble(
        self, pos: Tensor, scalars: Mapping[str, Tensor], vectors: Mapping[str, Tensor]
    ) -> tuple[Tensor | None, Tensor | None]:
        """Network inputs x [N, S] and vec [N, V, n], None where there are none.

        Args:
            pos: [N, n].
            scalars: fields [N, c] by name.
            vectors: fields [N, c, n] by name.

        Raises:
            ModelError: if a field is missing or has another width than declared.
        """
        n = len(pos)
        x = [_field(scalars, name, width, "scalars").to(pos) for name, width in self.invariants]
        x += [self._vectors(name, pos, vectors).reshape(n, -1) for name in self.scalars]
        vec = [self._vectors(name, pos, vectors) for name in self.vectors]
        if not x and not vec:
            return pos.new_ones(n, 1), None
        return (torch.cat(x, -1) if x else None), (torch.cat(vec, -2) if vec else None)

    def _vectors(self, name: str, pos: Tensor, vectors: Mapping[str, Tensor]) -> Tensor:
        if name == "coords":
            return pos[:, None, :]
        if name == FIXED:
            axes = torch.eye(pos.shape[1], dtype=pos.dtype, device=pos.device)
            return axes.expand(pos.shape[0], -1, -1)
        return _field(vectors, name, _count(name, pos.shape[1]), "vectors")


def _count(name: str, dim: int) -> int:
    return dim if name in ("pose", FIXED) else GEOMETRIC[name]


def _field(fields: Mapping[str, Tensor], name: str, width: int, group: str) -> Tensor:
    if name not in fields:
        has = ", ".join(map(repr, fields)) or "none"
        raise ModelError(f"the cloud has no field {name!r} among its {group} (it has {has}).")
    value = fields[name]
    if value.shape[1] != width:
        raise ModelError(
            f"the field {name!r} has {value.shape[1]} channels, but the network takes {width}."
        )
    return value


class RapidashOnClouds(nn.Module):
    """A Rapidash network together with how it is fed: takes a `PointCloud`, returns one tensor.

    `output_representation` declares how that transforms: as scalars or as vectors.

    Args:
        config: the network; `input_dim` must be what the inputs add up to.
        inputs: which fields enter, and how.
        output: "scalars" returns [N, output_dim] (or [B, output_dim] of a graph task), "vector"
            returns [N, n] (or [B, n]): the one vector output, or without orientations the n scalar
            outputs, read as the components of a vector.

    Raises:
        ModelError: if these do not agree.
    """

    def __init__(
        self, config: RapidashConfig, inputs: RapidashInputs, output: str = "scalars"
    ) -> None:
        super().__init__()
        scalars, vectors = inputs.width(config.dim)
        if scalars + vectors != config.input_dim + config.last_feature_conditioning:
            raise ModelError(
                f"`input_dim`={config.input_dim}, but the inputs have {scalars} scalar and "
                f"{vectors} vector channels."
            )
        if vectors and not config.num_ori:
            raise ModelError(
                f"`vectors`={inputs.vectors} need orientations; set `num_ori`, or feed them as "
                "scalars."
            )
        wanted = (0, 1) if config.num_ori else (config.dim, 0)
        if output not in ("scalars", "vector"):
            raise ModelError(f"`output`={output!r} is unknown; use 'scalars' or 'vector'.")
        if output == "vector" and (config.output_dim, config.output_dim_vec) != wanted:
            raise ModelError(
                f"`output`='vector' needs output_dim={wanted[0]} and output_dim_vec={wanted[1]} "
                f"with num_ori={config.num_ori}."
            )
        self.net = Rapidash(config)
        self.inputs, self.output = inputs, output
        if output == "vector" and not config.num_ori:
            self.net.declare(components=True)
        level: Literal["node", "graph"] = "graph" if config.task_level == "graph" else "node"
        self.output_representation = (Vectors if output == "vector" else Scalars)(level)

    @property
    def config(self) -> RapidashConfig:
        """Configuration of the network."""
        return self.net.config

    def forward(self, cloud: PointCloud) -> Tensor:
        """Output of the declared kind for all clouds of a batch."""
        return self.run(cloud.pos, cloud.batch, cloud.scalars, cloud.vectors, len(cloud))

    def run(
        self,
        pos: Tensor,
        batch: Tensor,
        scalars: Mapping[str, Tensor],
        vectors: Mapping[str, Tensor],
        num_clouds: int | None = None,
    ) -> Tensor:
        """`forward` on plain tensors."""
        x, vec = self.inputs.assemble(pos, scalars, vectors)
        scalar, vector = self.net(x, pos, batch, vec, num_clouds)
        if self.output == "vector" and vector is not None:
            return vector[:, 0]
        return scalar
