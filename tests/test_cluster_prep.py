"""The sbatch files for preparing data, run as a user would: the store of many tasks is that of one machine.

`make test-cluster`. Needs root and Debian's slurm-wlm and munge, and is skipped without.
"""

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import prep_inputs
import pytest
from hub_stand_in import TOKEN, HubStandIn
from prep_inputs import everything

from data_prep.token_store import TokenStore
from tests.slurm import SBATCH, Job, check, submit, task_of, wait_until

pytest_plugins = ["tests.slurm_cluster"]
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

ARRAY, MERGE = SBATCH / "prep-array.sbatch", SBATCH / "prep-merge.sbatch"
REPOSITORY = "cerebras/SlimPajama-627B"
SMALL = ("--cpus-per-task", "1", "--mem", "1G")
"""So that more than one task fits; everything else is as the file says."""


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prep_inputs.tokenizer_folder(tmp_path_factory.mktemp("a vocabulary"))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven input files, one of them of validation."""
    return prep_inputs.slimpajama(tmp_path_factory.mktemp("some text"), files=6)


@pytest.fixture
def hub(tmp_path: Path, text: Path) -> Iterator[HubStandIn]:
    """A hub with SlimPajama-627B, which asks for a token."""
    place = tmp_path / "hub" / "datasets" / REPOSITORY
    place.parent.mkdir(parents=True)
    place.symlink_to(text)
    with HubStandIn(tmp_path / "hub") as stand_in:
        stand_in.gated.add(REPOSITORY)
        yield stand_in


def equals_one_machine(store: Path, alone: Path) -> None:
    assert TokenStore.open(store).fingerprint == TokenStore.open(alone).fingerprint
    assert everything(store) == everything(alone)
    assert not [path for path in store.rglob("*") if path.name.endswith((".tmp", ".incomplete"))]


def records(store: Path) -> int:
    return len(list((store / ".prep" / "files").glob("*.json")))


def after(job: Job, environ: dict[str, str], log: Path) -> Job:
    """The merge, to start when all tasks have done their share."""
    return submit(environ, log, *SMALL, f"--dependency=afterok:{job.id}", MERGE)


def test_array_and_merge_make_the_store_of_one_machine(
    slurm: dict[str, str], text: Path, vocabulary: Path, tmp_path: Path
) -> None:
    store, alone = tmp_path / "the store", tmp_path / "alone"
    environ = slurm | {"INPUT": str(text), "OUT": str(store), "TOKENIZER": str(vocabulary)}
    # One share of three by itself, and the merge too early.
    one = submit(environ | {"SHARES": "3"}, tmp_path / "one-%a.log", *SMALL, "--array=2", ARRAY)
    task_of(one, 2).wait_for("COMPLETED")
    early = submit(environ, tmp_path / "early.log", *SMALL, MERGE)
    early.wait_for("FAILED")
    assert early.field("ExitCode") == "3:0"
    # Seven files dealt out in turn to three shares: 0 3 6, 1 4, 2 5.
    assert "5 of 7 input files are not done" in early.log.read_text()
    assert "run again with --shard 1/3 (3 files), 3/3 (2 files)" in early.log.read_text()
    assert not (store / "manifest.json").exists()

    array = submit(environ, tmp_path / "array-%a.log", *SMALL, "--array=1-3%2", ARRAY)
    merge = after(array, environ, tmp_path / "merge.log")
    merge.wait_for("COMPLETED")
    said = [task_of(array, number).log.read_text() for number in (1, 2, 3)]
    done = [line.split(": ")[1] for log in said for line in log.splitlines() if " is done" in line]
    assert [each.rpartition(",")[0] for each in done] == [
        "3 input files, 3 now",
        "2 input files, 0 now",
        "2 input files, 2 now",
    ]
    assert "merged: every shard matches its digest" in merge.log.read_text()

    prepare = ["reweight", "prep", "slimpajama-627b", "--input", text, "--tokenizer", vocabulary]
    check([*prepare, "--out", alone], slurm)
    equals_one_machine(store, alone)
    check(["reweight", "prep", "--verify", store], slurm)
    # A store like any other: the plain command finds nothing to do.
    assert "already complete" in check([*prepare, "--out", store], slurm)


@pytest.fixture
def from_hub(slurm: dict[str, str], hub: HubStandIn, vocabulary: Path, tmp_path: Path) -> dict[str, str]:
    """The environment of a preparation from the hub into tmp_path/store."""
    at_hub = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "home")}
    wanted = {"OUT": str(tmp_path / "store"), "TOKENIZER": str(vocabulary), "MORE": "--revision main"}
    return slurm | at_hub | wanted


def start_and_stall(
    environ: dict[str, str], hub: HubStandIn, tmp_path: Path, stalled: Sequence[int], done: int
) -> tuple[list[Job], Job]:
    """An array of two tasks that are in the middle of these files, with so many done; and the merge.

    Seven files dealt out in turn: share 1 does 0 2 4 6, share 2 does 1 3 5.
    """
    for number in stalled:
        hub.fault(path=f"^/lfs/.*example_train_{number}", kind="stall", after=100, times=1)
    array = submit(environ, tmp_path / "array-%a.log", *SMALL, "--array=1-2", ARRAY)
    merge = after(array, environ, tmp_path / "merge.log")
    tasks = [task_of(array, number) for number in (1, 2)]
    store = tmp_path / "store"
    wait_until(
        lambda: all(not each.times for each in hub.faults) and records(store) == done, 100, tasks[0].log
    )
    return tasks, merge


def process_of(store: Path, share: str) -> int:
    """Process id of the `reweight prep` that does this share."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            if words[0] == sys.executable.encode() and {str(store).encode(), share.encode()} <= set(words):
                found.append(int(process.name))
    assert len(found) == 1, found
    return found[0]


