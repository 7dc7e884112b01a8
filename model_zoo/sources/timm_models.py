"""Models that timm builds: by its own names, from a hub's repository, or from a local folder."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import timm
from timm.models import is_model, split_model_name_tag
from torch import nn

from liederiv.errors import ModelError
from liederiv.foreign import at_home, described, one_line

from ..inputs.data_config import DataConfig, spatial_size
from ..weights.checkpoints import read_checkpoint
from ..weights.hub import download_errors, offline_if_unreachable
from ..weights.origin import HubWeights, WebWeights, WeightsSource
from ..weights.packaged import describe_sample_weights, has_sample_weights, sample_state_dict
from .checkpoint_models import model_from_checkpoint
from .construction import create, create_with_state_dict
from .contents import hash_of
from .image_source import Built, ImageSource, Wanted, checked_classes
from .model_arguments import check_arguments
from .parameters import parameter_count
from .recipes import (
    DEFAULT_FILE,
    Recipe,
    Stored,
    hub_weights,
    local_weights,
    stored_in_folder,
    stored_in_hub,
    stored_in_timm,
)
from .source import ModelEntry
from .timm_names import family_of, find_model, list_models, names_like, resolve_name

__all__ = ["HubModel", "LocalFolder", "RecipeSource", "TimmModel"]


class RecipeSource(ImageSource):
    """What timm builds from an architecture, a config and arguments of the constructor."""

    @abstractmethod
    def stored(self) -> Stored:
        """What is written down with the weights; downloads a hub model's config at most."""

    @abstractmethod
    def published(self, recipe: Recipe) -> tuple[nn.Module, str]:
        """The model with its published weights, and where they come from."""

    def recipe(
        self,
        num_classes: int | None = None,
        img_size: int | Sequence[int] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> Recipe:
        """Put together what is stored and what is asked for, see `Wanted`.

        Raises:
            ModelError: If timm does not know the architecture, or it does not take the arguments.
        """
        full_name, stored = self.full_name, self.stored()  # an unknown name is refused first
        arch, config, own = stored.arch, stored.config, dict(kwargs or {})
        if not isinstance(arch, str) or not is_model(arch):
            raise ModelError(
                f"Model {self.name!r} is of architecture {described(arch)}, which timm "
                f"{timm.__version__} does not know; a newer timm may."
            )
        check_arguments(arch, stored.kwargs, f"the config of {self.name!r}")
        check_arguments(arch, own, "`model_kwargs`")
        if img_size is not None and "img_size" not in own and config.get("fixed_input_size"):
            own["img_size"] = spatial_size(img_size)
        return Recipe(
            self.name, full_name, arch, config, {**stored.kwargs, **own}, num_classes, seed
        )

    def build(self, wanted: Wanted) -> Built:
        """See `ImageSource.build`."""
        kwargs, classes = dict(wanted.model_kwargs), wanted.num_classes
        if classes is None:
            classes = checked_classes(kwargs.pop("num_classes", None))
        recipe = self.recipe(classes, wanted.img_size, kwargs, wanted.seed)
        if wanted.checkpoint is not None:
            model, said = model_from_checkpoint(recipe, wanted.checkpoint)
            weights = f"checkpoint {one_line(wanted.checkpoint.path.name)}{said}"
        elif wanted.pretrained:
            model, weights = self.published(recipe)
        else:
            model = create(recipe, recipe.num_classes)
            weights = f"random (seed {recipe.seed})"
        config = DataConfig.from_mapping(recipe.config)
        size = recipe.kwargs.get("img_size")
        if size is not None:
            config = config.override(img_size=spatial_size(size))
        return Built(model, weights, config)


class TimmModel(RecipeSource):
    """A name of timm's with or without tag ("vit_small_patch16_224.augreg_in1k"), or a former one.

    It is asked last and knows every name that is left, to say what is near it.
    """

    @classmethod
    def accepts(cls, name: str) -> bool:
        """See `Source.accepts`."""
        return True

    @classmethod
    def entries(cls, pattern: str = "*", pretrained: bool = False) -> Sequence[ModelEntry]:
        """See `Source.entries`."""
        return list_models(pattern, pretrained)

    @classmethod
    def matching(cls, pattern: str, pretrained: bool = False) -> list[str]:
        """Those with a dot match names with tags, others architectures: their default tag."""
        return names_like(pattern, pretrained)

    @cached_property
    def full_name(self) -> str:
        """Architecture with tag, or the bare architecture where no tag exists."""
        return resolve_name(self.name)

    @property
    def architecture(self) -> str:
        """See `Source.architecture`."""
        return split_model_name_tag(self.name)[0]

    @property
    def tag(self) -> str:
        """See `Source.tag`."""
        return split_model_name_tag(self.name)[1]

    @property
    def family(self) -> str:
        """See `Source.family`: timm's module."""
        return family_of(self.architecture)

    def stored(self) -> Stored:
        """See `RecipeSource.stored`."""
        return stored_in_timm(self.full_name)

    def published(self, recipe: Recipe) -> tuple[nn.Module, str]:
        """Of a package that is installed, else downloaded."""
        if not has_sample_weights(recipe.arch):
            return _downloaded(recipe)
        native = sample_state_dict(recipe.arch, create(replace(recipe, kwargs={}), None))
        model = create_with_state_dict(recipe, native, recipe.num_classes)
        return model, describe_sample_weights(recipe.arch) + _head_note(recipe)

    def identity(self, pretrained: bool) -> dict[str, Any]:
        """See `Source.identity`: timm's own entry names the weights."""
        config = find_model(self.name)
        published = self.name if pretrained else None
        if pretrained and has_sample_weights(self.architecture):
            published = describe_sample_weights(self.architecture)
        return {"weights": published, "config": config}

    def download(self) -> WeightsSource | None:
        """See `Source.download`."""
        recipe = self.recipe()
        if has_sample_weights(recipe.arch):
            return None
        if recipe.config.get("hf_hub_id"):
            file = recipe.config.get("hf_hub_filename")
            return hub_weights(self.name, str(recipe.config["hf_hub_id"]), file or DEFAULT_FILE)
        url = str(recipe.config.get("url") or "")
        return WebWeights(self.name, url) if url else None

    def parameters(self) -> int | None:
        """See `Source.parameters`."""
        return parameter_count(self.name)


class HubModel(RecipeSource):
    """A repository of the hub with timm's config.json: "hf-hub:org/name"."""

    prefixes = ("hf-hub", "hf_hub")

    @property
    def repository(self) -> str:
        """Its name, with the revision after an @."""
        return self.name.partition(":")[2]

    def stored(self) -> Stored:
        """See `RecipeSource.stored`."""
        return stored_in_hub(self.name, self.repository)

    def published(self, recipe: Recipe) -> tuple[nn.Module, str]:
        """Of this repository, also where a package has weights of the same architecture."""
        return _downloaded(recipe)

    def identity(self, pretrained: bool) -> dict[str, Any]:
        """See `Source.identity`."""
        return {"weights": self.name if pretrained else None, "config": None}

    def download(self) -> HubWeights:
        """See `Source.download`."""
        return hub_weights(self.name, self.repository, config=True)


class LocalFolder(RecipeSource):
    """A folder as timm's save_for_hf writes it: "local-dir:/path"."""

    prefixes = ("local-dir",)

    @property
    def folder(self) -> Path:
        """The folder."""
        return at_home(self.name.partition(":")[2])

    def stored(self) -> Stored:
        """See `RecipeSource.stored`."""
        return stored_in_folder(self.folder)

    def published(self, recipe: Recipe) -> tuple[nn.Module, str]:
        """Of the file in the folder."""
        file = read_checkpoint(local_weights(self.folder))
        model, said = model_from_checkpoint(recipe, file)
        return model, f"folder {one_line(self.folder.name)}, file {one_line(file.path.name)}{said}"

    def identity(self, pretrained: bool) -> dict[str, Any]:
        """See `Source.identity`: the content of the files."""
        files = [self.folder / "config.json"]
        if pretrained:
            try:
                files.append(local_weights(self.folder))
            except ModelError:
                return {"folder": []}  # loading says so
        return {"folder": [hash_of(file) for file in files if file.is_file()]}


def _downloaded(recipe: Recipe) -> tuple[nn.Module, str]:
    hub_id, url = recipe.config.get("hf_hub_id"), recipe.config.get("url")
    if not (hub_id or url):
        raise ModelError(
            f"No pretrained weights exist for {recipe.full_name!r}; use random ones with "
            "`pretrained=False` (--no-pretrained), or give a file with `checkpoint`."
        )
    weights = f"hf-hub:{hub_id}" if hub_id else str(url)
    with offline_if_unreachable(), download_errors(weights, None if hub_id else str(url)):
        model = create(recipe, recipe.num_classes, pretrained=True)
    if recipe.name != weights:
        weights = f"timm: {recipe.full_name}, {weights}"
    return model, weights + _head_note(recipe)


def _head_note(recipe: Recipe) -> str:
    """Say so when the published classifier had to make way for one of another size."""
    published = recipe.config.get("num_classes")
    if recipe.num_classes in (None, 0, published):
        return ""
    return f"; classifier of {recipe.num_classes} classes random (seed {recipe.seed})"
