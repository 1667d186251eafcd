"""The dataset hub: list a repository at one commit, download one file, and say plainly what went wrong."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from data_prep.errors import HubError
from data_prep.files import sha256_file

T = TypeVar("T")

ATTEMPTS = 3
WAIT_S = 2.0
"""First pause between attempts; doubled each time. The client retries 429 and 5xx on most calls itself."""


@dataclass(frozen=True, kw_only=True)
class HubFile:
    """One file of a repository at a commit."""

    path: str
    bytes: int
    sha256: str | None
    """Digest of a large (LFS) file; None for small ones."""


def resolve_commit(repository: str, revision: str | None, remedy: str) -> str:
    """The commit, 40 hex digits, that a branch or tag of a data set points to. HubError."""
    from huggingface_hub import HfApi

    def ask() -> str:
        sha = HfApi().dataset_info(repository, revision=revision).sha
        if sha is None:
            raise HubError(f"{_at(repository, revision)}: the hub names no commit; {remedy}")
        return sha

    return _call(ask, repository, revision, remedy)


def list_files(repository: str, commit: str, folder: str | None, remedy: str) -> list[HubFile]:
    """Every file of a data set below `folder` at `commit`, sorted by path. HubError."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    def ask() -> list[HubFile]:
        tree = HfApi().list_repo_tree(
            repository, folder, recursive=True, revision=commit, repo_type="dataset"
        )
        return [
            HubFile(path=entry.path, bytes=entry.size, sha256=entry.lfs.sha256 if entry.lfs else None)
            for entry in tree
            if isinstance(entry, RepoFile)
        ]

    return sorted(_call(ask, repository, commit, remedy), key=lambda file: file.path)


def download(
    repository: str,
    kind: str,
    commit: str,
    path: str,
    remedy: str,
    *,
    folder: Path | None = None,
    sha256: str | None = None,
) -> Path:
    """Download one file of a repository (`kind` is model or dataset) and return where it lies.

    Into `folder`, or the client's own cache. With `sha256` the content is checked, and a file that does
    not match is removed and fetched once more. Raises HubError.
    """
    from huggingface_hub import hf_hub_download

    def fetch(force: bool) -> Path:
        return Path(
            hf_hub_download(
                repository, path, repo_type=kind, revision=commit, local_dir=folder, force_download=force
            )
        )

    for force in (False, True):
        file = _call(lambda force=force: fetch(force), repository, commit, remedy)  # type: ignore[misc]
        if sha256 is None or sha256_file(file) == sha256:
            return file
        file.unlink()
    raise HubError(f"{_at(repository, commit)}: {path} arrived damaged twice (sha256 differs); {remedy}")


def _call(action: Callable[[], T], repository: str, revision: str | None, remedy: str) -> T:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return action()
        except HubError:
            raise
        except Exception as error:
            if not _from_the_hub(error):
                raise
            if attempt == ATTEMPTS or not _worth_retrying(error):
                raise HubError(f"{_at(repository, revision)}: {_cause(error)}; {remedy}") from None
        time.sleep(WAIT_S * 2 ** (attempt - 1))
    raise AssertionError("unreachable")


def _at(repository: str, revision: str | None) -> str:
    return f"hub repository {repository} at {revision or 'main'}"


def _is_transport(error: Exception) -> bool:
    # By name: the client moved from requests to httpx, and may move again.
    return any(base.__name__ in ("TransportError", "ConnectionError") for base in type(error).__mro__)


def _from_the_hub(error: Exception) -> bool:
    from huggingface_hub import errors

    known = (errors.HfHubHTTPError, errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError)
    more = (errors.FileMetadataError, errors.HFValidationError)
    return isinstance(error, known + more) or _is_transport(error) or "Consistency check" in str(error)


def _worth_retrying(error: Exception) -> bool:
    from huggingface_hub import errors

    if isinstance(error, errors.OfflineModeIsEnabled):
        return False
    if isinstance(error, errors.HfHubHTTPError) and error.response is not None:
        return bool(error.response.status_code >= 500)
    return _is_transport(error) or "Consistency check" in str(error)


def _cause(error: Exception) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.OfflineModeIsEnabled) or os.environ.get("HF_HUB_OFFLINE", "") in (
        "1",
        "true",
    ):
        return "offline mode is on (HF_HUB_OFFLINE) and the file is not in the cache"
    # GatedRepoError is a RepositoryNotFoundError, so it comes first.
    if isinstance(error, errors.GatedRepoError):
        return "gated: accept its terms on the hub and log in with `hf auth login`"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "no such repository, or it is private and you are not logged in"
    if isinstance(error, errors.RevisionNotFoundError):
        return "no such revision"
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return "no such file at this revision"
    if isinstance(error, errors.LocalEntryNotFoundError) or _is_transport(error):
        return f"the hub cannot be reached ({type(error).__name__})"
    if isinstance(error, errors.HfHubHTTPError) and error.response is not None:
        return f"the hub answered HTTP {error.response.status_code}"
    # Only the class: messages of the client may quote request headers.
    return f"the download failed ({type(error).__name__})"
