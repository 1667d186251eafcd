"""The `reweight` command. One module a subcommand, imported when it is called.

Importing this package must not import torch: `reweight --help` answers in under 0.3 s.
"""

import io
import os
import signal
import sys
from types import FrameType

from reproduce.cli.root import cli, run
from reproduce.errors import ExitCode

__all__ = ["cli", "main"]


def main() -> None:
    """Entry point: run the command line and leave with its exit code."""
    _standard_streams()
    signal.signal(signal.SIGTERM, _preempted)
    # Asks `train` for a checkpoint; sent before there is anything to save, it would end the process.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    sys.exit(run(sys.argv[1:]))


def _standard_streams() -> None:
    """Streams that take whatever is printed, also where one is closed or knows ASCII only."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # Closed by the caller. Left so, the next file opened would get its number, and prints with it.
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", encoding="utf-8"))  # noqa: SIM115, PTH123
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _preempted(number: int, frame: FrameType | None) -> None:
    """End as an interrupt does, so that nothing half-written stays; `train` has a handler of its own."""
    raise SystemExit(int(ExitCode.PREEMPTED))
