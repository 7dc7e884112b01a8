"""`liederiv gate` on the command line: what opens it, what does not, and its JUnit file."""

import json

import pandas as pd
import pytest
from junitparser import Error, Failure, JUnitXml
from results_cases import score
from typer.testing import CliRunner

from liederiv.cli import app
from liederiv.errors import LieDerivError
from liederiv.measurement.results import Measurement

FACTORY = """
import torch
from torch import nn

def build(size=32, mean=0.5, weight=1.0):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.GELU(), nn.AdaptiveAvgPool2d(1),
                        nn.Flatten(), nn.Linear(4, 4))
    with torch.no_grad():
        net[-1].weight.mul_(weight)
    net.data_config = {"input_size": (3, size, size), "mean": (mean,) * 3, "std": (0.5,) * 3}
    return net

def twice(): return build(weight=2.0)
def large(): return build(size=48)
def otherwise_normalised(): return build(mean=0.4)
def constant(): return build(weight=0.0)

class Stopped(nn.Module):
    def __init__(self, error, after):
        super().__init__()
        self.net, self.error, self.left = build(), error, after
    def forward(self, x):
        self.left -= 1
        if self.left < 0:
            raise self.error
        return self.net(x)

def interrupted():
    net = Stopped(KeyboardInterrupt(), 12)
    net.data_config = net.net.data_config
    return net

def broken():
    net = Stopped(RuntimeError("boom [/b] \\x1b[31m"), 2)
    net.data_config = net.net.data_config
    return net
"""


def photographs(folder, seed):
    import numpy as np
    from PIL import Image

    folder.mkdir()
    rng = np.random.default_rng(seed)
    for i in range(3):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 7, 3), dtype=np.uint8))
        coarse.resize((56, 48), Image.Resampling.BICUBIC).save(folder / f"image{i}.png")
    return folder


@pytest.fixture(scope="module")
def gate(tmp_path_factory):
    """Call the gate on a factory; the files of a baseline lie in `gate.folder`."""
    folder = tmp_path_factory.mktemp("gate")
    (folder / "gate_user_models.py").write_text(FACTORY)
    images, other = (photographs(folder / name, i) for i, name in enumerate(("one", "other")))

    def call(*arguments, model="build", images=images, command="gate"):
        name = f"gate_user_models:{model}"
        words = (command, name, "--images", images, *arguments)
        return CliRunner().invoke(app, [str(w) for w in words])

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        files = [f"--{o}={folder / n}" for o, n in
                 (("per-image", "b.parquet"), ("json", "b.json"), ("csv", "b.csv"))]  # fmt: skip
        made = call(*files, "--transforms=rotation", "--metrics=lee", command="score")
        assert made.exit_code == 0, made.output
        call.folder, call.other = folder, other
        yield call


ENDINGS = ("parquet", "json", "csv")


def held(gate, ending, *arguments, **named):
    return gate("--baseline", gate.folder / f"b.{ending}", *arguments, **named)


def sentence(result):
    """The refusal; `main` prints it and leaves with 2."""
    assert isinstance(result.exception, LieDerivError), result.output
    text = str(result.exception)
    assert len(text.splitlines()) == 1
    return text


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_same_model_keeps_its_own_baseline(gate, ending):
    result = held(gate, ending, "--max-increase", "0%")
    assert result.exit_code == 0, result.output
    assert "kept" in result.stdout
    assert "Note: the baseline was measured" not in result.stdout


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": "other"}, "on other images"),
        ({"arguments": ("--num-images", 2)}, "on another number of images"),
        ({"arguments": ("--scheme", "fourier")}, "with another scheme"),
        ({"arguments": ("--seed", 1)}, "with another seed"),
        ({"arguments": ("--unit", "grid")}, "with another unit"),
        ({"arguments": ("--dtype", "float64")}, "in another dtype"),
        ({"arguments": ("--img-size", 48)}, "at another image size"),
        ({"arguments": ("--crop-pct", 0.5)}, "with other preprocessing"),
        ({"arguments": ("--mean", "0.4")}, "with other preprocessing"),
        ({"arguments": ("--std", "0.4")}, "with other preprocessing"),
        ({"arguments": ("--interpolation", "bilinear")}, "with other preprocessing"),
        ({"arguments": ("--output-type", "logits")}, "--output-type"),
        ({"arguments": ("--output-type", "output")}, "holds no score of lee on output"),
        ({"model": "large"}, "at another image size"),
        ({"model": "otherwise_normalised"}, "with other preprocessing"),
    ],
)
def test_what_was_measured_otherwise_is_refused(gate, ending, change, words, tmp_path):
    images = {"images": gate.other} if "images" in change else {}
    model = {"model": change["model"]} if "model" in change else {}
    junit = tmp_path / "gate.xml"
    arguments = (*change.get("arguments", ()), "--max-increase", "100000%", "--junit", junit)
    assert words in sentence(held(gate, ending, *arguments, **images, **model))
    (suite,) = JUnitXml.fromfile(str(junit))
    assert (suite.tests, suite.failures, suite.errors) == (1, 0, 1)
    assert words in next(iter(suite)).result[0].message


