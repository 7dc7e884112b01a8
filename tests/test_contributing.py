"""The recipes of CONTRIBUTING, followed: what a guide says is enough must be enough."""

import __future__

import re
import sys
from dataclasses import dataclass
from multiprocessing.connection import wait
from types import ModuleType
from typing import Any

import pytest
import torch
from cases import band_limited, formula_images, formula_network
from scan_cases import run_scan, settings_for, table
from sources import ROOT
from tolerances import close
from torch import nn
from typer.testing import CliRunner

import liederiv
from liederiv import domains, errors, generators, model_zoo
from liederiv.actions import ImageAction
from liederiv.analysis import intervene, what_if
from liederiv.analysis.aliasing.repairs import REPAIRS, Repair
from liederiv.analysis.layers.sites import Site
from liederiv.cli import app
from liederiv.domains import DOMAINS
from liederiv.metrics import base, values
from liederiv.metrics.finite import evaluate
from liederiv.metrics.registry import METRICS, register_metric
from liederiv.model_zoo.inputs.base import INPUTS
from liederiv.model_zoo.requests.measure_options import MeasureOptions
from liederiv.model_zoo.requests.measuring import measure_loaded
from liederiv.model_zoo.requests.model_options import ModelOptions
from liederiv.model_zoo.scan import select_models
from liederiv.model_zoo.scan.isolation import Worker
from liederiv.model_zoo.sources.registry import SOURCES
from liederiv.testing.limits import judge_limits, parse_limits
from liederiv.transforms import transform

GUIDE = (ROOT / "CONTRIBUTING.md").read_text()


def recipe(heading: str) -> str:
    """The code of one section of the guide."""
    section = GUIDE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    return code


def test_files_and_names_of_the_guide_exist():
    files = re.findall(r"`((?:liederiv|model_zoo|analysis|tests)/[\w/.]*)`", GUIDE)
    assert len(files) > 20
    assert [f for f in files if not (ROOT / f).exists()] == []
    text = "\n".join(p.read_text() for f in ("liederiv", "model_zoo", "analysis", "tests")
                     for p in (ROOT / f).rglob("*.py"))  # fmt: skip
    names = set(re.findall(r"`([A-Za-z_]\w+)`", GUIDE)) - {"slow"}
    assert len(names) > 25
    assert [n for n in names if not re.search(rf"\b{n}\b", text)] == []


@pytest.fixture
def squeeze(monkeypatch):
    """The generator of the guide, in the registry."""
    g = eval(recipe("A generator").partition("#")[0], vars(generators).copy())  # noqa: S307
    monkeypatch.setitem(generators.GENERATORS, g.name, g)
    for name, members in generators._groups().items():
        monkeypatch.setitem(generators.GROUPS, name, members)
    return g


def test_a_generator_is_one_line(squeeze):
    assert squeeze in liederiv.resolve_generators("all")
    assert liederiv.resolve_generators("squeeze") == (squeeze,)
    x = band_limited((1, 2, 16, 24), band=0.25)
    (X,) = ImageAction([squeeze], 16, 24, "fourier").tangents(x)
    Sx, Sy = ImageAction(liederiv.resolve_generators("stretch"), 16, 24, "fourier").tangents(x)
    torch.testing.assert_close(X, Sx - Sy)
    step = (transform(x, "squeeze", 1e-6) - transform(x, "squeeze", -1e-6)) / 2e-6
    (tangent,) = ImageAction([squeeze], 16, 24, "bspline").tangents(x)
    torch.testing.assert_close(step, tangent, rtol=1e-5, atol=1e-7)
    scores = liederiv.measure(formula_network(), formula_images(), "squeeze", "lee,sampled_error")
    row = scores.get("lee", "squeeze", "probs")
    assert row.status == "measured"
    assert row.unit == "prob²/(log-squeeze)²"


def test_a_repair_is_a_class_and_a_name(monkeypatch):
    scope = {"dataclass": dataclass, "Repair": Repair, "Site": Site, "nn": nn, "REPAIRS": {}}
    exec(recipe("A repair"), scope)  # noqa: S102
    monkeypatch.setitem(REPAIRS, "smooth", scope["REPAIRS"]["smooth"])
    net, x = formula_network(), formula_images()
    repaired = intervene(net, ["1"], "smooth")
    assert isinstance(repaired[1], nn.SiLU)
    assert isinstance(net[1], nn.ReLU)
    with pytest.raises(liederiv.LieDerivError, match="does not apply"):
        intervene(net, ["0"], "smooth")
    found = what_if(net, x, "rotation", k=1, repair="smooth")
    assert (found.repairs, found.trials[0].modules) == (("smooth",), ("1",))


@pytest.fixture
def extremes():
    scope = vars(base) | vars(values) | {"register_metric": register_metric, "evaluate": evaluate}
    exec(recipe("A metric"), scope)  # noqa: S102
    yield
    for name in ("largest", "dimming"):
        METRICS.pop(name)


