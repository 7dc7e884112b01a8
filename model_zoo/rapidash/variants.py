"""The trained variants: {Tn, SEn} × {R³, R³ × S²}, fed in ways that keep or break symmetry."""

from __future__ import annotations

from dataclasses import dataclass, replace

from liederiv.errors import ModelError

from .config import RapidashConfig
from .inputs import RapidashInputs, RapidashOnClouds
from .symmetry import EffectiveEquivariance, effective_equivariance

__all__ = ["VARIANTS", "Variant", "variant"]

HIDDEN, LAYERS, ORIENTATIONS = 32, 3, 8


@dataclass(frozen=True)
class Variant:
    """One network with its inputs and how it is trained.

    Attributes:
        name: as `liederiv.model_zoo.load` knows it.
        config: the network.
        inputs: how it is fed.
        output: "vector" predicts each particle's displacement, "scalars" the distance that it
            travels (the length of the displacement), see `RapidashOnClouds`.
        augment: whether training turns every system at random.
    """

    name: str
    config: RapidashConfig
    inputs: RapidashInputs
    output: str = "vector"
    augment: bool = False

    @property
    def symmetry(self) -> EffectiveEquivariance:
        """What the construction implies."""
        return effective_equivariance(self.config, self.inputs, self.output)

    @property
    def base_space(self) -> str:
        """R³ or R³ × S²."""
        return "R³ × S²" if self.config.num_ori else "R³"

    @property
    def described_inputs(self) -> str:
        """The inputs in words."""
        parts = [name for name, _ in self.inputs.invariants]
        parts += [f"{name} (scalars)" for name in self.inputs.scalars]
        parts += [f"{name} (vectors)" for name in self.inputs.vectors]
        return ", ".join(parts).replace("_", " ")

    def build(self) -> RapidashOnClouds:
        """A network with random weights, from the global random state."""
        return RapidashOnClouds(self.config, self.inputs, self.output)


def _variant(
    name: str,
    equivariance: str,
    oriented: bool,
    scalars: tuple[str, ...] = (),
    vectors: tuple[str, ...] = (),
    output: str = "vector",
) -> Variant:
    own = ("charge",) if output == "vector" else ("charge", "speed")
    inputs = RapidashInputs(tuple((field, 1) for field in own), scalars, vectors)
    config = RapidashConfig(
        input_dim=sum(inputs.width(3)),
        hidden_dim=HIDDEN,
        output_dim=1 if output == "scalars" else 0 if oriented else 3,
        output_dim_vec=1 if oriented else 0,
        num_layers=LAYERS,
        equivariance=equivariance,
        num_ori=ORIENTATIONS if oriented else 0,
        widening_factor=2,
    )
    return Variant(f"rapidash_{name}", config, inputs, output)


_PLAIN = (
    _variant("tn_r3", "Tn", False, ("velocity",)),
    _variant("tn_r3_coords", "Tn", False, ("coords", "velocity")),
    _variant("sen_r3", "SEn", False, ("velocity",)),
    _variant("sen_r3_distance", "SEn", False, output="scalars"),
    _variant("tn_r3s2", "Tn", True, (), ("velocity",)),
    _variant("sen_r3s2", "SEn", True, (), ("velocity",)),
    _variant("sen_r3s2_coordvec", "SEn", True, (), ("coords", "velocity")),
    _variant("sen_r3s2_coords", "SEn", True, ("coords",), ("velocity",)),
    _variant("sen_r3s2_velscalar", "SEn", True, ("velocity",)),
    _variant("sen_r3s2_pose", "SEn", True, (), ("velocity", "pose")),
    _variant("sen_r3s2_fixedpose", "SEn", True, (), ("velocity", "fixed_pose")),
)
# Augmentation asks whether training can teach what construction would guarantee; where
# construction guarantees all but the finite grid, it asks what is left to teach.
_AUGMENTED = tuple(
    replace(v, name=f"{v.name}_aug", augment=True)
    for v in _PLAIN
    if v.symmetry.rotation == "broken" or v.name == "rapidash_sen_r3s2"
)

VARIANTS: dict[str, Variant] = {v.name: v for v in _PLAIN + _AUGMENTED}
"""All trained variants by name; "_aug" marks training with random rotations."""


def variant(name: str) -> Variant:
    """Look up a trained variant.

    Raises:
        ModelError: if there is none of that name.
    """
    if name not in VARIANTS:
        raise ModelError(
            f"`name`={name!r} is no trained Rapidash variant; there are {', '.join(VARIANTS)}."
        )
    return VARIANTS[name]
