"""Kills at every step, at any time: a rerun of the same command gives the store of an undisturbed run."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import crash_point
import prep_inputs
import pytest
from hub_stand_in import HubStandIn
from prep_inputs import everything, out

from data_prep import pipeline
from data_prep.errors import DataError, StorageError
from data_prep.lock import locked
from data_prep.merge import merge
from data_prep.pipeline import prepare, prepare_share
from data_prep.plan import WORK
from data_prep.repair import repair
from data_prep.spec import PrepSpec, Share

ROOT = Path(__file__).resolve().parent.parent
CRASH = [sys.executable, str(Path(crash_point.__file__))]
GONE_S = 5.0
"""So long after a kill no process of the group may be left."""


@pytest.fixture
def spec(tmp_path: Path) -> PrepSpec:
    """Two training files of two domains each, and one of validation."""
    folder = prep_inputs.tokenizer_folder(tmp_path / "vocab")
    inputs = (prep_inputs.slimpajama(tmp_path / "in", files=2, documents=2),)
    return PrepSpec(
        dataset="slimpajama", inputs=inputs, out=tmp_path / "store", tokenizer=str(folder), workers=1
    )


def committed(store: Path) -> dict[Path, tuple[int, int]]:
    """Shards that a record names -> inode and time of their last change."""
    found = {}
    for record in (store / WORK / "files").glob("*.json"):
        for split, domains in json.loads(record.read_text())["domains"].items():
            for name, domain in domains.items():
                for shard in domain["shards"]:
                    path = store / split / name / shard["name"]
                    for each in (path, path.with_name(f"{path.stem}.documents.npy")):
                        found[each] = (each.stat().st_ino, each.stat().st_mtime_ns)
    return found


def leavings(store: Path) -> list[Path]:
    """What a finished preparation may not leave: temporary files, downloads, folders of them."""
    return [*store.rglob("*.tmp"), *(store / WORK / "downloads").rglob("*")]


def _crash(at: int, store: Path, work: Callable[[], object]) -> None:
    crash_point.arm(at, below=str(store))
    work()
    os._exit(0)


def killed_at(at: int, store: Path, work: Callable[[], object]) -> bool:
    """Do the work in a child that dies at its `at`-th change; whether it died."""
    child = multiprocessing.get_context("fork").Process(target=_crash, args=(at, store, work))
    child.start()
    child.join()
    assert child.exitcode in (0, -signal.SIGKILL), child.exitcode
    return child.exitcode != 0


def sweep(
    store: Path, begin: Callable[[], object], work: Callable[[], object], whole: dict[str, bytes]
) -> int:
    """Kill `work` at each of its changes; after each, it must end in `whole`. How many there were."""
    at = 0
    while True:
        at += 1
        shutil.rmtree(store, ignore_errors=True)
        begin()
        if not killed_at(at, store, work):
            return at - 1
        before = committed(store)
        work()
        assert everything(store) == whole, at
        assert leavings(store) == [], at
        after = committed(store)
        assert {path: after[path] for path in before} == before, at


@pytest.mark.usefixtures("no_sync")
def test_dead_at_any_change_of_the_file_system(spec: PrepSpec, tmp_path: Path) -> None:
    whole = replace(spec, out=tmp_path / "whole")
    prepare(whole)
    changes = sweep(out(spec), lambda: None, lambda: prepare(spec), everything(out(whole)))
    # 2 files of 2 domains and one of one: each shard opens, syncs and renames two files, each record one.
    assert changes > 5 * 6 + 3 * 3


@pytest.mark.usefixtures("no_sync")
def test_a_share_and_the_merge_dead_at_any_change(spec: PrepSpec, tmp_path: Path) -> None:
    whole = replace(spec, out=tmp_path / "whole")
    prepare(whole)
    store, done = out(spec), tmp_path / "done"
    first, second = Share(part=1, parts=2), Share(part=2, parts=2)

    def rest() -> None:
        prepare_share(spec, second)
        merge(store)

    prepare_share(spec, first)
    store.rename(done)
    changes = sweep(store, lambda: shutil.copytree(done, store), rest, everything(out(whole)))
    # The second share has one file, of two domains.
    assert changes > 2 * 6 + 3


@pytest.mark.usefixtures("no_sync")
@pytest.mark.parametrize("damage", ["shard", "manifest", "tokenizer"])
def test_a_repair_dead_at_any_change(spec: PrepSpec, tmp_path: Path, damage: str) -> None:
    prepare(spec)
    store, damaged = out(spec), tmp_path / "damaged"
    whole = everything(store)
    path = {
        "shard": store / "train/c4/00001.npy",
        "manifest": store / "manifest.json",
        "tokenizer": store / "tokenizer.json",
    }[damage]
    data = path.read_bytes()
    path.write_bytes(data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])
    shutil.copytree(store, damaged)

    def begin() -> None:
        shutil.copytree(damaged, store)

    at, died = 0, True
    while died:
        at += 1
        shutil.rmtree(store)
        begin()
        died = killed_at(at, store, lambda: repair(store, workers=1))
        # The same command again, wherever it was killed.
        repair(store, workers=1)
        assert everything(store) == whole, at
        assert leavings(store) == [], at
    assert at > 3


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command line of `reweight prep`, the store it makes, and what it needs around it."""

    arguments: list[str]
    store: Path
    environment: dict[str, str]

    def start(self, program: list[str], **crash: str) -> "subprocess.Popen[bytes]":
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **self.environment, **crash}
        return subprocess.Popen(
            [*program, *self.arguments],
            env=environment,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def finish(self) -> float:
        """Run it to its end; seconds."""
        started = time.monotonic()
        process = self.start([sys.executable, "-m", "reproduce.cli"])
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()[-2000:]
        return time.monotonic() - started


def local_command(root: Path) -> Command:
    """Fourteen files, some seconds of work for two workers."""
    text = [" ".join(random.Random(n).choices(prep_inputs.WORDS, k=400)) for n in range(97)]
    names = prep_inputs.SETS
    for index in range(14):
        rows = [
            {"text": f"{index} {n} {text[n % 97]}", "meta": {"redpajama_set_name": names[(n + index) % 3]}}
            for n in range(400)
        ]
        split = "train" if index < 12 else "validation"
        prep_inputs.write(root / f"in/{split}/{index:02d}.jsonl", prep_inputs.json_lines(rows))
    assert sum(path.stat().st_size for path in (root / "in").rglob("*.jsonl")) > 8 << 20
    vocab = prep_inputs.tokenizer_folder(root / "vocab")
    arguments = ["prep", "slimpajama", "--input", str(root / "in"), "--tokenizer", str(vocab)]
    store = root / "store"
    return Command(arguments=[*arguments, "--workers", "2", "--out", str(store)], store=store, environment={})


@contextmanager
def hub_command(root: Path) -> Iterator[Command]:
    """The same files from the stand-in of the hub."""
    local = local_command(root)
    with HubStandIn(root / "hub") as hub:
        (root / "hub/datasets/cerebras").mkdir(parents=True)
        (root / "in").rename(root / "hub/datasets/cerebras/SlimPajama-627B")
        arguments = ["prep", "slimpajama-627b", "--revision", "main", *local.arguments[4:]]
        environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(root / "hf"), "HF_HUB_DISABLE_XET": "1"}
        yield replace(local, arguments=arguments, environment=environment)


