"""Point clouds: positions, vectors and scalars, and how motions of space act on them."""

from liederiv.points.cloud import PointCloud
from liederiv.points.generators import POINTS, PointGenerator

__all__ = ["POINTS", "PointCloud", "PointGenerator"]
