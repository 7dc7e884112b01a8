"""`liederiv gate`: verdicts, exit codes, baselines and JUnit XML."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from junitparser import Error, Failure, JUnitXml

from liederiv.errors import LieDerivError
from liederiv.measurement.results import Measurement, Provenance, Score
from liederiv.model_zoo import load
from liederiv.testing.junit import write_junit
from liederiv.testing.limits import (
    Limit,
    judge_increase,
    judge_limits,
    parse_increase,
    parse_limits,
    read_baseline,
)

DOCS = Path(__file__).parents[2] / "docs" / "ci.md"


def measured(values, *, metric="lee", bottom=(), names=("a", "b", "c", "d"), **named):
    """A measurement of one score on probs, and one on logits that no limit means."""
    top = np.array(values)
    value = top.sum() / (np.sum(bottom) if bottom else len(top))
    score = Score(
        metric, "rotation", "probs", value, named.pop("low", value), named.pop("high", value),
        "prob²/rad²", per_image=tuple(values), per_image_denominator=tuple(bottom),
    )  # fmt: skip
    other = Score(metric, "rotation", "logits", 900.0, 800.0, 1000.0, "logit²/rad²")
    p = Provenance(num_images=len(values), images_fingerprint="f", scheme="bspline", **named)
    return Measurement((score, other), p, tuple(names))


def missing():
    score = Score("lee", "rotation", "probs", None, None, None, "", None, "failed", "it is NaN")
    return Measurement((score,), Provenance())


# --- verdicts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "limit", "state", "passed"),
    [
        (0.5, 1.0, "kept", True),
        (0.5, 0.99, "unclear", True),
        (0.5, 0.5, "unclear", True),
        (0.5, 0.49, "broken", False),
        (None, 1.0, "kept", True),
        (None, 0.99, "broken", False),  # one image has no interval: its value counts
    ],
)
def test_a_limit_is_broken_beyond_the_interval(low, limit, state, passed):
    m = measured([0.5, 1.5, 0.5, 1.5], low=low, high=None if low is None else 1.5)
    (v,) = judge_limits(m, [Limit("lee", "rotation", None, limit)])
    assert (v.state, v.passed) == (state, passed)
    assert v.name == "lee/rotation/probs"
    assert v.reason.startswith("lee/rotation/probs = 1 ")


def test_other_outputs_are_limited_by_name():
    (v,) = judge_limits(measured([1.0] * 4), parse_limits("lee/rotation/logits=799"))
    assert v.state == "broken"
    assert v.reason == "lee/rotation/logits = 900 [800, 1e+03] exceeds 799 logit²/rad²"


def test_what_is_not_measured_does_not_pass():
    (v,) = judge_limits(missing(), parse_limits("rotation=5"))
    assert (v.state, v.passed) == ("not measured", False)
    assert "could not be measured: it is NaN" in v.reason


def test_limits_and_percentages_are_read():
    assert parse_limits(" translation=1e-5 , relative_norm/rotation=0.3,lee/scale/logits=0") == (
        Limit("lee", "translation", None, 1e-5),
        Limit("relative_norm", "rotation", None, 0.3),
        Limit("lee", "scale", "logits", 0.0),
    )
    assert parse_increase("5%") == 0.05
    assert parse_increase("0%") == 0


# --- baselines -----------------------------------------------------------------------------------


def saved(tmp_path, m, ending=".parquet"):
    return read_baseline(m.save(tmp_path / f"base{ending}"))


def test_a_paired_baseline_sees_what_scattered_scores_hide(tmp_path):
    """Every image 20 % worse: the scores' intervals overlap widely, their ratio is 1.2 exactly."""
    old = [0.01, 0.1, 1.0, 10.0]
    new = measured([1.2 * v for v in old], low=0.01, high=9.0)
    (v,) = judge_increase(new, saved(tmp_path, measured(old)), 0.05)
    assert v.state == "broken"
    assert math.isclose(v.value, 1.2)
    assert math.isclose(v.ci_low, 1.2)
    (v,) = judge_increase(new, saved(tmp_path, measured(old), ".json"), 0.05)
    assert v.state == "unclear"  # the file without values per image cannot tell
    (v,) = judge_increase(new, saved(tmp_path, measured(old)), 0.25)
    assert v.state == "kept"


