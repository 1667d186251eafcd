"""Our commands as processes of their own, one after the other: signals passed on, none outliving this one."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from reproduce.errors import ExitCode

STOPS = {
    signal.SIGINT: ExitCode.INTERRUPTED,
    signal.SIGTERM: ExitCode.PREEMPTED,
    signal.SIGHUP: ExitCode.PREEMPTED,
}


class Children:
    """Runs `reweight` commands; use as made by `children`."""

    def __init__(self) -> None:
        """Nothing runs."""
        self.stopped: ExitCode | None = None
        """Exit code that a signal to this process asks for."""
        self._child: subprocess.Popen[bytes] | None = None

    def run(self, *arguments: object) -> int:
        """Run a command, what it prints going to stderr; its exit code.

        That of a signal to this process where one came, which the command was told; RANKS_DISAGREE where the
        command was killed.
        """
        return self._run(arguments, stdout=2)[0]

    def output(self, *arguments: object) -> tuple[int, bytes]:
        """As `run`, with what it prints on stdout."""
        return self._run(arguments, stdout=subprocess.PIPE)

    def shown(self, *arguments: object) -> int:
        """As `run`, printing where this process prints."""
        sys.stdout.flush()
        return self._run(arguments, stdout=1)[0]

    def _run(self, arguments: Sequence[object], stdout: int) -> tuple[int, bytes]:
        from reproduce.training.supervisor import LAUNCHER

        if (asked := self._asked()) is not None:
            return asked, b""
        # As the supervisor starts ranks: a user's files in the working directory are no modules of ours.
        here = Path(__file__).resolve().parents[2] == Path.cwd().resolve()
        command = [sys.executable, *([] if here else ["-P"]), "-m", "reproduce.cli", *map(str, arguments)]
        with subprocess.Popen(
            command,
            env={**os.environ, LAUNCHER: str(os.getpid())},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            start_new_session=True,  # else Ctrl-C reaches it twice
        ) as child:
            self._child = child
            try:
                out, _ = child.communicate()
            except BaseException:
                child.kill()
                raise
            finally:
                self._child = None
        if (asked := self._asked()) is not None:  # while it ran
            return asked, b""
        return (child.returncode if child.returncode in {*ExitCode} else ExitCode.RANKS_DISAGREE), out or b""

    def _asked(self) -> int | None:
        return None if self.stopped is None else int(self.stopped)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Pass a signal on."""
        received = signal.Signals(number)
        self.stopped = self.stopped or STOPS[received]
        if self._child is not None:
            self._child.send_signal(signal.SIGTERM if received == signal.SIGHUP else received)


@contextmanager
def children() -> Iterator[Children]:
    """Children whose commands get the signals of this process. From the main thread."""
    made = Children()
    numbers = [number for number in STOPS if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, made.handle) for number in numbers}
    try:
        yield made
    finally:
        for number, old in before.items():
            signal.signal(number, old)
