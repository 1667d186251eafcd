"""One writer of a results.json at a time. Loads without torch."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from data_prep.errors import StorageError

PATIENCE_S = 60.0
"""A writer is done in milliseconds, on a slow file system in seconds."""


@contextmanager
def sole_writer(results: Path) -> Iterator[None]:
    """Hold others off a results.json while it is read, changed and written; its folder is made.

    Two evaluations of one run may end a task together, and each would write what the other has not seen.

    Raises:
        StorageError: another process holds it.
        OSError: the folder cannot be written.
    """
    results.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(results.with_name(".results.lock"), timeout=PATIENCE_S)
    try:
        lock.acquire()
    except Timeout:
        raise StorageError(
            f"{results}: another process has been writing it for {PATIENCE_S:.0f} s; end that one and run "
            "the same command again: the records are kept"
        ) from None
    try:
        yield
    finally:
        lock.release()
