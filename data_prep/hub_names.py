"""Names of the hub: of repositories and revisions, which a user gives, and of files, which a hub sends."""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from data_prep.errors import HubError, UserError

Kind = Literal["dataset", "model"]

COMMIT = re.compile(r"[0-9a-f]{40}")
SHA256 = re.compile(r"[0-9a-f]{64}")
ARRIVING = ".arriving-"
"""Start of the name of a folder that holds a download until it is checked."""

_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
REPOSITORY = re.compile(rf"(?:{_PART}/)?{_PART}")
REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./+@-]*")
LONGEST_NAME = 96
LONGEST_REVISION = 200


@dataclass(frozen=True, kw_only=True)
class HubFile:
    """One file of a repository at a commit."""

    path: str
    bytes: int
    sha256: str | None
    """Digest of a large (LFS) file; None for small ones."""


def check_names(repository: str, revision: str | None) -> None:
    """Refuse a malformed repository or revision with UserError: both become parts of addresses and paths."""
    shown = f"hub repository {repository[:100]!r}"
    if len(repository) > LONGEST_NAME or ".." in repository or not REPOSITORY.fullmatch(repository):
        raise UserError(
            f"{shown}: not a name; write OWNER/NAME, of A-Z a-z 0-9 . _ - and {LONGEST_NAME} at most"
        )
    if revision is None:
        return
    if len(revision) > LONGEST_REVISION or ".." in revision or not REVISION.fullmatch(revision):
        raise UserError(f"{shown}: revision {revision[:100]!r} is not a branch, tag or commit")


def place(repository: str, revision: str | None) -> str:
    """How a message begins: which repository, at which revision."""
    return f"hub repository {repository} at {revision or 'main'}"


def is_below(path: str, folder: str | None) -> bool:
    """Whether a path of a repository is `folder`, or lies below it; everything lies below None."""
    return folder is None or path == folder or path.startswith(f"{folder}/")


def unsafe(path: str) -> str | None:
    """Why a path of a repository may not become a file below a folder; None if it may."""
    if "\\" in path or any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in path):
        return "it has characters that no file name may have"
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts):
        return "it leads out of its folder"
    if len(path) > 1000 or any(len(part.encode("utf-8")) > 255 for part in parts):
        return "it is too long"
    return "it is kept for downloads" if parts[0].startswith(ARRIVING) else None


def checked_entry(path: object, size: object, sha256: object, at: str, remedy: str) -> HubFile:
    """An entry of a listing as a file; HubError for one that no hub gives."""
    if not isinstance(path, str) or (reason := unsafe(path)) is not None:
        why = reason if isinstance(path, str) else "it is no text"
        raise HubError(f"{at}: the hub lists {str(path)[:100]!r}, no path of a file: {why}; {remedy}")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 1 << 60:
        raise HubError(f"{at}: the hub gives {path} a size of {str(size)[:40]!r}; {remedy}")
    if sha256 is not None and not (isinstance(sha256, str) and SHA256.fullmatch(sha256)):
        raise HubError(f"{at}: the hub gives {path} a sha256 that is none, {str(sha256)[:80]!r}; {remedy}")
    return HubFile(path=path, bytes=size, sha256=sha256)


def check_no_clash(files: Iterable[HubFile], at: str, remedy: str) -> None:
    """HubError where a path is listed twice, or as a file and as a folder: they would be one file on disk."""
    paths: set[str] = set()
    for file in files:
        if file.path in paths:
            raise HubError(f"{at}: the hub lists {file.path} twice; {remedy}")
        paths.add(file.path)
    for path in paths:
        parent = path.rpartition("/")[0]
        while parent:
            if parent in paths:
                raise HubError(f"{at}: the hub lists {parent} as a file and as a folder; {remedy}")
            parent = parent.rpartition("/")[0]
