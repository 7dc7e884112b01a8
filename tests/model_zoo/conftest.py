"""Fixtures of the model zoo's tests."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread():
    """Small models on a shared machine: waiting threads cost more than they give."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
