"""How many parameters a model has, known without building it.

`data/parameters.csv` holds the counts of all architectures of timm 1.0.31, and of those tags whose
number of classes or input size makes another count. Architectures that it lacks are built on
torch's meta device, without memory for their weights.
"""

from __future__ import annotations

import csv
import logging
import warnings
from functools import cache
from importlib import resources

import timm
import torch

__all__ = ["count_on_meta", "parameter_count"]


def parameter_count(name: str) -> int | None:
    """Number of values in all parameters of a timm model.

    Args:
        name: Of timm, with or without tag.

    Returns:
        The count, or None for what timm does not know (a user's factory, a hub's model).

    Example:
        >>> parameter_count("resnet18.a1_in1k")
        11689512
    """
    arch = name.partition(".")[0]
    known = _table()
    if name in known or arch in known:
        return known.get(name, known.get(arch))
    return count_on_meta(name) if ":" not in name and timm.is_model(arch) else None


@cache
def count_on_meta(name: str) -> int | None:
    """Build a timm model without memory for its weights and count; None if it cannot be built."""
    logger = logging.getLogger("timm")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")
            return sum(p.numel() for p in timm.create_model(name).parameters())
    except (AssertionError, NotImplementedError, RuntimeError, TypeError, ValueError):
        return None  # some constructors compute with tensors
    finally:
        logger.setLevel(before)


@cache
def _table() -> dict[str, int]:
    source = resources.files("liederiv.model_zoo") / "data" / "parameters.csv"
    rows = csv.DictReader(source.read_text(encoding="utf-8").splitlines())
    return {row["name"]: int(row["parameters"]) for row in rows}
