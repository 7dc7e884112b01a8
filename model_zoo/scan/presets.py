"""Named lists of models: the paper's sweeps, one model per family, all ImageNet-1k classifiers.

The lists of the paper (Gruver et al., arXiv 2210.02984) are facts that `data/paper_models.csv`
records. Its names are those of timm in 2022, and a name's default weights have changed since: each
row names the tag under which timm ships the weights of 2022 today. `match` says how that is known:

- "same file": a later timm gives the same file name, hash included, for this tag;
- "only weights": the architecture has published one set of weights only;
- "same recipe": the addresses differ and the tag names the recipe of the file of 2022;
- "untrained", "gone": there are no weights, or no such architecture any more; `note` says more.

`file_2022` is what timm 0.6.7 (July 2022), else 0.5.4, downloads for the name.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import resources

import timm
import torch
from timm.models import list_modules

from liederiv.errors import ModelError
from liederiv.names import PRESETS

from ..sources.timm_names import family_of

__all__ = ["PRESETS", "PresetEntry", "preset"]


@dataclass(frozen=True)
class PresetEntry:
    """One model of a preset.

    Attributes:
        name: What `load` takes, with the tag of the weights; empty where the model is gone.
        family: timm's module that defines it; empty where the model is gone.
        pretrained: Whether published weights exist.
        paper_name: Its name in the paper's lists, else empty.
        default_name: What `paper_name` stands for today where that is another set of weights.
        file_2022: File of the weights that the name stood for in 2022, else empty.
        match: How `name` is known to be those weights; see the module's text.
        note: Why the model is gone or untrained, else empty.
    """

    name: str
    family: str = ""
    pretrained: bool = True
    paper_name: str = ""
    default_name: str = ""
    file_2022: str = ""
    match: str = ""
    note: str = ""

    @property
    def available(self) -> bool:
        """Whether the installed timm can build it."""
        return bool(self.name)


def preset(name: str) -> tuple[PresetEntry, ...]:
    """The models of a preset.

    Args:
        name: One of `PRESETS`.

    Returns:
        Entries in the order of their source. Models that no longer exist are among those of the
        paper's lists, without a `name` and with a `note`.

    Raises:
        ModelError: If there is no such preset.

    Example:
        >>> entry = next(e for e in preset("paper-e2e") if e.paper_name == "resnet34")
        >>> entry.name, entry.default_name
        ('resnet34.bt_in1k', 'resnet34.a1_in1k')
    """
    if name not in PRESETS:
        raise ModelError(f"`preset`={name!r} is unknown; choose one of {', '.join(PRESETS)}.")
    sources: dict[str, Callable[[], Iterator[PresetEntry]]] = {
        "paper-e2e": _paper,
        "paper-layerwise": lambda: _paper(layerwise=True),
        "families": _families,
        "imagenet1k": _imagenet,
    }
    return tuple(sources[name]())


def _paper(layerwise: bool = False) -> Iterator[PresetEntry]:
    for row in _rows("paper_models.csv"):
        if layerwise and row["layerwise"] != "1":
            continue
        name, note = row["name"], row["note"]
        arch = name.partition(".")[0]
        if name and not timm.is_model(arch):
            note = f"timm {timm.__version__} does not have {arch}"
            name = ""
        yield PresetEntry(
            name=name,
            family=family_of(arch) if name else "",
            pretrained=row["match"] not in ("gone", "untrained"),
            paper_name=row["paper_name"],
            default_name=row["default_name"],
            file_2022=row["file_2022"],
            match=row["match"],
            note=note,
        )


def _families() -> Iterator[PresetEntry]:
    known = {row["family"]: row["name"] for row in _rows("families.csv")}
    published = {n.partition(".")[0] for n in timm.list_pretrained()}
    for family in list_modules():
        name = known.get(family, "")
        if not timm.is_model(name):
            name = _smallest(family)
        yield PresetEntry(name, family, pretrained=name in published)


def _imagenet() -> Iterator[PresetEntry]:
    for name in timm.list_pretrained():
        config = timm.get_pretrained_cfg(name)
        tag = name.partition(".")[2]
        if config is not None and config.num_classes == 1000 and "in1k" in tag:
            yield PresetEntry(name, family_of(name.partition(".")[0]))


def _smallest(family: str) -> str:
    """The smallest model of a family, for families that a newer timm has added."""
    sizes = {}
    names = timm.list_models(module=family)
    for name in names:
        try:
            with torch.device("meta"):
                sizes[name] = sum(p.numel() for p in timm.create_model(name).parameters())
        except (RuntimeError, NotImplementedError):  # some constructors compute with tensors
            continue
    return min(sizes, key=sizes.__getitem__) if sizes else names[0]


def _rows(file: str) -> list[dict[str, str]]:
    """Rows of a table that comes with the package."""
    source = resources.files("liederiv.model_zoo") / "data" / file
    return list(csv.DictReader(source.read_text(encoding="utf-8").splitlines()))
