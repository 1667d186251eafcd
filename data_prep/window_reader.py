"""Windows of a split, read by place: nothing is mapped, so memory does not grow with what was read.

The shards of all domains are laid end to end, domains in sorted order; a window is named by the place of
its first id there. A batch is read in the order it lies on disk, neighbouring windows in one read. While it
is read, the system is told which windows come next, so that a disk or a server has many requests to work on
at any time. Some file systems ignore such advice: where reads still wait, threads fetch ahead instead.

Shapes: N windows of T ids.
"""

import os
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_prep.errors import DataError
from data_prep.manifest import Domain, Dtype
from data_prep.shard_files import OpenShard, ShardFiles
from data_prep.shards import disk_dtype, shard_header

PIECES_A_TURN = 32
"""Reads between two times that advice is given: both in turn keep the queue of a disk evenly full."""

ADVICE_BYTES = 1 << 17
"""Linux reads no more for one piece of advice than the device's read-ahead, 128 KiB unless set otherwise."""

SLOW_READ_S = 0.5e-3
"""Mean of a batch's requests that is slow: local disks answer in 0.1 ms, network ones in 1."""

SLOW_BATCHES = 3
"""So many slow batches in succession show that advice does not help; threads fetch ahead from then on."""

FETCH_THREADS = 32

Piece = tuple[int, int, int, int]
"""Shard, byte offset in its file, and the first and last + 1 byte of the buffer that it fills."""


