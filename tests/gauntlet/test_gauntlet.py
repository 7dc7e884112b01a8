"""Every network through every entry point: right or refused, never wrong, and left as it was."""

import pytest

from .entry_points import run_gauntlet
from .kinds import NETWORKS
from .table import summary
from .verdicts import check_truth, failures

_FOUND = []


@pytest.fixture(scope="module", autouse=True)
def _table(one_thread_for_all):
    yield
    print("\n" + summary(_FOUND))


@pytest.fixture(scope="module")
def one_thread_for_all():
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    "cls",
    [
        pytest.param(c, id=name, marks=[pytest.mark.slow] if c.slow else [])
        for name, c in NETWORKS.items()
    ],
)
def test_right_or_refused(cls):
    if cls.right == "number":
        check_truth(cls)
    verdicts = run_gauntlet(cls)
    _FOUND.extend(verdicts)
    assert not failures(verdicts), "\n".join(failures(verdicts))
