"""The benchmark of orbits counts passes of the model, and says them."""

import json

import pytest


@pytest.mark.slow
def test_passes_are_those_of_the_arguments(load_script, capsys, tmp_path):
    bench = load_script("orbit")
    bench.main([*("--models", "test_resnet", "--batch-size", "1", "--points", "2"),
                *("--json", str(tmp_path / "r.json"))])  # fmt: skip
    assert "worst transform" in capsys.readouterr().out
    counts = {r["part"]: r["passes"] for r in json.loads((tmp_path / "r.json").read_text())}
    # Two orbits of five points; the output at rest, and that of an image moved by rounding, beside.
    assert 2 * 5 <= counts["curves"] <= 2 * 5 + 8
    assert counts["period"] in (65, 65 + 65)
    # 60 // (3 starts × (1 + 2 tangents)) steps of each start, and a grid of 7 × 7.
    assert 3 * 6 + 49 <= counts["worst transform"] <= 3 * 6 + 49 + 3
