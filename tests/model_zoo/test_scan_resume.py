"""Resuming: after `kill -9`, beside another scan, after Ctrl-C, after failures."""

import io
import os
import signal

import pandas as pd
import psutil
import pytest
from patience import wait_for
from scan_cases import SLOW, TESTS, plan_for, run_scan, table

from liederiv.model_zoo.scan import Stop
from liederiv.model_zoo.scan.store import Store


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The table of a scan that nothing disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    assert run_scan(folder, SLOW, workers=1).measured == len(SLOW)
    return table(folder)


def files(folder):
    return sorted((folder / "scan" / "score").glob("*.parquet"))


def notes(folder):
    return [path.name.split("-") for path in (folder / "notes").iterdir()]


def test_after_a_kill_the_table_is_that_of_an_undisturbed_scan(start, tmp_path, whole):
    process = start(SLOW, workers=2)
    wait_for(lambda: files(tmp_path) and len(notes(tmp_path)) > len(files(tmp_path)))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    pids = [int(pid) for _, pid in notes(tmp_path)]
    wait_for(lambda: not any(psutil.pid_exists(pid) for pid in pids))
    done = files(tmp_path)
    assert 1 <= len(done) < len(SLOW)
    assert len(pd.read_parquet(tmp_path / "scan" / "score")) == len(table(tmp_path / "scan"))
    assert len(notes(tmp_path)) - len(done) <= 2, "only the models in flight are lost"
    summary = run_scan(tmp_path / "scan", SLOW, workers=1)
    assert summary.measured == len(SLOW) - len(done)
    pd.testing.assert_frame_equal(table(tmp_path / "scan"), whole)


def test_two_scans_of_one_folder_share_the_work(start, tmp_path, whole):
    processes = [start(SLOW), start(SLOW)]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    built = [name for name, _ in notes(tmp_path)]
    assert sorted(built) == sorted(SLOW), "each model once"
    counts = [output.count(": score measured") for output in outputs]
    assert sum(counts) == len(SLOW)
    assert min(counts) >= 1, outputs
    pd.testing.assert_frame_equal(table(tmp_path / "scan"), whole)


def test_ctrl_c_ends_after_the_models_in_flight_and_again_at_once(start, tmp_path):
    process = start(SLOW)
    wait_for(lambda: len(notes(tmp_path)) == 2)  # the second is in flight
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate()
    assert process.returncode == 130, output
    assert "stopping after the models in flight; Ctrl-C again stops at once" in output
    assert "2 measured, 0 failed, 3 left: run the same command to go on" in output
    assert len(files(tmp_path)) == 2

    process = start(SLOW)
    wait_for(lambda: len(notes(tmp_path)) == 3)
    process.send_signal(signal.SIGINT)
    wait_for(lambda: "again stops at once" in process.stdout.readline())  # it has been heard
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate()
    assert process.returncode == 130, output
    assert "0 measured, 0 failed, 3 left" in output
    assert len(files(tmp_path)) == 2
    pids = [int(pid) for _, pid in notes(tmp_path)]
    wait_for(lambda: not any(psutil.pid_exists(pid) for pid in pids))


def test_what_is_done_is_skipped_and_failures_only_on_demand(tmp_path):
    names = ["good", "raises"]
    assert run_scan(tmp_path, names).failed == 1
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "score").iterdir()}
    again = run_scan(tmp_path, names)
    assert (again.measured, again.failed, again.left) == (0, 0, 0)
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "score").iterdir()}
    assert run_scan(tmp_path, names, retry_failed=True).failed == 1
    after = {p: p.stat().st_mtime_ns for p in (tmp_path / "score").iterdir()}
    assert [p.name.split("-")[0] for p in after if after[p] != before[p]] == ["scan_models_raises"]
    assert run_scan(tmp_path, names, measurements=("score", "layers")).measured == 1


def test_a_failure_that_another_scan_has_tried_again_is_left_alone(tmp_path):
    run_scan(tmp_path, ["raises"])
    _, store, (job,) = plan_for(tmp_path, ["raises"], retry_failed=True)
    assert job.to_do == job.still_to_do(store) == ("score",)
    path = store.path("score", job.candidate.name, job.keys["score"])
    os.utime(path, ns=(1, 1))
    assert job.still_to_do(store) == ()


def test_a_model_that_is_being_measured_elsewhere_comes_last(tmp_path):
    settings, store, jobs = plan_for(tmp_path, ["good", "better"])
    said, stop = io.StringIO(), Stop()
    with store.claim(jobs[0].keys["score"]) as mine:
        assert mine

        class Watcher(io.StringIO):
            def write(self, text):
                stop.asked = True  # the other model is done: only the claimed one is left
                return said.write(text)

        summary = run_scan(tmp_path, ["good", "better"], stream=Watcher(), stop=stop)
    assert (summary.measured, summary.left) == (1, 1)
    assert Store.open(tmp_path).read("score")["model"].unique().tolist() == ["scan_models:better"]
    assert settings.images_fingerprint


def test_results_depend_on_weights_images_settings_and_version(tmp_path, monkeypatch):
    def key(folder="a", name="good", **changes):
        _, _, (job,) = plan_for(tmp_path / folder, [name], **changes)
        return job.keys["score"]

    first = key()
    assert key() == first
    assert key("b", batch_size="2", layers_images=1) == first, "neutral settings"
    others = [
        key("c", seed=1),
        key("d", num_images=2),
        key("e", scheme="fourier"),
        key("f", device="cuda"),
        key("g", name="better"),
        key("h", pretrained=False),
    ]
    monkeypatch.setattr("liederiv.model_zoo.scan.settings.__version__", "99")
    others.append(key("i"))
    monkeypatch.undo()
    changed = tmp_path / "scan_models.py"
    changed.write_text((TESTS / "scan_models.py").read_text() + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    others.append(key("j"))
    assert len({first, *others}) == 1 + len(others)
