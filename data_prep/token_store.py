"""A token store: what it holds, verification, and a writer for small stores.

Layout: DIR/manifest.json, DIR/tokenizer.json and DIR/<split>/<domain>/<NNNNN>.npy, each a standard
one-dimensional .npy of uint16 or uint32 ids in which every document ends with the end-of-text id.
With data_prep.shards, shard_files, window_reader and manifest, the only code that knows these bytes.
Deciding what goes into a batch is data_prep.batches' business.
"""

import functools
import hashlib
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.errors import DataError
from data_prep.files import check_name, sha256_file, write_text_atomically
from data_prep.manifest import (
    MANIFEST_NAME,
    TOKENIZER_FILE,
    Domain,
    Manifest,
    Shard,
    Source,
    TokenizerInfo,
    read_manifest,
    repair_command,
    write_manifest,
)
from data_prep.shard_files import check_shards
from data_prep.shards import (
    DOCUMENTS_DTYPE,
    START,
    ShardWriter,
    check_documents,
    check_shard,
    documents_path,
    read_documents_of,
    shard_name,
)
from data_prep.window_reader import WindowReader

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing wrong with a store."""

    path: Path
    what: str
    remedy: str


class TokenStore:
    """A prepared data set. Make one with `TokenStore.open`."""

    path: Path
    manifest: Manifest

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path, self.manifest = path, manifest
        self._readers: dict[str, WindowReader] = {}

    @classmethod
    def open(cls, path: Path) -> "TokenStore":
        """Open the store in folder `path`; every shard's presence, size and header are checked.

        Raises DataError, naming the remedy, if the store is missing, unfinished or damaged.
        """
        store = cls(path, read_manifest(path))
        try:
            check_shards(
                (
                    (f"{path}/{split}/{name}/{shard.name}", shard.tokens)
                    for split, domains in store.manifest.splits.items()
                    for name, domain in domains.items()
                    for shard in domain.shards
                ),
                store.manifest.dtype,
            )
        except DataError as error:
            raise DataError(f"{error}; {repair_command(path)}") from None
        return store

    @property
    def fingerprint(self) -> str:
        """sha256, in hex, of what decides every token of the store."""
        return self.manifest.fingerprint

    def domains(self, split: str) -> tuple[str, ...]:
        """The domains of a split, sorted. DataError if there is no such split."""
        if split not in self.manifest.splits:
            have = ", ".join(sorted(self.manifest.splits)) or "none"
            raise DataError(f"{self.path}: no split '{split}'; it has {have}")
        return tuple(sorted(self.manifest.splits[split]))

    def tokens(self, split: str, domain: str) -> int:
        """Number of ids of a domain, end-of-text ids included."""
        return self._entry(split, domain).tokens

    def windows(self, split: str, domain: str, length: int) -> int:
        """Number of whole windows of `length` ids; the tail is dropped."""
        if length < 1:
            raise ValueError(f"a window has at least one token, not {length}")
        return self.tokens(split, domain) // length

    def read_windows(
        self, split: str, domain: str, indices: NDArray[np.integer[Any]], length: int
    ) -> NDArray[np.int32]:
        """Windows by number, shape (len(indices), length), int32.

        Window i is ids [i * length, (i + 1) * length) of the domain's shards laid end to end.
        Raises IndexError for a window that does not exist.
        """
        have = self.windows(split, domain, length)
        wanted = np.asarray(indices, dtype=np.int64)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= have):
            raise IndexError(f"{split}/{domain} has windows 0 to {have - 1}, asked for {wanted.max()}")
        reader = self.reader(split)
        return reader.read(reader.place(domain) + wanted * length, length)

    def reader(self, split: str) -> WindowReader:
        """The reader of a split's windows. DataError if there is no such split."""
        reader = self._readers.get(split)
        if reader is None:
            self.domains(split)
            reader = self._readers[split] = WindowReader(
                self.path / split, self.manifest.splits[split], self.manifest.dtype, repair_command(self.path)
            )
        return reader

    def document_starts(self, split: str, domain: str) -> NDArray[np.int64]:
        """Where the documents of a domain begin, shape (documents,): places in its shards laid end to end.

        Windows may cross them; this is for those who want windows or attention that do not. 8 bytes a
        document. DataError if a file of starts is missing or of another size.
        """
        starts, before = [np.empty(0, dtype=np.int64)], 0
        for shard in self._entry(split, domain).shards:
            rows = read_documents_of(self.path / split / domain / shard.name, shard.documents)
            starts.append(rows[:, START].astype(np.int64) + before)
            before += shard.tokens
        return np.concatenate(starts)

    def verify(self, progress: Progress | None = None, splits: Iterable[str] | None = None) -> list[Problem]:
        """Read every byte of the store, or of some splits, against its digests; an empty list is good."""
        return verify_store(self.path, progress, splits)

    def _entry(self, split: str, domain: str) -> Domain:
        if domain not in self.domains(split):
            have = ", ".join(self.domains(split)) or "none"
            raise DataError(f"{self.path}: split '{split}' has no domain '{domain}'; it has {have}")
        return self.manifest.splits[split][domain]

    def _shards(self) -> list[tuple[Path, Shard]]:
        return [
            (self.path / split / name, shard)
            for split, domains in self.manifest.splits.items()
            for name, domain in domains.items()
            for shard in domain.shards
        ]


