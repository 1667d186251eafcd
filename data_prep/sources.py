"""Where documents come from: local files, a hub data set, or the embedded corpus.

A source is a list of items (input files, each of one split) and a way to read one item's documents.
Item order is fixed by split and path, so what a store holds never depends on who reads which item.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from data_prep import embedded, hub
from data_prep.documents import SLIMPAJAMA_DOMAINS, Document, DomainRule, read_documents
from data_prep.errors import DataError, UserError
from data_prep.items import Found, Item, find_local, folder_domain, number_items, split_of
from data_prep.readers import Meter, kind_of
from data_prep.spec import Dataset, PrepSpec

SAMPLE_BYTES = 32 << 20
"""Text that a bpe:VOCAB tokenizer is trained on, spread evenly over the training files."""
SAMPLE_FILES = 256
SAMPLE_HUB_FILES = 4
"""Files the sample is taken from, at most: a hub file must be downloaded first."""


@dataclass(frozen=True, kw_only=True)
class HubDataset:
    """A data set of the hub."""

    repository: str
    folders: Mapping[str, str] = field(default_factory=lambda: {"": ""})
    """Subset name -> folder of the repository; "" is the default subset."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What is known about a data set wherever its files lie."""

    hub: HubDataset | None = None
    rule: DomainRule = field(default_factory=DomainRule)
    domain: str | None = None
    """The one domain of a data set without any."""
    split_map: Mapping[str, str] = field(default_factory=dict)
    """Ours -> theirs, where theirs exists."""


SLIMPAJAMA_RULE = DomainRule(field="meta.redpajama_set_name", names=SLIMPAJAMA_DOMAINS)

LAYOUTS: Mapping[Dataset, Layout] = {
    # The authors measure log-perplexity on SlimPajama-6B's test split.
    "slimpajama": Layout(
        hub=HubDataset(repository="DKYoon/SlimPajama-6B"),
        rule=SLIMPAJAMA_RULE,
        split_map={"validation": "test"},
    ),
    "slimpajama-627b": Layout(hub=HubDataset(repository="cerebras/SlimPajama-627B"), rule=SLIMPAJAMA_RULE),
    "fineweb": Layout(
        hub=HubDataset(
            repository="HuggingFaceFW/fineweb",
            folders={
                "": "sample/100BT",
                "sample-10BT": "sample/10BT",
                "sample-100BT": "sample/100BT",
                "sample-350BT": "sample/350BT",
            },
        ),
        domain="fineweb",
    ),
    "local": Layout(),
    "embedded": Layout(),
}


class Source(Protocol):
    """Items, and the documents of one item. Picklable; reading happens in worker processes."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def revision(self) -> str | None: ...  # noqa: D102
    @property
    def items(self) -> tuple[Item, ...]: ...  # noqa: D102
    @property
    def held_out_per_10000(self) -> int: ...  # noqa: D102
    def documents(self, item: Item, meter: Meter) -> Iterator[Document]:
        """The item's documents in order; the meter has seen all of it when they are exhausted."""

    def locate(self, item: Item) -> Path | None:
        """Where a local file lies; None for an item that is no file of this machine."""

    def release(self, item: Item) -> None:
        """Free what `documents` fetched, once the item's shards are committed."""


@dataclass(frozen=True, kw_only=True)
class LocalSource:
    """Files of this machine."""

    name: str
    files: Mapping[str, Path]
    """Item path -> absolute path."""
    items: tuple[Item, ...]
    rule: DomainRule
    held_out_per_10000: int
    revision: str | None = None

    def documents(self, item: Item, meter: Meter) -> Iterator[Document]:
        """Read one file as a stream."""
        return read_documents(self.files[item.path], item, self.rule, self.held_out_per_10000, meter)

    def locate(self, item: Item) -> Path | None:
        """The file itself."""
        return self.files[item.path]

    def release(self, item: Item) -> None:
        """Nothing to free: the file is the user's."""


@dataclass(frozen=True, kw_only=True)
class HubSource:
    """A data set of the hub at one commit; each file is downloaded, read and deleted."""

    name: str
    revision: str
    items: tuple[Item, ...]
    rule: DomainRule
    held_out_per_10000: int
    downloads: Path
    """Folder for the files in flight."""

    def documents(self, item: Item, meter: Meter) -> Iterator[Document]:
        """Download one file and read it as a stream."""
        path = hub.download(
            self.name,
            "dataset",
            self.revision,
            item.path,
            "run the same command again to continue, or read local files with --input",
            folder=self.downloads,
            sha256=item.sha256,
        )
        return read_documents(path, item, self.rule, self.held_out_per_10000, meter)

    def locate(self, item: Item) -> Path | None:
        """None: the hub's commit says what the file holds."""
        return None

    def release(self, item: Item) -> None:
        """Delete the downloaded file."""
        (self.downloads / item.path).unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True)
