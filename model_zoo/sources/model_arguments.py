"""Which arguments reach timm from a command line or from somebody's config.json.

timm's factory takes arguments of two kinds through one door: those of the architecture, and those
that say where weights come from and how they are unpickled (`checkpoint_path`, `pretrained_cfg`,
`cache_dir`, …). Only the first kind is let through, by the signatures of the architecture's own
classes: what is not on that list is refused, however timm will call its loaders one day.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import timm
from timm.models import model_entrypoint

from liederiv.errors import ModelError
from liederiv.foreign import described

__all__ = ["allowed_arguments", "check_arguments", "data_only", "no_code_from_files"]

# Of timm's builders rather than of a class: what is built, never from which file.
BUILDER_ARGUMENTS = frozenset(
    {
        "act_layer", "bn_eps", "bn_momentum", "bn_tf", "drop_block_rate", "drop_path_rate",
        "drop_rate", "feature_cls", "features_only", "global_pool", "img_size", "in_chans",
        "norm_layer", "num_classes", "out_indices", "output_stride", "window_size",
    }
)  # fmt: skip
# Loaders of timm's factory and builder, and where its configs say that weights lie.
SOURCES = frozenset(
    {
        "cache_dir", "checkpoint_path", "custom_load", "exportable", "feature_cfg", "file",
        "hf_hub_filename", "hf_hub_id", "kwargs_filter", "model_cfg", "no_jit", "pretrained",
        "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_filter_fn",
        "pretrained_model_args", "pretrained_strict", "scriptable", "self", "source", "state_dict",
        "url", "variant",
    }
)  # fmt: skip
# Facts of a pretrained_cfg: what the input looks like, how the classifier is called.
CONFIG_FACTS = frozenset(
    {
        "architecture", "classifier", "crop_mode", "crop_pct", "first_conv", "fixed_input_size",
        "input_size", "interpolation", "label_offset", "mean", "min_input_size", "num_classes",
        "pool_size", "std", "tag", "test_crop_pct", "test_input_size", "test_pool_size",
    }
)  # fmt: skip
_PLACE = re.compile(r"[/\\\x00-\x1f]|\.(pth?|bin|ckpt|tar|npz|pkl|safetensors)$")
FORCE, FORCE_NOT = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


@cache
def allowed_arguments(arch: str) -> frozenset[str]:
    """Names of the arguments that shape a network of timm's architecture `arch`."""
    module = sys.modules[model_entrypoint(arch).__module__]
    names = set(BUILDER_ARGUMENTS)
    for found in vars(module).values():
        if not isinstance(found, type) or not found.__module__.startswith("timm.models"):
            continue
        if dataclasses.is_dataclass(found):
            names |= {field.name for field in dataclasses.fields(found)}
        for base in found.__mro__:
            if base.__module__.startswith("timm.models"):
                names |= set(inspect.signature(base.__init__).parameters)  # type: ignore[misc]
    return frozenset(names) - SOURCES - {"args", "kwargs"}


def check_arguments(arch: str, arguments: Mapping[str, Any], origin: str) -> None:
    """Refuse arguments that are not the architecture's own, nested ones included.

    Args:
        arch: timm's architecture.
        arguments: By name.
        origin: Where they come from, for the sentence.

    Raises:
        ModelError: Naming the first one.
    """
    allowed = allowed_arguments(arch)
    for name, value in arguments.items():
        if name not in allowed:
            why = (
                "which is for timm's loaders and no argument of the architecture"
                if name in SOURCES
                else f"which {arch!r} of timm {timm.__version__} does not take"
            )
            raise ModelError(
                f"{origin} sets {described(name)}, {why}; remove it (weights are given with "
                "`checkpoint`, --checkpoint)."
            )
        found = next((part for part in _parts(value) if _is_place(part)), None)
        if found is not None:
            raise ModelError(
                f"{origin} sets {described(name)} to something with {described(found)}, which "
                "names a place to load from; arguments are numbers, words, or lists and tables of "
                "them."
            )


def data_only(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a stored `pretrained_cfg` says about data and classifier, without any source."""
    return {k: v for k, v in config.items() if k in CONFIG_FACTS}


def _parts(value: Any) -> Iterator[Any]:
    """The keys and values inside of lists and tables, however deep; a lone value as itself."""
    waiting, seen = [value], set()
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            continue
        if isinstance(item, Mapping | list | tuple):
            seen.add(id(item))
            waiting += [*item.keys(), *item.values()] if isinstance(item, Mapping) else item
        else:
            yield item


def _is_place(part: Any) -> bool:
    """Whether a word names one of timm's loaders, or reads as a path, an address or a file."""
    return isinstance(part, os.PathLike) or (
        isinstance(part, str) and (part in SOURCES or _PLACE.search(part) is not None)
    )


@contextmanager
def no_code_from_files() -> Iterator[None]:
    """Let no `torch.load` run code inside, whatever arguments timm or the environment give it."""
    before = {name: os.environ.pop(name, None) for name in (FORCE, FORCE_NOT)}
    os.environ[FORCE] = "1"
    try:
        yield
    finally:
        del os.environ[FORCE]
        os.environ.update({k: v for k, v in before.items() if v is not None})
