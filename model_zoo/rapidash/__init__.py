"""Rapidash: point-cloud networks with and without symmetry, in one configurable module.

Source: Vadgama et al., "On the Utility of Equivariance and Symmetry Breaking in Deep Learning
Architectures on Point Clouds", arXiv 2501.01999.
"""

from .config import EdgeType, RapidashConfig
from .grids import orientation_grid
from .network import Rapidash

__all__ = ["EdgeType", "Rapidash", "RapidashConfig", "orientation_grid"]
