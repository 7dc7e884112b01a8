"""What the measurements mean: attribution to layers, aliasing, interventions, statistics, plots."""

from .aliasing.interventions import intervene
from .aliasing.measuring import measure_aliasing
from .aliasing.repairs import REPAIRS, Repair
from .aliasing.results import AliasingReport, ModuleAliasing
from .aliasing.spectra import Spectrum, power_spectrum
from .aliasing.trials import Trial, WhatIf, rank_modules, what_if
from .layers.attribution import attribute
from .layers.finite import measure_finite
from .layers.finite_results import FiniteLayers, FiniteRow
from .layers.layouts import Layout, LayoutRecogniser
from .layers.results import Attribution, Entry, ProfileRow, Witness
from .models.accuracy import join_accuracy, read_accuracy
from .models.architectures import architecture_class, architecture_classes
from .models.layer_statistics import kind_shares, kind_totals
from .models.leaderboard import Leaderboard, failures, leaderboard
from .models.metric_agreement import metric_agreement
from .models.rank_correlation import RankCorrelation, rank_correlation
from .models.recipes import TrainingRecipe, recipe_of, year_of
from .models.scan_comparison import compare_scans, summarise_differences
from .models.statistics import (
    correlations,
    describe_models,
    factor_table,
    rank_variance_explained,
    within_architectures,
)
from .orbits import OrbitCurve, Orbits, orbit

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
