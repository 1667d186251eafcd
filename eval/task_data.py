"""From a task to local folders that `datasets.load_dataset(folder, name=...)` loads without network.

`locate` says what would be fetched, `fetch` fetches it checked; task_prepare.py lets `datasets` read it. The
download code of `datasets` is never used: it neither checks digests nor repeats what fails (a reset, a 503).
The hub comes in as a Protocol; `eval` knows no other package.
"""

import re
import shlex
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from eval.errors import EvaluationError
from eval.suites import DataSource, EvalTask
from eval.task_folders import (
    Configuration,
    HubFile,
    Note,
    configuration,
    home,
    make_folder,
    read_note,
    write_note,
)
from eval.task_layout import (
    LEGACY_INFOS,
    MAX_README_BYTES,
    README,
    LayoutError,
    find_layouts,
    read_header,
)
from eval.task_prepare import disk_errors

DATA, HUB = 3, 4
"""Exit codes."""


class Hub(Protocol):
    """The dataset hub. Every method raises EvaluationError, with the repository and a remedy in its line."""

    @property
    def offline(self) -> bool:
        """Whether the user wants no request to be made."""

    def resolve_commit(self, repository: str, revision: str) -> str | None:
        """The commit of a revision; None where the repository, or offline the cache, lacks the revision."""

    def list_files(self, repository: str, commit: str) -> Sequence[HubFile]:
        """Every file; paths are safe below a folder. Asked online only."""

    def held(self, repository: str, commit: str) -> Sequence[HubFile]:
        """The files that the client's cache holds, as far as it has them. Makes no request."""

    def download(self, repository: str, commit: str, file: HubFile) -> Path:
        """A file in the client's cache, checked, fetched if need be. May raise OSError for the disk."""


@dataclass(frozen=True, kw_only=True)
class Located:
    """The data of a task: where it is on the hub, and which files."""

    task: str
    note: Note

    @property
    def at(self) -> str:
        """The place, for messages."""
        return f"{self.task}: hub repository {self.note.repository} at {self.note.revision}"

    @property
    def dataset(self) -> str:
        """repository@commit."""
        return f"{self.note.repository}@{self.note.commit}"

    @property
    def configs(self) -> Mapping[str | None, Configuration]:
        """The task's configurations."""
        return self.note.configs

    @property
    def files(self) -> tuple[HubFile, ...]:
        """Every file once, by path."""
        found = {
            file.path: file
            for config in self.configs.values()
            for files in config.files.values()
            for file in files
        }
        return tuple(found[path] for path in sorted(found))

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(file.bytes for file in self.files)

    def missing(self, hub: Hub) -> int:
        """Bytes that are not cached yet."""
        held = {file.path: file.bytes for file in hub.held(self.note.repository, self.note.commit)}
        return sum(file.bytes for file in self.files if held.get(file.path) != file.bytes)


class _UnusableError(Exception):
    """This source cannot be used; another one may. The message is the reason."""

    def __init__(self, reason: str, exit_code: int) -> None:
        self.exit_code = exit_code
        super().__init__(reason)


# ------------------------------------------------------------------------------------------------ locate
def locate(task: EvalTask, hub: Hub) -> Located:
    """Find a task's data without fetching it: at most a README.md comes into the client's cache.

    Raises EvaluationError: 3 where no source holds usable data, 4 for the hub, 7 for the disk.
    """
    failures: list[tuple[DataSource, _UnusableError]] = []
    for source in task.sources:
        try:
            with disk_errors(task.name):
                note = _held_note(task, source, hub) if hub.offline else _note(task, source, hub)
        except (_UnusableError, LayoutError) as error:
            known = error if isinstance(error, _UnusableError) else _UnusableError(str(error), DATA)
            failures.append((source, known))
        except EvaluationError as error:
            raise EvaluationError(f"{task.name}: {error}{_raw_text(task)}", error.exit_code) from error
        else:
            return Located(task=task.name, note=note)
    raise _no_source(task, failures, hub)


def _note(task: EvalTask, source: DataSource, hub: Hub) -> Note:
    """Online: the commit is asked for always, its files only where they are not known."""
    commit = hub.resolve_commit(source.repository, source.revision)
    if commit is None:
        raise _UnusableError("no such revision", HUB)
    known = read_note(source.repository, source.revision, task.configs)
    if known is not None and known.commit == commit:
        return known
    return _worked_out(task, source, commit, hub.list_files(source.repository, commit), hub)


def _held_note(task: EvalTask, source: DataSource, hub: Hub) -> Note:
    """Offline: what an earlier `fetch` has noted, else what others have left in the client's cache."""
    known = read_note(source.repository, source.revision, task.configs)
    if known is not None and Located(task=task.name, note=known).missing(hub) == 0:
        return known
    commit = hub.resolve_commit(source.repository, source.revision)
    if commit is None:
        raise _UnusableError("not cached", HUB)
    try:
        note = _worked_out(task, source, commit, hub.held(source.repository, commit), hub)
    except LayoutError as error:
        raise _UnusableError(f"not cached, or not whole ({error})", HUB) from error
    for config in note.configs.values():
        _check_series(config)
    return note


