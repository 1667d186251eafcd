"""What a preparation tells while it runs and when it is done."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data_prep.manifest import Manifest


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


Report = Callable[[Progress], None]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What `prepare` did."""

    path: Path
    manifest: Manifest
    built_files: int
    """Input files done now; 0 if nothing was left to do."""
    text_bytes: int
    """UTF-8 bytes of text tokenized now."""
    seconds: float
    workers: int
    """Processes that worked at a time, at most."""


@dataclass(frozen=True, kw_only=True)
class ShareDone:
    """What `prepare_share` did; `data_prep.merge` makes the store when all shares are done."""

    path: Path
    files: int
    """Input files of the share, all of them committed."""
    built_files: int
    text_bytes: int
    seconds: float
    workers: int
    """Processes that worked at a time, at most."""