def verify_store(
    path: Path, progress: Progress | None = None, splits: Iterable[str] | None = None
) -> list[Problem]:
    """Read every byte of the store in `path` against its digests, and look for files it does not name.

    A damaged manifest is the one problem reported; DataError only if there is no manifest at all.
    """
    if not (path / MANIFEST_NAME).exists():
        read_manifest(path)
    try:
        store = TokenStore(path, read_manifest(path))
    except DataError as error:
        return [Problem(path=path / MANIFEST_NAME, what=str(error), remedy=repair_command(path))]
    chosen = set(store.manifest.splits if splits is None else splits)
    for split in chosen:
        store.domains(split)
    shards = [(f, s) for f, s in store._shards() if f.parent.name in chosen]
    size = np.dtype(store.manifest.dtype).itemsize
    total = sum(s.tokens * size + s.documents * DOCUMENTS_DTYPE.itemsize * 2 for _, s in shards)
    problems = _tokenizer_problems(store)
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(min(done, total), total)

    known: set[Path] = set()
    for folder, shard in shards:
        ids = folder / shard.name
        starts = documents_path(ids)
        known |= {ids, starts}
        check_ids = functools.partial(check_shard, ids, shard.tokens, store.manifest.dtype)
        check_starts = functools.partial(check_documents, ids, shard.documents)
        for file, digest, check in (
            (ids, shard.sha256, check_ids),
            (starts, shard.documents_sha256, check_starts),
        ):
            wrong = _file_problem(file, digest, check, advance)
            if wrong:
                problems.append(Problem(path=file, what=wrong, remedy=repair_command(path)))
    for split in sorted(chosen):
        strays = sorted(set((path / split).glob("*/*")) - known)
        problems += [Problem(path=p, what="not in the manifest", remedy=repair_command(path)) for p in strays]
    return problems


def _tokenizer_problems(store: TokenStore) -> list[Problem]:
    expected, file = store.manifest.tokenizer.file_sha256, store.path / TOKENIZER_FILE
    if expected is None or (file.is_file() and sha256_file(file) == expected):
        return []
    what = "changed since it was written" if file.is_file() else "missing"
    return [Problem(path=file, what=what, remedy=repair_command(store.path))]


def _file_problem(
    path: Path, digest: str, check: Callable[[], int], advance: Callable[[int], None]
) -> str | None:
    if path.is_symlink():
        return "is a link, not a file"
    try:
        check()
        found = sha256_file(path, advance)
    except DataError as error:
        return str(error).removeprefix(f"{path}: ")
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None if found == digest else f"content changed: sha256 {found[:12]}…, not {digest[:12]}…"


def write_store(
    path: Path,
    tokens: Mapping[str, Mapping[str, Sequence[NDArray[Any]]]],
    *,
    tokenizer: TokenizerInfo,
    dataset: str = "tiny",
    tokenizer_json: str | None = None,
) -> TokenStore:
    """Write a small store from ids in memory and open it.

    `tokens[split][domain]` lists the domain's shards, each of shape (n,); a document ends with each
    end-of-text id and with the shard, and an id counts as a byte of text because there is no text.
    """
    for split, domains in tokens.items():
        check_name(split, "split")
        for domain in domains:
            check_name(domain, "domain")
    splits = {
        split: {
            domain: _write_domain(path / split / domain, shards, tokenizer)
            for domain, shards in domains.items()
        }
        for split, domains in tokens.items()
    }
    if tokenizer_json is not None:
        write_text_atomically(path / TOKENIZER_FILE, tokenizer_json)
        tokenizer = replace(tokenizer, file_sha256=sha256_file(path / TOKENIZER_FILE))
    source = Source(name="memory", revision=None, inputs=())
    write_manifest(
        path,
        Manifest(dataset=dataset, tokenizer=tokenizer, splits=splits, source=source, dtype=tokenizer.dtype),
    )
    return TokenStore.open(path)


def _digest(ids: NDArray[Any]) -> int:
    """Stands for the digest of a text that there is not, without the library that makes those."""
    return int.from_bytes(hashlib.blake2b(ids.tobytes(), digest_size=8).digest(), "little")


def _write_domain(folder: Path, shards: Sequence[NDArray[Any]], tokenizer: TokenizerInfo) -> Domain:
    writers = [ShardWriter(folder / shard_name(index), tokenizer.dtype) for index in range(len(shards))]
    for writer, ids in zip(writers, shards, strict=True):
        ends = np.flatnonzero(np.append(ids[:-1], tokenizer.end_of_text) == tokenizer.end_of_text) + 1
        documents = np.split(ids, ends[:-1])
        texts = [_digest(each) for each in documents]
        writer.append(ids, np.diff(ends, prepend=0), texts)
    written = [writer.finish() for writer in writers]
    for writer in writers:
        writer.place()
    total = sum(shard.tokens for shard in written)
    lengths = itertools.zip_longest(*(writer.lengths for writer in writers), fillvalue=0)
    return Domain(
        documents=sum(shard.documents for shard in written),
        tokens=total,
        bytes=total,
        skipped=0,
        longest=max(writer.longest for writer in writers),
        lengths=tuple(sum(each) for each in lengths),
        shards=tuple(written),
    )
