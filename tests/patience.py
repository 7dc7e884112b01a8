"""Waiting in tests: for what happens, however long a loaded machine takes."""

import time

PATIENCE = 3600.0
"""Seconds. Protection from hanging for ever only: no test may come near."""


def wait_for(condition, interval=0.05):
    """Until it holds; what it returns."""
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(interval)
    return found
