"""The ranks that save and load together, and the folder that they must share."""

import json
import shutil
import socket
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data_prep.files import sync_folder
from reproduce.errors import StorageError
from reproduce.training.checkpoint_files import TEMPORARY_PREFIX, clear


def _alone(text: str) -> list[str]:
    return [text]


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Who trains together, and how they talk."""

    rank: int = 0
    world: int = 1
    exchange: Callable[[str], list[str]] = _alone
    """Every rank's text, in rank order, the same on all; through host memory. A collective."""


ALONE = Ranks()


class NotSharedError(Exception):
    """This rank does not see what another has written."""

    def __init__(self, folder: Path, rank: int) -> None:
        """`folder` is the checkpoints' folder as `rank`, this one, knows it."""
        super().__init__(
            f"{folder}: rank {rank} on {socket.gethostname()} does not see what another rank has written "
            "there; the run folder must lie on storage that all nodes share (--out)"
        )


def check_shared(folder: Path, ranks: Ranks) -> None:
    """Make the folder and see that all ranks see the same one; a collective, for before step 1.

    Raises:
        StorageError: on all ranks.
    """
    token, failure = uuid.uuid4().hex, ""
    if ranks.rank == 0:
        try:
            make_folder(folder)
            (folder / f"{TEMPORARY_PREFIX}{token}").mkdir()
        except OSError as error:
            failure = str(error)
    token, failure = json.loads(ranks.exchange(json.dumps([token, failure]))[0])
    probe = folder / f"{TEMPORARY_PREFIX}{token}"
    if not failure and not probe.is_dir():
        failure = str(NotSharedError(folder, ranks.rank))
    failures = [text for text in map(json.loads, ranks.exchange(json.dumps(failure))) if text]
    if ranks.rank == 0:
        shutil.rmtree(probe, ignore_errors=True)
    if failures:
        raise StorageError(failures[0])


def discard_temporaries(folder: Path, ranks: Ranks = ALONE) -> None:
    """Remove what a killed save left behind, before anything is read; a collective.

    Raises:
        StorageError: on all ranks; it cannot be removed.
    """
    failure = ""
    if ranks.rank == 0:
        try:
            clear(folder)
        except OSError as error:
            failure = f"{error}: left by a killed save and cannot be removed; remove it by hand"
    failure = json.loads(ranks.exchange(json.dumps(failure))[0])
    if failure:
        raise StorageError(failure)


def make_folder(folder: Path) -> None:
    """Make a folder that survives a power cut (OSError: cannot)."""
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        sync_folder(folder.parent)
