"""A scan survives everything that a single model can do, and says what it was."""

import io
import os
import re
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from patience import PATIENCE
from scan_cases import run_scan

from liederiv.model_zoo.scan import LocalEngine
from liederiv.model_zoo.scan.store import Store
from liederiv.model_zoo.scan.tasks import Task

BAD = {  # factory: outcome, reason, in the log
    "raises": ("failed", r"model fails on images of .*ValueError: boom and more|boom", "_raise"),
    "exits": ("failed", r"SystemExit\(3\)", "good bye"),
    "exits_at_once": ("crashed", r"ended by itself with exit code 5$", ""),
    "segfaults": ("crashed", r"crashed \(SIGSEGV\)$", "Segmentation fault"),
    "killed": ("killed", r"killed by the system \(SIGKILL\)", ""),
    "hungry": ("out of memory", r"memory", "_allocate"),
    "hangs": ("timeout", r"not done within 3600 s \(--timeout\)$", "in _hang"),
    "not_a_number": ("failed", r"non-finite output or derivative for 1 of 1 images|finite", ""),
    "stochastic": ("failed", r"stochastic|differ", ""),
    "wrong_size": ("failed", r"fails on images of shape \[3, 32, 32\].*mat1 and mat2", ""),
}


class Hurried(LocalEngine):
    """The limit of time of a model that hangs has passed; its way there takes as long as it may."""

    def events(self, seconds):
        for _, worker in self._running:
            if "thinking" in Path(worker._log).read_text():
                worker._deadline = time.monotonic()
        return super().events(seconds)


@pytest.fixture(scope="module")
def scanned(tmp_path_factory):
    """All bad models between two good ones, each measured in two ways."""
    folder = tmp_path_factory.mktemp("faults")
    said = io.StringIO()
    names, how = ["good", *BAD, "better"], {"measurements": ("score", "layers"), "memory": 2**30}
    names.remove("hangs")  # only this one has a limit of time: others may be slow
    summary = run_scan(folder, names, stream=said, **how)
    late = run_scan(folder, ["hangs"], engine=Hurried(1), timeout=PATIENCE, stream=said, **how)
    summary = replace(
        summary, measured=summary.measured + late.measured, failed=summary.failed + late.failed
    )
    return summary, Store.open(folder), said.getvalue()


def test_good_models_are_measured_beside_bad_ones(scanned):
    _, store, _ = scanned
    for measurement in ("score", "layers"):
        frame = store.read(measurement)
        measured = set(frame[frame["outcome"] == "measured"]["model"])
        assert measured == {"scan_models:good", "scan_models:better"}
        assert len(frame[frame["outcome"] != "measured"]) == len(BAD)


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("measurement", ["score", "layers"])
def test_each_failure_has_its_outcome_reason_and_log(scanned, name, measurement):
    _, store, _ = scanned
    outcome, reason, logged = BAD[name]
    frame = store.read(measurement)
    rows = frame[frame["model"] == f"scan_models:{name}"]
    assert len(rows) == 1
    row = rows.iloc[0]
    assert (row["outcome"], row["status"]) == (outcome, "failed")
    assert re.search(reason, row["reason"]), row["reason"]
    assert "\n" not in row["reason"]
    log = (store.folder / row["log"]).read_text() if row["log"] else ""
    assert logged in log
    assert row["version_torch"]
    assert row["settings"].startswith("{")


@pytest.mark.skipif(sys.platform != "linux", reason="the scores are Linux's")
def test_out_of_memory_the_kernel_ends_workers_before_the_scan(scanned):
    _, store, _ = scanned
    row = store.read("score").set_index("model").loc["scan_models:exits"]
    assert "oom_score_adj 500" in (store.folder / row["log"]).read_text()
    assert int(Path("/proc/self/oom_score_adj").read_text()) < 500


def test_what_is_known_of_a_model_is_kept_when_it_fails_later(scanned):
    _, store, _ = scanned
    frame = store.read("score").set_index("model")
    failed, good = frame.loc["scan_models:segfaults"], frame.loc["scan_models:good"]
    assert failed["parameters"] == good["parameters"].iloc[0] == 3 * 4 * 9 + 4 + 4 * 3 + 3
    assert failed["input_height"] == 32
    assert failed["weights_fingerprint"]
    assert frame.loc["scan_models:exits"]["weights_fingerprint"] == ""


def test_the_summary_and_the_lines_count_failures(scanned):
    summary, _, said = scanned
    assert (summary.measured, summary.failed, summary.left) == (4, 2 * len(BAD), 0)
    lines = [line for line in said.splitlines() if re.match(r"\d\d:\d\d:\d\dZ \d+/(11|1) ", line)]
    assert len(lines) == 2 + len(BAD)
    assert "good (0.0 M)" not in said, "sizes of factories are not known beforehand"
    (line,) = [line for line in lines if ":segfaults" in line]
    assert "score FAILED, crashed: the process crashed (SIGSEGV); layers FAILED" in line


def test_no_worker_is_left_behind(scanned):
    """The names of logs of workers are theirs alone; none may remain."""
    import psutil

    children = psutil.Process(os.getpid()).children(recursive=True)
    alive = [c for c in children if c.status() != psutil.STATUS_ZOMBIE]
    assert len(alive) <= 2, "only multiprocessing's servers"


def test_the_limit_of_time_holds(tmp_path):
    """However far the model comes: on a busy machine this is over while it is being loaded."""
    assert run_scan(tmp_path, ["hangs"], timeout=1).failed == 1
    row = Store.open(tmp_path).read("score").iloc[0]
    assert (row["outcome"], row["reason"]) == ("timeout", "not done within 1 s (--timeout)")


def test_less_memory_is_tried_before_giving_up(tmp_path):
    said = io.StringIO()
    names = ["killed_in_large_batches", "hungry_for_batches"]
    run_scan(tmp_path, names, num_images=3, metrics="lee", stream=said)
    frame = Store.open(tmp_path).read("score").groupby("model")[["outcome", "batch_size"]].first()
    killed = frame.loc["scan_models:killed_in_large_batches"]
    assert tuple(killed) == ("measured", 1)
    assert next(iter(frame.loc["scan_models:hungry_for_batches"])) == "measured"
    assert (
        "killed by the system (SIGKILL), most likely for want of memory); again with"
        in said.getvalue()
    )


def test_batches_are_halved_to_one_and_no_further():
    from scan_cases import settings_for

    task = Task(0, "m", "m", settings_for(num_images=16), ("score", "layers"))
    sizes = []
    while task is not None:
        sizes.append(task.batch_size)
        task = task.smaller(("score", "layers"))
    assert sizes == [None, 2, 1]
    on_gpu = Task(0, "m", "m", settings_for(num_images=99, device="cuda"), ("score",))
    assert on_gpu.smaller(("score",)).batch_size == 16
    assert on_gpu.smaller(("layers",)).batch_size == 1
    few = Task(0, "m", "m", settings_for(num_images=1), ("score",))
    assert few.smaller(("score",)).batch_size == 1
