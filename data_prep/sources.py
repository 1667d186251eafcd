"""Where documents come from: local files, a hub data set, or the embedded corpus.

A source is a list of items (input files, each of one split) and a reader of one item's documents. Item
order is fixed by split and path (or a seed), so what a store holds never depends on who reads which item.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from data_prep import embedded, hub
from data_prep.documents import Document, RecordRule, document_of, read_documents
from data_prep.errors import DataError, RevisionError, UserError
from data_prep.items import Found, Item, find_local, folder_domain, number_items, split_of
from data_prep.layouts import LAYOUTS, HubDataset, Layout, hub_dataset, select
from data_prep.readers import KNOWN_SUFFIXES, Meter, kind_of
from data_prep.spec import PrepSpec

SAMPLE_BYTES = 32 << 20
"""Text that a bpe:VOCAB tokenizer is trained on, spread evenly over the training files."""
SAMPLE_DOCUMENT = 1 << 22
"""Characters of one document in the sample, at most: the trainer holds many times what it gets at once."""
SAMPLE_FILES = 256
SAMPLE_HUB_FILES = 4
"""Files the sample is taken from, at most: a hub file must be downloaded first."""

REMEDY = "mend that and run the same command again, or give local files with --input DIR"


class Reader(Protocol):
    """Reads one item's documents. Small and picklable: each worker process has its own."""

    def documents(self, item: Item, located: Path | None, meter: Meter) -> Iterator[Document]:
        """The item's documents in order; the meter has seen all of it when they are exhausted."""

    def release(self, item: Item) -> None:
        """Free what `documents` fetched, once the item's shards are committed."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """What there is to prepare."""

    name: str
    revision: str | None
    """Commit of the hub repository; None for files of this machine."""
    items: tuple[Item, ...]
    reader: Reader
    held_out_per_10000: int
    sample_seed: int | None = None
    files: Mapping[str, Path] = field(default_factory=dict)
    """Item path -> where a local file lies; empty for items that are no files of this machine."""

    def locate(self, item: Item) -> Path | None:
        """Where a local file lies; None for an item that is no file of this machine."""
        return self.files.get(item.path)


@dataclass(frozen=True, kw_only=True)
class LocalReader:
    """Reads files of this machine as streams."""

    rule: RecordRule
    held_out_per_10000: int

    def documents(self, item: Item, located: Path | None, meter: Meter) -> Iterator[Document]:
        """Read one file as a stream."""
        if located is None:
            raise AssertionError(f"{item.path} has no place on this machine")
        return read_documents(located, item, self.rule, self.held_out_per_10000, meter)

    def release(self, item: Item) -> None:
        """Nothing to free: the file is the user's."""


@dataclass(frozen=True, kw_only=True)
class HubReader:
    """Downloads a file of a hub data set at one commit, and reads it as a stream."""

    repository: str
    commit: str
    rule: RecordRule
    held_out_per_10000: int
    downloads: Path
    """Folder for the files in flight."""
    keep: bool

    def documents(self, item: Item, located: Path | None, meter: Meter) -> Iterator[Document]:
        """Download one file and read it as a stream."""
        path = hub.download(
            self.repository,
            "dataset",
            self.commit,
            item.path,
            "run the same command again to continue, or read local files with --input",
            folder=self.downloads,
            sha256=item.sha256,
            size=item.bytes,
            keep=self.keep,
        )
        return read_documents(path, item, self.rule, self.held_out_per_10000, meter)

    def release(self, item: Item) -> None:
        """Delete the downloaded file; one that the client's cache holds stays there."""
        (self.downloads / item.path).unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True)
class EmbeddedReader:
    """Reads the text that comes with Python; each domain is an item."""

    def documents(self, item: Item, located: Path | None, meter: Meter) -> Iterator[Document]:
        """One domain's documents, both splits."""
        for each in embedded.read_domain(item.path):
            data = each.text.encode("utf-8")
            meter.feed(data)
            yield document_of(each.text, data, item.path, "validation" if each.held_out else "train")

    def release(self, item: Item) -> None:
        """Nothing to free."""


def open_source(spec: PrepSpec, downloads: Path) -> Source:
    """The source of a preparation.

    Hub files come to `downloads` and are deleted one by one as their shards are committed.

    Raises UserError, DataError or HubError with the remedy.
    """
    if spec.dataset == "embedded":
        return _embedded(spec)
    layout = LAYOUTS[spec.dataset]
    if spec.inputs:
        return _local(spec, layout)
    known = hub_dataset(spec)
    if known is None:
        raise UserError(f"{spec.dataset} needs --input FILE_OR_FOLDER, or --repo OWNER/NAME of the hub")
    return _hub(spec, layout, known, downloads)


def _rule(spec: PrepSpec, layout: Layout) -> RecordRule:
    own = layout.rule
    if spec.domain_from:
        return RecordRule(text=spec.text_from, domain=spec.domain_from)
    return RecordRule(text=spec.text_from, domain=own.domain, names=own.names)


