"""What a timm tag says about training, and the year in which an architecture was published.

A tag reads [recipe_][pretraining data_][ft_][classes' data][_size]: `augreg_in21k_ft_in1k` is the
recipe "augreg", trained on ImageNet-21k, fine-tuned on ImageNet-1k. Tags are timm's own
shorthand; what a tag does not say is left empty here.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources

import pandas as pd

__all__ = ["TrainingRecipe", "has_published_weights", "recipe_of", "year_of"]

_DATA = re.compile(
    r"in1k|in12k|in21k|in22k|inw21k|jft|ig1b|yfcc\d*m|laion\w*?(?=_|$)|webli|datacomp\w*|dfn\w*|"
    r"metaclip\w*|openai|lvd\d+m|m38m|m30m|merged2b|cc12m|bamboo|sa1b"
)
_SELF_SUPERVISED = ("mae", "mim", "dino", "dinov3", "fcmae", "ijepa", "seer", "ssl")


@dataclass(frozen=True)
class TrainingRecipe:
    """What a tag says.

    Attributes:
        recipe: words of the tag that name neither data, steps nor sizes, e.g. ``a1``, ``augreg``.
        pretraining: data before fine-tuning, e.g. ``in21k``; the tag's only data where there was
            no fine-tuning.
        finetuned: whether weights were fine-tuned from others.
        distilled: whether a teacher was used.
        self_supervised: whether pretraining used no labels.
    """

    recipe: str
    pretraining: str
    finetuned: bool
    distilled: bool
    self_supervised: bool


def has_published_weights(frame: pd.DataFrame) -> pd.Series:
    """Which rows, by their ``weights``, have other than random ones: those that a tag speaks of."""
    return ~frame["weights"].fillna("").str.startswith("random")


def recipe_of(tag: str) -> TrainingRecipe:
    """Read a tag.

    Example:
        >>> recipe_of("augreg_in21k_ft_in1k").pretraining, recipe_of("fb_dist_in1k").distilled
        ('in21k', True)
    """
    words = [w for w in tag.split("_") if w]
    data = _DATA.findall(tag)
    finetuned = "ft" in words or len(data) > 1
    distilled = any(w in ("dist", "distilled", "ssld") for w in words)
    plain = [w for w in words if not _DATA.fullmatch(w) and not _is_step(w)]
    unlabelled = any(w in _SELF_SUPERVISED for w in words)
    return TrainingRecipe(
        "_".join(plain), data[0] if data else "", finetuned, distilled, unlabelled
    )


def year_of(architecture: str) -> int | None:
    """Year in which an architecture was made public, by the longest known prefix of its name.

    Example:
        >>> year_of("resnet50"), year_of("resnetrs50"), year_of("mynet")
        (2015, 2021, None)
    """
    fitting = [prefix for prefix in _years() if architecture.startswith(prefix)]
    return _years()[max(fitting, key=len)] if fitting else None


def _is_step(word: str) -> bool:
    """Words for fine-tuning, distillation, epochs and input sizes."""
    known = word in ("ft", "dist", "distilled", "in", "pt")
    return known or re.fullmatch(r"(e|r|s)?\d+(ep)?", word) is not None


@cache
def _years() -> dict[str, int]:
    source = resources.files("liederiv.analysis.models") / "data" / "years.csv"
    rows = csv.DictReader(source.read_text(encoding="utf-8").splitlines())
    return {row["prefix"]: int(row["year"]) for row in rows}
