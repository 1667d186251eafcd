"""Text to a token store in one pass: sources -> tokenize -> shards -> manifest, parallel and resumable.

The unit of work is one input file. A rerun after any interruption does only the files without a record;
the store's bytes depend neither on the number of workers nor on what was interrupted.
"""

import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from data_prep.assembly import (
    assemble,
    drop_all_if_nothing_is_committed,
    drop_others,
    drop_temporary,
    state,
    usable_record,
)
from data_prep.checks import check_spec
from data_prep.errors import DataError, ResumeError, StorageError
from data_prep.files import sha256_file
from data_prep.items import Item
from data_prep.lock import locked
from data_prep.manifest import (
    MANIFEST_NAME,
    TOKENIZER_FILE,
    Manifest,
    TokenizerInfo,
    read_manifest,
    write_manifest,
)
from data_prep.plan import (
    WORK,
    Plan,
    Record,
    read_plan,
    read_record,
    read_request,
    record_path,
    refuse_other_plan,
    write_plan,
)
from data_prep.readers import Kind
from data_prep.sources import Source, open_source, reopen_hub, sample_texts
from data_prep.spec import PrepSpec, default_store
from data_prep.tokenizers import Tokenizer, bpe_size, load_tokenizer, train_bpe
from data_prep.units import Counts, Workshop
from data_prep.workers import available_cores, do_tasks

SPAWN_BYTES = 8 << 20
"""Below this much input, starting processes costs more than it saves."""

STORE_BYTES_PER_INPUT_BYTE: Mapping[Kind, float] = {
    "jsonl": 0.6,
    "jsonl.zst": 1.9,
    "parquet": 1.2,
    "txt": 0.6,
    "txt.zst": 1.9,
    "embedded": 1.0,
}
"""uint16 ids a byte of input, on the high side, for the check of free disk space."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a preparation is."""

    done_bytes: int
    total_bytes: int
    """Input bytes, as they lie on disk or the hub."""
    documents: int
    tokens: int
    text_bytes: int
    note: str = ""
    """What is going on, when it is not the plain tokenizing of files."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What `prepare` did."""

    path: Path
    manifest: Manifest
    built_files: int
    """Input files done now; 0 if the store was already complete."""
    text_bytes: int
    """UTF-8 bytes of text tokenized now."""
    seconds: float
    workers: int


Report = Callable[[Progress], None]


def prepare(spec: PrepSpec, progress: Report | None = None) -> Prepared:
    """Prepare the token store that `spec` describes, continuing what an earlier run has committed.

    Raises UserError (2), DataError (3), HubError (4), ResumeError (5) if the folder holds something
    else, StorageError (7); whatever was committed before stays.
    """
    started = time.monotonic()
    check_spec(spec)
    tokenizer = None
    if spec.out is None and spec.tokenizer != "gpt2" and bpe_size(spec.tokenizer) is None:
        tokenizer = load_tokenizer(spec.tokenizer)
    store = spec.out or default_store(spec.dataset, tokenizer.name if tokenizer else spec.tokenizer)
    try:
        _claim(store)
        with locked(store / WORK):
            return _Preparation(store, spec, progress or (lambda _: None), started).run(tokenizer)
    except OSError as error:
        raise StorageError(
            f"cannot write {error.filename or store}: {error.strerror or error}; committed files are kept: "
            "free space or mend permissions, then run the same command again"
        ) from None


def _claim(store: Path) -> None:
    """Make the folder ours, refusing one that holds something else."""
    if store.exists() and not store.is_dir():
        raise StorageError(f"{store}: is a file, not a folder; choose another --out")
    if store.is_dir() and not (store / WORK).is_dir() and any(store.iterdir()):
        what = (
            "a finished store without its work records" if (store / MANIFEST_NAME).exists() else "other files"
        )
        raise ResumeError(f"{store}: holds {what}; choose another --out, or delete the folder to start over")
    (store / WORK / "files").mkdir(parents=True, exist_ok=True)


