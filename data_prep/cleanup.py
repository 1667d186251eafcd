"""What a preparation deletes: leavings of a killed run, and what a finished store does not consist of."""

import contextlib
import os
import shutil
from collections.abc import Collection, Iterable
from pathlib import Path

from data_prep.files import TEMPORARY
from data_prep.items import Item
from data_prep.manifest import MANIFEST_NAME, TOKENIZER_FILE, Manifest
from data_prep.plan import WORK, record_path
from data_prep.shards import documents_path


def drop_others(store: Path, items: Iterable[Item], manifest: Manifest) -> None:
    """Delete what the store does not consist of: shards of no record, records of files beyond the limit."""
    for split in {*manifest.splits, *(item.split for item in items), "validation"}:
        for folder in (store / split).glob("*/"):
            domain = manifest.splits.get(split, {}).get(folder.name)
            shards = [folder / shard.name for shard in domain.shards] if domain else []
            named = {path.name for shard in shards for path in (shard, documents_path(shard))}
            for file in list(folder.glob("*.npy")):
                if file.name not in named:
                    file.unlink()
    wanted = {(each.split, each.path) for each in manifest.source.inputs}
    for item in items:
        if (item.split, item.path) not in wanted:
            record_path(store, item).unlink(missing_ok=True)


def drop_temporary(store: Path, mine: Collection[tuple[str, int]] | None = None) -> None:
    """Delete the temporary files of a run that was killed.

    With `mine`, only those of these input files, (split, number): others may be at work on the rest.
    """
    for folder, _, names in os.walk(store):
        for name in names:
            if name.endswith(TEMPORARY) and (mine is None or _number_of(Path(folder), name) in mine):
                (Path(folder) / name).unlink(missing_ok=True)


def _number_of(folder: Path, name: str) -> tuple[str, int] | None:
    """Split and number of the input file that a temporary shard or record belongs to."""
    if folder.name == "files":
        split, _, number = name.partition(".")[0].rpartition("-")
    else:
        split, number = folder.parent.name, name.partition(".")[0]
    return (split, int(number)) if number.isdecimal() else None


def drop_all_if_nothing_is_committed(store: Path) -> None:
    """After a failure: leave no trace of a preparation that has committed nothing."""
    work = store / WORK
    if any((work / "files").glob("*.json")) or (store / MANIFEST_NAME).exists():
        return
    for split in [path for path in store.iterdir() if path.is_dir() and path != work]:
        for path in split.glob("*/*.npy"):
            path.unlink()
        for folder in [*split.glob("*/"), split]:
            with contextlib.suppress(OSError):
                folder.rmdir()
    (store / TOKENIZER_FILE).unlink(missing_ok=True)
    shutil.rmtree(work, ignore_errors=True)
    # Not empty if it holds anything that is not ours.
    with contextlib.suppress(OSError):
        store.rmdir()
