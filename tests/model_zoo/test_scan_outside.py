"""What happens around a scan: signals, full disks, vanished files, text that is no Unicode."""

import io
import os
import re
import resource
import shutil
import signal
import subprocess
from dataclasses import dataclass, fields, replace

import pandas as pd
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from patience import wait_for
from PIL import Image
from scan_cases import SLOW, TESTS, plan_for, run_scan, scan_command, settings_for, table

from liederiv import LieDerivError
from liederiv.measurement.results import Provenance
from liederiv.model_zoo.scan import LocalEngine, Stop, WeightsPolicy, isolation, make_plan
from liederiv.model_zoo.scan.columns import (
    OTHERWISE_KEPT,
    Origin,
    columns_of,
    columns_of_provenance,
)
from liederiv.model_zoo.scan.selection import Candidate
from liederiv.model_zoo.scan.store import Store, TableError
from liederiv.model_zoo.scan.tasks import Result

FEW = SLOW[:3]


def wait_for_models(folder, count, process):
    """Until so many models are being measured."""

    def begun():
        assert process.poll() is None, process.stdout.read()
        return len(list((folder / "notes").iterdir())) >= count

    wait_for(begun)


def outcomes(folder, measurement="score"):
    frame = Store.open(folder).read(measurement)
    return frame.groupby("model")["outcome"].first().to_dict()


# --- signals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "new"), [(signal.SIGTERM, True), (signal.SIGHUP, False)])
def test_a_signal_to_every_process_of_a_job_stores_nothing_wrong(start, tmp_path, number, new):
    """As batch systems end a job: the scan, its servers and its workers at the same time."""
    process = start(FEW, workers=2, new=new)
    wait_for_models(tmp_path, 2, process)
    everybody = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for one in everybody[::-1]:  # workers first, which is worst
        one.send_signal(number)
    assert process.wait() == 128 + number
    assert set(outcomes(tmp_path / "scan").values()) <= {"measured"}
    run_scan(tmp_path / "scan", FEW)
    assert set(outcomes(tmp_path / "scan").values()) == {"measured"}
    assert len(outcomes(tmp_path / "scan")) == len(FEW)


def test_the_death_of_the_server_of_forks_costs_nothing(start, tmp_path):
    process = start(FEW, workers=2)
    wait_for_models(tmp_path, 2, process)
    servers = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if any("forkserver" in word for word in child.cmdline()) and child.ppid() == process.pid
    ]
    assert servers
    for server in servers:
        server.kill()
    said = process.stdout.read()
    assert process.wait() == 0, said
    assert outcomes(tmp_path / "scan") == {f"scan_models:{n}": "measured" for n in FEW}


def test_a_server_of_forks_that_is_slow_to_die_costs_nothing(tmp_path, monkeypatch):
    """Killed, it refuses for a while before the system says that it has ended."""
    refusals = [EOFError(), *[ConnectionRefusedError(111, "Connection refused")] * 9]
    process = isolation._context().Process
    begin = process.start

    def start(self):
        if refusals:
            raise refusals.pop()
        begin(self)

    monkeypatch.setattr(process, "start", start)
    assert run_scan(tmp_path, ["good"]).measured == 1
    assert not refusals


def test_a_worker_that_is_terminated_is_started_again(tmp_path):
    """By an operator, twice: the model is measured all the same."""
    starts = []

    class Impatient(LocalEngine):
        def submit(self, task):
            super().submit(task)
            starts.append(task)
            if len(starts) < 3:
                os.kill(self._running[-1][1]._process.pid, signal.SIGTERM)

    summary = run_scan(tmp_path, ["good"], engine=Impatient(1))
    assert len(starts) == 3
    assert (summary.measured, summary.failed) == (1, 0)


@pytest.mark.parametrize("name", ["terminates_itself", "ends_with_255"])
def test_what_is_ended_from_outside_every_time_is_said_and_tried_again(tmp_path, name):
    names = [name, "good"]
    summary = run_scan(tmp_path, names, measurements=("score", "layers"))
    assert (summary.measured, summary.failed, summary.left) == (2, 2, 0)
    row = Store.open(tmp_path).read("score").set_index("model").loc[f"scan_models:{name}"]
    assert row["outcome"] == "interrupted"
    assert row["reason"].startswith("ended from outside (")
    _, _, jobs = plan_for(tmp_path, names, measurements=("score", "layers"))
    assert [job.to_do for job in jobs] == [("score", "layers"), ()]


def test_a_hang_up_that_is_ignored_stays_ignored():
    from liederiv.model_zoo.scan import stop_on_signals

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
        assert not stop.asked
    finally:
        signal.signal(signal.SIGHUP, before)


