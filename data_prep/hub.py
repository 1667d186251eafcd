"""The dataset hub: pin a revision, list a repository, download a file and check it, say what went wrong.

What a hub sends is not trusted: names are checked before they become paths, and a file before it is handed
on. How long the client may try is the business of hub_client, what its cache holds that of hub_cache.
"""

import contextlib
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.errors import HubError
from data_prep.hub_cache import CachedCommit, Content, cached_commit, content_of
from data_prep.hub_names import (
    ARRIVING,
    COMMIT,
    HubFile,
    Kind,
    check_names,
    check_no_clash,
    checked_entry,
    is_below,
    place,
    unsafe,
)

if TYPE_CHECKING:
    from data_prep.hub_client import Watch

__all__ = ["HubFile", "download", "drop_leftovers", "held_files", "list_files", "resolve_commit"]

FETCHES = 3
"""How often a file that arrives damaged is fetched, in all."""
MOST_FILES = 500_000
"""Longest listing; the largest corpus we know, SlimPajama-627B, has a quarter of that."""
NEW_ENTRIES = 1000
"""So many entries of a listing, a page, are something new."""


def resolve_commit(repository: str, revision: str | None, remedy: str, *, kind: Kind = "dataset") -> str:
    """The commit, 40 hex digits, that a branch, tag or commit of a repository is; None is main.

    Offline the client's cache answers. A commit that is cached completely is not asked about.

    Raises UserError for a malformed name, HubError; RevisionError if only the revision is missing.
    """
    check_names(repository, revision)
    at, asked = place(repository, revision), revision or "main"
    pinned = COMMIT.fullmatch(asked) is not None
    if pinned and CachedCommit(repository=repository, kind=kind, commit=asked).is_complete():
        return asked
    from data_prep import hub_client

    if hub_client.offline():
        return cached_commit(repository, kind, asked, remedy)
    from huggingface_hub import HfApi

    def look_up() -> str | None:
        return HfApi().repo_info(repository, revision=asked, repo_type=kind).sha

    commit = hub_client.ask(look_up, hub_client.Watch(), at, remedy)
    if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
        raise HubError(f"{at}: the hub names no commit; {remedy}")
    if pinned and commit != asked:
        raise HubError(f"{at}: the hub names another commit, {commit}; {remedy}")
    return commit


def list_files(
    repository: str,
    commit: str,
    folder: str | None,
    remedy: str,
    *,
    kind: Kind = "dataset",
    wanted: Callable[[str], bool] = lambda _: True,
) -> list[HubFile]:
    """The files of a repository below `folder` at `commit` whose path is `wanted`, sorted by path.

    From the client's cache where it holds them all; offline it must.

    Raises UserError for a malformed name, HubError.
    """
    check_names(repository, commit)
    cache = CachedCommit(repository=repository, kind=kind, commit=commit)
    cached = cache.files()
    if cached is not None:
        cached = [file for file in cached if is_below(file.path, folder) and wanted(file.path)]
        missing = [file.path for file in cached if not cache.file(file.path).is_file()]
        if cached and not missing:
            return sorted(cached, key=lambda file: file.path)
    from data_prep import hub_client

    if hub_client.offline():
        what = "the list of its files"
        if cached is not None:
            what = f"{missing[0]} ({len(missing)} missing in all)" if missing else f"any file below {folder}"
        raise cache.not_cached(what, remedy, *([] if folder is None else ["--include", f"{folder}/*"]))
    watch, at = hub_client.Watch(), place(repository, commit)
    files = hub_client.ask(lambda: _list(cache, folder, wanted, watch, remedy), watch, at, remedy)
    check_no_clash(files, at, remedy)
    return sorted(files, key=lambda file: file.path)


def held_files(repository: str, commit: str, *, kind: Kind = "dataset") -> list[HubFile]:
    """The files that the client's cache holds of a commit, sorted by path; asks nothing of the hub.

    They may be a part of all. Raises UserError for a malformed name.
    """
    check_names(repository, commit)
    return CachedCommit(repository=repository, kind=kind, commit=commit).held()


