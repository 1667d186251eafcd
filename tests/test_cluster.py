"""One recipe under every launcher: the same losses as one process, and status.json says how it ended.

`make test-cluster`. Needs nothing but CPUs; network namespaces and Slurm need root and Debian's iproute2,
slurm-wlm and munge, and are skipped without.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import TINY_RECIPE
from tests.slurm import HELPERS, SBATCH, Job, check, needs, submit, wait_until

pytest_plugins = ["tests.slurm_cluster"]
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

STEPS = 8
# Ends only when it is made to.
ENDLESS = (
    "train.steps=100000",
    "data.repeat=true",
    "evaluation.every_steps=100000",
)
LONG = tuple(word for setting in ENDLESS for word in ("--set", setting))
OFTEN, NEVER = (("--set", f"train.checkpoint_every_steps={steps}") for steps in (20, 100000))

Command = list[str]
Launch = Callable[[str, Command], "subprocess.Popen[bytes]"]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny_linupper.yaml"
    path.write_text(TINY_RECIPE, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def train(recipe: Path, store_path: Path) -> Callable[..., Command]:
    """`reweight train` of the tiny recipe into a run folder."""

    def command(out: Path, *more: str) -> Command:
        return [
            "reweight",
            "train",
            "--recipe",
            str(recipe),
            "--data",
            str(store_path),
            "--out",
            str(out),
            *more,
        ]

    return command


@pytest.fixture(scope="module")
def alone(
    train: Callable[..., Command], environ: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory
) -> list[float]:
    """Losses of one process, step by step."""
    out = tmp_path_factory.mktemp("alone") / "run"
    check(train(out), environ)
    return losses(out)


def losses(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == "train"]


def status(out: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((out / "status.json").read_text())
    return found


def equals_one_process(out: Path, alone: Sequence[float]) -> None:
    assert (status(out)["state"], status(out)["exit_code"], status(out)["step"]) == ("complete", 0, STEPS)
    assert (out / "model" / "model.safetensors").is_file()
    assert len(alone) == STEPS
    # Ranks add in another order than one process does; 1e-5 nats of a loss near 4.
    assert losses(out) == pytest.approx(alone, abs=1e-5)


LAUNCHERS = {
    "nproc": (),
    "torchrun": ("torchrun", "--standalone", "--nproc-per-node", "2", "--no-python"),
    "accelerate": ("accelerate", "launch", "--multi_gpu", "--num_processes", "2", "--no_python"),
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_one_machine(
    launcher: str,
    train: Callable[..., Command],
    environ: dict[str, str],
    alone: Sequence[float],
    tmp_path: Path,
) -> None:
    more = ("--nproc", "2") if launcher == "nproc" else ()
    check([*LAUNCHERS[launcher], *train(tmp_path / "run", *more)], environ)
    equals_one_process(tmp_path / "run", alone)


def test_accelerate_for_cpus_says_that_it_starts_one_process(
    train: Callable[..., Command], environ: dict[str, str], tmp_path: Path
) -> None:
    launch = ("accelerate", "launch", "--cpu", "--num_processes", "2", "--no_python")
    said = check([*launch, *train(tmp_path / "run")], environ, code=1)
    assert "asked for several processes and started one; give it --multi_gpu" in said


def test_two_hosts_joined_by_torchrun(
    train: Callable[..., Command], environ: dict[str, str], alone: Sequence[float], tmp_path: Path
) -> None:
    needs("ip")
    done = subprocess.run(["ip", "netns", "add", f"probe-{os.getpid()}"], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"network namespaces: {done.stderr.decode().strip()}")
    subprocess.run(["ip", "netns", "delete", f"probe-{os.getpid()}"], check=True)
    check([HELPERS / "two_hosts.sh", sys.executable, *train(tmp_path / "run")], environ)
    equals_one_process(tmp_path / "run", alone)


# ---- Slurm


@pytest.mark.parametrize("layout", [("-N", "1", "-n", "2"), ("-N", "2", "-n", "2")], ids=["1x2", "2x1"])
def test_srun(
    layout: Sequence[str],
    train: Callable[..., Command],
    slurm: dict[str, str],
    alone: Sequence[float],
    tmp_path: Path,
) -> None:
    check(["srun", *layout, *train(tmp_path / "run")], slurm)
    equals_one_process(tmp_path / "run", alone)


def test_one_task_of_srun_may_start_its_own_ranks(
    train: Callable[..., Command], slurm: dict[str, str], alone: Sequence[float], tmp_path: Path
) -> None:
    check(["srun", "-n", "1", *train(tmp_path / "run", "--nproc", "2")], slurm)
    equals_one_process(tmp_path / "run", alone)


def train_job(slurm: dict[str, str], recipe: Path, store: Path, out: Path, more: str = "") -> Job:
    """docs/sbatch/8x8.sbatch as it is, on two nodes of one rank; the rest comes from the environment."""
    environ = slurm | {"RECIPE": str(recipe), "DATA": str(store), "OUT": str(out), "MORE": more}
    size = ("--nodes", "2", "--ntasks-per-node", "1", "--gpus-per-node", "1", "--cpus-per-task", "1")
    return submit(environ, out.parent / "log", *size, SBATCH / "8x8.sbatch")


def checkpoints(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "checkpoints").glob("step-*"))


def training(out: Path) -> bool:
    return (out / "metrics.jsonl").is_file() and len(losses(out)) > 2


def test_sbatch_file(
    recipe: Path, store_path: Path, slurm: dict[str, str], alone: Sequence[float], tmp_path: Path
) -> None:
    job = train_job(slurm, recipe, store_path, tmp_path / "run")
    job.wait_for("COMPLETED")
    equals_one_process(tmp_path / "run", alone)


def test_preempted_job_saves_goes_back_into_the_queue_and_continues(
    recipe: Path, store_path: Path, slurm: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    job = train_job(slurm, recipe, store_path, out, " ".join((*LONG, *NEVER)))
    wait_until(lambda: training(out), 100, job.log)
    job.send("USR1")
    # Ranks may hear it at two steps, and save at both.
    wait_until(lambda: len(checkpoints(out)) > 0, 60, job.log)
    saved = len(losses(out))
    wait_until(lambda: len(losses(out)) > saved)  # goes on
    job.send("TERM")
    wait_until(lambda: status(out)["state"] == "preempted")
    assert status(out)["exit_code"] == 75
    stopped = status(out)["step"]
    job.wait_for("PENDING")
    assert f"step-{stopped:07d}" in checkpoints(out)
    assert len(losses(out)) == stopped
    job.start_again()
    wait_until(lambda: len(losses(out)) > int(str(stopped)), 100, job.log)
    assert job.field("Restarts") == "1"
    check(["scancel", job.id], job.environ)
    wait_until(lambda: job.state() == "CANCELLED")
    wait_until(lambda: status(out)["state"] != "running")
    assert status(out)["exit_code"] == 75


# ---- faults


def ranks_of(out: Path) -> dict[int, int]:
    """Rank -> process id, of every process that trains into this folder."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().split(b"\0")
            variables = dict(
                v.split(b"=", 1) for v in (process / "environ").read_bytes().split(b"\0") if b"=" in v
            )
        except OSError:
            continue
        # torchrun's own command line has the folder too, but no rank in its environment.
        if str(out).encode() in command and b"RANK" in variables:
            found[int(variables[b"RANK"])] = int(process.name)
    return found


