"""Text to a token store in one pass: sources -> tokenize -> shards -> manifest, parallel and resumable.

The unit of work is one input file. A rerun after any interruption does only the files without a record;
the store's bytes depend neither on the number of workers nor on what was interrupted.
"""

import contextlib
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from data_prep import hub
from data_prep.assembly import State, state, usable_records
from data_prep.checks import check_share, check_spec
from data_prep.cleanup import drop_all_if_nothing_is_committed, drop_temporary
from data_prep.destination import check_space, claim
from data_prep.errors import StorageError
from data_prep.files import sha256_file
from data_prep.finish import assemble_or_drop, finish_store
from data_prep.items import Item
from data_prep.lock import locked
from data_prep.manifest import MANIFEST_NAME, TOKENIZER_FILE, TokenizerInfo
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
from data_prep.reports import Prepared, Progress, Report, ShareDone
from data_prep.sources import Source, open_source, reopen_hub, sample_texts
from data_prep.spec import PrepSpec, Share, default_store, names_tokenizer
from data_prep.tokenizers import Tokenizer, bpe_size, load_tokenizer, train_bpe
from data_prep.units import Counts, Task, Workshop
from data_prep.workers import available_cores, do_tasks

SPAWN_BYTES = 64 << 20
"""Below this much input, processes that nobody asked for cost more to start than they save."""


def prepare(spec: PrepSpec, progress: Report | None = None) -> Prepared:
    """Prepare the token store that `spec` describes, continuing what an earlier run has committed.

    Raises UserError (2), DataError (3), HubError (4), ResumeError (5) if the folder holds something
    else, StorageError (7); whatever was committed before stays.
    """
    with _working(spec, None, progress) as work:
        return work.whole()


def rebuild(spec: PrepSpec, shares: int, progress: Report | None = None) -> Prepared:
    """`prepare`, for a store whose bound was divided over `shares`, and with a new manifest in any case.

    The old one stays until its source is known to be there.
    """
    with _working(spec, None, progress) as work:
        return work.whole(shares, anew=True)


def prepare_share(spec: PrepSpec, share: Share, progress: Report | None = None) -> ShareDone:
    """Do one share's input files, beside other machines that do theirs into the same or another folder.

    A bound on training tokens is divided over the shares. Raises what `prepare` raises.
    """
    check_share(share)
    with _working(spec, share, progress) as work:
        return work.share()


@contextlib.contextmanager
def _working(spec: PrepSpec, share: Share | None, progress: Report | None) -> Iterator["_Preparation"]:
    """One run on one folder, under its lock; on a failure what is committed stays, and nothing else."""
    started = time.monotonic()
    check_spec(spec)
    tokenizer = None
    if spec.out is None and not names_tokenizer(spec.tokenizer):
        tokenizer = load_tokenizer(spec.tokenizer)
    store = spec.out or default_store(
        spec.repository or spec.dataset, tokenizer.name if tokenizer else spec.tokenizer
    )
    try:
        claim(store)
        with locked(store / WORK, share):
            work = _Preparation(store, spec, share, progress or (lambda _: None), started, tokenizer)
            try:
                yield work
            except BaseException:
                work.leave()
                raise
    except OSError as error:
        raise StorageError(
            f"cannot write {error.filename or store}: {error.strerror or error}; committed files are kept: "
            "free space or mend permissions, then run the same command again"
        ) from None


