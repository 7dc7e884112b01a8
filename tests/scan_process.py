"""`liederiv scan` as a process of its own, without the seconds that a new interpreter takes.

It is forked from multiprocessing's server, which has imported what a scan imports, and starts a
server of its own for its workers, as every scan does.
"""

import multiprocessing
import os
import signal
import sys

from scan_cases import TESTS, scan_arguments

from liederiv.cli import main

_CONTEXT = multiprocessing.get_context("forkserver")


class ScanProcess:
    """A scan under way.

    Args:
        folder: of its results.
        names: of factories in `scan_models`.
        workers: how many at once.
        environment: variables that it has besides.

    Attributes:
        pid: its number.
        stdout: what it and its workers print, both streams; ends when the last of them does.
    """

    def __init__(self, folder, names, workers=1, environment=None):
        _CONTEXT.set_forkserver_preload(["liederiv.model_zoo.scan.worker"])
        ours, theirs = _CONTEXT.Pipe(duplex=False)
        arguments = scan_arguments(folder, names, workers)
        self._process = _CONTEXT.Process(target=_scan, args=(theirs, arguments, environment or {}))
        self._process.start()
        theirs.close()
        self.pid = self._process.pid
        self.stdout = open(os.dup(ours.fileno()), encoding="utf-8")  # noqa: SIM115
        ours.close()

    def poll(self):
        """Its exit code, or None."""
        return self._process.exitcode

    def wait(self):
        """Wait for its end; its exit code."""
        self._process.join()
        return self._process.exitcode

    @property
    def returncode(self):
        """Its exit code, or None."""
        return self._process.exitcode

    def communicate(self):
        """Wait for its end; all that was printed, and None."""
        said = self.stdout.read()
        self.wait()
        return said, None

    def send_signal(self, number):
        """To this process alone."""
        os.kill(self.pid, number)

    def kill(self):
        """End it at once."""
        self._process.kill()


def _scan(output, arguments, environment):
    os.setsid()
    heed_signals()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for stream in (1, 2):
        os.dup2(output.fileno(), stream)
    output.close()
    os.environ.update(environment)
    os.chdir(TESTS)
    sys.argv = ["liederiv", "scan", *arguments]
    main()


def heed_signals():
    """Where the tests run under nohup or in the background, these are ignored, also in children."""
    for name in ("SIGHUP", "SIGINT", "SIGTERM"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)
