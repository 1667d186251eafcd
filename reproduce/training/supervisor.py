"""`--nproc N`, and several GPUs in one machine: start the ranks, see every one of them to its end. No torch.

As `torchrun --standalone` does, but torchrun turns every exit code into 1, kills ranks that still save 30 s
after SIGTERM, dies of SIGUSR1, and asks the others to stop as if preempted when one rank was lost.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from reproduce.errors import ExitCode, UserError
from reproduce.training.run_dir import COMPLETE, RunDir

LAUNCHER = "REWEIGHT_LAUNCHER"
"""Environment variable of a rank: the process that started it."""

GRACE_S = 10.0
"""Seconds the other ranks have to see for themselves that one is gone, and to leave a crash record."""

POLL_S = 0.05
STOPPED = {signal.SIGINT: ExitCode.INTERRUPTED, signal.SIGTERM: ExitCode.PREEMPTED}
AGREED = {ExitCode.DONE, *STOPPED.values()}
"""Ends that all ranks decide together, each in its own time: rank 0 may still be writing the model."""

OWN_VERDICTS = {*ExitCode} - AGREED - {ExitCode.BUG, ExitCode.RANKS_DISAGREE}
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, kw_only=True)
class End:
    """How a rank ended by itself."""

    rank: int
    code: int
    """Exit code, or minus the signal that killed it."""

    @property
    def exit_code(self) -> int:
        """What a run that ended because of this leaves with."""
        return self.code if self.code in {*ExitCode} else ExitCode.RANKS_DISAGREE

    @property
    def consequence(self) -> int:
        """How likely another rank's end was the cause: 0 never, 3 surely.

        A rank whose peer is gone gets an error (9, or 1 from a library) or is aborted by one; teardown of a
        killed process can take longer than that.
        """
        if self.code < 0:
            return 2 if self.code == -signal.SIGABRT else 0
        if self.code in OWN_VERDICTS:
            return 1
        return 3 if self.code == ExitCode.RANKS_DISAGREE else 2

    def __str__(self) -> str:
        if self.code >= 0:
            return f"rank {self.rank}: exit code {self.code}"
        name = signal.Signals(-self.code).name if -self.code in {*signal.Signals} else "unknown"
        hint = ", perhaps for lack of memory" if self.code == -signal.SIGKILL else ""
        return f"rank {self.rank}: killed by signal {-self.code} ({name}{hint})"


def run_locally(
    nproc: int,
    arguments: Sequence[str],
    run: Path | None,
    announce: Callable[[str], None],
    *,
    verb: str = "train",
    worker: Sequence[str] | None = None,
) -> int:
    """Run `reweight VERB ARGUMENTS` as `nproc` ranks on this machine, and wait for all of them.

    SIGINT, SIGTERM and SIGUSR1 are passed on to every rank (a hang-up as SIGTERM); after the second request
    to stop, and after a failed rank, the others have GRACE_S to end. No rank outlives this process.
    Call from the main thread.

    Args:
        nproc: ranks.
        arguments: of the command, without --nproc.
        run: the run folder. If ranks end without saying why in its status.json, it is said there. None: the
            command keeps no status.
        announce: gets one line worth reading.
        verb: the command.
        worker: a whole command line instead.

    Returns:
        The exit code of the rank that failed first, RANKS_DISAGREE if that one was killed or crashed.
    """
    before = None if run is None else _stamp(run / "status.json")
    with _signals() as received, _port() as port:
        watch = _Watch(_start(nproc, worker or _worker(verb, arguments), port), received, announce)
        watch.until_all_are_gone()
    first = watch.first_failure()
    code = watch.agreed() if first is None else first.exit_code
    if code != ExitCode.DONE and run is not None:
        _record(run, code, first, _stamp(run / "status.json") != before, announce)
    return int(code)


def end_with(launcher: int) -> None:
    """Have this process killed when the process that started it is gone, however that ended."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
        _end_without(launcher)  # it may have gone before the kernel was asked
    else:
        threading.Thread(target=_poll, args=(launcher,), daemon=True).start()


def _poll(launcher: int) -> None:
    while True:
        _end_without(launcher)
        time.sleep(1.0)


def _end_without(launcher: int) -> None:
    if os.getppid() != launcher:
        os.kill(os.getpid(), signal.SIGKILL)