def _local(spec: PrepSpec, layout: Layout) -> Source:
    rule = _rule(spec, layout)

    def domain_of(path: str, fallback: str) -> str | None:
        return None if rule.domain else layout.domain or folder_domain(path, fallback)

    found, files = find_local(spec.inputs, domain_of)
    items = _number(found, spec, layout, spec.sample_seed)
    held_out = _held_out(items, spec)
    return Source(
        name=spec.dataset,
        revision=None,
        items=items,
        reader=LocalReader(rule=rule, held_out_per_10000=held_out),
        held_out_per_10000=held_out,
        sample_seed=spec.sample_seed,
        files=files,
    )


def _number(
    found: Iterable[Found], spec: PrepSpec, layout: Layout, sample_seed: int | None
) -> tuple[Item, ...]:
    split_map = {**layout.split_map, **dict(spec.split_map)}
    return number_items(found, split_map, [ours for ours, _ in spec.split_map], sample_seed)


def reopen_hub(
    spec: PrepSpec,
    repository: str,
    commit: str,
    items: tuple[Item, ...],
    sample_seed: int | None,
    downloads: Path,
) -> Source:
    """The hub source of an earlier run, at its commit and with its list of files; asks nothing."""
    held_out = _held_out(items, spec)
    reader = HubReader(
        repository=repository,
        commit=commit,
        rule=_rule(spec, LAYOUTS[spec.dataset]),
        held_out_per_10000=held_out,
        downloads=downloads,
        keep=spec.keep_downloads,
    )
    return Source(
        name=repository,
        revision=commit,
        items=items,
        reader=reader,
        held_out_per_10000=held_out,
        sample_seed=sample_seed,
    )


def _held_out(items: Iterable[Item], spec: PrepSpec) -> int:
    """The share to hold out of train: none where the source has a validation split."""
    return 0 if any(item.split == "validation" for item in items) else spec.held_out_per_10000


def _embedded(spec: PrepSpec) -> Source:
    import platform

    if spec.inputs or spec.split_map or spec.domain_from or spec.text_from != "text":
        raise UserError(
            "embedded takes no --input, --split-map, --domain-from or --text-from: its text and splits "
            "are fixed"
        )
    items = tuple(
        Item(split="train", index=i, path=name, kind="embedded", bytes=embedded.DOMAIN_BYTES, domain=name)
        for i, name in enumerate(sorted(embedded.DOMAINS))
    )
    return Source(
        name="embedded",
        # The text comes with Python, so its version stands for a revision.
        revision=f"python {platform.python_version()}",
        items=items,
        reader=EmbeddedReader(),
        held_out_per_10000=0,
    )


def _hub(spec: PrepSpec, layout: Layout, known: HubDataset, downloads: Path) -> Source:
    selection = select(spec, known)
    rule = _rule(spec, layout)
    commit = _commit(spec, known)
    files = hub.list_files(
        known.repository, commit, selection.folder, REMEDY, wanted=lambda path: kind_of(path) is not None
    )
    fallback = known.repository.rpartition("/")[2]
    found = [
        Found(
            path=file.path,
            split=split_of(file.path) or "train",
            kind=kind,
            bytes=file.bytes,
            domain=None if rule.domain else layout.domain or _folder_domain(file.path, fallback),
            sha256=file.sha256,
        )
        for file in files
        if (kind := kind_of(file.path)) is not None
    ]
    if any(not _is_text(file) for file in found):
        # Beside data files, a .txt of a repository is a licence or a list of requirements.
        found = [file for file in found if not _is_text(file)]
    if not found:
        where = f"{known.repository} at {commit}" + (f", {selection.folder}/" if selection.folder else "")
        raise DataError(
            f"hub repository {where}: no file that ends in {KNOWN_SUFFIXES}; name another --subset or --repo"
        )
    items = _number(found, spec, layout, selection.sample_seed)
    return reopen_hub(spec, known.repository, commit, items, selection.sample_seed, downloads)


def _commit(spec: PrepSpec, known: HubDataset) -> str:
    """The commit to read: the one asked for, else the one this version knows, else main's."""
    if spec.revision is None and known.revision is not None:
        # Its owner may have rewritten the history; the manifest records what was read.
        with contextlib.suppress(RevisionError):
            return hub.resolve_commit(known.repository, known.revision, REMEDY)
    return hub.resolve_commit(known.repository, spec.revision, REMEDY)


def _is_text(file: Found) -> bool:
    return file.kind in ("txt", "txt.zst")


def _folder_domain(path: str, fallback: str) -> str:
    """The domain a hub file's folder names; hub repositories keep their files below data/."""
    return folder_domain(path.removeprefix("data/"), fallback)


def sample_texts(source: Source) -> Iterator[str]:
    """Training text for a tokenizer: the start of evenly spaced training files, SAMPLE_BYTES in all."""
    files = [item for item in source.items if item.split == "train"]
    most = SAMPLE_HUB_FILES if isinstance(source.reader, HubReader) else SAMPLE_FILES
    count = min(most, len(files))
    for number in range(count):
        left = SAMPLE_BYTES // count
        item = files[number * len(files) // count]
        for document in source.reader.documents(item, source.locate(item), Meter()):
            if document.text is None or document.split != "train":
                continue
            yield document.text[:SAMPLE_DOCUMENT]
            left -= document.bytes
            if left <= 0:
                break
