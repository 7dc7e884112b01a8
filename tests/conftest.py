"""Fixtures shared by all tests."""

import json
from pathlib import Path

import pytest
import torch

torch.set_num_threads(2)

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def reference() -> dict:
    """Numbers that the paper's code produced on the formula network and images."""
    return json.loads((DATA / "reference_values.json").read_text())
