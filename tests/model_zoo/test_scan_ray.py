"""The Ray engine: the same results to the bit, and what happens when workers and nodes die."""

import io
import os
import signal
import threading
import time
import warnings

import pandas as pd
import psutil
import pytest
from scan_cases import run_scan, table

from liederiv.errors import LieDerivError
from liederiv.model_zoo.scan import choose_engine
from liederiv.model_zoo.scan.store import Store

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own, from its threads

NAMES = ["good", "better", "exits", "segfaults", "raises"]


@pytest.fixture(autouse=True)
def _no_niceness(monkeypatch):
    """Ray's workers would wait for everything else on a busy machine."""
    monkeypatch.setenv("RAY_worker_niceness", "0")


@pytest.fixture
def notes(tmp_path, monkeypatch):
    """Folder in which models note that they are being built; to be set before Ray starts."""
    folder = tmp_path / "notes"
    folder.mkdir()
    monkeypatch.setenv("LIEDERIV_TEST_NOTES", str(folder))
    return folder


@pytest.fixture
def cluster(_no_niceness, notes):
    """A head and one more node, on this machine."""
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    extra = nodes.add_node(num_cpus=1)
    yield nodes, extra
    ray.shutdown()
    nodes.shutdown()


def test_both_engines_agree_to_the_bit(tmp_path):
    measurements = ("score", "layers")
    run_scan(tmp_path / "local", NAMES, measurements=measurements)
    _, engine = choose_engine("ray", "cpu", workers=2, threads=1)
    summary = run_scan(tmp_path / "ray", NAMES, measurements=measurements, engine=engine)
    assert (summary.measured, summary.failed) == (4, 6)
    assert not ray.is_initialized(), "the scan ends the cluster that it has started"
    for measurement in measurements:
        pd.testing.assert_frame_equal(
            table(tmp_path / "local", measurement),
            table(tmp_path / "ray", measurement),
            check_exact=True,
        )


def test_a_cluster_that_is_not_there_is_one_sentence():
    with pytest.raises(LieDerivError, match=r"--address='127.0.0.1:1': no Ray cluster there"):
        choose_engine("ray", "cpu", address="127.0.0.1:1", threads=1)


@pytest.mark.slow
def test_the_scan_survives_the_death_of_a_worker_and_of_a_node(
    tmp_path, notes, cluster, monkeypatch
):
    nodes, extra = cluster
    names = [f"slow_{i}" for i in range(1, 6)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray.init(nodes.address, log_to_driver=False)
    _, engine = choose_engine("ray", "cpu", threads=1, address=nodes.address)
    assert engine.slots == 2
    killed, over = [], threading.Event()

    def harm():
        """First a Ray worker with its model, then a node."""
        while not killed and not over.is_set():
            for path in notes.iterdir():
                victim = _ray_worker_above(int(path.name.split("-")[1]))
                if victim is not None:
                    victim.send_signal(signal.SIGKILL)
                    killed.append(victim.pid)
                    break
            time.sleep(0.05)
        time.sleep(3)
        nodes.remove_node(extra)

    thread = threading.Thread(target=harm)
    thread.start()
    said = io.StringIO()
    summary = run_scan(tmp_path / "ray", names, engine=engine, stream=said)
    over.set()
    thread.join()
    assert killed
    assert (summary.measured, summary.failed, summary.left) == (5, 0, 0), said.getvalue()
    monkeypatch.delenv("LIEDERIV_TEST_NOTES")
    run_scan(tmp_path / "local", names)
    pd.testing.assert_frame_equal(
        table(tmp_path / "local"), table(tmp_path / "ray"), check_exact=True
    )
    assert Store.open(tmp_path / "ray").read("score")["outcome"].unique().tolist() == ["measured"]


def _ray_worker_above(pid):
    """The Ray worker whose model runs in a process."""
    try:
        parents = psutil.Process(pid).parents()
    except psutil.NoSuchProcess:
        return None
    above = [p for p in parents if "ray::" in " ".join(p.cmdline())]
    return above[0] if above and above[0].pid != os.getpid() else None
