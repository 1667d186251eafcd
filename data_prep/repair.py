"""Rebuilding only what is damaged."""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from data_prep.assembly import state, usable_records
from data_prep.cleanup import drop_temporary
from data_prep.errors import DataError, StorageError
from data_prep.files import sha256_file
from data_prep.finish import assemble_or_drop, finish_store
from data_prep.items import Item
from data_prep.lock import locked
from data_prep.manifest import MANIFEST_NAME, TOKENIZER_FILE
from data_prep.merge import is_intact
from data_prep.pipeline import rebuild
from data_prep.plan import WORK, Plan, Record, read_plan, read_request, record_path
from data_prep.reports import Prepared, Progress, Report
from data_prep.workers import available_cores


def repair(store: Path, workers: int | None = None, progress: Report | None = None) -> Prepared:
    """Rebuild only the damaged parts of a store: shards that fail their digest, tokenizer.json, manifest.

    The source is asked for only what cannot be made from the rest.

    Raises DataError if the store does not record how it was made, and what `prepare` raises.
    """
    started = time.monotonic()
    spec, plan = read_request(store), read_plan(store)
    if spec is None or plan is None:
        raise DataError(
            f"{store}: does not record how it was made; run its `reweight prep` again into a new folder"
        )
    try:
        with locked(store / WORK):
            records = _intact(store, plan)
            if not _needs_source(store, plan, records):
                return _joined(store, plan, records, workers or available_cores(), started, progress)
    except OSError as error:
        raise StorageError(
            f"cannot repair {error.filename or store}: {error.strerror or error}; what is intact is kept: "
            "free space or mend permissions, then run the same command again"
        ) from None
    return rebuild(replace(spec, workers=workers), plan.shares, progress)


def _intact(store: Path, plan: Plan) -> dict[Item, Record]:
    """The records whose shards match their digests; the others are deleted, so that they are done again."""
    records = usable_records(store, plan, plan.items, {})
    for item in plan.items:
        if item not in records or not is_intact(store, records[item]):
            records.pop(item, None)
            record_path(store, item).unlink(missing_ok=True)
    return records


def _needs_source(store: Path, plan: Plan, records: Mapping[Item, Record]) -> bool:
    tokenizer = store / TOKENIZER_FILE
    if not tokenizer.is_file() or sha256_file(tokenizer) != plan.tokenizer.file_sha256:
        return True
    return bool(state(plan.items, records, plan.limit_tokens, 1, plan.shares).todo)


def _joined(
    store: Path,
    plan: Plan,
    records: Mapping[Item, Record],
    workers: int,
    started: float,
    progress: Report | None,
) -> Prepared:
    """The store from its records alone."""

    def tell(note: str) -> None:
        if progress is not None:
            progress(Progress(done_bytes=0, total_bytes=0, documents=0, tokens=0, text_bytes=0, note=note))

    drop_temporary(store)
    (store / MANIFEST_NAME).unlink(missing_ok=True)
    manifest = assemble_or_drop(store, plan, records)
    manifest = finish_store(store, plan.items, manifest, None, tell)
    return Prepared(
        path=store,
        manifest=manifest,
        built_files=0,
        text_bytes=0,
        seconds=time.monotonic() - started,
        workers=workers,
    )