@pytest.mark.parametrize("ending", ENDINGS)
def test_another_model_and_weights_are_said(gate, ending):
    result = held(gate, ending, "--max-increase", "100000%", model="twice")
    assert result.exit_code == 0, result.output
    said = " ".join(result.stdout.split())
    assert "Note: the baseline was measured with another model (gate_user_models:build, now" in said


def verdicts(junit):
    (suite,) = JUnitXml.fromfile(str(junit))
    cases = list(suite)
    states = [[type(r) for r in case.result] for case in cases]
    assert suite.tests == len(cases)
    assert suite.failures == states.count([Failure])
    assert suite.errors == states.count([Error])
    return states


@pytest.mark.parametrize(
    ("arguments", "model", "code", "states"),
    [
        (("--max", "rotation=1000"), "build", 0, [[]]),
        (("--max", "rotation=1e-30"), "build", 3, [[Failure]]),
        (("--max", "rotation=1000,rotation=1e-30"), "build", 3, [[], [Failure]]),
        (("--max", "rotation=1000"), "broken", None, [[Error]]),
        (("--max", "rotation/rotation=1"), "build", None, [[Error]]),
        (("--max", "lee/rotation/features=1"), "build", None, [[Error]]),
        (("--baseline", "missing.json"), "build", None, [[Error]]),
        (("--baseline", "b.parquet"), "twice", 3, [[Failure]]),
        (("--baseline", "b.json", "--transforms", "scale"), "build", None, [[Error]]),
        (("--baseline", "b.json", "--transforms", "rotation,scale"), "build", 3, [[], [Error]]),
        (("--baseline", "b.json", "--max", "scale=1000"), "build", 0, [[], []]),
    ],
)
def test_the_junit_file_agrees_with_the_exit_code(gate, tmp_path, arguments, model, code, states):
    junit = tmp_path / "gate.xml"
    junit.write_text('<testsuites tests="9" failures="0" errors="0"/>')  # of an earlier run
    given = [gate.folder / a if str(a).startswith("b.") else a for a in arguments]
    result = gate(*given, "--junit", junit, model=model)
    assert verdicts(junit) == states
    if code is None:
        assert result.exit_code not in (0, 3)
        assert model == "broken" or sentence(result)
    else:
        assert result.exit_code == code, result.output


def test_a_part_of_the_images_is_not_judged(gate, tmp_path):
    junit = tmp_path / "gate.xml"
    result = gate("--max", "rotation=1000", "--batch-size", 1, "--junit", junit,
                  model="interrupted")  # fmt: skip
    assert result.exit_code != 0
    assert verdicts(junit) == [[Error]]


def test_a_baseline_that_is_exactly_zero_allows_nothing(gate, tmp_path):
    base = tmp_path / "zero.parquet"
    made = gate("--per-image", base, "--transforms=rotation", "--metrics=lee", command="score",
                model="constant")  # fmt: skip
    assert made.exit_code == 0, made.output
    result = gate("--baseline", base, model="constant")
    assert result.exit_code == 3
    assert "limit it with --max" in result.stderr
    assert gate("--baseline", base, "--max-increase", "1e9%").exit_code == 3


@pytest.mark.parametrize("option", ["--per-image", "--json"])
def test_the_baseline_is_not_overwritten(gate, option):
    path = gate.folder / ("b.parquet" if option == "--per-image" else "b.json")
    before = path.read_bytes()
    result = gate("--baseline", path, option, gate.folder / "." / path.name)
    assert "is the baseline and would be overwritten" in sentence(result)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "limit", ["lee=nan", "rotation=nan", "rotation=-1", "rotation=inf", "rotation=1e999",
              "lee/rotation=-inf", "rotation=", "rotation=1,", "=1", "rotation=1=2"],
)  # fmt: skip
def test_limits_that_are_no_numbers(gate, limit):
    result = gate("--max", limit)
    if limit == "rotation=1,":
        assert result.exit_code in (0, 3)
    else:
        assert "--max" in sentence(result)


