"""Folders from which `datasets` loads a configuration, and notes on what was located, for use offline.

Both lie below HF_HOME. A folder holds a README.md of ours, which names the files of one configuration and
nothing else, and links to them in the client's cache. With one README.md for all of MMLU's 57 subjects,
`datasets` would parse it anew for each and take twenty seconds.

The name of a folder follows from its content: `datasets` keeps what it has prepared under that name, and
does not notice that a file has changed.
"""

import contextlib
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from eval.json_files import Fields, read_json_object, write_text_atomically
from eval.task_layout import README, Layout

NOTE_VERSION = 1
MAX_NOTE_BYTES = 16 << 20
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, kw_only=True)
class HubFile:
    """One file of a repository at a commit."""

    path: str
    bytes: int
    sha256: str | None = None
    """Digest of a large (LFS) file; None for small ones."""


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """One configuration and its files."""

    layout: Layout
    files: Mapping[str, tuple[HubFile, ...]]
    """Split -> files, as in `layout`."""


@dataclass(frozen=True, kw_only=True)
class Note:
    """What was located: a repository's commit, and the files of some of its configurations."""

    repository: str
    revision: str
    commit: str
    configs: Mapping[str | None, Configuration]


def home() -> Path:
    """Where folders and notes lie."""
    from huggingface_hub import constants

    return Path(constants.HF_HOME).absolute() / "reweight"


# ------------------------------------------------------------------------------------------------ folders
def make_folder(note: Note, name: str | None, places: Mapping[str, Path]) -> Path:
    """The folder of one configuration; `places` says where each of its files lies.

    Several processes may make it at once. Raises OSError.
    """
    config = note.configs[name]
    card = config.layout.card(name or "default")
    links = {file.path: places[file.path] for files in config.files.values() for file in files}
    sizes = [asdict(file) for files in config.files.values() for file in files]
    content = json.dumps([note.repository, note.commit, card, sizes])
    label = re.sub(r"[^A-Za-z0-9.]+", "-", f"{note.repository}-{name or 'default'}").lower()[:80]
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    folder = home() / "folders" / f"{label}-{digest}"
    if _is_whole(folder, card, links):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    desk = Path(tempfile.mkdtemp(prefix=".making-", dir=folder.parent))
    try:
        new = desk / "new"
        new.mkdir()
        (new / README).write_text(card, encoding="utf-8")
        for path, place in links.items():
            (new / path).parent.mkdir(parents=True, exist_ok=True)
            (new / path).symlink_to(place.absolute())
        try:
            new.rename(folder)
        except OSError:
            # There is something: what another process has just made, or a broken folder.
            if not _is_whole(folder, card, links):
                folder.rename(desk / "old")
                new.rename(folder)
    finally:
        shutil.rmtree(desk, ignore_errors=True)
    return folder


def _is_whole(folder: Path, card: str, links: Mapping[str, Path]) -> bool:
    """Whether a folder holds what it should; links of an HF_HOME that was moved lead elsewhere."""
    try:
        return (folder / README).read_text(encoding="utf-8") == card and all(
            (folder / path).readlink() == place.absolute() for path, place in links.items()
        )
    except (OSError, UnicodeDecodeError):
        return False


# ------------------------------------------------------------------------------------------------ notes
def note_path(repository: str, revision: str, names: Sequence[str | None]) -> Path:
    """Where the note on these configurations lies."""
    key = json.dumps([NOTE_VERSION, repository, revision, list(names)])
    return home() / "located" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


def write_note(note: Note) -> None:
    """Keep a note for a later run, which may be offline. Raises OSError."""
    configs = [
        {
            "name": name,
            "features": config.layout.features,
            "info": config.layout.info,
            "splits": [
                {"split": split, "files": [asdict(file) for file in files]}
                for split, files in config.files.items()
            ],
        }
        for name, config in note.configs.items()
    ]
    document = {"version": NOTE_VERSION, "repository": note.repository, "revision": note.revision}
    text = json.dumps({**document, "commit": note.commit, "configs": configs})
    path = note_path(note.repository, note.revision, list(note.configs))
    with contextlib.suppress(FileNotFoundError):
        if path.read_bytes() == text.encode():
            return
    write_text_atomically(path, text)


def read_note(repository: str, revision: str, names: Sequence[str | None]) -> Note | None:
    """The note on these configurations; None where there is none, or none that is undamaged."""
    path = note_path(repository, revision, names)
    try:
        document = read_json_object(path, MAX_NOTE_BYTES, ValueError)
        entries = [_entry(each) for each in _list(document.get("configs"))]
    except (OSError, ValueError):
        return None
    head = [document.get(key) for key in ("version", "repository", "revision")]
    commit, configs = document.get("commit"), dict(entries)
    whole = head == [NOTE_VERSION, repository, revision] and list(configs) == list(names)
    if not whole or not isinstance(commit, str) or not COMMIT.fullmatch(commit):
        return None
    return Note(repository=repository, revision=revision, commit=commit, configs=configs)


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("not a list")
    return value


def _entry(entry: object) -> tuple[str | None, Configuration]:
    """One configuration of a note; ValueError for what was not written by `write_note`."""
    if not isinstance(entry, dict) or not isinstance(entry.get("info"), dict | None):
        raise ValueError("not a configuration")
    name = entry.get("name")
    if not isinstance(name, str | None):
        raise ValueError("not a name")
    files: dict[str, tuple[HubFile, ...]] = {}
    for each in _list(entry.get("splits")):
        if not isinstance(each, dict) or not isinstance(each.get("split"), str):
            raise ValueError("not a split")
        files[each["split"]] = tuple(_file(file) for file in _list(each.get("files")))
    if not files or not all(files.values()):
        raise ValueError("a split without files")
    return name, configuration(files, entry.get("features"), entry.get("info"))


def configuration(
    files: Mapping[str, tuple[HubFile, ...]], features: object, info: Mapping[str, Any] | None
) -> Configuration:
    """A configuration of files."""
    splits = {split: tuple(file.path for file in each) for split, each in files.items()}
    return Configuration(layout=Layout(splits=splits, features=features, info=info), files=files)


def _file(entry: object) -> HubFile:
    fields = Fields.of("file", entry, HubFile, ValueError)
    path = fields.text("path")
    parts = PurePosixPath(path).parts
    if (
        path.startswith("/")
        or ".." in parts
        or "\0" in path
        or "/".join(parts) != path
        or set(path) & set("*?[]")
    ):
        raise ValueError("not a path inside a repository")
    digest = fields.sha256("sha256") if fields.has("sha256") else None
    return HubFile(path=path, bytes=fields.integer("bytes", minimum=0), sha256=digest)
