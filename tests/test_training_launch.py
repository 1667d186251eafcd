"""Launching: what launchers say is understood, and ranks started here are seen to their end."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reproduce.cli.train import command as train_command
from reproduce.errors import UserError
from reproduce.recipe import ParallelSpec, load_recipe
from reproduce.training import launch, supervisor
from reproduce.training.run_dir import RunDir, write_json
from reproduce.training.supervisor import LAUNCHER, run_locally

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
MASTER = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}
# The sixth task of `srun --nodes 3 --ntasks 8 --distribution block` in job 4711: 3, 3 and 2 tasks.
SRUN = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_NUM_NODES": "3",
    "SLURM_STEP_TASKS_PER_NODE": "3(x2),2",
    "SLURM_STEP_NODELIST": "gpu[07-08,11]",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "2",
    "SLURM_NODEID": "1",
}
# What sbatch and salloc leave in the environment of a shell: a job with 8 tasks, but no step.
BATCH = {"SLURM_JOB_ID": "4711", "SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, False),
        (BATCH, False),
        (SRUN | {"SLURM_STEP_NUM_TASKS": "1"}, False),
        ({"WORLD_SIZE": "1"}, False),
        (SRUN, True),
        (TORCHRUN | MASTER, True),
        ({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}, True),
        ({"ACCELERATE_MIXED_PRECISION": "no"}, True),
    ],
)
def test_who_counts_as_a_launcher(environ: dict[str, str], expected: bool) -> None:
    assert launch.launched(environ) is expected


def test_srun_is_translated() -> None:
    environ = dict(SRUN)
    launch.adopt_scheduler(environ)
    assert {name: environ[name] for name in environ.keys() - SRUN.keys()} == {
        "RANK": "5",
        "WORLD_SIZE": "8",
        "LOCAL_RANK": "2",
        "LOCAL_WORLD_SIZE": "3",
        "MASTER_ADDR": "gpu07",
        # 4711 x 31 + 2 = 146043; 146043 mod 17000 = 10043; + 15000.
        "MASTER_PORT": "25043",
    }


def test_every_task_of_a_step_meets_at_the_same_port_and_other_steps_do_not() -> None:
    def port(**changes: str) -> str:
        environ = SRUN | changes
        launch.adopt_scheduler(environ)
        return environ["MASTER_PORT"]

    assert port() == port(SLURM_PROCID="0", SLURM_NODEID="0", SLURM_LOCALID="0")
    others = {port(SLURM_STEP_ID="3"), port(SLURM_JOB_ID="4712"), port(SLURM_JOB_ID="4710")}
    assert len({port(), *others}) == 4


def test_what_the_user_set_stays() -> None:
    environ = SRUN | MASTER
    launch.adopt_scheduler(environ)
    assert {name: environ[name] for name in MASTER} == MASTER
    torchrun = TORCHRUN | MASTER | SRUN
    before = dict(torchrun)
    launch.adopt_scheduler(torchrun)
    assert torchrun == before


def test_one_process_needs_nothing() -> None:
    for environ in ({}, BATCH, {"WORLD_SIZE": "1"}, {"ACCELERATE_MIXED_PRECISION": "no"}):
        before = dict(environ)
        launch.adopt_scheduler(environ)
        assert environ == before


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"RANK": "0"}, "LOCAL_RANK is not set"),
        ({"RANK": "0", "LOCAL_RANK": "0"}, "WORLD_SIZE is not set"),
        ({"WORLD_SIZE": "4"}, "RANK is not set"),
        ({"WORLD_SIZE": "four"}, "WORLD_SIZE=four is no number"),
        (TORCHRUN | MASTER | {"RANK": "-1"}, "RANK=-1 is no number"),
        (TORCHRUN | MASTER | {"RANK": "4"}, "RANK=4 of WORLD_SIZE=4"),
        (TORCHRUN | MASTER | {"LOCAL_RANK": "2"}, "LOCAL_RANK=2 of LOCAL_WORLD_SIZE=2"),
        (TORCHRUN | MASTER | {"LOCAL_WORLD_SIZE": "5"}, "LOCAL_WORLD_SIZE=5"),
        (TORCHRUN, "MASTER_ADDR is not set"),
        (TORCHRUN | {"MASTER_ADDR": "a", "MASTER_PORT": "x"}, "MASTER_PORT=x is no number"),
        (SRUN | {"SLURM_PROCID": "8"}, "RANK=8 of WORLD_SIZE=8"),
        (SRUN | {"SLURM_NODEID": "3"}, "SLURM_NODEID=3"),
        (SRUN | {"SLURM_STEP_TASKS_PER_NODE": "3x2"}, "SLURM_STEP_TASKS_PER_NODE=3x2"),
        ({k: v for k, v in SRUN.items() if k != "SLURM_STEP_NODELIST"}, "MASTER_ADDR is not set"),
    ],
)
def test_contradictions_are_one_clear_line(environ: dict[str, str], said: str) -> None:
    with pytest.raises(UserError, match="several processes announced, but") as caught:
        launch.adopt_scheduler(dict(environ))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_accelerate_that_starts_one_process_of_several_is_refused() -> None:
    with pytest.raises(UserError, match="asked for several processes and started one; give it --multi_gpu"):
        launch.adopt_scheduler({"ACCELERATE_MIXED_PRECISION": "no"} | MASTER)


@pytest.mark.parametrize(
    ("nodelist", "host"),
    [
        ("gpu7", "gpu7"),
        ("gpu7,gpu9", "gpu7"),
        ("gpu[07-08,11],big1", "gpu07"),
        ("rack[1-2]-n[003,005]", "rack1-n003"),
        ("a-1.example.org", "a-1.example.org"),
        ("", ""),
    ],
)
def test_first_host_of_a_node_list(nodelist: str, host: str) -> None:
    assert launch.first_host(nodelist) == host


def test_ranks_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for gpus, nproc, expected in ((0, None, 1), (0, 3, 3), (1, None, 1), (8, None, 8), (8, 2, 2)):
        monkeypatch.setattr(launch, "_visible_gpus", lambda gpus=gpus: gpus)
        assert launch.local_ranks(nproc) == expected
    monkeypatch.setattr(launch, "_visible_gpus", lambda: 2)
    with pytest.raises(UserError, match="--nproc 3: 2 GPUs are visible"):
        launch.local_ranks(3)


def test_the_command_that_does_the_same() -> None:
    arguments = ["--recipe", "gpt2_mini_linupper", "--out", "my runs/a"]
    train = "reweight train --recipe gpt2_mini_linupper --out 'my runs/a'"
    assert launch.command_line(1, 1, arguments) == train
    alone = launch.command_line(8, 1, arguments)
    assert alone == f"torchrun --standalone --nproc-per-node 8 --no-python {train}"
    assert launch.command_line(8, 8, arguments) == (
        'torchrun --nnodes 8 --rdzv-backend c10d --rdzv-endpoint "$HEAD:29500" --rdzv-id reweight '
        f"--nproc-per-node 8 --no-python {train}"
    )


# ---- what docs/ tells people to type

DOCS = Path(__file__).parents[1] / "docs"
SBATCH = [DOCS / "sbatch" / f"{name}.sbatch" for name in ("1gpu", "8gpu", "8x8")]


def parse_train(words: list[str]) -> str:
    """The recipe of a `reweight train` command that the command line understands."""
    options = train_command.make_context("train", words[words.index("train") + 1 :]).params
    assert load_recipe(options["name"]).name == options["name"]
    return str(options["name"])


@pytest.mark.parametrize("path", SBATCH, ids=lambda path: path.stem)
def test_sbatch_files_run_a_command_that_exists(path: Path, tmp_path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    # srun, scontrol and reweight stand in: they write down how they were called.
    for name in ("srun", "scontrol"):
        (tmp_path / name).write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >> {tmp_path}/{name}.called\nexit 75\n')
        (tmp_path / name).chmod(0o755)
    environ = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "17",
        "SLURM_CPUS_PER_TASK": "8",
        "OUT": "runs/with space",
        "MORE": "--set train.steps=9",
    }
    done = subprocess.run(["bash", path], env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (75, "")
    called = (tmp_path / "srun.called").read_text().splitlines()
    assert called[:4] == ["--cpus-per-task=8", "--kill-on-bad-exit=0", "reweight", "train"]
    assert called[-4:] == ["--out", "runs/with space", "--set", "train.steps=9"]
    assert f"RECIPE:-{parse_train(called)}" in text
    assert (tmp_path / "scontrol.called").read_text().split() == ["requeue", "17"]
    named = re.findall(r"^# +RECIPE=(\S+)", text, re.MULTILINE)
    assert [load_recipe(name).name for name in named] == named != []


def test_sbatch_files_differ_in_size_alone() -> None:
    others = {path.stem for path in (DOCS / "sbatch").glob("*.sbatch")} - {path.stem for path in SBATCH}
    assert others == {"prep-array", "prep-merge"}

    def rest(path: Path) -> list[str]:
        sized = r"^(# .*GPUs?\b.*:.*|#   .*|RECIPE=.*|#SBATCH --(nodes|ntasks-per-node|gpus-per-node)=.*)$"
        return [line for line in path.read_text().splitlines() if not re.match(sized, line)]

    assert rest(SBATCH[0]) == rest(SBATCH[1]) == rest(SBATCH[2])
    sizes = [re.findall(r"--(?:nodes|ntasks-per-node|gpus-per-node)=(\d+)", p.read_text()) for p in SBATCH]
    assert sizes == [["1", "1", "1"], ["1", "8", "8"], ["8", "8", "8"]]


def test_the_commands_in_the_guide_exist() -> None:
    text = (DOCS / "cluster.md").read_text(encoding="utf-8")
    commands = [line for line in re.findall(r"`([^`]+)`", text) if "reweight train --recipe" in line]
    assert len(commands) >= 7
    for line in commands:
        words = shlex.split(line)
        parse_train(words[words.index("reweight") :])
    # What --dry-run prints is what the guide says.
    arguments = ["--recipe", "llama1b_linupper"]
    for nodes in (1, 8):
        assert f"`{launch.command_line(8, nodes, arguments)}`" in text.replace("\n", " ")
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert (DOCS / link).is_file(), link
    for key in re.findall(r"`parallel\.(\w+)`", text):
        assert key in ParallelSpec.__dataclass_fields__


# ---- ranks started here. The worker is a few lines of Python that do as RANK says.

Launch = Callable[..., int]


def worker(body: str, *arguments: object) -> list[str]:
    head = """
        import json, os, signal, sys, time
        from pathlib import Path
        run, rank = Path(sys.argv[1]), int(os.environ["RANK"])
        (run / f"pid-{rank}").write_text(str(os.getpid()))
        def status(state, code, step=3):
            (run / f".s-{rank}").write_text(json.dumps(
                {"state": state, "exit_code": code, "step": step, "reason": "its own words"}))
            os.replace(run / f".s-{rank}", run / "status.json")
    """
    code = textwrap.dedent(head) + textwrap.dedent(body)
    return [sys.executable, "-c", code, *map(str, arguments)]


def status_of(run: Path) -> dict[str, object]:
    return dict(RunDir(run).status)


def gone(pid: int) -> bool:
    """Whether a process has ended; nobody may have collected an orphan yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
    except OSError:
        return True


