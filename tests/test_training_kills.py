"""A run killed at a hundred random moments ends, by the same command, as if it had never been stopped."""

import hashlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

# Before the first fork, so that each of hundreds of starts finds them loaded.
import torch._dynamo
import transformers.models.gpt2.modeling_gpt2

import reproduce.training.loop
from reproduce.cli.root import run
from reproduce.training.checkpoint import checkpoints, damage

LOADED = (torch._dynamo, transformers.models.gpt2.modeling_gpt2, reproduce.training.loop)
KILLS, INSIDE = 100, 20
SETTINGS = (
    "model.dropout=0.2", "train.micro_batch=2", "train.steps=12", "train.checkpoint_every_steps=2",
)  # fmt: skip


class Process:
    """`reweight train` in a child that shares what this process has loaded."""

    def __init__(self, arguments: list[str], log: Path) -> None:
        self.code: int | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        self._pid = os.fork()
        if self._pid == 0:
            self._train(arguments, log)

    def _train(self, arguments: list[str], log: Path) -> None:
        code = 1
        try:
            stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            for each in (1, 2):
                os.dup2(stream, each)
            code = run(arguments)
        finally:
            os._exit(code)

    def alive(self) -> bool:
        if self.code is None:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code is None

    def wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while self.alive() and time.monotonic() < until:
            time.sleep(0.002)

    def kill(self) -> None:
        if self.alive():
            os.kill(self._pid, signal.SIGKILL)
            self.code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])


@dataclass
class Count:
    kills: int = 0
    inside: int = 0
    """Kills that left a save half done."""

    def enough(self) -> bool:
        return self.kills >= KILLS and self.inside >= INSIDE


def lines(out: Path) -> list[dict[str, object]]:
    """Metrics with every number in full (JSON holds the shortest text that reads back to the same bits)."""
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: record[key] for key in record.keys() & REPEATABLE} for record in records]


REPEATABLE = {
    "kind", "step", "tokens", "loss", "weighted_loss", "lr", "r", "grad_norm", "max_weight", "min_weight",
    "ess", "entropy", "weight_share", "log_perplexity", "n", "eval_set_sha256",
}  # fmt: skip


def model_digest(out: Path) -> str:
    return hashlib.sha256((out / "model" / "model.safetensors").read_bytes()).hexdigest()


def half_saved(out: Path) -> bool:
    return any((out / "checkpoints").glob(".tmp-*"))


def kill_somewhere(process: Process, out: Path, rng: random.Random, longest: float) -> None:
    """At a moment uniform over an undisturbed run, or shortly after a save has begun."""
    if rng.random() < 0.7:
        process.wait(rng.uniform(0, longest))
    else:
        process.wait(rng.uniform(0, longest / 2))
        while process.alive() and not half_saved(out):
            time.sleep(0.0002)
        process.wait(rng.uniform(0, 0.01))
    process.kill()


def sound_checkpoints(out: Path) -> Iterator[int]:
    for found in checkpoints(out / "checkpoints"):
        assert damage(found) is None
        yield found.step


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("background", [False, True])
def test_a_run_killed_at_random_moments_ends_as_if_never_stopped(
    background: bool, recipe_path: Path, store_path: Path, tmp_path: Path
) -> None:
    settings = [f"--set={each}" for each in (*SETTINGS, f"train.checkpoint_async={str(background).lower()}")]
    command = ["train", "--recipe", str(recipe_path), "--data", str(store_path), *settings, "--out"]
    whole, log, took = tmp_path / "whole", tmp_path / "log", []
    for out in (tmp_path / "again", whole):
        began = time.monotonic()
        process = Process([*command, str(out)], log)
        process.wait(300)
        assert process.code == 0, log.read_text()
        took.append(time.monotonic() - began)
    longest = min(took)
    assert lines(whole) == lines(tmp_path / "again")
    assert len(lines(whole)) == 12 + 4

    rng, count, number = random.Random(int(background)), Count(), 0
    while not count.enough():
        out = tmp_path / f"run-{number}"
        number += 1
        before = 0
        for _ in range(20):
            process = Process([*command, str(out)], log)
            kill_somewhere(process, out, rng, longest)
            if process.code != -signal.SIGKILL:
                break
            count.kills += 1
            count.inside += half_saved(out)
            # What a restart will find: sound, and never further back than before.
            newest = max(sound_checkpoints(out), default=0)
            assert newest >= before
            before = newest
        else:
            process = Process([*command, str(out)], log)
            process.wait(300)
        assert process.code == 0, log.read_text()
        assert lines(out) == lines(whole)
        assert model_digest(out) == model_digest(whole)
        assert not [path for path in out.rglob("*") if "tmp" in path.name or "replaced" in path.name]
    assert "passed over" not in log.read_text()
    print(f"{count.kills} kills, {count.inside} inside a save, {number} runs, a run takes {longest:.2f} s")
