"""Fixtures shared by all tests."""

import json
from pathlib import Path

import pytest
import torch

torch.set_num_threads(2)

DATA = Path(__file__).parent / "data"


@pytest.fixture
def one_thread():
    """Small models, on a shared machine: waiting threads cost more than they give."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def reference() -> dict:
    """Numbers that the paper's code produced on the formula network and images."""
    return json.loads((DATA / "reference_values.json").read_text())
