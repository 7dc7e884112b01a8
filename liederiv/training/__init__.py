"""Equivariance while a network is trained: penalties to learn it, a metric to watch it."""

from liederiv.training.penalty import equivariance_penalty, multitask_loss

__all__ = ["equivariance_penalty", "multitask_loss"]
