"""Open shards: checked when they are opened, a bounded number of them at a time."""

import os
import resource
import stat
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NoReturn

import numpy as np

from data_prep.errors import DataError
from data_prep.manifest import Domain, Dtype
from data_prep.shards import check_shard, disk_dtype, shard_header

MAX_OPEN_FILES = 1024
"""Descriptors kept at a time, where the process may have several times as many."""

CHECK_THREADS = 32
"""Shards checked at once: opening one waits for a disk or a server, not for this process."""

SHARDS_A_TASK = 64


class OpenShard:
    """One shard's descriptor, closed when the last user lets go of it."""

    __slots__ = ("descriptor", "path")

    def __init__(self, path: Path, tokens: int, dtype: Dtype) -> None:
        """Open and check. DataError saying what is wrong with the file."""
        self.path, self.descriptor = path, open_checked(path, tokens, dtype)

    def __del__(self) -> None:
        # Missing where opening it failed.
        if (descriptor := getattr(self, "descriptor", None)) is not None:
            os.close(descriptor)


class ShardFiles:
    """The shards of a split by number, opened when they are first asked for, the least recently used closed.

    Numbers go through the domains in sorted order, and through each one's shards. Threads may share one. A
    fork may too: reads name their place, so no file position is shared.
    """

    def __init__(self, folder: Path, domains: Mapping[str, Domain], dtype: Dtype, remedy: str) -> None:
        """`folder` is the split's; `remedy` ends the message about a shard that cannot be opened."""
        self._folder, self._domains, self._dtype, self._remedy = folder, domains, dtype, remedy
        self._names = sorted(domains)
        self._firsts_K = np.cumsum([0, *(len(domains[name].shards) for name in self._names)])
        tokens = (shard.tokens for name in self._names for shard in domains[name].shards)
        sizes = np.fromiter(tokens, dtype=np.int64, count=int(self._firsts_K[-1]))
        self.starts = np.concatenate([[0], np.cumsum(sizes)])
        """Where each shard's first id lies when all are laid end to end, and their sum."""
        self._most = _allowed_files()
        self._held: OrderedDict[int, OpenShard] = OrderedDict()
        self._lock = threading.Lock()

    def place(self, domain: str) -> int:
        """Where a domain's first id lies."""
        return int(self.starts[self._firsts_K[self._names.index(domain)]])

    def get(self, number: int) -> OpenShard:
        """The open shard; keep the answer while its descriptor is in use. DataError."""
        with self._lock:
            held = self._held.get(number)
            if held is not None:
                self._held.move_to_end(number)
                return held
        opened = self._open(number)
        with self._lock:
            self._held[number] = opened
            dropped = self._held.popitem(last=False)[1] if len(self._held) > self._most else None
        # Closed here, if nobody reads it, and not under the lock: a network file system may take its time.
        del dropped
        return opened

    def _open(self, number: int) -> OpenShard:
        k = int(np.searchsorted(self._firsts_K, number, side="right")) - 1
        shard = self._domains[self._names[k]].shards[number - int(self._firsts_K[k])]
        try:
            opened = OpenShard(self._folder / self._names[k] / shard.name, shard.tokens, self._dtype)
        except DataError as error:
            raise DataError(f"{error}; {self._remedy}") from None
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(opened.descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        return opened


def _allowed_files() -> int:
    """A quarter of what this process may open: others in it need files too."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_OPEN_FILES if soft == resource.RLIM_INFINITY else max(1, min(MAX_OPEN_FILES, soft // 4))


def open_checked(path: Path | str, tokens: int, dtype: Dtype) -> int:
    """A descriptor of a shard whose header and size are right, as `check_shard` wants them. DataError."""
    try:
        # Non-blocking: opening a pipe would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        _explain(Path(path), tokens, dtype, error.strerror)
    good = False
    try:
        good = _is_shard(descriptor, tokens, dtype)
    except OSError as error:
        _explain(Path(path), tokens, dtype, error.strerror)
    finally:
        if not good:
            os.close(descriptor)
    if not good:
        _explain(Path(path), tokens, dtype, "it changed meanwhile")
    return descriptor


def _is_shard(descriptor: int, tokens: int, dtype: Dtype) -> bool:
    header = shard_header(tokens, dtype)
    status = os.fstat(descriptor)
    return (
        stat.S_ISREG(status.st_mode)
        and status.st_size == len(header) + tokens * disk_dtype(dtype).itemsize
        and os.pread(descriptor, len(header), 0) == header
    )


def _explain(path: Path, tokens: int, dtype: Dtype, reason: str | None) -> NoReturn:
    check_shard(path, tokens, dtype)
    raise DataError(f"{path}: cannot be read ({reason})")


def check_shards(shards: Iterable[tuple[str, int]], dtype: Dtype) -> None:
    """Check header and size of (path, tokens) shards, many at a time. DataError for the first wrong one."""
    rest = iter(shards)
    tasks = iter(lambda: list(islice(rest, SHARDS_A_TASK)), [])
    first = next(tasks, [])
    if len(first) < SHARDS_A_TASK:
        _check_each(first, dtype)
        return
    _check_each(first, dtype)
    with ThreadPoolExecutor(CHECK_THREADS, thread_name_prefix="shards") as pool:
        try:
            for _ in pool.map(lambda task: _check_each(task, dtype), tasks):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _check_each(shards: Sequence[tuple[str, int]], dtype: Dtype) -> None:
    for path, tokens in shards:
        os.close(open_checked(path, tokens, dtype))
