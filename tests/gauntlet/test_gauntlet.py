"""Every network through every entry point: right or refused, never wrong, and left as it was.

`make test` takes three entry points for each network, in turns; `make test-all` takes all.
"""

import pytest

from .entry_points import quick, run_gauntlet
from .kinds import NETWORKS
from .table import summary
from .verdicts import check_truth, failures

_FOUND = []


@pytest.fixture(scope="module", autouse=True)
def _table():
    """The table of verdicts at the end (seen with ``-s``)."""
    yield
    print("\n" + summary(_FOUND))


def _hold(cls, entries=None):
    if cls.right == "number":
        check_truth(cls)
    verdicts = run_gauntlet(cls, entries)
    _FOUND.extend(verdicts)
    assert not failures(verdicts), "\n".join(failures(verdicts))


@pytest.mark.parametrize(
    ("number", "cls"),
    [pytest.param(i, c, id=n) for i, (n, c) in enumerate(NETWORKS.items()) if not c.slow],
)
def test_right_or_refused(number, cls):
    _hold(cls, quick(number))


@pytest.mark.slow
@pytest.mark.parametrize("cls", NETWORKS.values(), ids=NETWORKS)
def test_right_or_refused_everywhere(cls):
    _hold(cls)
