"""Rebuilding only what is damaged."""

from dataclasses import replace
from pathlib import Path

from data_prep.errors import DataError
from data_prep.lock import locked
from data_prep.manifest import MANIFEST_NAME
from data_prep.merge import is_intact
from data_prep.pipeline import prepare
from data_prep.plan import WORK, read_plan, read_record, read_request, record_path
from data_prep.reports import Prepared, Report


def repair(store: Path, workers: int | None = None, progress: Report | None = None) -> Prepared:
    """Rebuild only the damaged parts of a store: shards that fail their digest, tokenizer.json, manifest.

    Raises DataError if the store does not record how it was made, and what `prepare` raises.
    """
    spec, plan = read_request(store), read_plan(store)
    if spec is None or plan is None:
        raise DataError(
            f"{store}: does not record how it was made; run its `reweight prep` again into a new folder"
        )
    with locked(store / WORK):
        for item in plan.items:
            record = read_record(store, item, plan.key)
            if record is None or not is_intact(store, record):
                record_path(store, item).unlink(missing_ok=True)
        (store / MANIFEST_NAME).unlink(missing_ok=True)
    return prepare(replace(spec, workers=workers), progress)
