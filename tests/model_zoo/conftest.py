"""Fixtures of the model zoo's tests."""

import os
import subprocess

import pytest
from scan_cases import TESTS, scan_command
from scan_process import ScanProcess, heed_signals


@pytest.fixture
def start(tmp_path):
    """Start `liederiv scan` of slow models as a process with a session of its own."""
    (tmp_path / "notes").mkdir()
    notes = {"LIEDERIV_TEST_NOTES": str(tmp_path / "notes")}
    started = []

    def call(names, workers=1, *, new=False):
        """In a new interpreter if so, else forked: `ScanProcess`."""
        folder = tmp_path / "scan"
        if new:
            process = subprocess.Popen(
                scan_command(folder, names, workers),
                env={**os.environ, **notes},
                cwd=TESTS,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
                preexec_fn=heed_signals,
            )
        else:
            process = ScanProcess(folder, names, workers, notes)
        started.append(process)
        return process

    yield call
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()
