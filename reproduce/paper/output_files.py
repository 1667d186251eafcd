"""Results as files: each whole or not at all, in a folder that is made where there is none."""

from collections.abc import Iterable
from pathlib import Path

from data_prep.files import atomic_file
from reproduce.errors import StorageError


def write_files(
    folder: Path, contents: Iterable[tuple[str, bytes]], remedy: str = "choose another --out"
) -> list[Path]:
    """Write (name, content) pairs below a folder, in this order; returns the paths.

    Raises:
        StorageError: one cannot be written; ends with "free space, or" and the remedy.
    """
    written = []
    for name, content in contents:
        path = folder / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with atomic_file(path) as file:
                file.write(content)
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror}; free space, or {remedy}") from error
        written.append(path)
    return written
