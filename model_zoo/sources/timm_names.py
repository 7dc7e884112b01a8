"""Names of timm's models: resolve what the user typed, suggest near names, list what exists."""

from __future__ import annotations

import difflib
import fnmatch
from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from typing import Any

import timm
from timm.models import get_deprecated_models, is_model, list_modules, split_model_name_tag

from liederiv.errors import ModelError

from ..weights.packaged import has_sample_weights
from .source import ModelEntry

__all__ = ["family_of", "find_model", "list_models", "names_like", "resolve_name"]


def list_models(pattern: str = "*", pretrained: bool = False) -> list[ModelEntry]:
    """List the architectures that `load` knows by name.

    Args:
        pattern: Shell wildcard that the name, with or without a tag, must match
            ("resnet*", "*.in1k").
        pretrained: Keep only those with pretrained weights.

    Returns:
        Entries in natural order of their names.
    """
    tags: dict[str, list[str]] = defaultdict(list)
    has_weights: set[str] = set()
    for full_name in timm.list_pretrained():
        name, tag = split_model_name_tag(full_name)
        has_weights.add(name)
        if tag:
            tags[name].append(tag)
    entries = []
    for name in timm.list_models():
        if pretrained and name not in has_weights:
            continue
        full_names = [name, *(f"{name}.{tag}" for tag in tags[name])]
        if any(fnmatch.fnmatchcase(n, pattern) for n in full_names):
            offline = has_sample_weights(name)
            entries.append(ModelEntry(name, tuple(tags[name]), name in has_weights, offline))
    return entries


def names_like(pattern: str, pretrained: bool = False) -> list[str]:
    """What a wildcard stands for: with a dot, names with tags; else architectures.

    Args:
        pattern: Shell wildcard.
        pretrained: Only those with pretrained weights.
    """
    if "." not in pattern:
        names = [entry.name for entry in list_models(pattern, pretrained)]
    else:
        names = timm.list_pretrained()
        if not pretrained:
            names += [name for name in timm.list_models() if name not in set(names)]
    return [name for name in names if fnmatch.fnmatchcase(name, pattern)]


def find_model(name: str) -> dict[str, Any] | None:
    """What timm writes down about the weights of a full name; None where it knows no such name."""
    if not is_model(split_model_name_tag(name)[0]):
        return None
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError:  # an unknown tag
        return None
    return None if config is None else config.to_dict()


@cache
def _families_by_model() -> dict[str, str]:
    return {name: family for family in list_modules() for name in timm.list_models(module=family)}


def family_of(arch: str) -> str:
    """Timm's module that defines an architecture; empty where timm does not know it."""
    return _families_by_model().get(arch, "")


def resolve_name(name: str) -> str:
    """Turn a timm name, a tagged or a deprecated one, into the full current name.

    Args:
        name: For example "resnet18", "resnet18.a1_in1k" or the deprecated "tv_resnet34".

    Returns:
        Architecture with tag, or the bare architecture where no tag exists.

    Raises:
        ModelError: If the architecture or the tag is unknown, or was removed from timm.
    """
    arch, tag = split_model_name_tag(name)
    deprecated = get_deprecated_models()
    if arch in deprecated:
        current = deprecated[arch]
        if not current:
            raise ModelError(f"Model {name!r} was removed from timm; {_near_names(arch)}.")
        arch, current_tag = split_model_name_tag(current)
        tag = tag or current_tag
    if not arch or not is_model(arch):
        raise ModelError(f"Unknown model {name!r}; {_near_names(arch or name)}.")
    known = _known_tags(arch)
    if tag and tag not in known:
        listed = ", ".join(known) or "none"
        raise ModelError(f"Unknown tag {tag!r} of model {arch!r}; its tags are: {listed}.")
    default = timm.get_pretrained_cfg(arch)
    tag = tag or (default.tag if default is not None else None) or ""
    return f"{arch}.{tag}" if tag else arch


def _known_tags(arch: str) -> list[str]:
    names: Iterable[str] = timm.models.get_arch_pretrained_cfgs(arch)
    return [tag for tag in (split_model_name_tag(n)[1] for n in names) if tag]


def _near_names(arch: str) -> str:
    names = [*timm.list_models(), *get_deprecated_models()]
    near = difflib.get_close_matches(arch, names, n=3, cutoff=0.6)
    if not near:
        near = [n for n in names if arch.lower() in n][:3]
    if near:
        return f"did you mean {' or '.join(near)}? 'liederiv models' lists all"
    return (
        "'liederiv models' lists timm's names; other sources are 'hf-hub:org/name', "
        "'local-dir:/path' and 'package.module:factory'"
    )
