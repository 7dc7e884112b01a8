"""The benchmark of finite steps counts passes of the model, and says them."""

import json

import torch


def test_passes_are_those_of_the_steps(load_script, capsys, tmp_path):
    bench = load_script("scale")
    torch.manual_seed(0)
    bench.main([*("--models", "test_resnet", "--batch-size", "1", "--rounds", "1"),
                *("--json", str(tmp_path / "r.json"))])  # fmt: skip
    assert "beside noise" in capsys.readouterr().out
    rows = {row["part"]: row for row in json.loads((tmp_path / "r.json").read_text())}
    counts = {part: row["float32"] + row.get("float64", 0) for part, row in rows.items()}
    # Four generators of one chosen step: two passes each, and four for the displacements beside.
    assert counts["beside noise"] - counts["chosen steps"] == 4 * 4
    assert 4 * 2 <= counts["chosen steps"] <= 4 * 2 + 8
    # Eight steps of each.
    assert counts["reach"] - counts["beside noise"] >= 4 * 7 * 2
