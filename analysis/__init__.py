"""What the measurements mean: attribution to layers, aliasing, interventions, statistics, plots."""
