"""Exit codes of whole processes: models that end theirs, signals, streams, disks."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from forked_cli import start
from hostile_code import arguments_of

from liederiv.model_zoo.requests import measuring

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is forked")


SLOW = pytest.mark.slow


@pytest.fixture
def line(few, hostile, tmp_path):
    """A command line that runs a model."""

    def call(command, model, *more, **kwargs):
        given = [f"{k}={v!r}" for k, v in kwargs.items()]
        return [*arguments_of(command, f"{hostile}:{model}", few, tmp_path, given), *more]

    return call


DEATHS = {
    "os._exit(0)": "ended by itself with exit code 0",
    "os._exit(3)": "ended by itself with exit code 3",
    "os.kill(os.getpid(), 11)": "crashed (SIGSEGV)",
    "os.kill(os.getpid(), 9)": "killed by the system (SIGKILL), most likely for want of memory",
    "__import__('ctypes').CDLL(None).exit(0)": "ended by itself with exit code 0",
    "__import__('ctypes').string_at(0)": "crashed (SIGSEGV)",
}


@pytest.mark.parametrize("death", list(DEATHS))
@pytest.mark.parametrize("after", [pytest.param(0, marks=SLOW), 5])
def test_no_model_ends_a_gate(line, tmp_path, death, after):
    junit = tmp_path / "gate.xml"
    ended = start(line("gate", "does", "--junit", junit, what=death, after=after)).wait()
    assert ended.code == 2
    assert ended.out == ""
    assert DEATHS[death] in ended.err
    assert len(ended.err.splitlines()) == 1
    assert "<error" in junit.read_text(encoding="utf-8")
    assert "system-out" not in junit.read_text(encoding="utf-8")


@pytest.mark.parametrize("command", ["score", "layers", "check", "compare", "track"])
def test_no_model_ends_a_command(line, tmp_path, command):
    (tmp_path / "epoch-1.pth").write_bytes(b"x")
    ended = start(line(command, "dies_at_once")).wait()
    assert ended.code == 2
    assert "ended by itself with exit code 0" in ended.err


LEFTOVERS = [
    "atexit.register(lambda: os._exit(0))",
    "atexit.register(lambda: sys.exit(0))",
    "atexit.register(lambda: 1 / 0)",
    "threading.Thread(target=time.sleep, args=(10**6,)).start()",
    "os.fork() or (os.closerange(0, 3), time.sleep(30), os._exit(0))",
    "sys.stdout.close()",
    "sys.stderr.close()",
    "os.closerange(1, 3)",
    "setattr(sys, 'stdout', None)",
    "setattr(sys, 'stdout', open(os.devnull, 'w'))",
    "os.dup2(os.open(os.devnull, os.O_WRONLY), 1)",
    "os.chdir('/')",
    "sys.argv.clear()",
    "sys.setrecursionlimit(220)",
    "signal.signal(signal.SIGTERM, lambda *_: os._exit(0))",
    "signal.signal(signal.SIGINT, signal.SIG_IGN)",
    "setattr(sys, 'exit', lambda code: os._exit(0))",
    "sys.modules.pop('rich.table', None)",
    "(lambda f: setattr(sys, 'excepthook', f))(lambda *_: os._exit(0))",
]


@pytest.mark.parametrize(
    ("what", "limit"),
    [(what, "1e9") for what in LEFTOVERS[:4]]
    + [pytest.param(what, "1e9", marks=SLOW) for what in LEFTOVERS[4:]]
    + [pytest.param(what, "1e-30", marks=SLOW) for what in LEFTOVERS],
)
def test_a_gate_keeps_its_verdict_and_its_table(line, tmp_path, what, limit):
    arguments = line("gate", "does", "--junit", "gate.xml", "--json", "a.json", what=what)
    arguments[arguments.index("rotation=1e9")] = f"rotation={limit}"
    ended = start(arguments, folder=tmp_path).wait()
    assert ended.code == (0 if limit == "1e9" else 3), ended.err
    assert "lee/rotation/probs" in ended.out
    assert (tmp_path / "gate.xml").is_file()
    assert (tmp_path / "a.json").is_file()


def _wait_for(path):
    while not path.exists():
        time.sleep(0.01)


@pytest.mark.parametrize("to_group", [True, False])
@pytest.mark.parametrize("command", ["score", "gate"])
def test_a_real_interrupt(line, tmp_path, command, to_group):
    """From the terminal it reaches both processes, from `kill` one; it counts once."""
    sign, out = tmp_path / "sign", tmp_path / "a.json"
    what = f"(self.left < -14 and (open({str(sign)!r}, 'w').close(), time.sleep(0.05)))"
    more = ("--num-images=5", "--batch-size=1", "--json", out)
    started = start(line(command, "does", *more, what=what))
    _wait_for(sign)
    (os.killpg if to_group else os.kill)(started.number, signal.SIGINT)
    ended = started.wait()
    assert ended.code == 130, ended.err
    assert "interrupted" in ended.err
    if command == "score" and out.exists():
        assert 0 < json.loads(out.read_text())["num_images"] < 5


@pytest.mark.parametrize("to_group", [True, False])
def test_a_request_to_end(line, tmp_path, to_group):
    sign = tmp_path / "sign"
    what = f"(open({str(sign)!r}, 'w').close(), time.sleep(0.05))"
    started = start(line("gate", "does", "--num-images=5", what=what))
    _wait_for(sign)
    (os.killpg if to_group else os.kill)(started.number, signal.SIGTERM)
    assert started.wait().code == -signal.SIGTERM


def test_the_model_dies_with_the_command(line, tmp_path):
    sign = tmp_path / "sign"
    what = f"(open({str(sign)!r}, 'w').write(str(os.getpid())), time.sleep(0.05))"
    started = start(line("gate", "does", "--num-images=5", what=what))
    _wait_for(sign)
    while not (text := sign.read_text()):
        time.sleep(0.01)
    os.kill(started.number, signal.SIGKILL)
    assert started.wait().code == -signal.SIGKILL
    status = Path(f"/proc/{text}/status")
    while status.exists() and "State:\tZ" not in status.read_text():
        time.sleep(0.01)


def _broken_pipe(*streams):
    def change():
        reader, writer = os.pipe()
        os.close(reader)
        for stream in streams:
            os.dup2(writer, stream)

    return change


@pytest.mark.parametrize("streams", [pytest.param((1,), marks=SLOW), (1, 2)])
@pytest.mark.parametrize("limit", ["1e9", "1e-30"])
def test_a_reader_that_has_gone(line, tmp_path, streams, limit):
    arguments = line("gate", "does", "--json", tmp_path / "a.json", what="warnings.warn('x')")
    arguments[arguments.index("rotation=1e9")] = f"rotation={limit}"
    ended = start(arguments, before=_broken_pipe(*streams)).wait()
    assert ended.code == (0 if limit == "1e9" else 3), ended.err
    assert (tmp_path / "a.json").is_file()


@pytest.mark.parametrize("streams", [(1,), pytest.param((2,), marks=SLOW), (0, 1, 2)])
def test_streams_closed_from_the_start(line, tmp_path, streams):
    def change():
        for stream in streams:
            os.close(stream)
        for stream, name in ((1, "stdout"), (2, "stderr")):
            if stream in streams:
                setattr(sys, name, None)
                setattr(sys, f"__{name}__", None)

    arguments = line("score", "good", "--json", "a.json", "--per-image", "a.parquet")
    ended = start(arguments, before=change, folder=tmp_path).wait()
    assert ended.code == 0, ended.err
    assert json.loads((tmp_path / "a.json").read_text())["num_images"] == 2
    assert len(pd.read_parquet(tmp_path / "a.parquet"))


def test_a_full_disk_under_standard_output(line, tmp_path):
    def change():
        os.dup2(os.open("/dev/full", os.O_WRONLY), 1)

    ended = start(line("score", "good", "--json", tmp_path / "a.json"), before=change).wait()
    assert ended.code == 2
    assert "standard output cannot be written (No space left on device)" in ended.err
    assert (tmp_path / "a.json").is_file()


@pytest.mark.parametrize("encoding", ["ascii", pytest.param("cp1252", marks=SLOW)])
def test_narrow_encodings(line, encoding):
    ended = start(line("score", "good"), encoding=encoding).wait()
    assert ended.code == 0, ended.err
    assert "rotation" in ended.out
    wrong = start(["score", "mod\udcffel\u2264:x"], encoding=encoding).wait()
    assert wrong.code == 2
    assert len(wrong.err.splitlines()) == 1


FILES = {
    "score": ["--json=a.json", "--csv=a.csv", "--per-image=a.parquet"],
    "layers": ["--json=a.json", "--parquet=a.parquet", "--plot=a.png", "--plot=a.svg"],
    "gate": ["--json=a.json", "--per-image=a.parquet", "--junit=a.xml"],
    "compare": ["--csv=a.csv"],
}


@pytest.mark.parametrize(
    ("command", "option"),
    [
        pytest.param(command, option, marks=SLOW if command in ("layers", "compare") else ())
        for command, options in FILES.items()
        for option in options
    ],
)
def test_a_disk_that_fills_up_during_the_measurement(line, tmp_path, command, option):
    what = "(resource.setrlimit(resource.RLIMIT_FSIZE, (0, -1)), signal.signal(25, signal.SIG_IGN))"
    folder = tmp_path / "out"
    folder.mkdir()
    arguments = line(command, "does", option, "--quiet", what=what)
    reader, writer = os.pipe()  # a pipe, as files cannot be written to

    def change():
        os.dup2(writer, 1)
        os.dup2(writer, 2)
        os.close(writer)

    started = start(arguments, before=change, folder=folder)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        text = pipe.read().decode()
    ended = started.wait()
    assert ended.code == 2, text
    assert "File too large" in text
    assert "results are printed only" in text
    assert "rotation" in text
    assert [p.name for p in folder.iterdir()] in ([], ["a.xml"])


def test_a_folder_that_vanishes(line, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    what = f"__import__('shutil').rmtree({str(folder)!r}, ignore_errors=True)"
    ended = start(line("score", "does", "--json", folder / "a.json", "--quiet", what=what)).wait()
    assert ended.code == 2
    assert "it was written to" in ended.err
    kept = ended.err.partition("it was written to ")[2].split("'")[1]
    assert json.loads(Path(kept).read_text())["num_images"] == 2
    os.unlink(kept)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("option", ["--checkpoint", "--images", "--json", "--csv", "MODEL"])
def test_permission_denied(line, tmp_path, option):
    locked = tmp_path / "locked"
    locked.mkdir()
    (locked / "a.json").write_text("x")
    (locked / "a.csv").write_text("x")
    locked.chmod(0o700)
    os.chmod(tmp_path, 0o755)
    value = locked / ("a.csv" if option == "--csv" else "a.json")

    def change():
        os.environ["HOME"] = str(tmp_path)
        os.setuid(65534)

    given = (
        ["score", f"local-dir:{locked}"]
        if option == "MODEL"
        else line("score", "good", f"{option}={value}")
    )
    ended = start(given, before=change).wait()
    assert ended.code == 2
    assert len(ended.err.splitlines()) == 1, ended.err
    assert "fault of liederiv" not in ended.err


def test_a_fault_of_ours_is_a_sentence(line, end_badly, monkeypatch):
    def fault(*_, **__):
        raise AttributeError("no such [/b] thing\x1b")

    monkeypatch.setattr(measuring, "require_scores", fault)
    monkeypatch.delenv("LIEDERIV_DEBUG", raising=False)
    code, _, err = end_badly(*line("score", "good", "--quiet"))
    assert code == 2
    assert "unexpected AttributeError: no such [/b] thing\\x1b; this is a fault of" in err
    assert "LIEDERIV_DEBUG=1" in err
    assert len(err.splitlines()) == 1
    monkeypatch.setenv("LIEDERIV_DEBUG", "1")
    code, _, err = end_badly(*line("score", "good", "--quiet"))
    assert code == 2
    assert "Traceback (most recent call last)" in err
    assert "\x1b" not in err


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "out of memory"),
        (RecursionError("x"), "nested too deeply"),
        (
            OSError(28, "No space left on device", "f\udcff"),
            "'f\\xff' cannot be read or written",
        ),
        (OverflowError("too large"), "unexpected OverflowError"),
    ],
)
def test_errors_of_the_system(line, end_badly, monkeypatch, error, words):
    def fault(*_, **__):
        raise error

    monkeypatch.setattr(measuring, "require_scores", fault)
    code, _, err = end_badly(*line("score", "good", "--quiet"))
    assert code == 2
    assert words in err
