"""Checkpoints of one process: round trips, what is kept, saving beside training.

Manifests that nobody wrote: test_training_checkpoint_manifest.py; failing and
filling disks and flipped bytes: test_training_checkpoint_faults.py; several ranks:
test_training_checkpoint_ranks.py; kills of whole runs: test_training_kills.py.
"""

import json
import os
import shutil
import time
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch

from reproduce.errors import ResumeError, StorageError
from reproduce.training import checkpoint, checkpoint_job
from reproduce.training.checkpoint import Saver
from tests.checkpoint_net import (
    Net,
    digest,
    flip,
    loaded,
    names,
    newest,
    optimizer_of,
    silent,
    state,
    train,
    trained,
    write,
)  # fmt: skip


def test_a_round_trip_gives_back_every_bit_and_the_next_step_is_the_same(tmp_path: Path) -> None:
    net, optimizer = trained(seed=1, steps=3)
    extra = {
        "range": torch.tensor([0.1, 2.5], dtype=torch.float64),
        "generator": torch.get_rng_state(),
        "none": torch.zeros(0, 3),
        "count": torch.tensor(2**40),
        "half": torch.tensor([1.5], dtype=torch.bfloat16),
    }
    Saver(tmp_path, keep=1, warn=silent).save(3, net, optimizer, extra)
    other = Net(seed=2)
    other_optimizer = optimizer_of(other)
    train(other, other_optimizer, 2, seed=5)
    back = checkpoint.load(newest(tmp_path), other, other_optimizer)
    assert {name: (t.dtype, t.tolist()) for name, t in back.items()} == {
        name: (t.dtype, t.tolist()) for name, t in extra.items()
    }
    assert back["none"].shape == (0, 3)
    assert digest(state(other, other_optimizer)) == digest(state(net, optimizer))
    for each in ((net, optimizer), (other, other_optimizer)):
        train(*each, steps=2, seed=9)
    assert digest(state(other, other_optimizer)) == digest(state(net, optimizer))


def test_before_the_first_update_there_is_no_optimizer_state(tmp_path: Path) -> None:
    net = Net(seed=1)
    Saver(tmp_path, keep=1, warn=silent).save(0, net, optimizer_of(net), {})
    other, other_optimizer = trained(seed=2)
    checkpoint.load(newest(tmp_path), other, other_optimizer)
    assert not other_optimizer.state
    assert digest(dict(other.named_parameters())) == digest(dict(net.named_parameters()))


def test_the_files_are_what_any_reader_of_safetensors_expects(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    write(tmp_path, 4)
    net = Net(seed=0)
    assert names(newest(tmp_path).path) == ["MANIFEST.json", "model.safetensors", "optimizer.safetensors"]
    tensors = load_file(newest(tmp_path).path / "model.safetensors")
    assert tensors.keys() == dict(net.named_parameters()).keys()
    net.load_state_dict(tensors, strict=False)
    manifest = json.loads((newest(tmp_path).path / "MANIFEST.json").read_text())
    assert (manifest["format"], manifest["step"], manifest["world"]) == (2, 4, 1)
    assert manifest["tensors"]["model/inner.0.weight"] == {
        "dtype": "float32",
        "shape": [5, 4],
        "pieces": [["model.safetensors", 0, 5]],
    }


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    write(tmp_path, 1)
    found = newest(tmp_path)
    net = Net(seed=0)
    net.extra = torch.nn.Linear(2, 2)
    with pytest.raises(ResumeError, match="holds other tensors than this model"):
        checkpoint.load(found, net, optimizer_of(net))
    net = Net(seed=0)
    net.inner[2] = torch.nn.Linear(5, 2, bias=False)
    with pytest.raises(ResumeError, match=r"inner.2.weight has shape \(1, 5\), not \(2, 5\)"):
        checkpoint.load_parameters(found, net)
    with pytest.raises(ResumeError, match="is not as MANIFEST"):
        checkpoint.load_parameters(found, Net(seed=0).double())


# What is kept and what goes.


def test_only_the_newest_stay_and_only_our_own_go(tmp_path: Path) -> None:
    (tmp_path / "step-0000001").mkdir()
    (tmp_path / "step-0000001" / "mine.txt").write_text("not a checkpoint", encoding="utf-8")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "step-0000002").symlink_to(tmp_path / "elsewhere")
    for step in (3, 4, 5, 6):
        write(tmp_path, step)
    assert names(tmp_path) == ["elsewhere", "step-0000001", "step-0000002", "step-0000005", "step-0000006"]
    write(tmp_path, 7, keep=1)
    assert [each.step for each in checkpoint.checkpoints(tmp_path)] == [1, 7]


def test_a_run_that_went_back_keeps_what_it_writes_and_drops_the_damaged_future(tmp_path: Path) -> None:
    digests = {step: write(tmp_path, step, keep=3) for step in (2, 4, 6)}
    for step in (4, 6):
        flip(tmp_path / f"step-{step:07d}" / "model.safetensors", 300)
    said: list[str] = []
    found = checkpoint.latest(tmp_path, said.append)
    assert found is not None
    assert found.step == 2
    assert len(said) == 2
    # Were 6 counted as the newest of two, 3 would be deleted the moment it is written.
    digests[3] = write(tmp_path, 3)
    assert [each.step for each in checkpoint.checkpoints(tmp_path)] == [2, 3]
    assert [loaded(each) for each in checkpoint.checkpoints(tmp_path)] == [digests[2], digests[3]]


