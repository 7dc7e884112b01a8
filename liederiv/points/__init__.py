"""Point clouds: positions, vectors and scalars, and how motions of space act on them.

Importing the package makes `PointCloud` a kind of input for everything that measures.
"""

from liederiv.points.action import PointAction
from liederiv.points.adapter import PointModel
from liederiv.points.cloud import PointCloud
from liederiv.points.discrete import discrete_point_checks, permute_within_clouds
from liederiv.points.domain import PointDomain
from liederiv.points.generators import POINTS, PointGenerator
from liederiv.points.orientations import FiberGrid, harmonics
from liederiv.points.reference import CentredDistances
from liederiv.points.representations import (
    Fiber,
    Joined,
    PointRepresentation,
    Positions,
    Scalars,
    Vectors,
)
from liederiv.points.transforms import PointTransform, random_rotations

__all__ = [
    "POINTS",
    "CentredDistances",
    "Fiber",
    "FiberGrid",
    "Joined",
    "PointAction",
    "PointCloud",
    "PointDomain",
    "PointGenerator",
    "PointModel",
    "PointRepresentation",
    "PointTransform",
    "Positions",
    "Scalars",
    "Vectors",
    "discrete_point_checks",
    "harmonics",
    "permute_within_clouds",
    "random_rotations",
]
