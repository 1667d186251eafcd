"""Joining the shares that machines have made without talking to each other."""

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from data_prep.assembly import record_shards, state, usable_records
from data_prep.cleanup import drop_temporary
from data_prep.errors import DataError, StorageError
from data_prep.files import sha256_file
from data_prep.finish import assemble_or_drop, finish_store
from data_prep.items import Item
from data_prep.lock import locked
from data_prep.plan import WORK, Plan, Record, read_plan, record_path
from data_prep.reports import Prepared, Progress, Report
from data_prep.shards import documents_path
from data_prep.workers import available_cores

FILES_AT_A_TIME = 256


def merge(store: Path, workers: int | None = None, progress: Report | None = None) -> Prepared:
    """Check every shard of every share against its digest, and make the manifest.

    The shares lie in one folder: written there by machines that share it, or copied there from each.

    Raises DataError naming the shares that are not complete, or whose shards are damaged; StorageError
    if one is still at work.
    """
    started = time.monotonic()
    plan = read_plan(store)
    if plan is None:
        raise DataError(
            f"{store}: holds no preparation; make its shares first with --shard I/N --out {store}"
        )
    report = progress or (lambda _: None)
    workers = workers or available_cores()
    try:
        with locked(store / WORK):
            drop_temporary(store)
            records = usable_records(store, plan, plan.items, {})
            _refuse_incomplete(store, plan, records)
            _refuse_damaged(store, plan, records, workers, report)
            manifest = assemble_or_drop(store, plan, records)
            manifest = finish_store(store, plan.items, manifest, None, lambda note: _tell(report, note))
    except OSError as error:
        raise StorageError(
            f"cannot write {error.filename or store}: {error.strerror or error}; the shares are kept: "
            "free space or mend permissions, then merge again"
        ) from None
    return Prepared(
        path=store,
        manifest=manifest,
        built_files=0,
        text_bytes=0,
        seconds=time.monotonic() - started,
        workers=workers,
    )


def _tell(report: Report, note: str, done: int = 0, total: int = 0) -> None:
    report(Progress(done_bytes=done, total_bytes=total, documents=0, tokens=0, text_bytes=0, note=note))


def _refuse_incomplete(store: Path, plan: Plan, records: Mapping[Item, Record]) -> None:
    todo = state(plan.items, records, plan.limit_tokens, 1, plan.shares).todo
    if todo:
        raise DataError(
            f"{store}: {len(todo)} of {len(plan.items)} input files are not done, as {todo[0].item.path}"
            f"{_shares_of(store, plan, [each.item for each in todo])}"
        )


def _refuse_damaged(
    store: Path, plan: Plan, records: Mapping[Item, Record], workers: int, report: Report
) -> None:
    """Read every byte: shards may come from other machines, over networks. What fails is to be done again."""
    total = sum(item.bytes for item in records)
    done, bad = 0, []
    items = list(records)
    # Threads: hashing releases the interpreter's lock.
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(items), FILES_AT_A_TIME):
            some = items[start : start + FILES_AT_A_TIME]
            good = pool.map(lambda item: is_intact(store, records[item]), some)
            bad += [item for item, ok in zip(some, good, strict=True) if not ok]
            done += sum(item.bytes for item in some)
            _tell(report, "", done, total)
    for item in bad:
        record_path(store, item).unlink(missing_ok=True)
    if bad:
        raise DataError(
            f"{store}: the shards of {len(bad)} input files are damaged, as of {bad[0].path}"
            f"{_shares_of(store, plan, bad)}"
        )


def is_intact(store: Path, record: Record) -> bool:
    """Whether every file of a committed input file matches its digest."""
    return all(
        file.is_file() and not file.is_symlink() and sha256_file(file) == digest
        for path, shard in record_shards(store, record)
        for file, digest in ((path, shard.sha256), (documents_path(path), shard.documents_sha256))
    )


def _shares_of(store: Path, plan: Plan, items: Iterable[Item]) -> str:
    """Which shares to run again, as far as the folder tells how many there are."""
    places = {item: place for place, item in enumerate(plan.items)}
    parts = plan.shares if plan.shares > 1 else _parts(store)
    if parts is None:
        return "; run the same command again without --merge, or with the --shard of what is missing"
    missing = Counter(places[item] % parts + 1 for item in items)
    shown = ", ".join(f"{part}/{parts} ({count} files)" for part, count in sorted(missing.items())[:20])
    return f"; run again with --shard {shown}"


def _parts(store: Path) -> int | None:
    """The number of shares, from the names of their locks."""
    found = {path.name.rpartition("-of-")[2] for path in (store / WORK).glob("lock-*-of-*")}
    return int(found.pop()) if len(found) == 1 and all(each.isdecimal() for each in found) else None
