"""The last step of a preparation: from records to a manifest, and nothing beside what it names."""

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from data_prep.assembly import assemble, state, with_repeats
from data_prep.cleanup import drop_others
from data_prep.duplicates import count_repeats
from data_prep.errors import DataError
from data_prep.files import sha256_file
from data_prep.items import Item
from data_prep.manifest import TOKENIZER_FILE, Manifest, read_manifest, write_manifest
from data_prep.plan import WORK, Plan, Record, record_path
from data_prep.tokenizers import Tokenizer


def assemble_or_drop(store: Path, plan: Plan, records: Mapping[Item, Record]) -> Manifest:
    """The manifest of a store whose files are all done. DataError if train or validation came out empty."""
    chosen = state(plan.items, records, plan.limit_tokens, 1, plan.shares).chosen
    try:
        return assemble(plan, chosen, records)
    except DataError:
        # No rerun of this plan can do better, and another plan cannot use these files: leave nothing.
        for item in plan.items:
            record_path(store, item).unlink(missing_ok=True)
        raise


def finish_store(
    store: Path,
    items: Iterable[Item],
    manifest: Manifest,
    tokenizer: Tokenizer | None,
    tell: Callable[[str], None],
) -> Manifest:
    """Count repeated documents, delete what the manifest does not name, and write it.

    Without a tokenizer, tokenizer.json must be in place. Raises DataError if it is not.
    """
    saved, file_sha256 = store / TOKENIZER_FILE, manifest.tokenizer.file_sha256
    if not saved.is_file() or sha256_file(saved) != file_sha256:
        if tokenizer is None:
            raise DataError(f"{saved}: missing or damaged; copy it from one of the shares' folders")
        tokenizer.save(saved)
        file_sha256 = sha256_file(saved)
    manifest = replace(manifest, tokenizer=replace(manifest.tokenizer, file_sha256=file_sha256))
    there = _manifest_there(store)
    if there is None or with_repeats(there, None) != manifest:
        manifest = with_repeats(manifest, count_repeats(store, manifest.splits, tell))
        drop_others(store, items, manifest)
        write_manifest(store, manifest)
    else:
        manifest = there
    shutil.rmtree(store / WORK / "downloads", ignore_errors=True)
    return manifest


def _manifest_there(store: Path) -> Manifest | None:
    try:
        return read_manifest(store)
    except DataError:
        # Missing or damaged: written anew from the records.
        return None
