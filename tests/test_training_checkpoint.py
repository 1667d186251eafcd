"""Checkpoints of one process: round trips, what is kept, hostile manifests, saving beside training.

Failing and filling disks and flipped bytes: test_training_checkpoint_faults.py; several ranks:
test_training_checkpoint_ranks.py; kills of whole runs: test_training_kills.py.
"""

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch

from reproduce.errors import ResumeError, StorageError
from reproduce.training import checkpoint, checkpoint_job
from reproduce.training.checkpoint import Checkpoint, Saver
from reproduce.training.checkpoint_manifest import Piece, TensorEntry, dump, parse
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


# Manifests that nobody wrote.


Edit = Callable[[str], str]


def text(old: str, new: str) -> Edit:
    def edit(manifest: str) -> str:
        assert old in manifest
        return manifest.replace(old, new)

    return edit


def document(change: Callable[[Any], object]) -> Edit:
    """A change to what the manifest says, not to how it is spelt."""

    def edit(manifest: str) -> str:
        content = json.loads(manifest)
        change(content)
        return json.dumps(content)

    return edit


def file(change: Callable[[Any], object]) -> Edit:
    return document(lambda d: change(d["files"]["model.safetensors"]))


def bias(**changes: object) -> Edit:
    return document(lambda d: d["tensors"]["model/out.bias"].update(changes))


def renamed(name: str) -> Edit:
    return document(lambda d: d["files"].update({name: d["files"].pop("model.safetensors")}))