@pytest.mark.parametrize("percent", ["nan%", "inf%", "-1%", "5", "%", "1e999%", "5%%", ""])
def test_percentages_that_are_none(gate, percent):
    result = held(gate, "json", "--max-increase", percent)
    assert "--max-increase" in sentence(result)


@pytest.mark.parametrize(
    "value", ["NaN", "Infinity", "-1.0", "0.0", "null", '"1"', "true", "1e400"]
)
def test_values_of_the_baseline_that_are_none(gate, tmp_path, value):
    data = json.loads((gate.folder / "b.json").read_text())
    for row in data["results"]:
        row["value"] = "HERE"
    path = tmp_path / "b.json"
    path.write_text(json.dumps(data).replace('"HERE"', value))
    result = gate("--baseline", path, "--max-increase", "100000%")
    assert result.exit_code != 0
    assert result.exit_code == 3 or sentence(result)


def test_what_older_versions_wrote_is_refused_with_a_remedy(gate, tmp_path):
    pd.read_parquet(gate.folder / "b.parquet").to_parquet(tmp_path / "b.parquet")
    pd.read_csv(gate.folder / "b.csv").drop(columns="provenance").to_csv(
        tmp_path / "b.csv", index=False
    )
    data = json.loads((gate.folder / "b.json").read_text())
    del data["input_size"]
    (tmp_path / "b.json").write_text(json.dumps(data))
    for ending in ENDINGS:
        text = sentence(gate("--baseline", tmp_path / f"b.{ending}"))
        assert "does not say" in text
        assert "write it with `liederiv score" in text


def test_text_of_others_is_shown_as_it_is(gate, tmp_path):
    base = Measurement.load(gate.folder / "b.json")
    from dataclasses import replace

    p = replace(base.provenance, model="[/b] [bold red]x\x1b[31m", weights="[/nothing]")
    path = Measurement(base.scores, p).save(tmp_path / "b.json")
    result = gate("--baseline", path)
    assert result.exit_code == 0, result.output
    assert "[bold red]x" in result.stdout
    assert "\x1b" not in result.stdout


def test_transforms_of_the_baseline_that_nobody_knows(gate, tmp_path):
    base = Measurement.load(gate.folder / "b.json")
    odd = Measurement((*base.scores, score(transform="tilt [x]")), base.provenance)
    result = gate("--baseline", odd.save(tmp_path / "b.json"))
    assert "unknown" in sentence(result)


def test_limits_over_a_step(gate, tmp_path):
    def run(*words):
        return gate("--transforms", "translation", "--quiet", *words)

    wide = "translation@1px=1e6,lee_step/translation_x@2px/logits=1e6"
    kept = run("--max", wide, "--json", tmp_path / "r.json", "--per-image", tmp_path / "r.parquet")
    assert kept.exit_code == 0, kept.output
    rows = {(s.metric, s.transform) for s in Measurement.load(tmp_path / "r.json").scores}
    assert {("lee_step", "translation@1px"), ("lee_step", "translation_x@2px")} <= rows
    broken = run("--max", "translation@1px=1e-30")
    assert broken.exit_code == 3
    assert "lee_step/translation@1px/probs" in broken.output
    # The steps of the baseline are measured again, and twice the weights are not as before.
    again = run("--max", "translation@1px=1e6", "--baseline", tmp_path / "r.parquet")
    assert again.exit_code == 0, again.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--max", "translation@1deg=1"), "deg is not a unit of its steps"),
        (("--max", "translation@1=1"), "its unit is missing"),
        (("--max", "rotation@1px=1"), "px is not a unit"),
        (("--max", "rotation=1", "--steps", "rotation=2deg"), "no metric takes them"),
        (("--max", "rotation@1deg=1", "--steps", "rotation=2px"), "wrong unit"),
        (("--max", "rotation@1deg=1", "--steps", "rotation"), "is no step"),
        (("--max", "rotation@1deg=1", "--steps", "scale=1"), "not among the transforms"),
        (("--max", "translation@1length=1"), "wrong unit"),
    ],
)
def test_steps_that_are_no_input(gate, words, said):
    result = gate(*words)
    assert isinstance(result.exception, LieDerivError), result.output
    assert said in str(result.exception)