class _Preparation:
    """One run on one folder, under its lock."""

    def __init__(
        self,
        store: Path,
        spec: PrepSpec,
        share: Share | None,
        report: Report,
        started: float,
        loaded: Tokenizer | None,
    ) -> None:
        self._store, self._spec, self._share = store, spec, share
        self._report, self._started, self._loaded = report, started, loaded
        self._workers = spec.workers or available_cores()
        self._used = 1
        # Of its own: what another share is downloading is not ours to delete.
        self._downloads = store / WORK / "downloads" / (share.label if share else "all")
        self._totals = Counts()
        self._done_before = self._total_bytes = 0
        bounded = spec.limit_tokens is not None and share is not None
        self._bound_parts = share.parts if bounded and share else 1

    def whole(self, bound_parts: int = 1, anew: bool = False) -> Prepared:
        """Do what is left to do, and make the store; `anew` whatever manifest there is."""
        self._bound_parts = bound_parts
        drop_temporary(self._store)
        hub.drop_leftovers(self._downloads)
        source, tokenizer, plan = self._planned()
        if anew:
            (self._store / MANIFEST_NAME).unlink(missing_ok=True)
        records, built = self._build(source, tokenizer, plan)
        manifest = assemble_or_drop(self._store, plan, records)
        manifest = finish_store(self._store, plan.items, manifest, tokenizer, self._tell)
        return Prepared(
            path=self._store,
            manifest=manifest,
            built_files=built,
            text_bytes=self._totals.text_bytes,
            seconds=time.monotonic() - self._started,
            workers=self._used,
        )

    def share(self) -> ShareDone:
        """Do what is left to do of the share."""
        hub.drop_leftovers(self._downloads)
        source, tokenizer, plan = self._planned()
        drop_temporary(self._store, self._written_by(plan))
        records, built = self._build(source, tokenizer, plan)
        shutil.rmtree(self._downloads, ignore_errors=True)
        return ShareDone(
            path=self._store,
            files=len(records),
            built_files=built,
            text_bytes=self._totals.text_bytes,
            seconds=time.monotonic() - self._started,
            workers=self._used,
        )

    def leave(self) -> None:
        """After a failure: keep what is committed and nothing else."""
        if self._share is None:
            drop_temporary(self._store)
            hub.drop_leftovers(self._downloads)
            drop_all_if_nothing_is_committed(self._store)
        else:
            shutil.rmtree(self._downloads, ignore_errors=True)

    def _mine(self, items: Iterable[Item]) -> list[Item]:
        share = self._share
        return [item for place, item in enumerate(items) if share is None or share.takes(place)]

    def _written_by(self, plan: Plan) -> set[tuple[str, int]]:
        """Split and number of every shard that this share's files may become."""
        mine = self._mine(plan.items)
        own = {(item.split, item.index) for item in mine}
        if all(item.split != "validation" for item in plan.items):
            own |= {("validation", item.index) for item in mine if item.split == "train"}
        return own

    def _planned(self) -> tuple[Source, Tokenizer, Plan]:
        """What to do, agreed with what an earlier run or another share has set out to do."""
        there = read_plan(self._store)
        source = self._source(there)
        tokenizer = self._tokenizer(there, source)
        plan = self._plan(source, tokenizer.info)
        if there is None or not (self._share or self._has_work()):
            check_space(self._store, self._mine(source.items), self._spec.limit_tokens)
            tokenizer.save(self._store / TOKENIZER_FILE)
            write_plan(self._store, plan, self._spec, first=self._share is not None)
            there = read_plan(self._store) or plan
        refuse_other_plan(self._store, there, plan)
        # The file as it was written first: another version of the library may spell it differently.
        plan = replace(plan, tokenizer=there.tokenizer)
        if plan != there and self._share is None:
            write_plan(self._store, plan, self._spec)
        return source, tokenizer, plan

    def _has_work(self) -> bool:
        """Whether an earlier run has committed anything."""
        return any((self._store / WORK / "files").glob("*.json")) or (self._store / MANIFEST_NAME).exists()

    def _source(self, there: Plan | None) -> Source:
        spec = self._spec
        if there is None or there.revision is None or spec.inputs or spec.dataset == "embedded":
            return open_source(spec, self._downloads)
        before = read_request(self._store)
        if before is None or _asked(before) != _asked(spec):
            return open_source(spec, self._downloads)
        # The first run pinned the commit and listed it: go on without asking the hub again.
        return reopen_hub(spec, there.source, there.revision, there.items, there.sample_seed, self._downloads)

    def _plan(self, source: Source, tokenizer: TokenizerInfo) -> Plan:
        return Plan(
            dataset=self._spec.dataset,
            source=source.name,
            revision=source.revision,
            items=source.items,
            domain_from=self._spec.domain_from,
            text_from=self._spec.text_from,
            held_out_per_10000=source.held_out_per_10000,
            limit_tokens=self._spec.limit_tokens,
            sample_seed=source.sample_seed,
            shares=self._bound_parts,
            tokenizer=tokenizer,
        )

    def _tokenizer(self, there: Plan | None, source: Source) -> Tokenizer:
        spec, saved = self._spec.tokenizer, self._store / TOKENIZER_FILE
        size = bpe_size(spec)
        if (
            there is not None
            and there.tokenizer.name == spec
            and self._plan(source, there.tokenizer) == there
            and saved.is_file()
            and sha256_file(saved) == there.tokenizer.file_sha256
        ):
            origin = there.tokenizer
            return load_tokenizer(saved, name=spec, repository=origin.repository, revision=origin.revision)
        if size is None:
            return self._loaded or load_tokenizer(spec)
        self._tell(f"training {spec} on a sample of the text")
        return train_bpe(size, sample_texts(source))

    def _build(self, source: Source, tokenizer: Tokenizer, plan: Plan) -> tuple[dict[Item, Record], int]:
        """Do every task; the records, and how many were made now."""
        shop = Workshop(store=self._store, plan=plan.key, reader=source.reader, tokenizer=tokenizer)
        mine = set(self._mine(plan.items))
        records = usable_records(self._store, plan, mine, source.files)
        self._total_bytes = sum(item.bytes for item in mine)
        self._done_before = sum(item.bytes for item in records)
        built = 0
        while todo := [each for each in self._state(plan, records).todo if each.item in mine]:
            if self._share is None:
                (self._store / MANIFEST_NAME).unlink(missing_ok=True)
            for each in todo:
                record_path(self._store, each.item).unlink(missing_ok=True)
            small = self._spec.workers is None and sum(each.item.bytes for each in todo) < SPAWN_BYTES
            tasks = [Task(item=each.item, located=source.locate(each.item), cap=each.cap) for each in todo]
            workers = 1 if small else min(self._workers, len(tasks))
            self._used = max(self._used, workers)
            do_tasks(shop, tasks, workers, self._tick)
            for each in todo:
                record = read_record(self._store, each.item, plan.key)
                if record is None:
                    raise AssertionError(f"{each.item.path} was done and has no record")
                records[each.item] = record
            built += len(todo)
        return records, built

    def _state(self, plan: Plan, records: Mapping[Item, Record]) -> State:
        return state(plan.items, records, plan.limit_tokens, self._workers, plan.shares)

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


def _asked(spec: PrepSpec) -> PrepSpec:
    """What decides which files a preparation reads."""
    return replace(spec, out=None, workers=None, tokenizer="", keep_downloads=False)
