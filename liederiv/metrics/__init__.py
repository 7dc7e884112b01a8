"""Metrics of equivariance: local (Lie derivatives), finite, sampled and discrete."""