def check_against_one_machine(environ: dict[str, str], hub: HubStandIn, tmp_path: Path, twice: int) -> None:
    """The store is one machine's, no file that was committed was fetched again, no token is anywhere."""
    store, alone = tmp_path / "store", tmp_path / "alone"
    paths = [each.path for each in hub.log if each.method == "GET" and each.path.startswith("/lfs/")]
    # Seven files, and those in flight once more.
    assert (len(paths), len(set(paths))) == (7 + twice, 7)
    prepare = ["reweight", "prep", "slimpajama-627b", "--tokenizer", environ["TOKENIZER"], "--out", alone]
    check([*prepare, *environ["MORE"].split()], environ)
    equals_one_machine(store, alone)
    check(["reweight", "prep", "--verify", store], environ)
    assert TokenStore.open(store).manifest.source.revision == hub.commit("datasets", REPOSITORY)
    written = [*tmp_path.glob("*.log"), *(path for path in store.rglob("*") if path.is_file())]
    assert len(written) > 40
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()]


def test_killed_and_preempted_tasks_go_back_into_the_queue_and_the_merge_waits(
    from_hub: dict[str, str], hub: HubStandIn, tmp_path: Path
) -> None:
    tasks, merge = start_and_stall(from_hub, hub, tmp_path, stalled=(2, 3), done=2)
    assert tasks[1].field("JobId") == tasks[1].field("ArrayJobId")
    # The task whose number as a job is that of the whole array.
    os.kill(process_of(tmp_path / "store", "2/2"), signal.SIGKILL)
    tasks[1].wait_for("PENDING")
    assert tasks[0].state() == "RUNNING"
    tasks[0].send("TERM")
    tasks[0].wait_for("PENDING")
    assert (merge.state(), merge.field("Reason")) == ("PENDING", "Dependency")
    assert records(tmp_path / "store") == 2
    for task in tasks:
        task.start_again()
    merge.wait_for("COMPLETED", 200)
    assert [task.field("Restarts") for task in tasks] == ["1", "1"]
    check_against_one_machine(from_hub, hub, tmp_path, twice=2)


def test_after_a_cancelled_task_both_are_submitted_again(
    from_hub: dict[str, str], hub: HubStandIn, tmp_path: Path
) -> None:
    tasks, merge = start_and_stall(from_hub, hub, tmp_path, stalled=(2,), done=4)
    tasks[1].wait_for("COMPLETED")
    tasks[0].send("KILL")  # which to Slurm means the task, not its processes
    tasks[0].wait_for("CANCELLED")
    merge.wait_for("CANCELLED")
    assert records(tmp_path / "store") == 4
    array = submit(from_hub, tmp_path / "again-%a.log", *SMALL, "--array=1-2", ARRAY)
    after(array, from_hub, tmp_path / "merge.log").wait_for("COMPLETED")
    assert "4 input files, 3 now" in (tmp_path / "again-1.log").read_text()
    assert "3 input files, 0 now" in (tmp_path / "again-2.log").read_text()
    check_against_one_machine(from_hub, hub, tmp_path, twice=1)


def test_a_share_that_fails_for_good_takes_the_merge_out_of_the_queue(
    slurm: dict[str, str], vocabulary: Path, tmp_path: Path
) -> None:
    text = prep_inputs.slimpajama(tmp_path / "text", files=3)
    environ = slurm | {"INPUT": str(text), "OUT": str(tmp_path / "store"), "TOKENIZER": str(vocabulary)}
    # The second file, so share 2's, is cut off. Held, so that the merge is there before it fails.
    victim = text / "train/chunk1/example_train_1.jsonl.zst"
    whole = victim.read_bytes()
    victim.write_bytes(whole[:-20])
    array = submit(environ, tmp_path / "%a.log", *SMALL, "--array=1-2", "--hold", ARRAY)
    merge = after(array, environ, tmp_path / "merge.log")
    array.scontrol("release", array.id)
    task_of(array, 1).wait_for("COMPLETED")
    task_of(array, 2).wait_for("FAILED")
    assert task_of(array, 2).field("ExitCode") == "3:0"
    assert "example_train_1.jsonl.zst: zstd data ends inside a frame" in (tmp_path / "2.log").read_text()
    merge.wait_for("CANCELLED")
    # Mended, both are submitted again.
    victim.write_bytes(whole)
    array = submit(environ, tmp_path / "again-%a.log", *SMALL, "--array=1-2", ARRAY)
    after(array, environ, tmp_path / "merge.log").wait_for("COMPLETED")
    assert "2 input files, 0 now" in (tmp_path / "again-1.log").read_text()
    check(["reweight", "prep", "--verify", tmp_path / "store"], slurm)
