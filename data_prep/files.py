"""Files that are complete or absent: atomic writes, digests, and names that cannot leave their folder."""

import contextlib
import errno
import hashlib
import json
import os
import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from data_prep.errors import DataError, StorageError

NAME = re.compile(r"[A-Za-z0-9._-]{1,96}")
"""What a data set, split or domain may be called: it becomes a folder."""

TEMPORARY = ".tmp"
"""Suffix of a file that is being written. Nothing reads such a file; a rerun deletes it."""

BLOCK_BYTES = 1 << 20


def is_safe_name(name: str) -> bool:
    """Whether `name` can be a folder inside a root without leaving it."""
    return NAME.fullmatch(name) is not None and name not in (".", "..")


def check_name(name: object, what: str) -> str:
    """Return `name` if it is safe as a folder name; DataError otherwise."""
    if isinstance(name, str) and is_safe_name(name):
        return name
    raise DataError(f"{what} {str(name)[:100]!r} is not a name: use 1 to 96 of A-Z a-z 0-9 . _ -")


def canonical_json(document: object) -> str:
    """One spelling for equal documents, so that digests of them agree."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)


def sha256_text(text: str) -> str:
    """sha256, in hex, of the text's UTF-8 bytes."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def sha256_file(path: Path, advance: Callable[[int], None] | None = None) -> str:
    """sha256, in hex, of a file's bytes; `advance` is told the size of each block read."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(BLOCK_BYTES):
            digest.update(block)
            if advance is not None:
                advance(len(block))
    return digest.hexdigest()


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """A file that appears at `path`, complete and synced, when the block ends without an error.

    On an error the temporary file is removed and `path` is as it was.

    Raises StorageError where `path` is there and no file: a rename would replace a device or a pipe.
    """
    if path.exists() and not path.is_file():
        raise StorageError(f"{path}: is there and is no ordinary file; choose another name")
    # Not the process id: on a shared folder processes of two machines may have the same.
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}{TEMPORARY}")
    try:
        with temporary.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):  # of a folder that refused the file itself
            temporary.unlink(missing_ok=True)
        # A full disk's error names no file, the others the temporary one.
        error.filename = str(path)
        raise
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def create_text_atomically(path: Path, text: str) -> None:
    """Write a small UTF-8 text file unless there is one: of several that try at once, one wins."""
    # Two names of one file: unlike a rename, a link never replaces what is there.
    private = path.with_name(f"{path.name}.{uuid.uuid4().hex}{TEMPORARY}")
    write_text_atomically(private, text)
    try:
        os.link(private, path)
    except FileExistsError:
        pass
    except OSError:
        # A file system without hard links.
        if not path.exists():
            private.replace(path)
    finally:
        private.unlink(missing_ok=True)
    sync_folder(path.parent)


def read_ordinary_file(path: Path) -> bytes:
    """The bytes of an ordinary file; OSError for a pipe or device too, which would block or never end."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not an ordinary file", str(path))
    return path.read_bytes()


def write_text_atomically(path: Path, text: str) -> None:
    """Write a small UTF-8 text file so that a reader sees the old content or the new, never a part."""
    with atomic_file(path) as stream:
        stream.write(text.encode("utf-8"))