def test_deaths_during_a_stop_are_not_stored(tmp_path):
    stop = Stop()

    class Stopping(LocalEngine):
        def submit(self, task):
            super().submit(task)
            stop.asked = task.name.endswith(":killed")

    summary = run_scan(tmp_path, ["exits_at_once", "killed"], engine=Stopping(1), stop=stop)
    assert (summary.measured, summary.failed, summary.left) == (0, 1, 1)
    assert outcomes(tmp_path) == {"scan_models:exits_at_once": "crashed"}


# --- what code of others raises, prints and closes ------------------------------------------------


BAD = {
    "speaks_no_unicode": r"half a pair \ud800, a bell \x07 and red \x1b[31m",
    "unprintable": "SilentError",
    "closes_everything": "division by zero",
    "exits_well": "SystemExit",
    "presses_ctrl_c": "KeyboardInterrupt",
    "tidies_up": "and then it fails",
    "ends_without_its_log": "exit code 3",
    "fails_in_a_ring": "first",
}


@pytest.fixture(scope="module")
def scanned(tmp_path_factory):
    folder, said = tmp_path_factory.mktemp("outside"), io.StringIO()
    names = ["good", *BAD, "better"]
    summary = run_scan(folder, names, measurements=("score", "layers"), stream=said)
    return folder, summary, said.getvalue()


@pytest.mark.parametrize("name", BAD)
def test_each_has_a_row_that_every_reader_takes(scanned, name):
    folder, _, said = scanned
    for measurement in ("score", "layers"):
        row = Store.open(folder).read(measurement).set_index("model").loc[f"scan_models:{name}"]
        assert row["outcome"] in ("failed", "crashed")
        assert BAD[name] in row["reason"]
    said.encode("utf-8")
    assert "\x1b" not in said


def test_the_others_are_measured(scanned):
    folder, summary, _ = scanned
    assert (summary.measured, summary.failed, summary.left) == (4, 2 * len(BAD), 0)
    found = outcomes(folder)
    assert found["scan_models:good"] == found["scan_models:better"] == "measured"


def test_what_a_model_has_started_ends_with_it(start, tmp_path):
    """It would keep memory and GPUs, and the scan's own output open for whoever reads that."""
    process = start(["forks"])
    said, _ = process.communicate()  # until the last process has closed the pipe
    assert process.returncode == 0, said
    assert outcomes(tmp_path / "scan") == {"scan_models:forks": "measured"}


def test_a_process_that_ends_before_it_has_begun_says_nothing_about_its_model(tmp_path):
    starts = []

    class Hasty(LocalEngine):
        def submit(self, task):
            starts.append(task)
            super().submit(replace(task, threads=-1))  # torch refuses that

    summary = run_scan(tmp_path, ["good"], engine=Hasty(1))
    assert (len(starts), summary.failed) == (3, 1)
    row = Store.open(tmp_path).read("score").iloc[0]
    assert row["outcome"] == "interrupted"
    assert row["reason"] == "the process ended before it had begun (exit code 1)"
    assert run_scan(tmp_path, ["good"]).measured == 1


def test_a_log_without_end_is_cut_and_its_end_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(isolation, "_LOG_LIMIT", 2**20)
    longest = 0

    class Watching(LocalEngine):
        def events(self, seconds):
            nonlocal longest
            found = super().events(seconds)
            sizes = [os.path.getsize(w._log) for _, w in self._running]
            longest = max([longest, *sizes])
            return found

    run_scan(tmp_path, ["talks_without_end"], engine=Watching(1))
    row = Store.open(tmp_path).read("score").iloc[0]
    log = (tmp_path / row["log"]).read_text()
    assert "enough" in log
    assert len(log) <= 2**18
    assert longest <= 2**20


def test_a_name_that_is_no_unicode_is_measured_and_shown_escaped(tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.new("RGB", (64, 64), (90, 10, 200)).save(pictures / "a.png")
    (pictures / "a.png").rename(os.fsdecode(os.fsencode(pictures) + b"/bad\xff.png"))
    summary = run_scan(tmp_path / "scan", ["good"], images=str(pictures))
    assert (summary.measured, summary.failed) == (1, 0)
    (names,) = {tuple(v) for v in Store.open(tmp_path / "scan").read("score")["image_names"]}
    assert names == ("bad\\xff.png",)


ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=40)