@pytest.fixture
def launch(environ: dict[str, str], tmp_path: Path) -> Iterator[Launch]:
    """Start a command by one of LAUNCHERS, its output in tmp_path/log; a failed test leaves none running."""
    started: list[subprocess.Popen[bytes]] = []

    def call(launcher: str, command: Command) -> "subprocess.Popen[bytes]":
        with (tmp_path / "log").open("wb") as log:
            command = [*LAUNCHERS[launcher], *command]
            started.append(subprocess.Popen(command, env=environ, stdout=log, stderr=log))
        return started[-1]

    yield call
    for process in started:
        process.kill()
        process.wait()
    for out in (tmp_path / "run", tmp_path / "whole"):
        for pid in ranks_of(out).values():  # torchrun's ranks outlive it
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def end_of(process: "subprocess.Popen[bytes]", out: Path, seconds: float, log: Path) -> int:
    """The exit code, within so many seconds; nothing may be left of the run."""
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        pytest.fail(f"still there after {seconds} s: {log.read_text()[-4000:]}")
    wait_until(lambda: not ranks_of(out), 5.0)
    return code


@pytest.mark.parametrize("launcher", ["nproc", "torchrun"])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_ends_all_and_the_run_continues(
    launcher: str,
    rank: int,
    train: Callable[..., Command],
    launch: Launch,
    tmp_path: Path,
) -> None:
    out, log = tmp_path / "run", tmp_path / "log"
    more = ("--nproc", "2") if launcher == "nproc" else ()
    process = launch(launcher, train(out, *LONG, *OFTEN, *more))
    wait_until(lambda: training(out), 100, log)
    time.sleep(random.Random(f"{launcher} {rank}").uniform(0.0, 0.5))
    os.kill(ranks_of(out)[rank], signal.SIGKILL)
    code = end_of(process, out, 60.0, log)
    lost = status(out)
    if launcher == "nproc":
        assert code == 9, log.read_text()
        assert (lost["state"], lost["exit_code"]) == ("failed", 9)
        assert f"rank {rank}: killed by signal 9" in str(lost["reason"])
    elif rank == 1:
        # torchrun makes every code a 1, and only a surviving rank 0 can write.
        assert code == 1
        assert (lost["state"], lost["exit_code"]) == ("failed", 9), log.read_text()
    before = losses(out)
    # Continued for ten steps or so, the losses written before the kill come back bit for bit.
    goes_on = launch(launcher, train(out, *LONG, *OFTEN, *more))
    try:
        wait_until(lambda: len(losses(out)) > len(before), 100, log)
    finally:
        goes_on.terminate()
    end_of(goes_on, out, 60.0, log)
    assert losses(out)[: len(before)] == before
    assert status(out)["state"] == "preempted"


