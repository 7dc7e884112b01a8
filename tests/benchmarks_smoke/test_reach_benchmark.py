"""The benchmark of reaches on digits trains and measures, and says the table."""

import json
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"


def test_one_small_network_is_trained_and_measured(load_script, capsys, tmp_path):
    pytest.importorskip("sklearn")
    bench = load_script("reach_digits")
    path = tmp_path / "r.json"
    bench.main(["--seeds", "1", "--epochs", "1", "--num-images", "4", "--variants", "1",
                "--json", str(path)])  # fmt: skip
    (row,) = json.loads(path.read_text())
    assert row["status"]["translation_x"] in ("measured", "beyond the largest step")
    assert row["network"][:30] in capsys.readouterr().out


def test_kinks_that_are_rounded_tend_to_the_sharp_ones(load_script, monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    bench = load_script("reach")
    x = torch.linspace(-3, 9, 49, dtype=torch.float64)
    assert (bench.SmoothClamp(1e-3)(x) - x.clamp(0, 6)).abs().max() < 1e-3