@given(reason=ANY_TEXT, model=ANY_TEXT, log=ANY_TEXT)
def test_any_text_on_its_way_to_the_store_comes_back(tmp_path_factory, reason, model, log):
    store = Store.create(tmp_path_factory.mktemp("store"), {"score": {}})
    kept = store.folder / store.write_log(model, "0" * 16, log)
    assert not set(kept.read_text("utf-8")) & {"\x1b", "\r", "\x07", "\x00"}
    store.write(Origin("0" * 16, "score", "failed", model, model, reason))
    row = store.read("score").iloc[0]
    for sent, stored in ((reason, row["reason"]), (model, row["model"])):
        stored.encode("utf-8")
        if sent.isascii() and sent.isprintable():
            assert stored == sent


# --- disks, folders, streams ----------------------------------------------------------------------


def test_a_full_disk_ends_the_scan_in_a_sentence_and_loses_nothing(tmp_path):
    run_scan(tmp_path / "scan", ["good"])
    before = table(tmp_path / "scan")

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))

    found = subprocess.run(
        scan_command(tmp_path / "scan", ["good", "better"], workers=2),
        cwd=TESTS,
        capture_output=True,
        text=True,
        preexec_fn=limit,
    )
    assert found.returncode == 2, found.stderr
    assert "takes no more results (" in found.stderr
    assert "Traceback" not in found.stderr
    pd.testing.assert_frame_equal(table(tmp_path / "scan"), before)
    assert run_scan(tmp_path / "scan", ["good", "better"]).measured == 1