class _Preparation:
    """One run on one folder, under its lock."""

    def __init__(self, store: Path, spec: PrepSpec, report: Report, started: float) -> None:
        self._store, self._spec, self._report, self._started = store, spec, report, started
        self._workers = spec.workers or available_cores()
        self._totals = Counts()
        self._done_before = self._total_bytes = 0

    def run(self, loaded: Tokenizer | None) -> Prepared:
        """Do what is left to do; on a failure keep what is committed and nothing else."""
        try:
            return self._run(loaded)
        except BaseException:
            drop_temporary(self._store)
            drop_all_if_nothing_is_committed(self._store)
            raise

    def _run(self, loaded: Tokenizer | None) -> Prepared:
        drop_temporary(self._store)
        there = read_plan(self._store)
        source = self._source(there)
        tokenizer = self._tokenizer(there, source, loaded)
        plan = self._plan(source, tokenizer.info)
        if there is not None and self._has_work():
            refuse_other_plan(self._store, there, plan)
            # The file as it was written first: another version of the library may spell it differently.
            plan = replace(plan, tokenizer=there.tokenizer)
            if plan != there:
                write_plan(self._store, plan, self._spec)
        else:
            self._check_space(source.items)
            tokenizer.save(self._store / TOKENIZER_FILE)
            write_plan(self._store, plan, self._spec)
        records, built = self._build(Workshop(store=self._store, source=source, tokenizer=tokenizer))
        chosen = state(source.items, records, self._spec.limit_tokens, 1).chosen
        try:
            manifest = assemble(plan, chosen, records)
        except DataError:
            # No rerun of this plan can do better, and another plan cannot use these files: leave nothing.
            for item in source.items:
                record_path(self._store, item).unlink(missing_ok=True)
            raise
        self._finish(source.items, tokenizer, manifest)
        return Prepared(
            path=self._store,
            manifest=manifest,
            built_files=built,
            text_bytes=self._totals.text_bytes,
            seconds=time.monotonic() - self._started,
            workers=self._workers,
        )

    def _has_work(self) -> bool:
        """Whether an earlier run has committed anything."""
        return any((self._store / WORK / "files").glob("*.json")) or (self._store / MANIFEST_NAME).exists()

    def _source(self, there: Plan | None) -> Source:
        downloads = self._store / WORK / "downloads"
        spec = self._spec
        if there is None or there.revision is None or spec.inputs or spec.dataset in ("embedded", "local"):
            return open_source(spec, downloads)
        before = read_request(self._store)
        same = replace(spec, out=None, workers=None, tokenizer="") == (
            before and replace(before, out=None, workers=None, tokenizer="")
        )
        if not same:
            return open_source(spec, downloads)
        # The first run pinned the commit and listed it: go on without asking the hub again.
        return reopen_hub(spec, there.source, there.revision, there.items, downloads)

    def _plan(self, source: Source, tokenizer: TokenizerInfo) -> Plan:
        return Plan(
            dataset=self._spec.dataset,
            source=source.name,
            revision=source.revision,
            items=source.items,
            domain_from=self._spec.domain_from,
            held_out_per_10000=source.held_out_per_10000,
            limit_tokens=self._spec.limit_tokens,
            tokenizer=tokenizer,
        )

    def _tokenizer(self, there: Plan | None, source: Source, loaded: Tokenizer | None) -> Tokenizer:
        spec, saved = self._spec.tokenizer, self._store / TOKENIZER_FILE
        size = bpe_size(spec)
        if (
            there is not None
            and there.tokenizer.name == spec
            and self._plan(source, there.tokenizer) == there
            and saved.is_file()
            and sha256_file(saved) == there.tokenizer.file_sha256
        ):
            return load_tokenizer(saved, name=spec)
        if size is None:
            return loaded or load_tokenizer(spec)
        self._tell(f"training {spec} on a sample of the text")
        return train_bpe(size, sample_texts(source))

    def _check_space(self, items: Iterable[Item]) -> None:
        need = sum(item.bytes * STORE_BYTES_PER_INPUT_BYTE[item.kind] for item in items)
        if self._spec.limit_tokens is not None:
            need = min(need, 4.4 * self._spec.limit_tokens)
        free = shutil.disk_usage(self._store).free
        if need > free:
            raise StorageError(
                f"{self._store}: the store needs about {need / 1e6:,.1f} MB, {free / 1e6:,.1f} MB are free; "
                "free space, or choose another --out"
            )

    def _build(self, shop: Workshop) -> tuple[dict[Item, Record], int]:
        """Do every task; the records, and how many were made now."""
        items, dtype = shop.source.items, shop.tokenizer.info.dtype
        records: dict[Item, Record] = {}
        for item in items:
            record = usable_record(self._store, shop.source, item, dtype)
            if record is not None:
                records[item] = record
        self._total_bytes = sum(item.bytes for item in items)
        self._done_before = sum(item.bytes for item in records)
        built = 0
        while todo := state(items, records, self._spec.limit_tokens, self._workers).todo:
            (self._store / MANIFEST_NAME).unlink(missing_ok=True)
            for task in todo:
                record_path(self._store, task.item).unlink(missing_ok=True)
            small = sum(task.item.bytes for task in todo) < SPAWN_BYTES
            do_tasks(shop, list(todo), 1 if small else self._workers, self._tick)
            for task in todo:
                record = read_record(self._store, task.item)
                if record is None:
                    raise AssertionError(f"{task.item.path} was done and has no record")
                records[task.item] = record
            built += len(todo)
        return records, built

    def _finish(self, items: Iterable[Item], tokenizer: Tokenizer, manifest: Manifest) -> None:
        saved, file_sha256 = self._store / TOKENIZER_FILE, manifest.tokenizer.file_sha256
        if not saved.is_file() or sha256_file(saved) != file_sha256:
            tokenizer.save(saved)
            file_sha256 = sha256_file(saved)
        manifest = replace(manifest, tokenizer=replace(manifest.tokenizer, file_sha256=file_sha256))
        try:
            if read_manifest(self._store) == manifest:
                return
        except DataError:
            # Missing or damaged: written anew from the records.
            pass
        drop_others(self._store, items, manifest)
        write_manifest(self._store, manifest)
        shutil.rmtree(self._store / WORK / "downloads", ignore_errors=True)

    def _tick(self, counts: Counts) -> None:
        self._totals.input_bytes += counts.input_bytes
        self._totals.documents += counts.documents
        self._totals.tokens += counts.tokens
        self._totals.text_bytes += counts.text_bytes
        self._tell("")

    def _tell(self, note: str) -> None:
        done = self._done_before + self._totals.input_bytes
        self._report(
            Progress(
                done_bytes=min(done, self._total_bytes),
                total_bytes=self._total_bytes,
                documents=self._totals.documents,
                tokens=self._totals.tokens,
                text_bytes=self._totals.text_bytes,
                note=note,
            )
        )