HOSTILE: dict[str, tuple[Edit, str]] = {
    "empty": (lambda manifest: "", "Expecting value"),
    "cut": (lambda manifest: manifest[: len(manifest) // 2], "line"),
    "deep": (lambda manifest: "[" * 100_000, "nested without end"),
    "a list": (lambda manifest: "[]", "[] where a mapping belongs"),
    "a space": (text('"step": ', '"step":  '), "its bytes are not those that were saved"),
    "a key more": (text('"format"', '"note": 1,\n"format"'), "its bytes are not those that were saved"),
    "another step": (text('"step": 2', '"step": 1'), "its bytes are not those that were saved"),
    "a long number": (text('"step": 2', '"step": ' + "2" * 5000), "limit"),
    "format": (document(lambda d: d.update(format=1)), "of format 1, not 2"),
    "format of text": (document(lambda d: d.update(format="x" * 500)), "of format xxx"),
    "no step": (document(lambda d: d.pop("step")), "without 'step'"),
    "step true": (document(lambda d: d.update(step=True)), "True where a size belongs"),
    "step infinite": (document(lambda d: d.update(step=float("inf"))), "inf where a size belongs"),
    "files a list": (document(lambda d: d.update(files=[])), "[] where a mapping belongs"),
    "files empty": (document(lambda d: d.update(files={})), "its bytes are not those"),
    "outside": (renamed("../../model.safetensors"), "is no file name"),
    "absolute": (renamed("/etc/passwd"), "is no file name"),
    "no digest": (file(lambda entry: entry.pop("sha256")), "without 'sha256'"),
    "digest a number": (file(lambda entry: entry.update(sha256=1)), "1 where a text belongs"),
    "negative": (file(lambda entry: entry.update(bytes=-1)), "-1 where a size belongs"),
    "huge": (file(lambda entry: entry.update(bytes=2**80)), "where a size belongs"),
    "shape of text": (bias(shape="4"), "4 where a list belongs"),
    "shape of lists": (bias(shape=[[4]]), "[4] where a size belongs"),
    "piece of two": (bias(pieces=[["model.safetensors", 0]]), "a piece is"),
    "piece a text": (bias(pieces="all"), "all where a list belongs"),
    "no pieces": (document(lambda d: d["tensors"]["model/out.bias"].pop("pieces")), "without 'pieces'"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_manifest_is_damage_and_the_one_before_is_taken(name: str, tmp_path: Path) -> None:
    before = write(tmp_path, 1)
    write(tmp_path, 2)
    manifest = newest(tmp_path).path / "MANIFEST.json"
    edit, reason = HOSTILE[name]
    manifest.write_text(edit(manifest.read_text()), encoding="utf-8")
    wrong = checkpoint.damage(newest(tmp_path))
    assert wrong is not None
    assert wrong.startswith(f"{manifest}: ")
    assert reason in wrong
    assert len(wrong) < len(str(manifest)) + 110
    said: list[str] = []
    found = checkpoint.latest(tmp_path, said.append)
    assert found is not None
    assert (found.step, said) == (1, [f"checkpoint passed over: {wrong}"])
    assert loaded(found) == before


@pytest.mark.parametrize("kind", ["pipe", "folder", "missing", "unreadable"])
def test_what_is_no_manifest_is_damage(kind: str, tmp_path: Path) -> None:
    write(tmp_path, 1)
    manifest = newest(tmp_path).path / "MANIFEST.json"
    manifest.unlink()
    if kind == "pipe":
        os.mkfifo(manifest)
    elif kind == "folder":
        manifest.mkdir()
    elif kind == "unreadable":
        manifest.symlink_to(manifest)
    wrong = checkpoint.damage(newest(tmp_path))
    assert wrong is not None
    assert str(manifest) in wrong


def rewritten(found: Checkpoint, change: Callable[[TensorEntry], TensorEntry]) -> None:
    """Have a manifest say something else of one tensor, with the digest that belongs to it."""
    path = found.path / "MANIFEST.json"
    manifest = parse(path.read_bytes())
    tensors = {**manifest.tensors, "model/out.bias": change(manifest.tensors["model/out.bias"])}
    path.write_text(dump(replace(manifest, tensors=tensors)), encoding="utf-8")


@pytest.mark.parametrize(
    "pieces",
    [(), ((0, 3),), ((0, 4), (0, 4)), ((0, 4), (4, 1)), ((1, 4),), ((0, 2), (3, 1)), ((0, 2**62),)],
    ids=str,
)
def test_pieces_that_are_not_each_row_once_are_damage(
    pieces: tuple[tuple[int, int], ...], tmp_path: Path
) -> None:
    write(tmp_path, 1)
    cuts = tuple(Piece(file="model.safetensors", first=first, rows=rows) for first, rows in pieces)
    rewritten(newest(tmp_path), lambda entry: replace(entry, pieces=cuts))
    assert "rows of model/out.bias are missing" in str(checkpoint.damage(newest(tmp_path)))


def test_pieces_in_files_that_are_not_listed_are_damage(tmp_path: Path) -> None:
    write(tmp_path, 1)
    elsewhere = (Piece(file="other.safetensors", first=0, rows=4),)
    rewritten(newest(tmp_path), lambda entry: replace(entry, pieces=elsewhere))
    assert "rows of model/out.bias are missing" in str(checkpoint.damage(newest(tmp_path)))


def test_a_sound_manifest_that_does_not_fit_its_files_is_refused(tmp_path: Path) -> None:
    rows = 2**40
    write(tmp_path, 1)
    found = newest(tmp_path)
    piece = Piece(file="model.safetensors", first=0, rows=rows)
    rewritten(found, lambda entry: replace(entry, shape=(rows,), pieces=(piece,)))
    net = Net(seed=0)
    with pytest.raises(ResumeError, match="has shape"):
        checkpoint.load_parameters(found, net)
    net.out.bias = torch.nn.Parameter(torch.empty(rows, device="meta"))
    with pytest.raises(ResumeError, match=r"model\.safetensors: model/out.bias"):
        checkpoint.load_parameters(found, net)
    piece = Piece(file="optimizer.safetensors", first=0, rows=4)
    rewritten(found, lambda entry: replace(entry, shape=(4,), pieces=(piece,)))
    with pytest.raises(ResumeError, match=r"optimizer\.safetensors: model/out.bias cannot be read"):
        checkpoint.load_parameters(found, Net(seed=0))


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