class WindowReader:
    """Reads windows of one split of a store. Threads may share it; so may processes after a fork."""

    def __init__(self, folder: Path, domains: Mapping[str, Domain], dtype: Dtype, remedy: str) -> None:
        """`folder` is the split's; `remedy` ends the message about a shard that cannot be read."""
        self._files = ShardFiles(folder, domains, dtype, remedy)
        self._starts, self._remedy = self._files.starts, remedy
        self._disk_dtype, self._header_bytes = disk_dtype(dtype), len(shard_header(0, dtype))
        self._slow_batches = 0
        self._pool: ThreadPoolExecutor | None = None
        self._pool_process = -1
        self._pool_lock = threading.Lock()

    def place(self, domain: str) -> int:
        """Where a domain's first id lies."""
        return self._files.place(domain)

    def ask(self, firsts_N: NDArray[np.int64], length: int) -> None:
        """Tell the system that these windows will be read; does not wait for them. DataError."""
        self._advise(self._pieces(np.sort(firsts_N), length))

    def read(
        self, firsts_N: NDArray[np.int64], length: int, then_N: NDArray[np.int64] | None = None
    ) -> NDArray[np.int32]:
        """The windows that begin at these places, shape (N, length); meanwhile `ask` for those of `then_N`.

        Raises DataError for a shard that is missing, damaged or unreadable.
        """
        order = np.argsort(firsts_N, kind="stable")
        ids = np.empty((len(order), length), dtype=self._disk_dtype)
        pieces = self._pieces(firsts_N[order], length)
        later = [] if then_N is None else self._pieces(np.sort(then_N), length)
        self._read_pieces(ids.reshape(-1).view(np.uint8).data, pieces, later)
        tokens = np.empty(ids.shape, dtype=np.int32)
        tokens[order] = ids
        return tokens

    def _pieces(self, firsts: NDArray[np.int64], length: int) -> list[Piece]:
        """What to read for these windows, sorted: adjacent ones together, but no piece beyond its shard."""
        if len(firsts) == 0:
            return []
        breaks = np.flatnonzero(firsts[1:] != firsts[:-1] + length) + 1
        heads = np.concatenate([[0], breaks])
        begin = firsts[heads]
        end = firsts[np.append(breaks, len(firsts)) - 1] + length
        shard = np.searchsorted(self._starts, begin, side="right") - 1
        last = np.searchsorted(self._starts, end, side="left") - 1
        if np.any(last > shard):
            count = last - shard + 1
            run = np.repeat(np.arange(len(heads)), count)
            shard = shard[run] + np.arange(len(run)) - np.repeat(np.cumsum(count) - count, count)
            heads, start_of_run = heads[run], begin[run]
            begin = np.maximum(start_of_run, self._starts[shard])
            end = np.minimum(end[run], self._starts[shard + 1])
            target = heads * length + begin - start_of_run
        else:
            target = heads * length
        size = self._disk_dtype.itemsize
        offset = self._header_bytes + (begin - self._starts[shard]) * size
        start, stop = target * size, (target + end - begin) * size
        return list(zip(shard.tolist(), offset.tolist(), start.tolist(), stop.tolist(), strict=True))

    def _read_pieces(self, buffer: memoryview, pieces: Sequence[Piece], later: Sequence[Piece]) -> None:
        begun = time.perf_counter()
        turns = -(-len(pieces) // PIECES_A_TURN)
        share = -(-len(later) // turns) if turns else 0
        for turn in range(turns):
            self._advise(later[turn * share : (turn + 1) * share])
            self._fill(buffer, pieces[turn * PIECES_A_TURN : (turn + 1) * PIECES_A_TURN])
        if self._slow_batches < SLOW_BATCHES:
            slow = time.perf_counter() - begun > SLOW_READ_S * (len(pieces) + len(later))
            self._slow_batches = self._slow_batches + 1 if slow else 0

    def _fill(self, buffer: memoryview, pieces: Sequence[Piece]) -> None:
        current, preadv = -1, os.preadv
        for number, offset, start, stop in pieces:
            if number != current:
                shard, current = self._files.get(number), number
                descriptor = shard.descriptor
            try:
                done = preadv(descriptor, [buffer[start:stop]], offset)
            except OSError as error:
                raise self._unreadable(shard, error) from None
            if done < stop - start:
                self._fill_rest(buffer[start + done : stop], shard, offset + done)

    def _fill_rest(self, buffer: memoryview, shard: OpenShard, offset: int) -> None:
        """After a short read, which signals and network file systems may cause, and the end of the file."""
        while buffer:
            try:
                more = os.preadv(shard.descriptor, [buffer], offset)
            except OSError as error:
                raise self._unreadable(shard, error) from None
            if more == 0:
                raise DataError(f"{shard.path}: ends before its last id; {self._remedy}")
            buffer, offset = buffer[more:], offset + more

    def _unreadable(self, shard: OpenShard, error: OSError) -> DataError:
        return DataError(
            f"{shard.path}: cannot be read ({error.strerror}); check the disk, or {self._remedy}"
        )

    def _advise(self, pieces: Sequence[Piece]) -> None:
        if self._slow_batches >= SLOW_BATCHES:
            self._fetch(pieces)
            return
        if not hasattr(os, "posix_fadvise"):
            return
        current, advise, soon = -1, os.posix_fadvise, os.POSIX_FADV_WILLNEED
        for number, offset, start, stop in pieces:
            if number != current:
                shard, current = self._files.get(number), number
                descriptor = shard.descriptor
            size = stop - start
            while size > ADVICE_BYTES:
                advise(descriptor, offset, ADVICE_BYTES, soon)
                offset, size = offset + ADVICE_BYTES, size - ADVICE_BYTES
            advise(descriptor, offset, size, soon)

    def _fetch(self, pieces: Sequence[Piece]) -> None:
        """Let threads read what will be needed; only the system's cache keeps it."""
        pool = self._fetchers()
        for piece in pieces:
            pool.submit(self._fetch_one, piece)

    def _fetch_one(self, piece: Piece) -> None:
        # What is wrong with a shard is told by the read that needs it; nobody asks how this one ended.
        _, _, start, stop = piece
        self._fill(memoryview(bytearray(stop - start)), [(*piece[:2], 0, stop - start)])

    def _fetchers(self) -> ThreadPoolExecutor:
        with self._pool_lock:
            if self._pool is None or self._pool_process != os.getpid():  # threads do not survive a fork
                self._pool, self._pool_process = ThreadPoolExecutor(FETCH_THREADS, "windows"), os.getpid()
            return self._pool
