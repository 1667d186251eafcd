"""The unit of work: one input file -> its shards, committed by a record."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.documents import Document
from data_prep.errors import DataError
from data_prep.items import Item
from data_prep.manifest import Domain, Dtype
from data_prep.plan import Record, write_record
from data_prep.readers import HASH_BYTES, Meter
from data_prep.shards import ShardWriter, shard_name
from data_prep.sources import Source
from data_prep.tokenizers import Tokenizer

BATCH_CHARACTERS = 1 << 20
BATCH_DOCUMENTS = 512
MAX_SHARDS = 256
"""Domains of one input file, at most: each keeps a file open."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One input file to do."""

    item: Item
    cap: int | None
    """Training tokens, at most; None for no bound."""


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """What every task shares."""

    store: Path
    source: Source
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
    located = shop.source.locate(task.item)
    modified = _modified_ns(located)
    output = _Output(shop, task)
    try:
        documents = shop.source.documents(task.item, meter)
        for batch in _batches(documents):
            done = output.add(batch)
            tick(replace(done, input_bytes=pending.input_bytes))
            pending = Counts()
            if output.truncated:
                break
        digest, size = _whole_digest(meter, located, output.truncated)
        record = Record(
            path=task.item.path,
            input_bytes=size,
            modified_ns=modified,
            sha256=digest,
            cap=task.cap,
            truncated=output.truncated,
            domains=output.commit(),
        )
    finally:
        output.discard()
    write_record(shop.store, task.item, record)
    shop.source.release(task.item)
    return record


def _modified_ns(located: Path | None) -> int | None:
    if located is None:
        return None
    try:
        return located.stat().st_mtime_ns
    except OSError as error:
        raise DataError(f"{located}: cannot be read ({error.strerror})") from None


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
        if size >= BATCH_CHARACTERS or len(batch) >= BATCH_DOCUMENTS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


@dataclass(kw_only=True)
class _Tally(Counts):
    skipped: int = 0


class _Output:
    """The shards that one input file becomes."""

    def __init__(self, shop: Workshop, task: Task) -> None:
        self._shop, self._task = shop, task
        self._dtype: Dtype = shop.tokenizer.info.dtype
        self._end = np.array([shop.tokenizer.end_of_text], dtype=np.uint32)
        self._writers: dict[tuple[str, str], ShardWriter] = {}
        self._tallies: dict[tuple[str, str], _Tally] = {}
        self._train_tokens = 0
        self.truncated = False

    def add(self, batch: list[Document]) -> Counts:
        """Encode and append a batch, in order, as far as the bound on training tokens allows."""
        texts = [document for document in batch if document.text is not None]
        encoded = iter(self._shop.tokenizer.encode_batch([document.text or "" for document in texts]))
        grouped: dict[tuple[str, str], list[np.ndarray[Any, Any]]] = {}
        counts = Counts()
        for document in batch:
            key = (document.split, document.domain)
            if document.text is None:
                self._tally(key).skipped += 1
                continue
            ids = next(encoded)
            size = len(ids) + 1
            if document.split == "train" and self._task.cap is not None:
                if self._train_tokens + size > self._task.cap:
                    self.truncated = True
                    break
                self._train_tokens += size
            grouped.setdefault(key, []).extend((ids, self._end))
            for total in (self._tally(key), counts):
                total.documents += 1
                total.tokens += size
                total.text_bytes += document.bytes
        for key, pieces in grouped.items():
            self._writer(key).append(np.concatenate(pieces), len(pieces) // 2)
        return counts

    def _tally(self, key: tuple[str, str]) -> _Tally:
        return self._tallies.setdefault(key, _Tally())

    def _writer(self, key: tuple[str, str]) -> ShardWriter:
        if key not in self._writers:
            if len(self._writers) == MAX_SHARDS:
                raise DataError(
                    f"{self._task.item.path}: over {MAX_SHARDS} domains; is --domain-from the right field?"
                )
            split, domain = key
            path = self._shop.store / split / domain / shard_name(self._task.item.index)
            self._writers[key] = ShardWriter(path, self._dtype)
        return self._writers[key]

    def commit(self) -> dict[str, dict[str, Domain]]:
        """Put every shard in place; split -> domain -> what it holds."""
        shards = {key: writer.finish() for key, writer in self._writers.items()}
        for writer in self._writers.values():
            writer.place()
        domains: dict[str, dict[str, Domain]] = {}
        for key, tally in sorted(self._tallies.items()):
            domains.setdefault(key[0], {})[key[1]] = Domain(
                documents=tally.documents,
                tokens=tally.tokens,
                bytes=tally.text_bytes,
                skipped=tally.skipped,
                shards=(shards[key],) if key in shards else (),
            )
        return domains

    def discard(self) -> None:
        """Remove what is not committed."""
        for writer in self._writers.values():
            writer.discard()
