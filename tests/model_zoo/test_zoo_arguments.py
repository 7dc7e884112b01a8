"""No file and no command line tells timm what to load: only an architecture's own arguments."""

import json
import os
import pickle
import re
import shutil
from pathlib import Path

import pytest
import timm
import torch
from hostile_code import Payload

from liederiv.errors import ModelError
from liederiv.model_zoo import load
from liederiv.model_zoo.sources.model_arguments import (
    SOURCES,
    allowed_arguments,
    data_only,
    no_code_from_files,
)
from liederiv.model_zoo.weights import hub

ARCH = "test_vit"


@pytest.fixture
def trap(tmp_path):
    """A file that runs code when unpickled, and the sign of its having run."""
    file, sign = tmp_path / "payload.pth", tmp_path / "executed"
    torch.save({"state_dict": Payload(sign)}, file)
    return file, sign


def write_folder(folder, config, weights=True):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if weights:
        torch.save(timm.create_model(ARCH).state_dict(), folder / "pytorch_model.bin")
    return folder


def hostile_arguments(file):
    path = str(file)
    source = {"file": path, "source": "local-dir", "custom_load": True}
    return {
        "checkpoint_path": path,
        "pretrained": True,
        "pretrained_cfg": source,
        "pretrained_cfg_overlay": source,
        "cache_dir": str(file.parent),
        "scriptable": True,
        "exportable": True,
        "no_jit": True,
        "model_cfg": {"file": path},
        "feature_cfg": {},
        "pretrained_strict": False,
        "pretrained_filter_fn": "os.system",
        "pretrained_model_args": {},
        "kwargs_filter": ["x"],
        "state_dict": {},
        "file": path,
        "url": f"file://{path}",
        "hf_hub_id": "a/b",
        "hf_hub_filename": path,
        "custom_load": "hf",
        "no_such_argument": 1,
        "__class__": "os",
    }


@pytest.mark.parametrize("name", hostile_arguments(Path("x")))
@pytest.mark.parametrize("pretrained", [True, False])
def test_config_json_sets_no_loader(tmp_path, trap, name, pretrained):
    file, sign = trap
    arguments = {name: hostile_arguments(file)[name]}
    folder = write_folder(tmp_path / "m", {"architecture": ARCH, "model_args": arguments})
    with pytest.raises(ModelError, match=rf"the config of .* sets '{name}', which .*; remove it"):
        load(f"local-dir:{folder}", pretrained=pretrained)
    with pytest.raises(ModelError, match=rf"`model_kwargs` sets '{name}', which .*; remove it"):
        load(ARCH, pretrained=pretrained, model_kwargs=arguments)
    assert not sign.exists()


@pytest.mark.parametrize("nest", [
    lambda path: {"embed_layer": [{"deep": {"checkpoint_path": 1}}]},
    lambda path: {"act_layer": {"file": path}},
    lambda path: {"drop_rate": path},
    lambda path: {"block_fn": [{"deep": ["x", path]}]},
    lambda path: {"embed_layer": "https://example.org/weights"},
    lambda path: {"embed_layer": [[[[[[[[["weights.pth"]]]]]]]]]},
])  # fmt: skip
def test_nor_does_what_an_argument_holds(tmp_path, trap, nest):
    file, sign = trap
    nested = nest(str(file))
    (name,) = nested
    folder = write_folder(tmp_path / "m", {"architecture": ARCH, "model_args": nested})
    with pytest.raises(ModelError, match=f"the config of .* sets '{name}' to something with "):
        load(f"local-dir:{folder}")
    with pytest.raises(ModelError, match=f"`model_kwargs` sets '{name}' to something with "):
        load(ARCH, pretrained=False, model_kwargs=nested)
    assert not sign.exists()


