"""``python -m tests.gauntlet [WORD …]``: the table of verdicts, of networks with a word in name."""

import sys
import time

import torch

from .entry_points import run_gauntlet
from .kinds import NETWORKS
from .table import summary
from .verdicts import FAILURES

if __name__ == "__main__":
    torch.set_num_threads(1)
    words, found = sys.argv[1:], []
    for name, cls in NETWORKS.items():
        if (cls.slow and not words) or (
            words and not any(w in name or w == cls.kind for w in words)
        ):
            continue
        start = time.perf_counter()
        verdicts = run_gauntlet(cls)
        found += verdicts
        if words:
            print(f"{name}: {time.perf_counter() - start:.2f} s")
        for v in verdicts:
            if words or v.verdict in FAILURES:
                print(f"  {v}", flush=True)
    print(summary(found))
