"""Models for the tests of the scan: two good ones, and everything that can go wrong."""

import ctypes
import os
import signal
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from torch import nn


class Small(nn.Module):
    """A classifier of 32 × 32 images."""

    def __init__(self, width=4, classes=3):
        super().__init__()
        self.data_config = {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.5,) * 3}
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 3, stride=2), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        return self.head(self.layers(x))


class Misbehaving(Small):
    """Does something when it is called."""

    def __init__(self, act):
        super().__init__()
        self.act = act

    def forward(self, x):
        return self.act(super().forward(x))


def good():
    return Small()


def better():
    return Small(width=6)


def slow(width):
    """A good one that takes its time, and leaves a note of every time it is built."""
    folder = os.environ.get("LIEDERIV_TEST_NOTES")
    if folder:
        Path(folder, f"slow_{width}-{os.getpid()}").touch()
        time.sleep(2.0)
    return Small(width)


slow_1, slow_2, slow_3, slow_4, slow_5 = (partial(slow, width) for width in range(1, 6))


def raises():
    return Misbehaving(_raise)


def _raise(y):
    raise ValueError("boom\nand more")


def exits():
    print("good bye", flush=True)
    if sys.platform == "linux":
        print("oom_score_adj", Path("/proc/self/oom_score_adj").read_text(), flush=True)
    sys.exit(3)


def exits_at_once():
    os._exit(5)


def segfaults():
    return Misbehaving(lambda y: ctypes.string_at(0))


def killed():
    return Misbehaving(lambda y: os.kill(os.getpid(), signal.SIGKILL))


def killed_in_large_batches():
    """As the kernel does when memory runs out."""
    return Misbehaving(lambda y: os.kill(os.getpid(), signal.SIGKILL) if len(y) > 1 else y)


def hungry():
    return Misbehaving(_allocate)


def _allocate(y):
    kept = []
    while True:
        kept.append(torch.ones(2**22))


def hungry_for_batches():
    return Misbehaving(_complain)


def _complain(y):
    if len(y) > 2:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
    return y


def hangs():
    return Misbehaving(_hang)


def _hang(y):
    print("thinking", flush=True)
    time.sleep(1e6)


def not_a_number():
    return Misbehaving(lambda y: y * float("nan"))


def stochastic():
    return Misbehaving(lambda y: y + torch.randn_like(y))


def wrong_size():
    model = Small()
    model.layers = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4))
    return model


def speaks_no_unicode():
    return Misbehaving(_mumble)


def _mumble(y):
    print("half a pair: \udcff")
    raise ValueError("half a pair \ud800, a bell \x07 and red \x1b[31m")


def unprintable():
    return Misbehaving(_fail_to_say)


class SilentError(Exception):
    def __str__(self):
        raise RuntimeError("not even this")


def _fail_to_say(y):
    raise SilentError


def closes_everything():
    return Misbehaving(lambda y: (os.closerange(1, 3), 1 / 0))


def exits_well():
    return Misbehaving(lambda y: sys.exit(0))


def presses_ctrl_c():
    return Misbehaving(_press)


def _press(y):
    raise KeyboardInterrupt


def terminates_itself():
    return Misbehaving(lambda y: os.kill(os.getpid(), signal.SIGTERM))


def ends_with_255():
    return Misbehaving(lambda y: os._exit(255))


def tidies_up():
    """Removes its own log, as cleaners of temporary folders do, and then fails."""
    return Misbehaving(_remove_logs)


def _remove_logs(y):
    for log in Path(tempfile.gettempdir()).glob("liederiv-scan-*.log"):
        log.unlink()
    raise ValueError("and then it fails")


def ends_without_its_log():
    return Misbehaving(lambda y: (_forget_logs(), os._exit(3)))


def _forget_logs():
    for log in Path(tempfile.gettempdir()).glob("liederiv-scan-*.log"):
        log.unlink()


def talks_without_end():
    return Misbehaving(_talk)


def _talk(y):
    for _ in range(3000):
        print("x" * 1000)
    print("the end", flush=True)
    time.sleep(2)  # the scan looks several times a second
    raise ValueError("enough")


def forks():
    """Leaves a process behind in every call."""
    return Misbehaving(_fork)


def _fork(y):
    if os.fork() == 0:
        time.sleep(1e6)
    return y


def fails_in_a_ring():
    return Misbehaving(_fail_in_a_ring)


def _fail_in_a_ring(y):
    first, second = ValueError("first"), ValueError("second")
    first.__context__, second.__context__ = second, first
    raise first


def talks():
    return Misbehaving(_say_much)


def _say_much(y):
    for _ in range(1000):
        print("x" * 1000)
    return y