@pytest.mark.usefixtures("extremes")
def test_a_metric_is_a_class():
    net, x = formula_network(), formula_images()
    found = liederiv.measure(net, x, "rotation", "extremes", output_type="logits")
    largest, dimming = found.get("largest", "rotation"), found.get("dimming", "brightness")
    lie = liederiv.lie_derivative(net, x, "rotation")[0]
    assert largest.per_image == close(lie.abs().amax(1).tolist())
    assert largest.unit == "logit/rad"
    change = (net(x / 2) - net(x) / 2).square().mean(1)
    assert dimming.per_image == pytest.approx(change.tolist(), rel=1e-5)
    found_limits = parse_limits(f"largest/rotation={largest.ci_low / 2}")
    assert not judge_limits(found, found_limits)[0].passed
    with pytest.raises(liederiv.LieDerivError, match="'dimming' cannot be limited"):
        parse_limits("dimming/brightness=1")


@pytest.fixture
def signals():
    scope = vars(domains) | vars(errors)
    postponed = __future__.annotations.compiler_flag
    code = compile(recipe("A kind of input"), "guide", "exec", postponed)
    exec(code, scope)  # noqa: S102
    yield torch.randn(3, 2, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    DOMAINS.pop()


def test_a_kind_of_input_is_a_class(signals):
    ramp = torch.linspace(0, 1, 9, dtype=torch.float64)
    options = {"output": "invariant", "output_type": "output"}
    windowed = lambda x: (x * ramp).sum(2)  # noqa: E731
    found = liederiv.measure(windowed, signals, "delay", "lee,relative", **options)
    shifted = [torch.fft.rfft(signals) * torch.exp(2j * torch.pi * torch.fft.rfftfreq(9) * t)
               for t in (1e-4, -1e-4)]  # fmt: skip
    slope = (torch.fft.irfft(shifted[0], 9) - torch.fft.irfft(shifted[1], 9)) / 2e-4
    want = (slope * ramp).sum(2).square().mean(1)
    assert found.get("lee", "delay").per_image == pytest.approx(want.tolist(), rel=1e-5)
    assert found.get("lee", "delay").unit == "output²/sample²"
    assert 0.01 < found.get("relative_norm", "delay").value < 100
    assert found.provenance.inputs == "signals"
    even = liederiv.measure(lambda x: x.mean(2).tanh(), signals, "delay", "lee", **options)
    assert even.get("lee", "delay").value < 1e-25
    with pytest.raises(errors.InputError, match="batches must be finite signals"):
        liederiv.measure(lambda x: x, signals / 0, "delay", "lee")


POSTPONED = __future__.annotations.compiler_flag


@pytest.mark.usefixtures("signals")
def test_inputs_by_name_are_a_class():
    class Ramp(nn.Module):
        input_kind, length, output_representation = "signals", 9, "invariant"

        def forward(self, x):
            return x @ torch.linspace(0, 1, 9, dtype=x.dtype)

    sys.modules["ramps"] = module = ModuleType("ramps")
    module.build = Ramp
    scope = vars(model_zoo.exports) | {"Any": Any, "Tensor": torch.Tensor, "torch": torch}
    exec(compile(recipe("Inputs by name"), "guide", "exec", POSTPONED), scope)  # noqa: S102
    try:
        how = MeasureOptions(num_images=2, transforms="delay", metrics="lee", output_type="output")
        found, inputs = measure_loaded(liederiv.model_zoo.load("ramps:build"), ModelOptions(), how)
        x = inputs.batch(torch.device("cpu"), torch.float32)
        want = liederiv.measure(Ramp().eval(), x, "delay", "lee", output_type="output")
        assert found.get("lee", "delay").value == pytest.approx(want.get("lee", "delay").value)
        assert found.image_names == ("noise-0", "noise-1")
    finally:
        INPUTS.pop("signals")
        del sys.modules["ramps"]


def test_a_source_is_a_class(tmp_path):
    scope = vars(model_zoo.exports) | {"Any": Any, "nn": nn}
    exec(compile(recipe("A source of models"), "guide", "exec", POSTPONED), scope)  # noqa: S102
    try:
        loaded = model_zoo.load("gray:10", seed=2)
        torch.manual_seed(2)
        assert torch.equal(loaded.model[1].weight, nn.Linear(64, 10).weight)
        assert select_models(["gray:3", "gray:10"]).candidates[0].name == "gray:10"
        rows = tmp_path / "rows.csv"
        line = ["gray:3", "--num-images", "1", "--transforms", "rotation", "--metrics", "lee"]
        assert CliRunner().invoke(app, ["score", *line, "--csv", str(rows)]).exit_code == 0
        assert "random (seed 0)" in rows.read_text()
        assert settings_for().key("score", "gray:3", model_zoo.source_of("gray:3").identity(True))
    finally:
        SOURCES.remove(scope["Grays"])


class OneByOne:
    """An engine as the guide says: one worker process at a time."""

    slots, elsewhere = 1, False

    def __init__(self):
        self.worker = self.task = None

    def submit(self, task):
        self.task, self.worker = task, Worker(task)

    def events(self, seconds):
        if self.worker is None:
            return []
        wait(self.worker.waitables, min(seconds, self.worker.seconds_left))
        out = [(self.task, delivery) for delivery in self.worker.poll()]
        if self.worker.ended:
            self.worker = None
            out.append((self.task, None))
        return out

    def close(self):
        if self.worker is not None:
            self.worker.kill()


def test_an_engine_of_a_scan_is_a_class(tmp_path):
    names = ["good", "raises"]
    summary = run_scan(tmp_path / "own", names, engine=OneByOne())
    assert (summary.measured, summary.failed) == (1, 1)
    run_scan(tmp_path / "local", names)
    assert table(tmp_path / "own").equals(table(tmp_path / "local"))