def test_a_full_disk_under_a_model_is_not_its_failure(tmp_path):
    """Its log takes no more here, a healthy model prints into it, and the resume measures it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    class Cramped(LocalEngine):
        def submit(self, task):
            super().submit(task)
            pid = self._running[-1][1]._process.pid
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (2**16, before[1]))

    names = ["talks", "good"]
    assert run_scan(tmp_path, names, engine=Cramped(1)).measured == 1
    row = Store.open(tmp_path).read("score").set_index("model").loc["scan_models:talks"]
    assert row["outcome"] == "interrupted"
    assert "File too large" in row["reason"]
    assert run_scan(tmp_path, names).measured == 1
    assert set(outcomes(tmp_path).values()) == {"measured"}


def test_a_full_disk_under_weights_is_not_the_models_failure(tmp_path, monkeypatch):
    def fetch(name):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("liederiv.model_zoo.scan.weights.weights_source", fetch)
    run_scan(tmp_path, ["good"], weights=WeightsPolicy())
    row = Store.open(tmp_path).read("score").iloc[0]
    assert row["outcome"] == "interrupted"
    assert "No space left on device" in row["reason"]
    monkeypatch.undo()
    assert run_scan(tmp_path, ["good"], weights=WeightsPolicy()).measured == 1


def test_a_folder_that_cannot_be_written_to_is_said(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    Store.create(tmp_path, {"score": {}})
    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    with pytest.raises(LieDerivError, match=r"cannot be used for results \(Read-only file system"):
        Store.create(tmp_path, {"score": {}})


def test_a_folder_that_vanishes_is_said(tmp_path):
    store = Store.create(tmp_path / "scan", {"score": {}})
    shutil.rmtree(tmp_path / "scan")
    origin = Origin("0" * 16, "score", "failed", "m", "m", "why")
    for act in (
        lambda: store.write(origin),
        lambda: store.write_log("m", "0" * 16, "text"),
    ):
        with pytest.raises(LieDerivError, match=r"takes no more results .*run the same command"):
            act()


def test_a_scan_that_nobody_reads_ends_and_can_go_on(tmp_path):
    class Closed(io.StringIO):
        def write(self, text):
            if "scan_models" in text:
                raise BrokenPipeError(32, "Broken pipe")
            return len(text)

    with pytest.raises(LieDerivError, match="nobody takes what the scan prints"):
        run_scan(tmp_path, ["good", "better"], workers=1, stream=Closed())
    found = outcomes(tmp_path)
    assert found == {"scan_models:good": "measured"}
    assert run_scan(tmp_path, ["good", "better"]).measured == 1


def test_a_reader_that_leaves_ends_the_scan_with_code_2(tmp_path):
    """`2>&1 | head -1`, with the pipe and the streams of the command line."""
    process = subprocess.Popen(
        [*scan_command(tmp_path, ["good", "better"]), "--quiet"],
        cwd=TESTS,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    first = process.stdout.readline()
    process.stdout.close()
    assert process.wait() == 2, first
    assert set(outcomes(tmp_path).values()) == {"measured"}
    before = len(outcomes(tmp_path))
    assert run_scan(tmp_path, ["good", "better"]).measured == 2 - before


def test_a_process_that_cannot_be_started_ends_the_scan(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(isolation.Worker, "_start", refuse)
    with pytest.raises(LieDerivError, match="no process can be started for scan_models:good"):
        run_scan(tmp_path, ["good"])


def test_no_failure_starts_a_process_without_bound(tmp_path, monkeypatch):
    """Whatever a worker forgets to say: here it loses every message."""
    starts = []

    class Forgetful(LocalEngine):
        def submit(self, task):
            starts.append(task)
            super().submit(task)

        def events(self, seconds):
            return [(task, d) for task, d in super().events(seconds) if d is None]

    summary = run_scan(tmp_path, ["good"], engine=Forgetful(1))
    assert len(starts) == 3
    assert (summary.measured, summary.failed) == (0, 1)
    assert "ended 3 times without a result" in Store.open(tmp_path).read("score")["reason"][0]


# --- what is refused before anything is written --------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("output_type", "prob", "--output-type='prob': 'prob' is unknown"),
        ("output_type", "probs,features", "are measured on one output at a time"),
        ("unit", "x", "unit='x' is unknown"),
        ("mean", "x", "--mean='x' must be comma-separated numbers"),
        ("std", "0,0,0", "`std` must be positive in every channel"),
        ("std", "nan", "--std='nan' must be comma-separated numbers"),
        ("interpolation", "x", "`interpolation` must be one of"),
        ("transforms", "rotatoin", "transform 'rotatoin' is unknown"),
        ("metrics", "le", "metric 'le' is unknown"),
        ("scheme", "splines", "scheme='splines' is unknown"),
        ("dtype", "float16", "--dtype='float16' is not supported"),
        ("device", "nonsense", "--device='nonsense' is unknown; use auto, cpu or cuda"),
        ("device", "meta", "--device='meta' is unknown; use auto, cpu or cuda"),
    ],
)
def test_settings_that_fail_for_every_model_are_refused(option, value, said):
    with pytest.raises(LieDerivError, match=re.escape(said)):
        settings_for(**{option: value}).check()


# --- columns --------------------------------------------------------------------------------------


def test_the_store_refuses_columns_that_it_does_not_know_and_misses(tmp_path):
    store = Store.create(tmp_path, {"score": {}})
    origin = Origin("0" * 16, "score", "measured", "m", "m")
    right = pd.DataFrame({name: [None] for name in columns_of("score")})
    store.write(origin, right)
    with pytest.raises(LieDerivError, match="does not have the column vlaue"):
        store.write(origin, right.assign(vlaue=1.0))
    with pytest.raises(LieDerivError, match="is lacking the column value"):
        store.write(origin, right.drop(columns="value"))


def test_values_that_fit_no_column_are_the_failure_of_one_model(tmp_path):
    origin = Origin("0" * 16, "score", "measured", "m", "m", parameters=2**70)
    right = pd.DataFrame({name: [None] for name in columns_of("score")})
    with pytest.raises(TableError, match=r"parameters of type int64 cannot hold .*too large"):
        Store.create(tmp_path / "direct", {"score": {}}).write(origin, right)

    class Inflating(LocalEngine):
        def events(self, seconds):
            found = super().events(seconds)
            for task, delivery in found:
                if isinstance(delivery, Result) and task.name.endswith("good"):
                    delivery.about["parameters"] = 2**70
            return found

    summary = run_scan(tmp_path / "scan", ["good", "better"], engine=Inflating(1))
    assert (summary.measured, summary.failed) == (1, 1)
    assert outcomes(tmp_path / "scan")["scan_models:good"] == "failed"


def test_a_field_of_provenance_that_is_a_column_needs_one_line_in_each():
    @dataclass(frozen=True)
    class MoreProvenance(Provenance):
        weather: str = "rain"

    @dataclass(frozen=True)
    class MoreOrigin(Origin):
        weather: str = ""

    found = columns_of_provenance(MoreProvenance(), MoreOrigin)
    assert found["weather"] == "rain"
    assert "weather" not in columns_of_provenance(MoreProvenance())


def test_every_field_of_provenance_is_a_column_or_kept_otherwise():
    columns = {f.name for f in fields(Origin)}
    provenance = {f.name for f in fields(Provenance)}
    assert provenance - columns == set(OTHERWISE_KEPT)
    assert set(columns_of_provenance(Provenance())) <= columns, "new software needs its column"


def test_a_result_of_others_makes_no_job_fail(tmp_path):
    """A file that is no result, under the name of one, is measured again."""
    settings = settings_for().with_images()
    store = Store.create(tmp_path, settings.configuration())
    candidates = [Candidate("scan_models:good", "scan_models:good")]
    (job,) = make_plan(candidates, settings, store)
    store.path("score", "scan_models:good", job.keys["score"]).write_bytes(b"no parquet")
    with pytest.warns(UserWarning, match="passed over"):
        (again,) = make_plan(candidates, settings, store)
    assert again.to_do == ("score",)
