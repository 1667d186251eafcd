"""LogiQA from its authors' text files: what the data set's loading script did, now that none may run.

An item is a block of lines, and an empty line parts blocks: the label a to d, the passage, the question, then
the options, each behind its letter and a full stop. The paper's prompts hold the text as the script left it:
a blank after every full stop, none at the ends.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

from eval.errors import EvaluationError
from eval.suites import RawFile, RawText
from eval.task_folders import home
from eval.task_layout import README, Layout
from eval.task_prepare import disk_errors

CONFIGURATION = "logiqa"
LABELS = ("a", "b", "c", "d")
LETTER_AND_STOP = 2
"""Characters before an option's text."""

FEATURES = (
    {"name": "label", "dtype": "string"},
    {"name": "context", "dtype": "string"},
    {"name": "question", "dtype": "string"},
    {"name": "options", "list": "string"},
)
"""Column types, in the notation of a README.md."""


class LogiqaItem(TypedDict):
    """The columns that the task reads, as the script named them."""

    label: str
    context: str
    question: str
    options: list[str]


def read_logiqa_text(path: Path, file: RawFile) -> list[LogiqaItem]:
    """The items of one split, in the file's order.

    Raises:
        EvaluationError: 3 for a file that is missing, is not the published one, holds another number of
            items, or one that is none.
    """
    # Line ends as Python's text mode reads them, which is how the script read them.
    text = _published(path, file).decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    line = 1 + text[: len(text) - len(text.lstrip())].count("\n")
    items = []
    for block in text.strip().split("\n\n"):
        items.append(_item(path, line, block))
        line += block.count("\n") + 2
    if len(items) != file.items:
        raise EvaluationError(f"{path}: holds {len(items)} items instead of {file.items}; fetch it again", 3)
    return items


def write_logiqa_folder(texts: Path, out: Path, raw: RawText) -> None:
    """From a folder of text files to one that `datasets.load_dataset(str(out))` loads, named or not.

    Args:
        texts: holds every file that `raw` names.
        out: made if missing.
        raw: the files, their splits and digests: `raw_text` of the suites' logiqa.

    Raises:
        EvaluationError: as read_logiqa_text; nothing is written then.
        OSError: `out` cannot be written.
    """
    _write(_contents(texts, raw), out)


def logiqa_folder(texts: Path, raw: RawText) -> Path:
    """That folder, kept below HF_HOME; several processes may ask for it at once.

    Its name follows from its content, so `datasets` cannot mistake it for another in its own cache.

    Raises:
        EvaluationError: as read_logiqa_text; 7 for the disk.
    """
    contents = _contents(texts, raw)
    digest = hashlib.sha256(json.dumps(contents).encode()).hexdigest()[:16]
    folder = home() / "folders" / f"logiqa-text-{digest}"
    with disk_errors(str(texts)):
        if _holds(folder, contents):
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        desk = Path(tempfile.mkdtemp(prefix=".making-", dir=folder.parent))
        try:
            _write(contents, desk / "new")
            try:
                (desk / "new").rename(folder)
            except OSError:
                # There is something: what another process has just made, or a broken folder.
                if not _holds(folder, contents):
                    folder.rename(desk / "old")
                    (desk / "new").rename(folder)
        finally:
            shutil.rmtree(desk, ignore_errors=True)
    return folder


def _contents(texts: Path, raw: RawText) -> dict[str, str]:
    """Path in the folder -> text: a file of JSON lines a split, and a README.md that says which is which."""
    places = {file: f"data/{file.split}.jsonl" for file in raw.files}
    contents = {
        place: "".join(json.dumps(item) + "\n" for item in read_logiqa_text(texts / file.name, file))
        for file, place in places.items()
    }
    layout = Layout(splits={file.split: (place,) for file, place in places.items()}, features=FEATURES)
    return {**contents, README: layout.card(CONFIGURATION)}


def _write(contents: Mapping[str, str], folder: Path) -> None:
    for place, text in contents.items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_text(text, encoding="utf-8")


def _holds(folder: Path, contents: Mapping[str, str]) -> bool:
    try:
        return all((folder / place).read_bytes() == text.encode() for place, text in contents.items())
    except OSError:
        return False


def _published(path: Path, file: RawFile) -> bytes:
    """The file's content, which is the published one."""
    try:
        size = path.stat().st_size
        content = path.read_bytes() if size == file.bytes else b""
    except OSError as error:
        raise EvaluationError(
            f"{path}: cannot be read ({error.strerror}); put LogiQA's {file.name} there", 3
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if size != file.bytes or found != file.sha256:
        what = f"{size} bytes instead of {file.bytes}" if size != file.bytes else f"of {found}"
        raise EvaluationError(
            f"{path}: is not LogiQA's {file.name} as published, sha256 {file.sha256}, but {what}; fetch it",
            3,
        )
    return content


def _item(path: Path, line: int, block: str) -> LogiqaItem:
    """The item whose label is in that line."""
    label, *texts = block.split("\n")
    if label.strip() not in LABELS:
        raise EvaluationError(
            f"{path}: line {line}: {label[:40]!r} is none of the labels {', '.join(LABELS)}; fetch the file "
            "again",
            3,
        )
    if len(texts) != 2 + len(LABELS):
        raise EvaluationError(
            f"{path}: line {line}: an item of {1 + len(texts)} lines, and label, passage, question and "
            f"{len(LABELS)} options are {3 + len(LABELS)}; fetch the file again",
            3,
        )
    context, question, *options = texts
    return {
        "label": label.strip(),
        "context": _spaced(context),
        "question": _spaced(question),
        "options": [_spaced(option[LETTER_AND_STOP:]) for option in options],
    }


def _spaced(text: str) -> str:
    return text.replace(".", ". ").strip()
