"""Numbers that are none, paths that are no files, JSON of other shapes: one sentence, code 2."""

from __future__ import annotations

import os

import pytest
from hostile_code import arguments_of

SLOW = pytest.mark.slow
NUMBERS = ["nan", "-inf", "9" * 5000, "-1", "", "1\x00"]
NUMBERS += [
    pytest.param(n, marks=SLOW) for n in ("inf", "0", "1e400", "0x10", "1_0", "٣", "²", str(2**64))
]


@pytest.mark.parametrize("number", NUMBERS, ids=lambda n: ascii(n)[:12])
@pytest.mark.parametrize(
    "option",
    [
        "--num-images",
        "--batch-size",
        "--seed",
        "--margin",
        "--dynamic-range",
        "--crop-pct",
        "--img-size",
        "--num-classes",
        "--mean",
        "--std",
    ],
)
def test_numbers(end, few, hostile, tmp_path, option, number):
    line = arguments_of("score", f"{hostile}:good", few, tmp_path)
    code, _, err = end(*line, "--quiet", f"{option}={number}")
    assert (code, len(err.splitlines())) in ((2, 1), (0, 0)), err
    assert len(err) < 3000
    assert code == 2 or number not in ("nan", "inf", "-inf", "9" * 5000, "1e400", "")


@pytest.mark.parametrize(
    "number", ["nan", "inf", "-1", "9" * 5000, "abc", "", "1\x00"], ids=lambda n: ascii(n)[:9]
)
@pytest.mark.parametrize(
    "option",
    [
        "--max-increase",
        "--max",
        "--top",
        "--what-if",
        "--workers",
        "--timeout",
        "--threads",
        "--gpus-per-task",
        "--memory",
        "--cache-limit",
        "--max-params",
        "--shard",
        "--layers-images",
    ],
)
def test_numbers_of_other_commands(end, few, hostile, tmp_path, option, number):
    model = f"{hostile}:good"
    if option.startswith("--max-i") or option == "--max":
        number = f"rotation={number}" if option == "--max" else number
        line = ["gate", model, *few, *(() if option == "--max" else ("--max", "rotation=1"))]
    elif option in ("--top", "--what-if"):
        line = ["layers", model, *few]
    else:
        line = ["scan", model, "--dry-run", "--out", tmp_path / "zoo"]
    code, _, err = end(*line, f"{option}={number}")
    assert code in (0, 2, 3), err
    assert len(err) < 3000
    assert code == 0 or len(err.splitlines()) == 1, err


LONG = "x" * 300
PATHS = [
    LONG,
    f"{LONG}.json",
    "~nosuchuser/a.json",
    "s3://bucket/a.json",
    "http://host/a.json",
    r"\\host\a.json",
    "a\x00b.json",
    "",
    "/proc/1/mem/a.json",
    "a/" * 3000 + "a.json",
    "/dev/null",
    "loop.json",
    "fifo.json",
    "folder.json",
    b"\xff.json".decode("utf-8", "surrogateescape"),
    "file.txt/a.json",
]


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A folder with a pipe, a circle of links, a folder and a file."""
    monkeypatch.chdir(tmp_path)
    for ending in ("json", "csv", "parquet"):
        os.mkfifo(f"fifo.{ending}")
        os.symlink(f"loop.{ending}", f"loop.{ending}")
        os.mkdir(f"folder.{ending}")
    (tmp_path / "file.txt").write_text("x")
    return tmp_path


@pytest.mark.parametrize("path", PATHS, ids=lambda p: ascii(p)[:24])
@pytest.mark.parametrize(
    "option", ["MODEL", "--checkpoint", "--images", "--data-dir", "--json", "--csv", "--per-image"]
)
def test_paths_of_score(end, few, hostile, places, option, path):
    path = path.replace(".json", {"--csv": ".csv", "--per-image": ".parquet"}.get(option, ".json"))
    if option == "MODEL":
        code, _, err = end("score", path)
    else:
        line = arguments_of("score", f"{hostile}:good", few, places)
        code, _, err = end(*line, "--quiet", f"{option}={path}")
    assert (code, len(err.splitlines())) in ((2, 1), (0, 0)), err
    assert len(err) < 8000
    err.encode()
    if code == 0:
        assert "\udcff" in path or option == "--data-dir"


@pytest.mark.parametrize("path", PATHS, ids=lambda p: ascii(p)[:24])
@pytest.mark.parametrize(
    "line",
    [
        ("results",),
        ("results", "--accuracy"),
        ("report", "-o", "x.html"),
        ("compare", "a"),
        ("track", "--model", "resnet18"),
        ("gate", "resnet18", "--baseline"),
        ("scan", "--dry-run", "--models-file"),
        ("results", "nowhere", "--format=csv", "--out"),
        ("score", "--checkpoint-of-nobody"),
        ("track", "--model"),
    ],
    ids=" ".join,
)
def test_paths_of_other_commands(end, places, line, path):
    code, _, err = end(*line, path)
    assert (code, len(err.splitlines())) == (2, 1), err
    assert len(err) < 8000
    err.encode()


SHAPES = [
    "5",
    "null",
    "[]",
    "{}",
    '"x"',
    "[[1]]",
    '{"settings": 5, "checkpoints": {}}',
    '{"settings": {}, "checkpoints": []}',
    '{"settings": {}, "checkpoints": {"a": 5}}',
    '{"settings": {}, "checkpoints": {"a": {"file": 1, "rows": []}}}',
    "[" * 10**5,
    "NaN",
    "{",
    '{"results": [5]}',
    '{"results": {"a": 1}, "scheme": 5}',
    "9" * 5000,
    '"\\ud800"',
    "\x00",
]


@pytest.mark.parametrize("content", SHAPES, ids=lambda s: s[:30])
@pytest.mark.parametrize("use", ["baseline", "track", "results", "local-dir", "compare"])
def test_json_of_other_shapes(end, few, hostile, tmp_path, use, content):
    file = tmp_path / ("a.json" if use in ("baseline", "track") else "manifest.json")
    file.write_text(content)
    (tmp_path / "config.json").write_text(content)
    (tmp_path / "epoch-1.pth").write_bytes(b"x")
    lines = {
        "baseline": ("gate", f"{hostile}:good", *few, "--baseline", file),
        "track": ("track", tmp_path, "--model", f"{hostile}:good", *few, "--json", file),
        "results": ("results", tmp_path),
        "local-dir": ("score", f"local-dir:{tmp_path}"),
        "compare": ("compare", tmp_path, tmp_path),
    }
    code, _, err = end(*lines[use])
    assert (code, len(err.splitlines())) == (2, 1), err
    assert "unexpected" not in err


@pytest.mark.parametrize(
    "line",
    [
        ("results", "zoo"),
        ("report", "zoo", "-o", "x.html"),
        ("compare", "zoo", "zoo"),
        ("scan", "resnet18", "--out", "zoo", "--dry-run", "--no-pretrained"),
        ("results", "zoo", "--accuracy", "fifo.json"),
        ("compare", "zoo/manifest.pth", "a.pth", "--model", "resnet18"),
        ("score", "local-dir:zoo"),
    ],
    ids=" ".join,
)
def test_pipes_within_folders(end, places, line):
    (places / "zoo").mkdir()
    for name in ("manifest.json", "manifest.pth", "config.json"):
        os.mkfifo(places / "zoo" / name)
    code, _, err = end(*line)
    assert (code, len(err.splitlines())) == (2, 1), err
