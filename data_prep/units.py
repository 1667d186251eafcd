"""The unit of work: one input file -> its shards, committed by a record."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.documents import Document
from data_prep.errors import DataError
from data_prep.items import Item
from data_prep.manifest import Domain, Dtype
from data_prep.plan import Record, write_record
from data_prep.readers import HASH_BYTES, REMEDY, Meter
from data_prep.shards import ShardWriter, shard_name, sync_folders
from data_prep.sources import Reader
from data_prep.tokenizers import Tokenizer

BATCH_CHARACTERS = 1 << 20
BATCH_DOCUMENTS = 512
MAX_SHARDS = 256
"""Domains of one input file, at most: each keeps two files open."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One input file to do."""

    item: Item
    located: Path | None
    """Where a local file lies; None for one of the hub."""
    cap: int | None
    """Training tokens, at most; None for no bound."""


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """What every task shares. It is sent to each worker process, so it holds no list of files."""

    store: Path
    plan: str
    """`Plan.key`, which every record carries."""
    reader: Reader
    tokenizer: Tokenizer


@dataclass(kw_only=True)
class Counts:
    """What has been done, for the progress line."""

    input_bytes: int = 0
    documents: int = 0
    tokens: int = 0
    text_bytes: int = 0


Tick = Callable[[Counts], None]
"""Told what was done since the last call; may raise to stop the work."""


def do_task(shop: Workshop, task: Task, tick: Tick) -> Record:
    """Tokenize one input file into its shards and commit them; on any error nothing of it is left."""
    pending = Counts()

    def advance(count: int) -> None:
        pending.input_bytes += count

    meter = Meter(advance)
    before = _stamp(task.located)
    output = _Output(shop, task)
    try:
        documents = shop.reader.documents(task.item, task.located, meter)
        for batch in _batches(documents):
            done = output.add(batch)
            tick(replace(done, input_bytes=pending.input_bytes))
            pending = Counts()
            # A document may be long: none is held while the next is read.
            del batch
            if output.truncated:
                break
        digest, size = _whole_digest(meter, task.located, output.truncated)
        if _stamp(task.located) != before:
            raise DataError(
                f"{task.located}: changed while it was read; "
                "when whatever writes it has ended, run the same command again"
            )
        record = Record(
            path=task.item.path,
            plan=shop.plan,
            input_bytes=size,
            modified_ns=before.modified_ns if before else None,
            sha256=digest,
            cap=task.cap,
            truncated=output.truncated,
            domains=output.commit(),
        )
    finally:
        output.discard()
    write_record(shop.store, task.item, record)
    shop.reader.release(task.item)
    return record


@dataclass(frozen=True, kw_only=True)
class _Stamp:
    """What changes with the content of a file."""

    file: int
    bytes: int
    modified_ns: int


def _stamp(located: Path | None) -> _Stamp | None:
    if located is None:
        return None
    try:
        found = located.stat()
    except OSError as error:
        raise DataError(f"{located}: cannot be read ({error.strerror}); {REMEDY}") from None
    return _Stamp(file=found.st_ino, bytes=found.st_size, modified_ns=found.st_mtime_ns)


def _whole_digest(meter: Meter, located: Path | None, truncated: bool) -> tuple[str, int]:
    """Digest and size of the whole input, also where a bound ended the reading early."""
    if not truncated or located is None:
        return meter.sha256, meter.bytes
    whole = Meter()
    with located.open("rb") as stream:
        while block := stream.read(HASH_BYTES):
            whole.feed(block)
    return whole.sha256, whole.bytes


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.text or "")
        del document
        if size >= BATCH_CHARACTERS or len(batch) >= BATCH_DOCUMENTS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


Key = tuple[str, str]
"""Split and domain."""


@dataclass(kw_only=True)
class _Group:
    """What one batch holds for one split and domain."""

    documents: list[Document] = field(default_factory=list)
    ids: NDArray[Any] = field(default_factory=lambda: np.empty(0, dtype=np.uint32))
    """Ids of all documents, each followed by the end-of-text id."""
    lengths: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    """Ids of each document, its end-of-text id included."""

    def keep(self, count: int) -> None:
        """Only the first `count` documents."""
        self.documents, self.lengths = self.documents[:count], self.lengths[:count]
        self.ids = self.ids[: int(self.lengths.sum())]


