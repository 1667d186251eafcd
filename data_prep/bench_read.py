"""What reading batches costs: tokens/s and memory from a store that is not in the system's cache.

Beside each figure stands that of bare reads: the same sizes from the same files, as many at a time, in a loop
that does nothing else. What our code costs is the difference; the rest is the disk's.
"""

import ctypes
import mmap
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from data_prep.batches import SAMPLES_AHEAD, Batches
from data_prep.manifest import Domain, Manifest, Shard, Source, TokenizerInfo, write_manifest
from data_prep.shards import ShardWriter, disk_dtype, shard_name
from data_prep.token_store import TokenStore

DOMAINS = ("arxiv", "book", "c4", "cc", "github", "stackexchange", "wikipedia")
TOKENIZER = TokenizerInfo(name="random", sha256="0" * 64, vocab_size=50257, end_of_text=50256)
SHARD_BYTES = (64 << 20, 256 << 20)
"""Smallest and largest shard."""
DOCUMENT_IDS = 1 << 16
DOCUMENTS_A_WRITE = 64
BLOCK_BYTES = 1 << 20
BARE_READS = 1 << 12
HEADER_BYTES = 128

Order = Literal["shuffled", "file"]


@dataclass(frozen=True, kw_only=True)
class ReadTiming:
    """Reading batches one after another, from the first step."""

    order: Order
    sequence: int
    global_batch: int
    tokens: int
    seconds: float
    cached_before: float | None
    """Share of the split in the system's cache at the start; None where unknown."""
    bare_tokens_per_s: float | None
    """Bare reads, from a cold start too; None where the system cannot be asked to read ahead."""

    @property
    def tokens_per_s(self) -> float:
        """Tokens copied into batches a second."""
        return self.tokens / self.seconds


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Of this process, in bytes. 0 where the system does not say."""

    peak: int
    anonymous: int
    files: int


def make_store(folder: Path, size: int, advance: Callable[[int], None] | None = None) -> None:
    """Write a store of about `size` bytes of random ids: seven equal domains in shards of 64 to 256 MB."""
    rng = np.random.default_rng(0)
    done = 0

    def wrote(count: int) -> None:
        nonlocal done
        done += count
        if advance is not None:
            advance(min(done, size))

    item = disk_dtype(TOKENIZER.dtype).itemsize
    documents = max(1, size // len(DOMAINS) // (DOCUMENT_IDS * item))
    domains = {name: _write_domain(folder / "train" / name, documents, rng, wrote) for name in DOMAINS}
    source = Source(name="random", revision=None, inputs=())
    manifest = Manifest(
        dataset="random", tokenizer=TOKENIZER, splits={"train": domains}, source=source, dtype=TOKENIZER.dtype
    )
    write_manifest(folder, manifest)


def _write_domain(
    folder: Path, documents: int, rng: np.random.Generator, wrote: Callable[[int], None]
) -> Domain:
    shards: list[Shard] = []
    bytes_a_document = DOCUMENT_IDS * disk_dtype(TOKENIZER.dtype).itemsize
    left = documents
    while left:
        wanted = int(rng.integers(*SHARD_BYTES)) // bytes_a_document
        # Not a last shard of a few documents.
        count = left if left < wanted + SHARD_BYTES[0] // bytes_a_document else wanted
        writer = ShardWriter(folder / shard_name(len(shards)), TOKENIZER.dtype)
        for start in range(0, count, DOCUMENTS_A_WRITE):
            some = min(DOCUMENTS_A_WRITE, count - start)
            ids = rng.integers(0, TOKENIZER.end_of_text, (some, DOCUMENT_IDS), dtype=np.uint16)
            ids[:, -1] = TOKENIZER.end_of_text
            texts = rng.integers(0, 1 << 63, some).tolist()
            writer.append(ids.reshape(-1), np.full(some, DOCUMENT_IDS), texts)
            wrote(some * bytes_a_document)
        shards.append(writer.finish())
        writer.place()
        left -= count
    tokens = sum(shard.tokens for shard in shards)
    lengths = (*[0] * (DOCUMENT_IDS.bit_length() - 1), documents)
    return Domain(
        documents=documents,
        tokens=tokens,
        bytes=tokens,
        longest=DOCUMENT_IDS,
        lengths=lengths,
        shards=tuple(shards),
    )


def measure_reading(
    path: Path, split: str, *, order: Order, sequence: int, global_batch: int, seconds: float
) -> ReadTiming:
    """Read batches of a store for `seconds`, uniform over its domains, from as cold a start as can be had.

    DataError for a store that is damaged, or whose domains hold no window of `sequence` ids.
    """
    store = TokenStore.open(path)
    files = _files(store, split)
    bare = _bare_tokens_per_s(store, files, order, sequence, seconds)
    cached = cached_share(files) if drop_cached(files) else None
    batches = Batches(
        store,
        split=split,
        domain_weights="uniform",
        global_batch=global_batch,
        sequence=sequence,
        seed=0,
        order=order,
    )
    tokens, step, begun = 0, 0, time.perf_counter()
    while (taken := time.perf_counter() - begun) < seconds:
        step += 1
        tokens += batches.tokens(batches.plan(step)).size
    return ReadTiming(
        order=order,
        sequence=sequence,
        global_batch=global_batch,
        tokens=tokens,
        seconds=taken,
        cached_before=cached,
        bare_tokens_per_s=bare,
    )


def _files(store: TokenStore, split: str) -> list[Path]:
    return [
        store.path / split / name / shard.name
        for name in store.domains(split)
        for shard in store.manifest.splits[split][name].shards
    ]


def drop_cached(files: Sequence[Path]) -> bool:
    """Ask the system to forget what it keeps of these files; False where it cannot be asked."""
    if not hasattr(os, "posix_fadvise"):
        return False
    for file in files:
        with file.open("rb", buffering=0) as stream:
            os.fsync(stream.fileno())  # only what is on disk can be forgotten
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True


def cached_share(files: Sequence[Path]) -> float | None:
    """Share of these files that is in the system's cache; None where there is no mincore to ask."""
    mincore = getattr(ctypes.CDLL(None, use_errno=True), "mincore", None)
    if mincore is None:
        return None
    resident = pages = 0
    for file in files:
        # A private mapping, because numpy gives the address of writable memory only; nothing touches it.
        with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
            memory = np.frombuffer(mapped, dtype=np.uint8)
            states = np.zeros(-(-len(memory) // mmap.PAGESIZE), dtype=np.uint8)
            address, length = ctypes.c_void_p(memory.ctypes.data), ctypes.c_size_t(len(memory))
            failed = mincore(address, length, ctypes.c_void_p(states.ctypes.data)) != 0
            del memory  # or the mapping could not be closed
        if failed:
            return None
        resident, pages = resident + int(np.count_nonzero(states & 1)), pages + len(states)
    return resident / pages


def _bare_tokens_per_s(
    store: TokenStore, files: Sequence[Path], order: Order, sequence: int, seconds: float
) -> float | None:
    if not drop_cached(files):
        return None
    item = disk_dtype(store.manifest.dtype).itemsize
    with ExitStack() as stack:
        opened = [stack.enter_context(file.open("rb", buffering=0)).fileno() for file in files]
        read = _bare_sequential if order == "file" else _bare_random
        done, taken, begun = 0, 0.0, time.perf_counter()
        for count in read(opened, sequence * item):
            done, taken = done + count, time.perf_counter() - begun
            if taken > seconds:
                break
    return done / item / taken


def _bare_sequential(files: Sequence[int], _: int) -> Iterator[int]:
    buffer = bytearray(BLOCK_BYTES)
    for file in files:
        place = 0
        while count := os.preadv(file, [buffer], place):
            place += count
            yield count


def _bare_random(files: Sequence[int], size: int) -> Iterator[int]:
    """Windows of `size` bytes anywhere in the files, each asked for `SAMPLES_AHEAD` others earlier."""
    rng = np.random.default_rng(1)
    windows = np.array([(os.fstat(file).st_size - HEADER_BYTES) // size for file in files])
    for file in files:
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
    buffer = [bytearray(size)]
    queue: deque[tuple[int, int]] = deque()
    while True:
        which = rng.choice(len(files), BARE_READS, p=windows / windows.sum())
        places = HEADER_BYTES + rng.integers(0, windows[which]) * size
        for file, place in zip(np.take(files, which).tolist(), places.tolist(), strict=True):
            os.posix_fadvise(file, place, size, os.POSIX_FADV_WILLNEED)
            queue.append((file, place))
            if len(queue) > SAMPLES_AHEAD:
                os.preadv(queue[0][0], buffer, queue.popleft()[1])
        yield BARE_READS * size


def process_memory() -> Memory:
    """What this process holds; the peak is since its start."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return Memory(peak=_peak_elsewhere(), anonymous=0, files=0)
    fields = {line.partition(":")[0]: line.partition(":")[2].split() for line in lines}
    peak, anonymous, files = (int(fields[name][0]) << 10 for name in ("VmHWM", "RssAnon", "RssFile"))
    return Memory(peak=peak, anonymous=anonymous, files=files)


def _peak_elsewhere() -> int:
    import resource
    import sys

    # ru_maxrss counts bytes on macOS, kilobytes on Linux, where it would also hold a forking parent's.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
