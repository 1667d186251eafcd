"""Commands to run and Slurm's jobs to submit and watch, for the tests marked `cluster`."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HELPERS = ROOT / "tests" / "cluster"
SBATCH = ROOT / "docs" / "sbatch"
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")


def needs(*tools: str) -> None:
    """Skip where a tool or root is missing."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    if os.geteuid() != 0:
        pytest.skip("needs root")


def check(
    command: Sequence[str | Path], environ: Mapping[str, str], code: int = 0, seconds: float = 200
) -> str:
    """Run a command to its end, which must be this exit code; its output."""
    done = subprocess.run(
        [str(part) for part in command],
        env=dict(environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == code, done.stdout[-4000:]
    return done.stdout


def wait_until(condition: Callable[[], bool], seconds: float = 60.0, log: Path | None = None) -> None:
    """Wait for a condition; the test fails, with the end of the log, if it does not come true."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            pytest.fail("waited in vain" + (f": {log.read_text()[-4000:]}" if log and log.exists() else ""))
        time.sleep(0.1)


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job, or one task of an array."""

    id: str
    environ: Mapping[str, str]
    log: Path

    def scontrol(self, *arguments: str) -> str:
        """Output of scontrol."""
        return check(["scontrol", *arguments], self.environ)

    def field(self, name: str) -> str:
        """A field of `scontrol show job`, as JobState or Restarts."""
        return self.scontrol("show", "job", self.id).split(f"{name}=")[1].split()[0]

    def state(self) -> str:
        """As PENDING, RUNNING, COMPLETED."""
        return self.field("JobState")

    def wait_for(self, state: str, seconds: float = 120) -> None:
        """Wait until it is in this state, or for good in another."""
        wait_until(lambda: self.state() in {state, *ENDED}, seconds, self.log)
        said = self.log.read_text()[-4000:] if self.log.exists() else ""
        assert self.state() == state, said

    def send(self, name: str) -> None:
        """As `#SBATCH --signal` does: to the steps, not to the batch shell."""
        check(["scancel", "--signal", name, self.id], self.environ)

    def start_again(self) -> None:
        """Have a requeued job start now, which Slurm would in two minutes.

        Not before its first life is over: the second would fail at once.
        """
        wait_until(lambda: self.state() == "PENDING" and self._idle(), 60, self.log)
        time.sleep(3.0)
        self.scontrol("update", f"JobId={self.id}", "StartTime=now")

    def _idle(self) -> bool:
        return check(["sinfo", "--noheader", "--format", "%D %T"], self.environ).strip() == "2 idle"


def submit(environ: Mapping[str, str], log: Path, *words: str | Path) -> Job:
    """`sbatch` with these options and file, its output in `log`, whose name may hold %a for an array."""
    command = ["sbatch", "--parsable", "--output", log, *words]
    return Job(id=check(command, environ).strip(), environ=environ, log=log)


def task_of(array: Job, number: int) -> Job:
    """One task of an array."""
    log = array.log.with_name(array.log.name.replace("%a", str(number)))
    return Job(id=f"{array.id}_{number}", environ=array.environ, log=log)