def _worked_out(task: EvalTask, source: DataSource, commit: str, listed: Sequence[HubFile], hub: Hub) -> Note:
    """The files of the task's configurations among those of a listing."""
    files = {file.path: file for file in listed}
    script = f"{source.repository.rpartition('/')[2]}.py"
    if script in files:
        raise _UnusableError(f"it holds a loading script ({script}), which `datasets` no longer runs", DATA)
    header = read_header(_small(source, commit, files.get(README), hub) or b"")
    legacy = _small(source, commit, files.get(LEGACY_INFOS), hub)
    wanted = {name: name if source.configured else None for name in task.configs}
    layouts = find_layouts(list(files), header, list(dict.fromkeys(wanted.values())), legacy)
    configs: dict[str | None, Configuration] = {}
    for name, asked in wanted.items():
        layout = layouts[asked]
        if task.split not in layout.splits:
            there = ", ".join(layout.splits)[:100]
            raise LayoutError(
                f"configuration {asked or 'default'} lacks the split {task.split}; it has {there}"
            )
        splits = {split: tuple(files[path] for path in paths) for split, paths in layout.splits.items()}
        configs[name] = configuration(splits, layout.features, layout.info)
    return Note(repository=source.repository, revision=source.revision, commit=commit, configs=configs)


def _small(source: DataSource, commit: str, file: HubFile | None, hub: Hub) -> bytes | None:
    """The content of a small file of the repository; None where it has no such file."""
    if file is None:
        return None
    if file.bytes > MAX_README_BYTES:
        raise LayoutError(f"its {file.path} is larger than {MAX_README_BYTES >> 20} MiB")
    return hub.download(source.repository, commit, file).read_bytes()


def _check_series(config: Configuration) -> None:
    """A cache may hold a part of a split: -00001-of-00003 needs the two others."""
    series: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
    for files in config.files.values():
        for file in files:
            if found := re.match(r"(.*)-(\d{5})-of-(\d{5})", file.path):
                series[found[1], found[3]].add(int(found[2]))
    for (start, count), numbers in series.items():
        if len(numbers) != int(count):
            raise _UnusableError(f"of {start} only {len(numbers)} of {int(count)} files are cached", HUB)
    stated = {split["name"] for split in _stated_splits(config)}
    if lacking := sorted(stated - set(config.files)):
        raise _UnusableError(f"the split {lacking[0]} is not cached", HUB)


def _stated_splits(config: Configuration) -> list[Mapping[str, Any]]:
    splits = (config.layout.info or {}).get("splits")
    found = splits if isinstance(splits, list) else []
    return [each for each in found if isinstance(each, dict) and isinstance(each.get("name"), str)]


def _no_source(
    task: EvalTask, failures: Sequence[tuple[DataSource, _UnusableError]], hub: Hub
) -> EvaluationError:
    tried = "; ".join(f"hub repository {one.repository} at {one.revision}: {why}" for one, why in failures)
    if hub.offline:
        # The last source: those before it are there for a better future.
        last = task.sources[-1]
        words = ["hf", "download", last.repository, "--repo-type", "dataset"]
        words += [] if last.revision == "main" else ["--revision", last.revision]
        remedy = (
            f"offline mode is on (HF_HUB_OFFLINE); `{shlex.join(words)}` fetches it where there is a network"
        )
        return EvaluationError(f"{task.name}: {tried}; {remedy}{_raw_text(task)}", HUB)
    code = HUB if all(why.exit_code == HUB for _, why in failures) else DATA
    remedy = _raw_text(task) or "; look for its new place on the hub and name that in eval/suites.yaml"
    return EvaluationError(f"{task.name}: {tried}{remedy}", code)


def _raw_text(task: EvalTask) -> str:
    return "; or give its authors' files by --logiqa-text DIR" if task.raw_text is not None else ""


# ------------------------------------------------------------------------------------------------ fetch
def fetch(
    located: Located, hub: Hub, advance: Callable[[int], None] | None = None
) -> Mapping[str | None, Path]:
    """Fetch and check what is located; for each configuration the folder to load it from.

    `advance` is told the bytes of each file that is there. Raises EvaluationError: 4 hub, 7 disk.
    """
    note, places = located.note, {}
    with disk_errors(located.at):
        if set(str(home())) & set("*?[]"):
            raise EvaluationError(
                f"{located.at}: HF_HOME ({home().parent}) holds one of * ? [ ], which `datasets` reads as a "
                "pattern; set it to another folder",
                2,
            )
        for file in located.files:
            places[file.path] = _downloaded(located, file, hub)
            if advance is not None:
                advance(file.bytes)
        folders = {name: make_folder(note, name, places) for name in note.configs}
        write_note(note)
    return folders


def _downloaded(located: Located, file: HubFile, hub: Hub) -> Path:
    try:
        return hub.download(located.note.repository, located.note.commit, file)
    except EvaluationError as error:
        raise EvaluationError(f"{located.task}: {error}", error.exit_code) from error
