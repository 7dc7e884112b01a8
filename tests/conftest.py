"""Fixtures shared by all tests."""

import json
import os
import shutil
import tempfile
from multiprocessing.util import Finalize
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# No test has a time limit that a loaded machine hits.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

# The models are small, and `make test` runs several processes: a second thread mostly waits, and
# on a busy machine it costs much. The variable is for processes that tests start.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session", autouse=True)
def _temporary_files_apart():
    """Some tests remove or count files there: those of the processes beside are not theirs."""
    folder = tempfile.mkdtemp(prefix="liederiv-")  # a short name: sockets lie in it
    # After multiprocessing's own folder in it, which that removes at −100.
    Finalize(None, shutil.rmtree, (folder, True), exitpriority=-200)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        yield


@pytest.fixture(scope="session")
def reference() -> dict:
    """Numbers that the paper's code produced on the formula network and images."""
    return json.loads((DATA / "reference_values.json").read_text())