def test_to_keep_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep = 0"):
        Saver(tmp_path, keep=0, warn=silent)


def test_too_little_space_is_refused_with_the_arithmetic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=2_000_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    (tmp_path / "run").mkdir()
    with (tmp_path / "run" / "old").open("wb") as file:
        file.truncate(1_000_000_000)
    checkpoint.check_space(tmp_path / "run", 3_000_000_000)
    with pytest.raises(StorageError, match=r"needs 3.50 GB .* 2.00 GB free and 1.00 GB in it already"):
        checkpoint.check_space(tmp_path / "run", 3_500_000_000)
    with pytest.raises(StorageError, match=r"0.00 GB in it"):
        checkpoint.check_space(tmp_path / "none" / "yet", 3_500_000_000)


# Beside training.


class Writer:
    """A writer that waits for the test; then it writes, or fails at some steps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = Event()
        self.errors: dict[int, Exception] = {}
        self._write = checkpoint_job.write_tensors
        monkeypatch.setattr(checkpoint_job, "write_tensors", self)

    def __call__(self, folder: Path, step: int, *others: Any) -> Any:
        assert self.go.wait(60)
        if step in self.errors:
            raise self.errors[step]
        return self._write(folder, step, *others)


def test_training_goes_on_while_a_checkpoint_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(monkeypatch)
    net, optimizer = trained(seed=1)
    then = digest(state(net, optimizer))
    saver = Saver(tmp_path, keep=2, warn=silent, background=True)
    saver.save(1, net, optimizer, {})
    train(net, optimizer, steps=2, seed=4)
    assert digest(state(net, optimizer)) != then
    assert checkpoint.latest(tmp_path, silent) is None
    assert saver.committed is None
    writer.go.set()
    # Without a collective: a run that dies long before its next save still has this checkpoint.
    deadline = time.monotonic() + 60
    while checkpoint.latest(tmp_path, silent) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    saver.settle()
    assert saver.committed == 1
    assert loaded(newest(tmp_path)) == then
    assert names(tmp_path) == ["step-0000001"]


def test_a_background_save_that_fails_commits_nothing_and_the_next_one_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(monkeypatch)
    writer.go.set()
    said: list[str] = []
    saver = Saver(tmp_path, keep=2, warn=said.append, background=True)
    net, optimizer = trained(seed=1)
    full = OSError(28, "No space left on device")
    writer.errors = {2: full, 5: full, 6: full}
    for step in range(1, 6):
        saver.save(step, net, optimizer, {})
    saver.settle()
    assert [each.step for each in checkpoint.checkpoints(tmp_path)] == [3, 4]
    # Two warnings and no error: a save that worked lies between the two.
    assert [line.partition(":")[0] for line in said] == [
        f"the checkpoint of step {step} was not written" for step in (2, 5)
    ]
    assert "[Errno 28] No space left on device" in said[0]
    saver.save(6, net, optimizer, {})
    with pytest.raises(StorageError, match=r"step 6 was not written: .* free space, then run the same"):
        saver.settle()
    assert names(tmp_path) == ["step-0000003", "step-0000004"]
    assert saver.committed == 4


def test_the_last_save_is_not_left_to_a_thread_and_its_failure_is_final(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, optimizer = trained(seed=1)
    saver = Saver(tmp_path, keep=2, warn=silent, background=True)
    saver.save(1, net, optimizer, {}, final=True)
    assert saver.committed == 1
    writer = Writer(monkeypatch)
    writer.go.set()
    writer.errors = {2: OSError(5, "Input/output error")}
    with pytest.raises(StorageError, match="step 2 was not written"):
        saver.save(2, net, optimizer, {}, final=True)
    assert names(tmp_path) == ["step-0000001"]


def test_a_bug_in_the_thread_is_raised_as_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Writer(monkeypatch)
    writer.go.set()
    writer.errors = {1: KeyError("exp_avg")}
    net, optimizer = trained(seed=1)
    with pytest.raises(KeyError, match="exp_avg"):
        Saver(tmp_path, keep=2, warn=silent).save(1, net, optimizer, {})
    assert names(tmp_path) == []


def test_dying_in_the_middle_leaves_only_a_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = write(tmp_path, 1)
    child = os.fork()
    if child == 0:
        Writer(monkeypatch)
        net, optimizer = trained(seed=2)
        Saver(tmp_path, keep=1, warn=silent, background=True).save(2, net, optimizer, {})
        os._exit(77)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 77
    assert [name[:7] for name in names(tmp_path)] == [".tmp-2-", "step-00"]
    checkpoint.discard_temporaries(tmp_path)
    assert names(tmp_path) == ["step-0000001"]
    assert loaded(newest(tmp_path)) == before


def test_a_run_that_breaks_off_gives_the_writer_some_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(monkeypatch)
    net, optimizer = trained(seed=1)
    saver = Saver(tmp_path, keep=2, warn=silent, background=True)
    saver.save(1, net, optimizer, {})
    saver.close(seconds=0.01)
    assert checkpoint.checkpoints(tmp_path) == []
    writer.go.set()
    saver.close()
    assert [each.step for each in checkpoint.checkpoints(tmp_path)] == [1]
