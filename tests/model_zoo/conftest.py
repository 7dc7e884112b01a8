"""Fixtures of the model zoo's tests."""

import os
import signal
import subprocess

import pytest
from scan_cases import TESTS, scan_command


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    """For all tests of this folder."""


def _heed_signals():
    """Where the tests run under nohup or in the background, these are ignored, also in children."""
    for name in ("SIGHUP", "SIGINT", "SIGTERM"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)


@pytest.fixture
def start(tmp_path):
    """Start `liederiv scan` of slow models as a process with a session of its own."""
    (tmp_path / "notes").mkdir()
    started = []

    def call(names, workers=1):
        process = subprocess.Popen(
            scan_command(tmp_path / "scan", names, workers),
            env={**os.environ, "LIEDERIV_TEST_NOTES": str(tmp_path / "notes")},
            cwd=TESTS,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=_heed_signals,
        )
        started.append(process)
        return process

    yield call
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()
