"""One preparation a folder: a lock that names its holder and dies with its process."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from data_prep.errors import StorageError


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder`/lock, or raise StorageError naming pid@host of the process that does."""
    import filelock

    holder = folder / "holder"
    try:
        with filelock.FileLock(folder / "lock", timeout=0):
            try:
                holder.write_text(f"{os.getpid()}@{socket.gethostname()}\n", encoding="utf-8")
                yield
            finally:
                holder.unlink(missing_ok=True)
    except filelock.Timeout:
        raise StorageError(
            f"{folder.parent}: being prepared by process {_who(holder)}; wait for it, or stop it"
        ) from None


def _who(holder: Path) -> str:
    try:
        return holder.read_text(encoding="utf-8").strip()[:200] or "unknown"
    except OSError:
        return "unknown"
