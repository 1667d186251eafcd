"""Input files as numbered items: which files there are, and which split and domain their paths name."""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import get_args

from data_prep.errors import DataError, UserError
from data_prep.files import is_safe_name
from data_prep.readers import KNOWN_SUFFIXES, Kind, kind_of

SPLIT_NAMES: Mapping[str, str] = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
"""How folders and files name their split: the words that the `datasets` library looks for, too."""

SPLIT_WORD = re.compile(rf"(?:^|[-_. 0-9])({'|'.join(SPLIT_NAMES)})(?=[-_. 0-9])")


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One input file: the unit of work."""

    split: str
    """Our name of the split."""
    index: int
    """Its number within the split, and its shards' number."""
    path: str
    """Relative to the input folder or repository, with forward slashes."""
    kind: Kind
    bytes: int
    domain: str | None
    """Domain of everything in it; None if each record says."""
    sha256: str | None = None
    """Known digest of the file, if the hub tells."""


ITEM_KINDS: tuple[Kind, ...] = get_args(Kind)


def split_of(path: str) -> str | None:
    """The split a path names: a folder called so, or a file name with such a word in it."""
    *folders, name = PurePosixPath(path.lower()).parts
    for folder in folders:
        if folder in SPLIT_NAMES:
            return SPLIT_NAMES[folder]
    word = SPLIT_WORD.search(name)
    return SPLIT_NAMES[word.group(1)] if word else None


def folder_domain(path: str, fallback: str) -> str:
    """The domain a path names: its first folder that is not a split, else `fallback`."""
    folders = [part for part in PurePosixPath(path).parts[:-1] if part.lower() not in SPLIT_NAMES]
    domain = folders[0] if folders else fallback
    if not is_safe_name(domain):
        raise DataError(
            f"{path}: the folder {domain[:100]!r} cannot be a domain: rename it to 1 to 96 of "
            "A-Z a-z 0-9 . _ -, or name the field that holds the domain with --domain-from"
        )
    return domain


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A file before its split is renamed."""

    path: str
    split: str
    kind: Kind
    bytes: int
    domain: str | None
    sha256: str | None = None


def number_items(
    found: Iterable[Found],
    split_map: Mapping[str, str],
    required: Iterable[str],
    sample_seed: int | None = None,
) -> tuple[Item, ...]:
    """Rename splits (ours -> theirs) and number the files of each split.

    They are numbered in the order of their paths, or in the random order of `sample_seed`. A source split
    that was given another name, or whose name was taken, is left out. UserError if a `required` split of
    ours is mapped from one that the source lacks.
    """
    by_split: dict[str, list[Found]] = {}
    for file in sorted(found, key=lambda file: (_draw(sample_seed, file.path), file.path)):
        by_split.setdefault(file.split, []).append(file)
    for ours in required:
        if split_map[ours] not in by_split:
            raise UserError(
                f"--split-map {ours}={split_map[ours]}: the source has no split '{split_map[ours]}'; "
                f"it has {', '.join(by_split)}"
            )
    chosen = {ours: theirs for ours, theirs in split_map.items() if theirs in by_split}
    for theirs in by_split:
        if theirs not in chosen.values():
            chosen.setdefault(theirs, theirs)
    return tuple(
        Item(
            split=ours,
            index=index,
            path=file.path,
            kind=file.kind,
            bytes=file.bytes,
            domain=file.domain,
            sha256=file.sha256,
        )
        for ours, theirs in sorted(chosen.items())
        for index, file in enumerate(by_split[theirs])
    )


def _draw(seed: int | None, path: str) -> bytes:
    """What files are ordered by: a hash of seed and path, so that a file's place needs no list of others."""
    return b"" if seed is None else hashlib.sha256(f"{seed}/{path}".encode()).digest()


def find_local(
    inputs: Iterable[Path], domain_of: Callable[[str, str], str | None]
) -> tuple[list[Found], dict[str, Path]]:
    """Every file of a known kind in the inputs, and where each lies. DataError if there is none."""
    files: dict[str, Path] = {}
    fallbacks: dict[str, str] = {}
    inputs = tuple(inputs)
    for root in inputs:
        try:
            resolved = root.resolve()
            there = resolved.exists()
        except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, before Python 3.13
            raise DataError(f"{root}: cannot be read ({error}); check the path") from None
        if not there:
            raise DataError(f"{root}: no such file or folder; check --input")
        names = [resolved] if resolved.is_file() else sorted(p for p in resolved.rglob("*") if p.is_file())
        base = resolved.parent if resolved.is_file() else resolved
        for path in names:
            relative = path.relative_to(base).as_posix()
            if kind_of(path.name) is None or any(part.startswith(".") for part in Path(relative).parts):
                continue
            relative = (
                f"{base.name}/{relative}" if relative in files and files[relative] != path else relative
            )
            if files.get(relative, path) != path:
                raise UserError(
                    f"--input: two different files would be called {relative}; give one folder above both"
                )
            files[relative] = path
            fallbacks[relative] = base.name if is_safe_name(base.name) else "text"
    if not files:
        where = ", ".join(str(root) for root in inputs)
        raise DataError(f"{where}: no file that ends in {KNOWN_SUFFIXES}; check --input or the names")
    found = [
        Found(
            path=relative,
            split=split_of(relative) or "train",
            kind=kind_of(path.name) or "txt",
            bytes=path.stat().st_size,
            domain=domain_of(relative, fallbacks[relative]),
        )
        for relative, path in files.items()
    ]
    return found, files
