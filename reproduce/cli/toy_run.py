"""What every toy study does around its numbers: the folder, a finished one that is there, files, printing."""

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from reproduce.cli.console import emit_json, note, progress
from reproduce.errors import ExitCode, ResumeError, StorageError
from reproduce.study_file import FILE_NAME, read_study

if TYPE_CHECKING:
    from reproduce.study import Scalar, Study, StudyName

HOME = Path("runs") / "toy"
"""Below ./runs, where `compare` and `report` look."""

Settings = Mapping[str, "Scalar | tuple[Scalar, ...]"]
Run = Callable[[str, Callable[[float, str], None]], "Study"]
"""(command line, told the share done and what is being done) -> the study."""


def available_cores() -> int:
    """Threads for work that is cut into pieces."""
    from data_prep.workers import available_cores as cores

    return cores()


def finish(
    name: "StudyName", out: Path | None, command: str, settings: Settings, run: Run, as_json: bool
) -> int:
    """Make a study, unless its folder holds it already, and print it."""
    from reproduce.cli.study_print import print_study

    folder = out or HOME / name
    study, written = make(name, folder, command, settings, run)
    if as_json:
        emit_json({"folder": str(folder), "files": [path.name for path in written], **asdict(study)})
    else:
        print_study(study)
        click.echo(str(folder))
    return ExitCode.DONE


def make(
    name: "StudyName", folder: Path, command: str, settings: Settings, run: Run
) -> "tuple[Study, list[Path]]":
    """Run a study, or take the one that the folder holds, and write its files; raises as `finished` does."""
    from reproduce.paper.study_output import write_outputs

    study = finished(folder, name, settings)
    if study is None:
        _usable(folder)
        study = _run(name, command, run)
    else:
        note(f"{folder}: already complete")
    return study, write_outputs(folder, study)


def finished(folder: Path, name: "StudyName", settings: Settings) -> "Study | None":
    """The study of these settings and library versions, if the folder holds it.

    Raises:
        ResumeError: the folder holds another one.
        DataError: its study.json is broken.
    """
    from reproduce.studies.versions import versions

    path = folder / FILE_NAME
    if not path.exists():
        return None
    found = read_study(path)
    theirs = {"study": found.study, **found.settings, **found.versions}
    ours = {"study": name, **settings, **versions()}
    # A study may record more than the usual versions.
    ours |= {key: value for key, value in found.versions.items() if key not in ours}
    differing = [key for key in {**ours, **theirs} if theirs.get(key) != ours.get(key)]
    if differing:
        key = differing[0]
        raise ResumeError(
            f"{folder}: holds another study ({key} is {theirs.get(key)!r:.60} there, "
            f"{ours.get(key)!r:.60} here); choose another --out, or delete the folder"
        )
    return found


def _usable(folder: Path) -> None:
    """Before minutes of work, not after: whether the folder can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make {folder}: {error.strerror}; choose another --out") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StorageError(f"cannot write to {folder}; make it writable, or choose another --out")


def _run(name: str, command: str, run: Run) -> "Study":
    import torch

    # The pieces are small and run side by side; threads inside an operation would only wait for each other.
    torch.set_num_threads(1)
    with progress(name, 100, "%") as line:
        return run(command, lambda share, what: line.update(min(100.0, 100 * share), what))
