"""One preparation a folder, or one a share of it: locks that name their holder and die with its process."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from data_prep.errors import StorageError
from data_prep.spec import Share

PATIENCE_S = 2.0
"""How long a lock may be held by one that only looks whether it is free."""


@contextlib.contextmanager
def locked(folder: Path, share: Share | None = None) -> Iterator[None]:
    """Hold `folder` alone, or one share of it beside the holders of others.

    Raises StorageError naming pid@host of the process that holds it.
    """
    with contextlib.ExitStack() as held:
        if share is None:
            held.enter_context(_holding(folder, "lock"))
            for other in sorted(folder.glob("lock-*-of-*")):
                held.enter_context(_holding(folder, other.name))
        else:
            held.enter_context(_holding(folder, f"lock-{share.label}"))
            # Free: whoever takes one of these from now on will find this share's lock held.
            others = [path.name for path in folder.glob("lock-*-of-*")]
            for name in ["lock", *(name for name in others if not name.endswith(f"-of-{share.parts}"))]:
                with _holding(folder, name, announce=False):
                    pass
        yield


@contextlib.contextmanager
def _holding(folder: Path, name: str, announce: bool = True) -> Iterator[None]:
    import filelock

    holder = folder / name.replace("lock", "holder", 1)
    try:
        with filelock.FileLock(folder / name, timeout=PATIENCE_S):
            try:
                if announce:
                    holder.write_text(f"{os.getpid()}@{socket.gethostname()}\n", encoding="utf-8")
                yield
            finally:
                if announce:
                    holder.unlink(missing_ok=True)
    except NotImplementedError:
        raise StorageError(
            f"{folder.parent}: its file system has no file locks; choose an --out on one that has"
        ) from None
    except filelock.Timeout:
        raise StorageError(
            f"{folder.parent}: being prepared by process {_who(holder)}; wait for it, or stop it"
        ) from None


def _who(holder: Path) -> str:
    try:
        return holder.read_text(encoding="utf-8").strip()[:200] or "unknown"
    except OSError:
        return "unknown"
