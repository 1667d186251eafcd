"""Manifests that nobody wrote: damage that is named, and never a way out of the folder."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from reproduce.errors import ResumeError
from reproduce.training import checkpoint
from reproduce.training.checkpoint import Checkpoint
from reproduce.training.checkpoint_manifest import Piece, TensorEntry, dump, parse
from tests.checkpoint_net import Net, loaded, newest, write

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