@dataclass(kw_only=True)
class _Tally(Counts):
    skipped: int = 0


class _Output:
    """The shards that one input file becomes."""

    def __init__(self, shop: Workshop, task: Task) -> None:
        self._shop, self._task = shop, task
        self._dtype: Dtype = shop.tokenizer.info.dtype
        self._writers: dict[Key, ShardWriter] = {}
        self._tallies: dict[Key, _Tally] = {}
        self._train_left = task.cap
        self.truncated = False

    def add(self, batch: list[Document]) -> Counts:
        """Encode and append a batch, in order, as far as the bound on training tokens allows."""
        groups = self._encoded(batch)
        if self._train_left is not None:
            batch = self._bound(batch, groups, self._train_left)
        for document in batch:
            if document.text is None:
                self._tally((document.split, document.domain)).skipped += 1
        counts = Counts()
        for key, group in groups.items():
            if not group.documents:
                continue
            texts = [document.digest for document in group.documents]
            self._writer(key).append(group.ids, group.lengths, texts)
            for total in (self._tally(key), counts):
                total.documents += len(texts)
                total.tokens += len(group.ids)
                total.text_bytes += sum(document.bytes for document in group.documents)
        return counts

    def _encoded(self, batch: list[Document]) -> dict[Key, _Group]:
        """The batch by split and domain, records without text left out."""
        groups: dict[Key, _Group] = {}
        for document in batch:
            if document.text is not None:
                groups.setdefault((document.split, document.domain), _Group()).documents.append(document)
        end = self._shop.tokenizer.end_of_text
        for group in groups.values():
            texts = [document.text or "" for document in group.documents]
            ids, lengths = self._shop.tokenizer.encode_flat(texts)
            # In the shard's type from here: of a long document there may be hundreds of megabytes.
            ids = ids.astype(self._dtype)
            group.ids = np.insert(ids, np.cumsum(lengths), end)
            group.lengths = lengths + 1
        return groups

    def _bound(self, batch: list[Document], groups: dict[Key, _Group], left: int) -> list[Document]:
        """The batch, and the groups, up to the first training document that exceeds the bound."""
        seen = dict.fromkeys(groups, 0)
        for place, document in enumerate(batch):
            if document.text is None:
                continue
            key = (document.split, document.domain)
            size = int(groups[key].lengths[seen[key]]) if document.split == "train" else 0
            if size > left:
                self.truncated = True
                batch = batch[:place]
                break
            left -= size
            seen[key] += 1
        self._train_left = left
        for key, count in seen.items():
            groups[key].keep(count)
        return batch

    def _tally(self, key: Key) -> _Tally:
        return self._tallies.setdefault(key, _Tally())

    def _writer(self, key: Key) -> ShardWriter:
        if key not in self._writers:
            if len(self._writers) == MAX_SHARDS:
                raise DataError(
                    f"{self._task.item.path}: over {MAX_SHARDS} domains; is --domain-from the right field?"
                )
            self._writers[key] = ShardWriter(self._path(key), self._dtype)
        return self._writers[key]

    def _path(self, key: Key) -> Path:
        return self._shop.store / key[0] / key[1] / shard_name(self._task.item.index)

    def commit(self) -> dict[str, dict[str, Domain]]:
        """Put every shard in place; split -> domain -> what it holds."""
        shards = {key: writer.finish() for key, writer in self._writers.items()}
        for each in self._writers.values():
            each.place()
        sync_folders([self._path(key) for key in shards])
        domains: dict[str, dict[str, Domain]] = {}
        for key, tally in sorted(self._tallies.items()):
            writer = self._writers.get(key)
            domains.setdefault(key[0], {})[key[1]] = Domain(
                documents=tally.documents,
                tokens=tally.tokens,
                bytes=tally.text_bytes,
                skipped=tally.skipped,
                longest=writer.longest if writer else 0,
                lengths=writer.lengths if writer else (),
                shards=(shards[key],) if key in shards else (),
            )
        return domains

    def discard(self) -> None:
        """Remove what is not committed."""
        for writer in self._writers.values():
            writer.discard()
