"""Checkpoints as folders on disk: found, verified, put in place in one move, removed.

A checkpoint is a folder `step-0001000`, renamed into place only when every byte of it is on disk. There is no
pointer file: the latest checkpoint is the highest one whose manifest verifies.
"""

import errno
import os
import re
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

from data_prep.files import read_ordinary_file, sha256_file, sync_folder
from reproduce.errors import StorageError
from reproduce.training.checkpoint_manifest import Manifest, check_whole, dump, parse

MANIFEST = "MANIFEST.json"
MODEL, OPTIMIZER = "model.safetensors", "optimizer.safetensors"
"""The files of a run whose tensors are not cut over ranks."""
FOLDER = re.compile(r"step-(\d{7,18})")
TEMPORARY_PREFIX = ".tmp-"
REPLACED = re.compile(r"\.replaced-(step-\d{7,18})")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint on disk, not yet verified."""

    path: Path
    step: int


def checkpoints(folder: Path) -> list[Checkpoint]:
    """The checkpoints of a run, oldest first; nothing that is half written."""
    if not folder.is_dir():
        return []
    found = [(FOLDER.fullmatch(path.name), path) for path in folder.iterdir() if path.is_dir()]
    return sorted(
        (
            Checkpoint(path=path, step=int(match[1]))
            for match, path in found
            if match and not path.is_symlink()
        ),
        key=lambda checkpoint: checkpoint.step,
    )


def damage(checkpoint: Checkpoint, *, rank: int = 0, world: int = 1) -> str | None:
    """What is wrong with a checkpoint, naming the file; None where every digest agrees.

    Args:
        checkpoint: to be verified.
        rank: of those who share the reading out, each of which reads every `world`-th file.
        world: how many they are; together they have read all.
    """
    try:
        files = sorted(read_manifest(checkpoint).files.items())
    except (OSError, ValueError) as error:
        return _unreadable(checkpoint, error)
    for name, entry in files:
        path = checkpoint.path / name
        if not path.is_file() or path.stat().st_size != entry.bytes:
            return f"{path}: missing or of another size"
    for name, entry in files[rank::world]:
        path = checkpoint.path / name
        try:
            same = sha256_file(path) == entry.sha256
        except OSError as error:
            return f"{path}: cannot be read ({error.strerror})"
        if not same:
            return f"{path}: its bytes are not those that were saved"
    return None


def read_manifest(checkpoint: Checkpoint) -> Manifest:
    """The manifest of a checkpoint (OSError, ValueError: there is none that can be trusted)."""
    manifest = parse(read_ordinary_file(checkpoint.path / MANIFEST))
    if manifest.step != checkpoint.step:
        raise ValueError(f"of step {manifest.step}")
    check_whole(manifest)
    return manifest


def commit(folder: Path, temporary: Path, manifest: Manifest) -> None:
    """Make a checkpoint of a folder in which all files lie synced.

    Raises:
        OSError: what was there before is there still.
    """
    for name, entry in manifest.files.items():
        path = temporary / name
        if not path.is_file() or path.stat().st_size != entry.bytes:
            raise OSError(errno.EIO, "is not as its rank wrote it", str(path))
    _write_synced(temporary / MANIFEST, dump(manifest))
    sync_folder(temporary)
    target = folder / f"step-{manifest.step:07d}"
    aside = folder / f".replaced-{target.name}"
    if target.exists():  # of a crashed run's later step, taken again
        if aside.exists():
            shutil.rmtree(aside)
        target.rename(aside)
    try:
        temporary.rename(target)
    except OSError:
        if aside.exists():
            aside.rename(target)
        raise
    sync_folder(folder)


def prune(folder: Path, step: int, keep: int) -> str:
    """Delete what the checkpoint of `step`, just committed, makes superfluous; says what cannot be deleted.

    These are all but the newest `keep`, and checkpoints of later steps: the run had gone back to before them,
    so they were found damaged. A folder without a sound manifest is no checkpoint of ours and stays.
    """
    ours = [each for each in checkpoints(folder) if _has_all_files(each)]
    sequence = [each for each in ours if each.step <= step]
    try:
        for path in folder.glob(".replaced-*"):
            _remove(path)
        for old in [*sequence[:-keep], *ours[len(sequence) :]]:
            _remove(old.path)
    except OSError as error:
        return f"an old checkpoint cannot be deleted: {error}"
    return ""


def clear(folder: Path) -> None:
    """Remove what a killed save left behind, and put back what it had only moved aside."""
    if not folder.is_dir():
        return
    for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
        shutil.rmtree(path)
    for path in folder.iterdir():
        match = REPLACED.fullmatch(path.name)
        if match and (folder / match[1]).exists():
            shutil.rmtree(path)
        elif match:
            path.rename(folder / match[1])


def check_space(folder: Path, disk_bytes: int) -> None:
    """Refuse to start where the run would fill the disk.

    Args:
        folder: the run folder; what lies in it already counts.
        disk_bytes: what the run takes at most (`recipe.estimate`).

    Raises:
        StorageError: with the arithmetic.
    """
    there = folder
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    used = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if disk_bytes > free + used:
        raise StorageError(
            f"{folder}: the run needs {disk_bytes / 1e9:,.2f} GB (train.keep_checkpoints and one more while "
            f"saving, model, logs), and there are {free / 1e9:,.2f} GB free and {used / 1e9:,.2f} GB in it "
            "already; free space, lower train.keep_checkpoints or choose another --out"
        )


def _unreadable(checkpoint: Checkpoint, error: OSError | ValueError) -> str:
    reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
    return f"{checkpoint.path / MANIFEST}: {reason[:100]}"


def _has_all_files(checkpoint: Checkpoint) -> bool:
    """All of a check but the digests, which would read every byte."""
    try:
        files = read_manifest(checkpoint).files
        return all((checkpoint.path / name).stat().st_size == entry.bytes for name, entry in files.items())
    except (OSError, ValueError):
        return False


def _remove(path: Path) -> None:
    """Delete a checkpoint so that a kill in between leaves nothing that looks like one."""
    doomed = path.with_name(f"{TEMPORARY_PREFIX}old-{uuid.uuid4().hex}")
    path.rename(doomed)
    shutil.rmtree(doomed)


def _write_synced(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