class EmbeddedSource:
    """The text that comes with Python; each domain is an item."""

    name: str
    revision: str
    """Python's version: the text comes with it."""
    items: tuple[Item, ...]
    held_out_per_10000: int = 0

    def documents(self, item: Item, meter: Meter) -> Iterator[Document]:
        """One domain's documents, both splits."""
        for each in embedded.read_domain(item.path):
            data = each.text.encode("utf-8")
            meter.feed(data)
            split = "validation" if each.held_out else "train"
            yield Document(text=each.text, domain=item.path, split=split, bytes=len(data))

    def locate(self, item: Item) -> Path | None:
        """None: not one file."""
        return None

    def release(self, item: Item) -> None:
        """Nothing to free."""


def open_source(spec: PrepSpec, downloads: Path) -> Source:
    """The source of a preparation.

    Hub files come to `downloads` and are deleted one by one as their shards are committed.

    Raises UserError, DataError or HubError with the remedy.
    """
    layout = LAYOUTS[spec.dataset]
    if spec.dataset == "embedded":
        return _embedded(spec)
    rule = DomainRule(field=spec.domain_from) if spec.domain_from else layout.rule
    split_map = {**layout.split_map, **dict(spec.split_map)}
    required = [ours for ours, _ in spec.split_map]
    if not spec.inputs:
        return _hub(spec, layout, rule, split_map, downloads)

    def domain_of(path: str, fallback: str) -> str | None:
        return None if rule.field else layout.domain or folder_domain(path, fallback)

    found, files = find_local(spec.inputs, domain_of)
    items = number_items(found, split_map, required)
    return LocalSource(
        name=spec.dataset, files=files, items=items, rule=rule, held_out_per_10000=_held_out(items, spec)
    )


def reopen_hub(
    spec: PrepSpec, repository: str, commit: str, items: tuple[Item, ...], downloads: Path
) -> HubSource:
    """The hub source of an earlier run, at its commit and with its list of files; asks nothing."""
    rule = DomainRule(field=spec.domain_from) if spec.domain_from else LAYOUTS[spec.dataset].rule
    return HubSource(
        name=repository,
        revision=commit,
        items=items,
        rule=rule,
        held_out_per_10000=_held_out(items, spec),
        downloads=downloads,
    )


def _held_out(items: Iterable[Item], spec: PrepSpec) -> int:
    """The share to hold out of train: none where the source has a validation split."""
    return 0 if any(item.split == "validation" for item in items) else spec.held_out_per_10000


def _embedded(spec: PrepSpec) -> EmbeddedSource:
    import platform

    if spec.inputs or spec.split_map or spec.domain_from:
        raise UserError(
            "embedded takes no --input, --split-map or --domain-from: its text and splits are fixed"
        )
    items = tuple(
        Item(split="train", index=i, path=name, kind="embedded", bytes=embedded.DOMAIN_BYTES, domain=name)
        for i, name in enumerate(sorted(embedded.DOMAINS))
    )
    return EmbeddedSource(name="embedded", revision=f"python {platform.python_version()}", items=items)


def _hub(
    spec: PrepSpec,
    layout: Layout,
    rule: DomainRule,
    split_map: Mapping[str, str],
    downloads: Path,
) -> HubSource:
    if layout.hub is None:
        raise UserError(f"{spec.dataset} needs --input FILE_OR_FOLDER")
    folder = layout.hub.folders.get(spec.subset or "")
    if folder is None:
        known = ", ".join(name for name in layout.hub.folders if name) or "none"
        raise UserError(f"--subset {spec.subset}: {spec.dataset} has {known}")
    remedy = "mend that and run the same command again, or give local files with --input DIR"
    commit = hub.resolve_commit(layout.hub.repository, spec.revision, remedy)
    files = hub.list_files(layout.hub.repository, commit, folder or None, remedy)
    found = [
        Found(
            path=file.path,
            split=split_of(file.path) or "train",
            kind=kind,
            bytes=file.bytes,
            domain=None if rule.field else layout.domain,
            sha256=file.sha256,
        )
        for file in files
        if (kind := kind_of(file.path)) is not None
    ]
    if not found:
        raise DataError(f"hub repository {layout.hub.repository} at {commit}: no .jsonl.zst or .parquet file")
    items = number_items(found, split_map, [ours for ours, _ in spec.split_map])
    return HubSource(
        name=layout.hub.repository,
        revision=commit,
        items=items,
        rule=rule,
        held_out_per_10000=_held_out(items, spec),
        downloads=downloads,
    )


def sample_texts(source: Source) -> Iterator[str]:
    """Training text for a tokenizer: the start of evenly spaced training files, SAMPLE_BYTES in all."""
    files = [item for item in source.items if item.split == "train"]
    most = SAMPLE_HUB_FILES if isinstance(source, HubSource) else SAMPLE_FILES
    count = min(most, len(files))
    for number in range(count):
        left = SAMPLE_BYTES // count
        for document in source.documents(files[number * len(files) // count], Meter()):
            if document.text is None or document.split != "train":
                continue
            yield document.text
            left -= document.bytes
            if left <= 0:
                break
