"""Finished studies at or below folders. Follows no link."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reproduce.paper.runs import walk
from reproduce.study import STUDY_NAMES, Study
from reproduce.study_file import FILE_NAME, read_study


@dataclass(frozen=True, kw_only=True)
class FoundStudy:
    """A study and the folder that it lies in."""

    path: Path
    study: Study


def find_studies(roots: Sequence[Path]) -> list[FoundStudy]:
    """Every study.json at or below the given folders, each once, by kind of study and then by path.

    Raises:
        DataError: a study.json that cannot be read.
    """
    folders: dict[Path, Path] = {}
    for root in roots:
        for folder, files in walk(root):
            if FILE_NAME in files and not (folder / FILE_NAME).is_symlink():
                folders.setdefault(folder.resolve(), folder)
    found = [
        FoundStudy(path=folders[key], study=read_study(folders[key] / FILE_NAME)) for key in sorted(folders)
    ]
    return sorted(found, key=lambda each: STUDY_NAMES.index(each.study.study))
