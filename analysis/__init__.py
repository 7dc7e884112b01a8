"""What the measurements mean: attribution to layers, aliasing, interventions, statistics, plots."""

from liederiv.analysis.aliasing import measure_aliasing
from liederiv.analysis.aliasing_results import AliasingReport, ModuleAliasing
from liederiv.analysis.attribution import attribute
from liederiv.analysis.finite_layers import FiniteLayers, FiniteRow, measure_finite
from liederiv.analysis.interventions import intervene
from liederiv.analysis.layouts import Layout, LayoutRecogniser
from liederiv.analysis.rank_correlation import RankCorrelation, rank_correlation
from liederiv.analysis.repair_trials import Trial, WhatIf, rank_modules, what_if
from liederiv.analysis.repairs import REPAIRS, Repair
from liederiv.analysis.results import Attribution, Entry, ProfileRow
from liederiv.analysis.spectra import Spectrum, power_spectrum

__all__ = [
    "REPAIRS",
    "AliasingReport",
    "Attribution",
    "Entry",
    "FiniteLayers",
    "FiniteRow",
    "Layout",
    "LayoutRecogniser",
    "ModuleAliasing",
    "ProfileRow",
    "RankCorrelation",
    "Repair",
    "Spectrum",
    "Trial",
    "WhatIf",
    "attribute",
    "intervene",
    "measure_aliasing",
    "measure_finite",
    "power_spectrum",
    "rank_correlation",
    "rank_modules",
    "what_if",
]