@pytest.fixture
def cached_repository(tmp_path, monkeypatch):
    """The folder of a hub's repository `a/b`, as its client leaves one in its cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub, "_reachable", lambda url: False)
    root = tmp_path / "cache" / "models--a--b"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text("0" * 40)
    (root / "snapshots").mkdir()
    return root / "snapshots" / ("0" * 40)


SOURCES_OF_A_HUB = [
    {"hf_hub_filename": "payload.pth"},
    {"hf_hub_filename": "payload.pth", "custom_load": "hf"},
    {"file": "PATH", "source": "file", "hf_hub_id": None},
    {"file": "PATH", "source": None, "hf_hub_id": None, "custom_load": True},
    {"url": "file://PATH", "source": "url", "hf_hub_id": None},
    {"state_dict": {"x": 1}, "source": None},
]


@pytest.mark.parametrize("sources", SOURCES_OF_A_HUB)
def test_a_hubs_config_names_no_other_file(cached_repository, trap, sources):
    file, sign = trap
    sources = {k: v.replace("PATH", str(file)) if isinstance(v, str) else v
               for k, v in sources.items()}  # fmt: skip
    facts = {"input_size": [3, 160, 160], "num_classes": 1000}
    folder = write_folder(
        cached_repository, {"architecture": ARCH, "pretrained_cfg": {**facts, **sources}}
    )
    shutil.copy(file, folder / "payload.pth")
    loaded = load("hf-hub:a/b")
    assert not sign.exists()
    weights = torch.load(folder / "pytorch_model.bin")
    assert torch.equal(loaded.model.state_dict()["head.weight"], weights["head.weight"])


def test_a_hubs_weights_run_no_code(cached_repository, trap, monkeypatch):
    file, sign = trap
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # which timm would obey
    folder = write_folder(cached_repository, {"architecture": ARCH}, weights=False)
    shutil.copy(file, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="weights of 'hf-hub:a/b' were refused: they ask to run"):
        load("hf-hub:a/b")
    assert not sign.exists()


@pytest.mark.parametrize("name", ["checkpoint_path", "pretrained_cfg", "no_such_argument"])
def test_a_hubs_arguments_are_those_of_the_architecture(cached_repository, trap, name):
    file, sign = trap
    arguments = {name: hostile_arguments(file)[name]}
    config = {"architecture": ARCH, "pretrained_cfg": {}, "model_args": arguments}
    write_folder(cached_repository, config)
    with pytest.raises(ModelError, match=rf"the config of 'hf-hub:a/b' sets '{name}', which"):
        load("hf-hub:a/b")
    assert not sign.exists()


def test_sources_in_a_folders_pretrained_cfg_do_not_count(tmp_path, trap):
    file, sign = trap
    config = {
        "file": str(file),
        "url": f"file://{file}",
        "state_dict": {"x": 1},
        "source": "file",
        "custom_load": True,
        "hf_hub_id": "a/b",
        "hf_hub_filename": str(file),
        "num_classes": 1000,
        "input_size": [3, 160, 160],
    }
    folder = write_folder(tmp_path / "m", {"architecture": ARCH, "pretrained_cfg": config})
    for pretrained in (True, False):
        assert load(f"local-dir:{folder}", pretrained=pretrained).data_config.input_size[1] == 160
    assert set(data_only(config)) == {"num_classes", "input_size"}
    assert not sign.exists()


BAD_CONFIGS = [
    [1, 2],
    "text",
    None,
    {"architecture": ["resnet18"]},
    {"architecture": {"a": 1}},
    {"architecture": ARCH, "model_args": [1]},
    {"architecture": ARCH, "pretrained_cfg": 5},
    {"architecture": ARCH, "pretrained_cfg": {"mean": "abc"}},
    {"architecture": ARCH, "pretrained_cfg": {"input_size": 5}},
    {"architecture": ARCH, "pretrained_cfg": {"input_size": []}},
    {"architecture": ARCH, "pretrained_cfg": {"classifier": 5}},
    {"architecture": ARCH, "pretrained_cfg": {"classifier": {"a": []}}},
    {"architecture": ARCH, "num_classes": "many"},
    {"architecture": ARCH, "num_classes": -3},
    {"architecture": ARCH, "model_args": {"embed_dim": "wide"}},
    {"architecture": ARCH, "model_args": {"patch_size": 0}},
    {"architecture": "\ud800\x1b[31m"},
]


@pytest.mark.parametrize("config", BAD_CONFIGS)
def test_config_json_of_another_shape_is_a_sentence(tmp_path, cached_repository, config):
    folder = write_folder(tmp_path / "m", config, weights=False)
    write_folder(cached_repository, config, weights=False)
    for name, pretrained in ((f"local-dir:{folder}", False), ("hf-hub:a/b", True)):
        with pytest.raises(ModelError) as info:
            load(name, pretrained=pretrained)
        assert "\n" not in str(info.value)
        assert "\x1b" not in str(info.value)


def test_arguments_of_the_architecture_pass(tmp_path):
    arguments = {"img_size": 96, "depth": 2, "global_pool": "avg", "num_classes": 5}
    folder = write_folder(
        tmp_path / "m", {"architecture": ARCH, "model_args": arguments}, weights=False
    )
    assert load(f"local-dir:{folder}", pretrained=False).num_classes == 5
    assert len(load(ARCH, pretrained=False, model_kwargs={"depth": 2}).model.blocks) == 2
    assert load(ARCH, pretrained=False, model_kwargs={"num_classes": 7}).num_classes == 7


def test_no_argument_that_is_allowed_looks_like_a_place():
    """A path by another name would open the door again."""
    found = set().union(*(allowed_arguments(name) for name in timm.list_models()))
    assert not found & SOURCES
    place = re.compile(r"(^|_)(url|file|files|dir|folder|checkpoint|cache|hub|pickle|ckpt)(_|$)")
    assert [n for n in found if place.search(n)] == ["use_checkpoint"]  # of activations
    assert [n for n in found if "path" in n and "drop_path" not in n and "dpr" not in n] == []


def test_published_weights_cannot_run_code_either(trap, monkeypatch):
    file, sign = trap
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with no_code_from_files(), pytest.raises(pickle.UnpicklingError):
        torch.load(file, weights_only=False)
    assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
    assert not sign.exists()
    monkeypatch.delenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
    torch.load(file, weights_only=False)  # the payload would have run
    assert sign.exists()
