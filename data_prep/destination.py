"""The folder a preparation writes to: whether it may, and whether it has room."""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from data_prep.errors import ResumeError, StorageError
from data_prep.items import Item
from data_prep.manifest import MANIFEST_NAME
from data_prep.plan import WORK
from data_prep.readers import Kind

STORE_BYTES_PER_INPUT_BYTE: Mapping[Kind, float] = {
    "jsonl": 0.6,
    "jsonl.zst": 1.9,
    "jsonl.gz": 1.9,
    "parquet": 1.2,
    "txt": 0.6,
    "txt.zst": 1.9,
    "embedded": 1.0,
}
"""uint16 ids a byte of input, on the high side, for the check of free disk space."""


def claim(store: Path) -> None:
    """Make the folder ours. StorageError or ResumeError if it holds something else."""
    if store.exists() and not store.is_dir():
        raise StorageError(f"{store}: is a file, not a folder; choose another --out")
    if store.is_dir() and not (store / WORK).is_dir() and any(store.iterdir()):
        what = (
            "a finished store without its work records" if (store / MANIFEST_NAME).exists() else "other files"
        )
        raise ResumeError(f"{store}: holds {what}; choose another --out, or delete the folder to start over")
    (store / WORK / "files").mkdir(parents=True, exist_ok=True)


def check_space(store: Path, items: Iterable[Item], limit_tokens: int | None) -> None:
    """Refuse to begin what cannot end. StorageError with the arithmetic."""
    need = sum(item.bytes * STORE_BYTES_PER_INPUT_BYTE[item.kind] for item in items)
    if limit_tokens is not None:
        need = min(need, 4.4 * limit_tokens)
    free = shutil.disk_usage(store).free
    if need > free:
        raise StorageError(
            f"{store}: the store needs about {need / 1e6:,.1f} MB, {free / 1e6:,.1f} MB are free; "
            "free space, or choose another --out"
        )
