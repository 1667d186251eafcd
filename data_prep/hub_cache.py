"""What the client's own cache (HF_HOME) holds of a repository. Asks nothing of the hub.

Its layout is documented by huggingface_hub: refs/<branch> names a commit, snapshots/<commit>/<path> links to
blobs/<identity of the content>. The list of a commit's files is kept only by a download of the whole
repository, or of a pattern; without it nobody can tell a complete snapshot from a part of one.
"""

import hashlib
import shlex
from dataclasses import dataclass
from pathlib import Path

from data_prep.errors import HubError, RevisionError
from data_prep.files import BLOCK_BYTES, sha256_file
from data_prep.hub_names import COMMIT, SHA256, HubFile, Kind, check_no_clash, checked_entry, place, unsafe


@dataclass(frozen=True, kw_only=True)
class Content:
    """What is known of a file's content."""

    sha256: str | None = None
    size: int | None = None
    git_id: str | None = None

    def fits(self, file: Path) -> bool:
        """Whether a file is there and is this one, as far as is known."""
        if not file.is_file() or (self.size is not None and file.stat().st_size != self.size):
            return False
        if self.sha256 is not None:
            return sha256_file(file) == self.sha256
        return self.git_id is None or self.git_id in _sha1s(file)

    def also(self, other: "Content") -> "Content":
        """With what `other` knows, which has precedence."""
        return Content(
            sha256=other.sha256 or self.sha256,
            size=self.size if other.size is None else other.size,
            git_id=other.git_id or self.git_id,
        )


def content_of(identity: str | None) -> Content:
    """What a hub's identity of a file (ETag) says: sha256 of a large file, git's object id of a small one."""
    if identity is not None and SHA256.fullmatch(identity):
        return Content(sha256=identity)
    return Content(git_id=identity if identity is not None and COMMIT.fullmatch(identity) else None)


def _sha1s(file: Path) -> tuple[str, str]:
    """Git's object id of a file, and its plain sha1, by which some mirrors of the hub identify files."""
    git = hashlib.sha1(b"blob %d\0" % file.stat().st_size, usedforsecurity=False)
    plain = hashlib.sha1(usedforsecurity=False)
    with file.open("rb") as stream:
        while block := stream.read(BLOCK_BYTES):
            git.update(block)
            plain.update(block)
    return git.hexdigest(), plain.hexdigest()


@dataclass(frozen=True, kw_only=True)
class CachedCommit:
    """A commit of a repository, of which the cache may hold something."""

    repository: str
    kind: Kind
    commit: str

    def file(self, path: str) -> Path:
        """Where the cache holds a file, if it does."""
        return _repository(self.repository, self.kind) / "snapshots" / self.commit / path

    def content(self, path: str) -> Content:
        """What the cache says of a file that it holds."""
        return content_of(self.file(path).resolve().name)

    def files(self) -> list[HubFile] | None:
        """Every file of the commit, cached or not; None where the cache has no list of them."""
        from huggingface_hub import errors, get_cached_repo_tree

        try:
            entries = get_cached_repo_tree(self.repository, repo_type=self.kind, revision=self.commit)
            at = place(self.repository, self.commit)
            files = [
                checked_entry(each.path, each.size, self.content(each.path).sha256, at, "")
                for each in entries
            ]
            check_no_clash(files, at, "")
        except (errors.CachedRepoTreeNotFoundError, HubError):
            return None
        return files

    def held(self) -> list[HubFile]:
        """The files of the commit that are cached, be they all or not, sorted by path."""
        snapshot = self.file("")
        paths = sorted(path for path in snapshot.rglob("*") if path.is_file())
        names = [(path.relative_to(snapshot).as_posix(), path.stat().st_size) for path in paths]
        return [
            HubFile(path=name, bytes=size, sha256=self.content(name).sha256)
            for name, size in names
            if unsafe(name) is None
        ]

    def is_complete(self) -> bool:
        """Whether every file of the commit is cached."""
        files = self.files()
        return files is not None and all(self.file(each.path).is_file() for each in files)

    def not_cached(self, what: str, remedy: str, *options: str) -> HubError:
        """The error for something that is wanted offline and not there, with the command that fetches it."""
        command = _command(self.repository, self.kind, self.commit, *options)
        at = place(self.repository, self.commit)
        return HubError(
            f"{at}: offline mode is on (HF_HUB_OFFLINE) and the cache lacks {what}; "
            f"`{command}` fetches it where there is a network; {remedy}"
        )


def cached_commit(repository: str, kind: Kind, revision: str, remedy: str) -> str:
    """The commit that the cache knows a branch, tag or commit as; RevisionError where it knows none."""
    root = _repository(repository, kind)
    reference = root / "refs" / revision
    commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else revision
    if COMMIT.fullmatch(commit) and (root / "snapshots" / commit).is_dir():
        return commit
    held = sorted(path.name for path in root.glob("snapshots/*") if COMMIT.fullmatch(path.name))
    instead = f", but has {held[0]} (--revision)" if held else ""
    # Of a model a tokenizer is read and nothing else: beside it lie the weights.
    command = _command(repository, kind, revision, *(["tokenizer.json"] if kind == "model" else []))
    raise RevisionError(
        f"{place(repository, revision)}: offline mode is on (HF_HUB_OFFLINE) and the cache lacks it"
        f"{instead}; `{command}` fetches it where there is a network; {remedy}"
    )


def _repository(repository: str, kind: Kind) -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / "--".join([f"{kind}s", *repository.split("/")])


def _command(repository: str, kind: Kind, revision: str, *options: str) -> str:
    words = ["hf", "download", repository]
    if kind != "model":
        words += ["--repo-type", kind]
    if revision != "main":
        words += ["--revision", revision]
    return shlex.join([*words, *options])
