"""What the measurements mean: attribution to layers, aliasing, interventions, statistics, plots."""

from liederiv.analysis.accuracy import join_accuracy, read_accuracy
from liederiv.analysis.aliasing import measure_aliasing
from liederiv.analysis.aliasing_results import AliasingReport, ModuleAliasing
from liederiv.analysis.architectures import architecture_class, architecture_classes
from liederiv.analysis.attribution import attribute
from liederiv.analysis.finite_layers import measure_finite
from liederiv.analysis.finite_results import FiniteLayers, FiniteRow
from liederiv.analysis.interventions import intervene
from liederiv.analysis.layer_statistics import kind_shares, kind_totals
from liederiv.analysis.layouts import Layout, LayoutRecogniser
from liederiv.analysis.leaderboard import Leaderboard, failures, leaderboard
from liederiv.analysis.metric_agreement import metric_agreement
from liederiv.analysis.orbits import OrbitCurve, Orbits, orbit
from liederiv.analysis.rank_correlation import RankCorrelation, rank_correlation
from liederiv.analysis.recipes import TrainingRecipe, recipe_of, year_of
from liederiv.analysis.repair_trials import Trial, WhatIf, rank_modules, what_if
from liederiv.analysis.repairs import REPAIRS, Repair
from liederiv.analysis.results import Attribution, Entry, ProfileRow, Witness
from liederiv.analysis.scan_comparison import compare_scans, summarise_differences
from liederiv.analysis.spectra import Spectrum, power_spectrum
from liederiv.analysis.statistics import (
    correlations,
    describe_models,
    factor_table,
    rank_variance_explained,
    within_architectures,
)

__all__ = [
    "REPAIRS",
    "AliasingReport",
    "Attribution",
    "Entry",
    "FiniteLayers",
    "FiniteRow",
    "Layout",
    "LayoutRecogniser",
    "Leaderboard",
    "ModuleAliasing",
    "OrbitCurve",
    "Orbits",
    "ProfileRow",
    "RankCorrelation",
    "Repair",
    "Spectrum",
    "TrainingRecipe",
    "Trial",
    "WhatIf",
    "Witness",
    "architecture_class",
    "architecture_classes",
    "attribute",
    "compare_scans",
    "correlations",
    "describe_models",
    "factor_table",
    "failures",
    "intervene",
    "join_accuracy",
    "kind_shares",
    "kind_totals",
    "leaderboard",
    "measure_aliasing",
    "measure_finite",
    "metric_agreement",
    "orbit",
    "power_spectrum",
    "rank_correlation",
    "rank_modules",
    "rank_variance_explained",
    "read_accuracy",
    "recipe_of",
    "summarise_differences",
    "what_if",
    "within_architectures",
    "year_of",
]
