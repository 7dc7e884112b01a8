"""A metric that somebody has added is on the command line without further ado."""

import json
import subprocess
import sys

import pytest

from liederiv.metrics.base import LocalMetric, Response
from liederiv.metrics.registry import METRICS, register_metric

ADDED = """
from liederiv.metrics.base import LocalMetric, Response
from liederiv.metrics.registry import register_metric

@register_metric
class Largest(LocalMetric):
    name, family, summary = "largest", "extremes", "largest entry of the Lie derivative"

    def respond(self, batch):
        return Response(batch.lie.abs().flatten(2).amax(-1))

from typer.testing import CliRunner
from liederiv.cli import app
print(CliRunner(env={"COLUMNS": "200"}).invoke(app, ["score", "--help"]).output)
"""


@pytest.fixture
def largest():
    class Largest(LocalMetric):
        """The largest |L f| of an output."""

        name, family, summary = "largest", "extremes", "largest entry of the Lie derivative"
        heading, shown, gated = "max |L|", "interval", True

        def respond(self, batch):
            return Response(batch.lie.abs().flatten(2).amax(-1))

    register_metric(Largest)
    yield
    METRICS.pop("largest")


def test_the_help_lists_it():
    done = subprocess.run([sys.executable, "-c", ADDED], capture_output=True, text=True, check=True)
    assert "accuracy, extremes, all" in " ".join(done.stdout.split())


@pytest.mark.usefixtures("largest")
def test_score_prints_it_and_writes_it(score, tmp_path):
    result = score("--metrics", "largest,lee", "--json", tmp_path / "a.json")
    assert result.exit_code == 0, result.output
    assert "max |L|" in result.output
    rows = json.loads((tmp_path / "a.json").read_text())["results"]
    (row,) = [r for r in rows if (r["metric"], r["output"]) == ("largest", "probs")]
    assert row["unit"] == "prob/rad"
    assert row["ci_low"] < row["value"] < row["ci_high"]


@pytest.mark.usefixtures("largest")
@pytest.mark.parametrize(("limit", "code"), [("1e-9", 3), ("1e9", 0)])
def test_gate_limits_it(run, user_code, photographs, limit, code):
    images = ("--images", photographs, "--num-images", 3)
    result = run("gate", f"{user_code}:classifier", *images, "--max", f"largest/rotation={limit}")
    assert result.exit_code == code, result.output
    assert "largest/rotation/probs" in result.output


def test_it_is_unknown_where_nobody_added_it(refused, user_code, photographs):
    known = ("--images", photographs, "--num-images", 1, "--metrics", "largest")
    assert "'largest' is unknown" in refused("score", f"{user_code}:classifier", *known)
