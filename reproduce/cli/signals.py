"""What signals ask of a training command: stop after this step, stop at once, save and go on."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from reproduce.cli.console import note
from reproduce.errors import ExitCode


def leads() -> bool:
    """Whether this process prints what is printed once."""
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"


AGAIN_S = 1.0
"""A launcher passes on a signal that the terminal has sent as well: a second one is meant after this long."""


class Asked:
    """What signals asked for."""

    code: int | None = None
    """Exit code to leave with."""
    saves: int = 0
    """How often a checkpoint was asked for."""

    def __init__(self) -> None:
        self._first = 0.0

    def take(self, number: int) -> None:
        """Handle a signal."""
        if number == signal.SIGUSR1:
            self.saves += 1
            return
        code = CODES[signal.Signals(number)]
        if self.code is None:
            self.code, self._first = int(code), time.monotonic()
            if leads():
                note("stopping after this step; once more to stop at once")
        elif time.monotonic() - self._first > AGAIN_S:
            # The newest complete checkpoint is untouched; there is nothing to save twice.
            sys.exit(int(code))


CODES = {signal.SIGINT: ExitCode.INTERRUPTED, signal.SIGTERM: ExitCode.PREEMPTED}


@contextmanager
def stop_requests() -> Iterator[Asked]:
    """Turn the first SIGINT or SIGTERM into a request to stop after the step; the second acts at once."""
    asked = Asked()

    def handler(number: int, frame: FrameType | None) -> None:
        asked.take(number)

    before = {number: signal.signal(number, handler) for number in (*CODES, signal.SIGUSR1)}
    try:
        yield asked
    finally:
        for number, old in before.items():
            signal.signal(number, old)
