"""What the measurements mean: attribution to layers, aliasing, interventions, statistics, plots."""

from liederiv.analysis.attribution import attribute
from liederiv.analysis.layouts import Layout, LayoutRecogniser
from liederiv.analysis.results import Attribution, Entry, ProfileRow

__all__ = ["Attribution", "Entry", "Layout", "LayoutRecogniser", "ProfileRow", "attribute"]