def test_the_paired_ratio_of_ratios(tmp_path):
    old = measured([1.0, 2.0, 3.0, 4.0], metric="relative_norm", bottom=(2.0, 2.0, 2.0, 2.0))
    new = measured([2.0, 4.0, 6.0, 8.0], metric="relative_norm", bottom=(8.0, 8.0, 8.0, 8.0))
    (v,) = judge_increase(new, saved(tmp_path, old), 0.0, metrics=["relative_norm"])
    assert math.isclose(v.value, 0.5)  # 2.5 / 8·… : (20/32) / (10/8)
    assert math.isclose(v.ci_high, 0.5)
    assert v.state == "kept"


def test_the_interval_of_a_ratio_is_that_of_the_bootstrap(tmp_path):
    from liederiv.measurement.bootstrap import bootstrap_ratio

    old, new = [1.0, 2.0, 3.0, 4.0], [2.0, 1.0, 5.0, 4.5]
    (v,) = judge_increase(measured(new), saved(tmp_path, measured(old)), 0.05, seed=3)
    value, low, high = bootstrap_ratio(new, old, seed=3)
    assert (v.value, v.ci_low, v.ci_high) == pytest.approx((value, low, high), rel=1e-12)
    clusters = ["x", "x", "x", "x"]
    (v,) = judge_increase(measured(new), saved(tmp_path, measured(old)), 0.05, clusters=clusters)
    assert v.ci_low is None


@pytest.mark.parametrize(
    ("change", "ending", "message"),
    [
        ({"names": ("a", "b", "c", "e")}, ".parquet", "measured on other images"),
        ({"values": [1.0, 2.0, 3.0]}, ".json", r"another number of images \(4, now 3\)"),
        ({"metric": "mean_abs"}, ".json", "holds no score of lee on probs"),
    ],
)
def test_a_baseline_of_something_else_is_refused(tmp_path, change, ending, message):
    base = saved(tmp_path, measured([1.0, 2.0, 3.0, 4.0]), ending)
    new = measured(**({"values": [1.0, 2.0, 3.0, 4.0]} | change))
    with pytest.raises(LieDerivError, match=message):
        judge_increase(new, base, 0.05)


# --- JUnit ---------------------------------------------------------------------------------------


def test_junit_is_read_back_by_another_library(tmp_path):
    verdicts = judge_limits(measured([1.0] * 4, low=0.5), parse_limits("rotation=2,rotation=0.1"))
    verdicts += judge_limits(missing(), parse_limits("rotation=1"))
    path = write_junit(tmp_path / "gate.xml", 'a<b>&"c"\x01', verdicts, 1.5)
    suites = JUnitXml.fromfile(str(path))
    (suite,) = suites
    assert (suite.tests, suite.failures, suite.errors, suite.time) == (3, 1, 1, 1.5)
    cases = list(suite)
    assert [c.classname for c in cases] == ['liederiv.gate.a<b>&"c"?'] * 3
    assert [[type(r) for r in c.result] for c in cases] == [[], [Failure], [Error]]
    assert cases[0].system_out == verdicts[0].reason
    assert cases[1].result[0].message == verdicts[1].reason
    assert cases[1].name == "lee/rotation/probs ≤ 0.1 prob²/rad²"
    assert "it is NaN" in cases[2].result[0].message


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture
def gate(run, user_code, photographs):
    def call(*arguments, model="classifier"):
        common = ("--images", photographs, "--num-images", 3)
        return run("gate", f"{user_code}:{model}", *common, *arguments)

    return call