class _Watch:
    """The ranks of one launch, from their start to the end of the last one."""

    def __init__(
        self,
        ranks: Sequence["subprocess.Popen[bytes]"],
        received: "deque[signal.Signals]",
        announce: Callable[[str], None],
    ) -> None:
        self._living = dict(enumerate(ranks))
        self._received, self._announce = received, announce
        self._ends: list[End] = []
        self._stops: list[signal.Signals] = []
        self._deadline = float("inf")

    def until_all_are_gone(self) -> None:
        try:
            while self._living:
                self._pass_on()
                self._collect()
                if time.monotonic() > self._deadline:
                    break
                time.sleep(POLL_S)
        finally:
            for process in self._living.values():
                process.kill()
            for process in self._living.values():
                process.wait()

    def first_failure(self) -> End | None:
        """The end that brought the others about, if one did."""
        failures = [end for end in self._ends if end.code not in AGREED]
        return min(failures, key=lambda end: end.consequence, default=None)

    def agreed(self) -> int:
        """Exit code of ranks of which none failed: some may have been killed after the second signal."""
        codes = [end.code for end in self._ends]
        if self._living:
            codes.append(STOPPED[self._stops[0]])
        return max(codes)

    def _pass_on(self) -> None:
        while self._received:
            number = self._received.popleft()
            for process in self._living.values():
                process.send_signal(number)
            if number in STOPPED:
                self._stops.append(number)
        if len(self._stops) > 1:
            self._stop_within(GRACE_S)

    def _collect(self) -> None:
        for rank, process in list(self._living.items()):
            code = process.poll()
            if code is None:
                continue
            del self._living[rank]
            if -code in self._stops:  # before the rank had a handler for it
                code = STOPPED[signal.Signals(-code)]
            end = End(rank=rank, code=code)
            self._ends.append(end)
            if code not in AGREED and self._living and self._deadline == float("inf"):
                self._announce(f"{end}; the others stop within {GRACE_S:.0f} s")
                self._stop_within(GRACE_S)

    def _stop_within(self, seconds: float) -> None:
        self._deadline = min(self._deadline, time.monotonic() + seconds)


def _start(nproc: int, command: Sequence[str], port: int) -> list["subprocess.Popen[bytes]"]:
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    common = {
        "OMP_NUM_THREADS": str(max(1, cores // nproc)),
        # A machine's own name may not resolve, or not to itself.
        "GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0",
        **os.environ,
        "WORLD_SIZE": str(nproc),
        "LOCAL_WORLD_SIZE": str(nproc),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        LAUNCHER: str(os.getpid()),
    }
    ranks: list[subprocess.Popen[bytes]] = []
    # A new rank knows no signals yet: it inherits that SIGUSR1, which would kill it, is ignored.
    handler = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        for rank in range(nproc):
            ranks.append(
                subprocess.Popen(
                    list(command),
                    env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                    stdin=subprocess.DEVNULL,
                    stdout=None if rank == 0 else 2,
                    # Else Ctrl-C reaches a rank twice: from the terminal and from here.
                    start_new_session=True,
                )
            )
    except BaseException:
        for process in ranks:
            process.kill()
        raise
    finally:
        signal.signal(signal.SIGUSR1, handler)
    return ranks


def _worker(verb: str, arguments: Sequence[str]) -> list[str]:
    # `python -m` looks for modules in the working directory first, where a user's files may have any name.
    here = Path(__file__).resolve().parents[2] == Path.cwd().resolve()
    return [sys.executable, *([] if here else ["-P"]), "-m", "reproduce.cli", verb, *arguments]


@contextmanager
def _signals() -> Iterator["deque[signal.Signals]"]:
    """What arrives meanwhile, in order."""
    received: deque[signal.Signals] = deque()

    def handler(number: int, frame: FrameType | None) -> None:
        hangup = number == signal.SIGHUP
        received.append(signal.SIGTERM if hangup else signal.Signals(number))

    numbers = [*STOPPED, signal.SIGUSR1]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # ignored by nohup
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield received
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextmanager
def _port() -> Iterator[int]:
    """A free port, kept from everyone but a rank that listens on it: both bind with SO_REUSEADDR."""
    with closing(socket.socket()) as keeper:
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        keeper.bind(("127.0.0.1", 0))
        yield keeper.getsockname()[1]


def _record(run: Path, code: int, first: End | None, changed: bool, announce: Callable[[str], None]) -> None:
    """Make status.json say how it ended, where the ranks could not; `changed`: it was written meanwhile."""
    status = RunDir(run).status
    crashed = first is not None and first.code not in {*ExitCode}  # the others can only say that one was lost
    told = not crashed and status.get("state") != "running" and status.get("exit_code") == code
    # Ranks that refused to begin, or found another process in the folder, leave it alone, and so does this.
    begun = changed or crashed
    if told or not begun or status.get("state") == COMPLETE:
        return
    step = status.get("step")
    reason = (
        f"{first}; run the same command again" if first else "stopped at once; run the same command again"
    )
    try:
        with RunDir(run) as folder:
            folder.set_status("failed", code, step if isinstance(step, int) else 0, reason)
    except (OSError, UserError) as error:
        announce(f"status.json does not say so ({error}): {reason}")


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