def _list(
    source: CachedCommit, folder: str | None, wanted: Callable[[str], bool], watch: "Watch", remedy: str
) -> list[HubFile]:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    at = place(source.repository, source.commit)
    tree = HfApi().list_repo_tree(
        source.repository, folder, recursive=True, revision=source.commit, repo_type=source.kind
    )
    files: list[HubFile] = []
    for number, entry in enumerate(tree, 1):
        if number > MOST_FILES:
            raise HubError(f"{at}: the hub lists more than {MOST_FILES:,} files; {remedy}")
        if number % NEW_ENTRIES == 0:
            watch.something_new()
        # What nobody wants may have a name that no disk would take.
        if not isinstance(entry, RepoFile) or (isinstance(entry.path, str) and not wanted(entry.path)):
            continue
        digest = entry.lfs.sha256 if entry.lfs else None
        files.append(checked_entry(entry.path, entry.size, digest, at, remedy))
        if not is_below(files[-1].path, folder):
            raise HubError(f"{at}: the hub lists {files[-1].path} below {folder}; {remedy}")
    return files


def download(
    repository: str,
    kind: Kind,
    commit: str,
    path: str,
    remedy: str,
    *,
    folder: Path | None = None,
    sha256: str | None = None,
    size: int | None = None,
    keep: bool = False,
) -> Path:
    """One file of a repository at a commit, complete and checked; where it lies.

    It stays in the client's own cache where it is there already, and without `folder` or with `keep` comes
    there; otherwise it comes into `folder`, under its path in the repository. It is checked against
    `sha256`, or else the identity that the hub gives it, and `size` in bytes. A file that arrives damaged
    is fetched anew, FETCHES times in all. `folder` never holds anything but checked files, except what a
    process leaves that is killed: `drop_leftovers` deletes it.

    Raises UserError for a malformed name, HubError.
    """
    check_names(repository, commit)
    if (reason := unsafe(path)) is not None:
        raise HubError(
            f"{place(repository, commit)}: {path[:100]!r} is no path of a file: {reason}; {remedy}"
        )
    source = CachedCommit(repository=repository, kind=kind, commit=commit)
    expected = Content(sha256=sha256, size=size)
    cached = source.file(path)
    is_cached = cached.is_file()
    if is_cached and source.content(path).also(expected).fits(cached):
        return cached
    keep = keep or folder is None
    # Without a digest the file of another commit might lie there.
    if folder is not None and not keep and sha256 is not None and expected.fits(folder / path):
        return folder / path
    from data_prep import hub_client

    if hub_client.offline():
        if is_cached:
            raise source.not_cached(f"an undamaged {path}", remedy, "--include", path, "--force-download")
        # Of a model only this file: beside it lie the weights.
        raise source.not_cached(path, remedy, *([path] if kind == "model" else []))
    fetch = _Fetch(source=source, path=path, expected=expected, remedy=remedy)
    if folder is None or keep:
        return fetch.into(None, anew=is_cached)
    with _arriving(folder) as desk:
        file = fetch.into(desk, anew=is_cached)
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        return file.replace(target)


def drop_leftovers(folder: Path) -> None:
    """Delete what killed processes have left in a download folder, which no other process may use now."""
    for path in folder.glob(f"{ARRIVING}*"):
        shutil.rmtree(path)


@contextlib.contextmanager
def _arriving(folder: Path) -> Iterator[Path]:
    """A folder inside `folder` for one download and the client's notes on it; gone at the end."""
    desk = folder / f"{ARRIVING}{uuid.uuid4().hex}"
    desk.mkdir(parents=True)
    try:
        yield desk
    finally:
        shutil.rmtree(desk, ignore_errors=True)


@dataclass(frozen=True, kw_only=True)
class _Fetch:
    """A file to fetch, and what is known of it."""

    source: CachedCommit
    path: str
    expected: Content
    remedy: str

    def into(self, desk: Path | None, *, anew: bool) -> Path:
        """Fetch into a folder, or the client's cache; `anew` even if it is cached."""
        from huggingface_hub import hf_hub_download

        from data_prep import hub_client

        at = f"{place(self.source.repository, self.source.commit)}: {self.path}"
        watch = hub_client.Watch(commit=self.source.commit, most_bytes=self.expected.size)

        def get() -> Path:
            return Path(
                hf_hub_download(
                    self.source.repository,
                    self.path,
                    repo_type=self.source.kind,
                    revision=self.source.commit,
                    local_dir=desk,
                    force_download=anew,
                )
            )

        for _ in range(FETCHES):
            file = hub_client.ask(get, watch, at, self.remedy)
            if content_of(watch.etag).also(self.expected).fits(file):
                return file
            _forget(file)
            anew = True
            watch.start_over()
        raise HubError(f"{at}: arrived damaged {FETCHES} times (size or digest differs); {self.remedy}")


def _forget(file: Path) -> None:
    """Delete a damaged file, and what it links to in the client's cache."""
    content = file.resolve()
    file.unlink(missing_ok=True)
    if content.parent.name == "blobs":
        content.unlink(missing_ok=True)