@pytest.mark.timeout(1200)
def test_twenty_killed_ranks_leave_no_trace(
    train: Callable[..., Command], launch: Launch, tmp_path: Path
) -> None:
    """At any moment: while ranks meet, within a step, within a save."""
    out, whole, log = tmp_path / "run", tmp_path / "whole", tmp_path / "log"
    choose = random.Random(32)
    again = train(out, *LONG, "--set", "train.checkpoint_every_steps=3", "--nproc", "2")
    for kill in range(20):
        process = launch("nproc", again)
        wait_until(lambda: len(ranks_of(out)) == 2, 60, log)
        started = choose.random() < 0.75
        if started:
            done = len(losses(out)) if (out / "metrics.jsonl").is_file() else 0
            wait_until(lambda: training(out) and len(losses(out)) > done, 100, log)  # noqa: B023
        time.sleep(choose.uniform(0.0, 1.0))
        rank = choose.randrange(2)
        os.kill(ranks_of(out)[rank], signal.SIGKILL)
        assert end_of(process, out, 60.0, log) == 9, f"kill {kill}: {log.read_text()[-4000:]}"
        assert (status(out)["state"], status(out)["exit_code"]) == ("failed", 9)
        assert f"rank {rank}: killed by signal 9" in str(status(out)["reason"])
    survived = losses(out)
    process = launch("nproc", train(whole, *LONG, *NEVER, "--nproc", "2"))
    wait_until(lambda: training(whole) and len(losses(whole)) > len(survived), 300, log)
    process.terminate()
    assert end_of(process, whole, 60.0, log) == 75
    assert len(survived) > 20
    assert losses(whole)[: len(survived)] == survived


@pytest.mark.parametrize("launcher", ["nproc", "torchrun"])
@pytest.mark.parametrize(
    ("number", "code", "state"),
    [(signal.SIGTERM, 75, "preempted"), (signal.SIGINT, 130, "interrupted")],
)
def test_a_signal_saves_the_newest_step(
    launcher: str,
    number: int,
    code: int,
    state: str,
    train: Callable[..., Command],
    launch: Launch,
    tmp_path: Path,
) -> None:
    out, log = tmp_path / "run", tmp_path / "log"
    more = ("--nproc", "2") if launcher == "nproc" else ()
    process = launch(launcher, train(out, *LONG, *NEVER, *more))
    wait_until(lambda: training(out), 100, log)
    process.send_signal(number)
    ended = end_of(process, out, 25.0, log)
    assert ended == (code if launcher == "nproc" else 1), log.read_text()
    assert (status(out)["state"], status(out)["exit_code"]) == (state, code)
    assert status(out)["step"] == len(losses(out))
    assert checkpoints(out)[-1] == f"step-{len(losses(out)):07d}"