def pids(run: Path) -> list[int]:
    return [int(path.read_text()) for path in run.glob("pid-*")]


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.fixture
def run_folder(tmp_path: Path) -> Iterator[Path]:
    """A run folder; whatever the test left running is killed."""
    run = tmp_path / "run"
    run.mkdir()
    yield run
    for pid in pids(run):
        if not gone(pid):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def launch_ranks(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Launch:
    """Run a worker's body as ranks in the run folder: its exit code. All ranks must be gone afterwards."""

    def call(nproc: int, body: str, grace: float = 0.5) -> int:
        monkeypatch.setattr(supervisor, "GRACE_S", grace)
        code = run_locally(nproc, [], run_folder, lambda line: None, worker=worker(body, run_folder))
        assert len(pids(run_folder)) == nproc
        assert all(gone(pid) for pid in pids(run_folder))
        return code

    return call


def test_ranks_know_who_they_are(
    run_folder: Path, launch_ranks: Launch, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setenv("MASTER_PORT", "1")
    body = """
        (run / f"environ-{rank}").write_text(json.dumps(dict(os.environ)))
        print("rank", rank)
    """
    assert launch_ranks(3, body) == 0
    environs = [json.loads((run_folder / f"environ-{rank}").read_text()) for rank in range(3)]
    for rank, environ in enumerate(environs):
        assert (environ["RANK"], environ["LOCAL_RANK"]) == (str(rank), str(rank))
        assert (environ["WORLD_SIZE"], environ["LOCAL_WORLD_SIZE"]) == ("3", "3")
        assert environ["OMP_NUM_THREADS"] == str(max(1, len(os.sched_getaffinity(0)) // 3))
        launch.adopt_scheduler(environ)
    assert len({environ["MASTER_PORT"] for environ in environs}) == 1
    assert environs[0]["MASTER_PORT"] != "1"
    out, err = capfd.readouterr()
    assert out == "rank 0\n"  # one document with --json, whatever the others print
    assert sorted(err.split()) == ["1", "2", "rank", "rank"]
    assert status_of(run_folder) == {}


def test_threads_that_were_asked_for_stay(run_folder: Path, launch_ranks: Launch) -> None:
    assert os.environ["OMP_NUM_THREADS"] == "1"  # conftest.py
    assert launch_ranks(1, 'sys.exit(0 if os.environ["OMP_NUM_THREADS"] == "1" else 17)') == 0


def test_ranks_meet_at_the_port_kept_for_them(run_folder: Path, launch_ranks: Launch) -> None:
    body = """
        import torch
        import torch.distributed as dist
        dist.init_process_group("gloo")
        total = torch.tensor([float(rank + 1)])
        dist.all_reduce(total)
        assert total.item() == 3.0  # 1 + 2
        dist.destroy_process_group()
    """
    assert launch_ranks(2, body, 30.0) == 0


def test_nobody_else_is_given_the_port_meanwhile() -> None:
    with supervisor._port() as port, socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port))


@pytest.mark.parametrize("code", [2, 3, 5, 7])
def test_a_refusal_to_begin_leaves_the_folder_alone(
    run_folder: Path, launch_ranks: Launch, code: int
) -> None:
    write_json(run_folder / "status.json", {"state": "preempted", "exit_code": 75, "step": 5, "reason": ""})
    assert launch_ranks(2, f"sys.exit({code})") == code
    assert status_of(run_folder)["state"] == "preempted"


def test_what_rank_0_wrote_stays(run_folder: Path, launch_ranks: Launch) -> None:
    assert launch_ranks(2, "rank or status('failed', 6); sys.exit(6)") == 6
    assert status_of(run_folder)["reason"] == "its own words"


DIES = "rank == 1 and os.kill(os.getpid(), signal.SIGKILL)"


@pytest.mark.parametrize(
    ("body", "code", "reason"),
    [
        # The survivor hangs, as in a collective, and is killed.
        (f"status('running', 0); {DIES}; time.sleep(60)", 9, "rank 1: killed by signal 9 (SIGKILL"),
        # The survivor notices, and leaves before the dead rank's memory is given back.
        (f"rank or (status('failed', 9), sys.exit(9)); time.sleep(0.3); {DIES}", 9, "rank 1: killed"),
        # ... or is aborted by a library's watchdog.
        (f"rank or os.abort(); time.sleep(0.3); {DIES}", 9, "rank 1: killed by signal 9"),
        # A crash outside Python; ends that no verdict explains.
        ("rank == 1 and os._exit(17); time.sleep(60)", 9, "rank 1: exit code 17"),
        (
            "rank == 1 and os.kill(os.getpid(), 15); time.sleep(60)",
            9,
            "rank 1: killed by signal 15 (SIGTERM)",
        ),
        # Another rank's own verdict is the run's, not "a rank was lost".
        (
            "rank or (status('failed', 9), sys.exit(9)); time.sleep(0.2); sys.exit(7)",
            7,
            "rank 1: exit code 7",
        ),
        ("rank == 1 and sys.exit(6); status('running', 0); time.sleep(60)", 6, "rank 1: exit code 6"),
        ("rank == 1 and sys.exit(1); status('running', 0); time.sleep(60)", 1, "rank 1: exit code 1"),
    ],
)
def test_the_rank_that_failed_first_is_named(
    run_folder: Path, launch_ranks: Launch, body: str, code: int, reason: str
) -> None:
    assert launch_ranks(2, body) == code
    status = status_of(run_folder)
    assert (status["state"], status["exit_code"]) == ("failed", code)
    assert str(status["reason"]).startswith(reason)
    assert status["step"] in (0, 3)


def test_the_step_of_the_last_status_stays(run_folder: Path, launch_ranks: Launch) -> None:
    write_json(run_folder / "status.json", {"state": "running", "exit_code": 0, "step": 41, "reason": ""})
    assert launch_ranks(2, f"{DIES}; time.sleep(60)") == 9
    assert status_of(run_folder)["step"] == 41


def test_a_finished_run_stays_complete(run_folder: Path, launch_ranks: Launch) -> None:
    assert launch_ranks(2, f"rank or status('complete', 0, 8); time.sleep(0.3); {DIES}") == 9
    assert status_of(run_folder)["state"] == "complete"


def test_a_folder_in_use_by_another_process_is_left_to_it(run_folder: Path, launch_ranks: Launch) -> None:
    with RunDir(run_folder) as other:
        other.set_status("running", 0, 12)
        assert launch_ranks(2, f"{DIES}; time.sleep(60)") == 9
        assert status_of(run_folder)["step"] == 12
        assert status_of(run_folder)["state"] == "running"


def test_rank_0_may_take_longer_to_finish_than_the_grace(run_folder: Path, launch_ranks: Launch) -> None:
    assert launch_ranks(2, "rank or time.sleep(1.0); status('complete', 0); sys.exit(0)", 0.2) == 0


# ---- signals, which need a launcher of their own

LISTENS = """
    heard = []
    def hear(number, frame):
        heard.append(number)
        (run / f".heard-{rank}").write_text(json.dumps(heard))
        (run / f".heard-{rank}").rename(run / f"heard-{rank}")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, hear)
    status("running", 0)
    (run / f"ready-{rank}").touch()
    codes = {signal.SIGINT: 130, signal.SIGTERM: 75}
    while True:
        for number in heard:
            if number in codes and "stubborn" not in sys.argv:
                status("interrupted" if codes[number] == 130 else "preempted", codes[number])
                sys.exit(codes[number])
        time.sleep(0.02)
"""


def start_launcher(run: Path, body: str, *arguments: str, grace: float = 5.0) -> "subprocess.Popen[bytes]":
    """A launcher of two ranks in a process of its own, ready when the ranks listen."""
    code = (
        "import sys; from pathlib import Path; from reproduce.training import supervisor; "
        f"supervisor.GRACE_S = {grace}; "
        "sys.exit(supervisor.run_locally(2, [], Path(sys.argv[1]), print, worker=sys.argv[2:]))"
    )
    return subprocess.Popen([sys.executable, "-c", code, str(run), *worker(body, run, *arguments)])


def ready(run: Path) -> bool:
    return len(list(run.glob("ready-*"))) == 2


def heard(run: Path) -> list[list[int]]:
    return [json.loads(path.read_text()) for path in sorted(run.glob("heard-*"))]


@pytest.mark.parametrize(
    ("sent", "passed", "code", "state"),
    [
        (signal.SIGTERM, signal.SIGTERM, 75, "preempted"),
        (signal.SIGINT, signal.SIGINT, 130, "interrupted"),
        (signal.SIGHUP, signal.SIGTERM, 75, "preempted"),
    ],
)
def test_a_request_to_stop_reaches_every_rank_once(
    run_folder: Path, sent: int, passed: int, code: int, state: str
) -> None:
    launcher = start_launcher(run_folder, LISTENS)
    wait_until(lambda: ready(run_folder))
    launcher.send_signal(sent)
    assert launcher.wait(20) == code
    assert heard(run_folder) == [[passed], [passed]]
    assert status_of(run_folder)["state"] == state
    assert all(gone(pid) for pid in pids(run_folder))


def test_sigusr1_is_passed_on_and_ends_nothing(run_folder: Path) -> None:
    launcher = start_launcher(run_folder, LISTENS)
    wait_until(lambda: ready(run_folder))
    launcher.send_signal(signal.SIGUSR1)
    wait_until(lambda: heard(run_folder) == [[signal.SIGUSR1]] * 2)
    assert launcher.poll() is None
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(20) == 75


def test_ranks_that_do_not_stop_are_killed_after_the_second_request(run_folder: Path) -> None:
    launcher = start_launcher(run_folder, LISTENS, "stubborn", grace=0.5)
    wait_until(lambda: ready(run_folder))
    launcher.send_signal(signal.SIGTERM)
    wait_until(lambda: len(heard(run_folder)) == 2)
    time.sleep(1.0)
    assert launcher.poll() is None  # one request: a save may take its time
    launcher.send_signal(signal.SIGINT)
    assert launcher.wait(20) == 75
    assert all(gone(pid) for pid in pids(run_folder))
    status = status_of(run_folder)
    assert (status["state"], status["exit_code"], status["step"]) == ("failed", 75, 3)


def test_a_request_before_the_ranks_can_hear_it(run_folder: Path) -> None:
    launcher = start_launcher(run_folder, "(run / f'ready-{rank}').touch(); time.sleep(60)")
    wait_until(lambda: ready(run_folder))
    launcher.send_signal(signal.SIGUSR1)  # would kill by default
    time.sleep(0.3)
    assert launcher.poll() is None
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(20) == 75


def test_no_rank_outlives_a_killed_launcher(run_folder: Path) -> None:
    body = f"""
        from reproduce.training.supervisor import LAUNCHER, end_with
        end_with(int(os.environ[LAUNCHER]))
        {textwrap.indent(textwrap.dedent(LISTENS), " " * 8).strip()}
    """
    launcher = start_launcher(run_folder, body, "stubborn")
    wait_until(lambda: ready(run_folder))
    os.kill(pids(run_folder)[0], signal.SIGSTOP)  # not even one that cannot act
    launcher.kill()
    launcher.wait()
    wait_until(lambda: all(gone(pid) for pid in pids(run_folder)), seconds=5.0)


def test_the_command_line_ends_with_its_launcher() -> None:
    def recipes(launcher: int) -> int:
        command = [sys.executable, "-m", "reproduce.cli", "recipes", "list"]
        environ = os.environ | {LAUNCHER: str(launcher)}
        return subprocess.run(command, env=environ, capture_output=True, check=False).returncode

    assert recipes(os.getpid()) == 0
    assert recipes(os.getppid()) == -signal.SIGKILL


def test_without_prctl_the_launcher_is_watched(run_folder: Path) -> None:
    code = f"from reproduce.training.supervisor import _poll; _poll({os.getppid()})"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    mine = f"from reproduce.training.supervisor import _poll; _poll({os.getpid()})"
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run([sys.executable, "-c", mine], check=False, timeout=1.5)


def test_modules_of_the_working_directory_do_not_get_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "click.py").write_text("raise SystemExit('shadowed')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(supervisor.__file__).parents[2]))
    command = supervisor._worker("train", ["--help"])
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "Pretrain a model" in done.stdout) == (0, True), done.stderr