def members(group: int) -> list[int]:
    """Processes of a group that still run."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            state, _, number = (path / "stat").read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(number) == group and state != "Z":
            found.append(int(path.name))
    return found


def gone(group: int) -> bool:
    """Whether every process of the group is gone within GONE_S."""
    end = time.monotonic() + GONE_S
    while members(group) and time.monotonic() < end:
        time.sleep(0.02)
    return not members(group)


def kill_at_random(command: Command, seconds: float, whole_group: bool) -> bool:
    """Start it, kill it after so long; whether it was still at work."""
    process = command.start([sys.executable, "-m", "reproduce.cli"])
    time.sleep(seconds)
    try:
        if whole_group:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    except ProcessLookupError:
        pass
    process.communicate()
    assert gone(process.pid)
    return process.returncode == -signal.SIGKILL


def kill_while_committing(command: Command, rng: random.Random) -> bool:
    """Kill the group at a random rename, sync or removal of one process; whether it came so far."""
    role, most = rng.choice([("worker", 60), ("worker", 60), ("parent", 12)])
    crash = {
        "CRASH_AT": str(rng.randint(1, most)),
        "CRASH_ROLE": role,
        "CRASH_ON": "rename|fsync|remove",
        "CRASH_BELOW": str(command.store),
    }
    process = command.start(CRASH, **crash)
    _, errors = process.communicate(timeout=120)
    assert process.returncode in (0, -signal.SIGKILL), errors.decode()[-2000:]
    assert gone(process.pid)
    return process.returncode != 0


def trial(command: Command, whole: dict[str, bytes], kill: Callable[[], bool]) -> tuple[bool, int]:
    """Kill once, run again: whether it was killed, and how many shards had been committed."""
    shutil.rmtree(command.store, ignore_errors=True)
    hit = kill()
    before = committed(command.store)
    command.finish()
    assert everything(command.store) == whole
    assert leavings(command.store) == []
    after = committed(command.store)
    assert {path: after[path] for path in before} == before
    return hit, len(before)


def many_kills(command: Command, at_random: int, committing: int, seed: int) -> None:
    """So many kills, of which `committing` are in the middle of a commit."""
    seconds = command.finish()
    whole = everything(command.store)
    total, partly = len(committed(command.store)), 0
    rng = random.Random(seed)
    hits = {"random": 0, "committing": 0}
    tried = 0
    while hits["random"] < at_random or hits["committing"] < committing:
        tried += 1
        assert tried < 3 * (at_random + committing)
        kind = "random" if hits["random"] < at_random else "committing"
        if kind == "random":
            delay, group = rng.uniform(0, seconds), rng.random() < 0.5
            hit, done = trial(command, whole, lambda d=delay, g=group: kill_at_random(command, d, g))  # type: ignore[misc]
        else:
            hit, done = trial(command, whole, lambda: kill_while_committing(command, rng))
        hits[kind] += hit
        partly += 0 < done < total
    # The kills are no kills if they never strike between the first commit and the last.
    assert partly >= (at_random + committing) // 5, partly


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fifty_kills_of_a_local_preparation(tmp_path: Path) -> None:
    many_kills(local_command(tmp_path), 32, 18, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fifty_kills_of_a_preparation_from_the_hub(tmp_path: Path) -> None:
    with hub_command(tmp_path) as command:
        many_kills(command, 32, 18, seed=2)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fifty_kills_of_shares_and_their_merge(tmp_path: Path) -> None:
    command = local_command(tmp_path)
    command.finish()
    whole = everything(command.store)
    rng = random.Random(3)
    steps = [
        *(replace(command, arguments=[*command.arguments, "--shard", f"{part}/3"]) for part in (1, 2, 3)),
        replace(command, arguments=["prep", "--merge", str(command.store)]),
    ]
    kills = partly = 0
    while kills < 50:
        shutil.rmtree(command.store, ignore_errors=True)
        for step in steps:
            before = committed(command.store)
            if rng.random() < 0.4:
                kills += kill_while_committing(step, rng)
            else:
                kills += kill_at_random(step, rng.uniform(0, 3.0), rng.random() < 0.5)
            between = committed(command.store)
            partly += len(between) > len(before)
            assert {path: between[path] for path in before} == before
            step.finish()
            after = committed(command.store)
            assert {path: after[path] for path in between} == between
        assert everything(command.store) == whole
        assert leavings(command.store) == []
    assert partly >= 5


def _racer(spec: PrepSpec, gate: object, results: object) -> None:
    """Prepare at the signal; the winner goes on until it is killed."""
    pipeline.do_tasks = lambda *_: (results.put((os.getpid(), "won")), signal.pause())  # type: ignore[attr-defined,assignment]
    gate.wait()  # type: ignore[attr-defined]
    try:
        prepare(spec)
    except StorageError as error:
        results.put((os.getpid(), str(error)))  # type: ignore[attr-defined]


def race(spec: PrepSpec, share: bool) -> None:
    """Two at once on one folder: one works, the other names it; when it is killed the folder is free."""
    context = multiprocessing.get_context("fork")
    gate, results = context.Barrier(2), context.Queue()
    racers = [context.Process(target=_racer, args=(spec, gate, results)) for _ in range(2)]
    for racer in racers:
        racer.start()
    told = dict(results.get(timeout=60) for _ in racers)
    assert sorted(told) == sorted(racer.pid for racer in racers if racer.pid is not None)
    (winner,) = (pid for pid, what in told.items() if what == "won")
    (complaint,) = (what for what in told.values() if what != "won")
    assert f"{out(spec)}: being prepared by process {winner}@{socket.gethostname()}; wait for it" in complaint
    os.kill(winner, signal.SIGKILL)
    for racer in racers:
        racer.join()
    started = time.monotonic()
    with locked(out(spec) / WORK, Share(part=1, parts=2) if share else None):
        # At once: not after the patience that others are due.
        assert time.monotonic() - started < 0.2
    assert StorageError.exit_code == 7


def _races(spec: PrepSpec, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_prep.lock.PATIENCE_S", 0.2)
    for number in range(count):
        shutil.rmtree(out(spec), ignore_errors=True)
        race(spec, share=number % 2 == 1)
    assert prepare(spec).built_files == 3


def test_two_on_one_folder(spec: PrepSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    _races(spec, 5, monkeypatch)


@pytest.mark.slow
def test_fifty_races_of_two_on_one_folder(spec: PrepSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    _races(spec, 50, monkeypatch)


def test_a_failure_beside_a_newcomer_takes_nothing_from_it(
    spec: PrepSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that has committed nothing deletes the folder it leaves, while another waits for it."""
    bad = spec.inputs[0] / "train/chunk1/example_train_0.jsonl.zst"
    good = bad.read_bytes()
    bad.write_bytes(b"rubbish")
    context = multiprocessing.get_context("fork")
    ready, go, results = context.Event(), context.Event(), context.Queue()

    def fail() -> None:
        do_tasks = pipeline.do_tasks

        def wait(*arguments: Any) -> None:
            ready.set()
            go.wait()
            do_tasks(*arguments)

        pipeline.do_tasks = wait  # type: ignore[assignment]
        try:
            prepare(spec)
        except DataError as error:
            results.put(("failed", str(error)))

    def follow() -> None:
        try:
            results.put(("followed", prepare(spec).built_files))
        except StorageError as error:
            results.put(("followed", str(error)))

    first, second = context.Process(target=fail), context.Process(target=follow)
    first.start()
    assert ready.wait(20)
    second.start()
    time.sleep(0.5)
    bad_again = bad.with_name("again")
    bad_again.write_bytes(good)
    go.set()
    first.join()
    bad_again.replace(bad)
    second.join()
    told = dict(results.get(timeout=20) for _ in range(2))
    assert "corrupt zstd" in told["failed"]
    # It takes over, or is turned away with a line; either way the next one finds the folder in order.
    assert told["followed"] == 3 or "run the same command again" in told["followed"], told
    prepare(spec)
    assert leavings(out(spec)) == []