def test_exit_codes_and_files(gate, user_code, tmp_path):
    files = ("--json", tmp_path / "r.json", "--per-image", tmp_path / "r.parquet")
    good = gate("--max", "rotation=1000", *files, "--junit", tmp_path / "good.xml")
    assert good.exit_code == 0, good.output
    assert "kept" in good.stdout
    assert good.stderr == ""
    row = next(
        r for r in json.loads((tmp_path / "r.json").read_text())["results"]
        if (r["metric"], r["transform"], r["output"]) == ("lee", "rotation", "probs")
    )  # fmt: skip

    between = (row["ci_low"] + row["value"]) / 2
    unclear = gate("--max", f"rotation={between}")
    assert unclear.exit_code == 0
    assert "Warning: lee/rotation/probs" in unclear.stdout
    assert "measure more images" in unclear.stdout

    below = row["ci_low"] * 0.99
    bad = gate("--max", f"rotation={below}", "--junit", tmp_path / "bad.xml", "--quiet")
    assert bad.exit_code == 3
    assert bad.stdout == ""
    assert bad.stderr.startswith("liederiv gate: lee/rotation/probs = ")
    assert len(bad.stderr.splitlines()) == 1
    assert [JUnitXml.fromfile(str(tmp_path / f"{n}.xml")).failures for n in ("good", "bad")] == [
        0,
        1,
    ]

    same = gate("--baseline", tmp_path / "r.parquet", "--max-increase", "0%")
    assert same.exit_code == 0, same.output
    assert "× the baseline" in same.stdout
    model = load(f"{user_code}:classifier").model
    with torch.no_grad():
        model[-1].weight.mul_(3)
    torch.save(model.state_dict(), tmp_path / "sharp.pth")
    sharp = ("--checkpoint", tmp_path / "sharp.pth")
    worse = gate("--baseline", tmp_path / "r.parquet", *sharp)
    assert worse.exit_code == 3
    assert "1.05 × the baseline (was" in worse.stderr
    other = gate("--baseline", tmp_path / "r.parquet", "--seed", 1)  # chooses other images
    assert "measured on other images" in str(other.exception)


def test_a_model_that_gives_nan_fails_the_gate(gate):
    result = gate("--max", "rotation=1", model="not_a_number")
    assert result.exit_code == 3
    assert "could not be measured" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give --max or --baseline"),
        (("--max", ""), "holds no limit"),
        (("--max", "rotation"), "'rotation' is no limit"),
        (("--max", "rotation=-1"), "with a number from 0"),
        (("--max", "rotation=nan"), "'rotation=nan' is no limit"),
        (("--max", "tilt=1"), "'tilt' is unknown"),
        (("--max", "spatial=1"), "stands for several scores"),
        (("--max", "accuracy/none=1"), "'accuracy' cannot be limited"),
        (("--max", "a/b/c/d=1"), "is no limit"),
        (("--max", "rotation=1", "--max-increase", "5"), "must be a percentage"),
        (("--baseline", "missing.json"), "cannot be read as results"),
        (("--baseline", "results.txt"), "must end in .json, .csv, .parquet"),
        (("--max", "rotation=1", "--junit", "gate.txt"), "must end in .xml"),
        (("--max", "rotation=1", "--junit", "nowhere/gate.xml"), "no writable folder"),
    ],
)
def test_bad_input_is_one_line(refused, user_code, arguments, message):
    assert message in refused("gate", f"{user_code}:classifier", *arguments)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"results": [{"metric": "lee"}]}'])
def test_files_that_are_no_results_are_refused(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(LieDerivError, match="cannot be read as results"):
        read_baseline(tmp_path / "x.json")
    (tmp_path / "x.parquet").write_text(content)
    with pytest.raises(LieDerivError, match="cannot be read as results"):
        read_baseline(tmp_path / "x.parquet")


# --- the documented workflow ---------------------------------------------------------------------


def workflow():
    text = DOCS.read_text(encoding="utf-8")
    (block,) = [b.split("```")[0] for b in text.split("```yaml\n")[1:]]
    return yaml.safe_load(block)


def test_the_documented_workflow_is_valid_and_its_commands_are_ours():
    """GitHub's keys are there, and the command line accepts every option that is used."""
    import typer

    from liederiv.cli import app

    jobs = workflow()
    assert set(jobs) == {"name", True, "jobs"}  # YAML 1.1 reads the key `on` as true
    (job,) = jobs["jobs"].values()
    assert all(("uses" in step) != ("run" in step) for step in job["steps"])
    commands = typer.main.get_command(app).commands
    used = 0
    for step in job["steps"]:
        for line in step.get("run", "").replace("\\\n", " ").splitlines():
            words = line.split()
            if words[:1] == ["liederiv"]:
                used += 1
                known = {o for p in commands[words[1]].params for o in p.opts}
                assert {w for w in words if w.startswith("--")} <= known
    assert used >= 1
