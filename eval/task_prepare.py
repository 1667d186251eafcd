"""Let `datasets` read what was fetched, and say in one line what is wrong with it, or with the disk."""

import contextlib
import errno
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from eval.errors import EvaluationError
from eval.task_layout import one_line

DATA, STORAGE = 3, 7
"""Exit codes."""
DISK = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EIO,
    errno.ELOOP,
)
"""What is wrong with the disk or its rights, and not with the data."""


def prepare(where: str, folders: Mapping[str | None, Path]) -> None:
    """Let `datasets` read every folder of `fetch`, and keep what it makes of it (HF_DATASETS_CACHE).

    `where` begins the message: `Located.at`. Rows are counted against README.md's numbers, if it has any.

    Raises EvaluationError: 3 for data that cannot be read, 7 for the disk or memory.
    """
    import datasets

    for name, folder in folders.items():
        at = f"{where}, configuration {name}" if name is not None else where
        try:
            with disk_errors(at), _without_bars():
                loaded = datasets.load_dataset(str(folder), name=name)
        except EvaluationError:
            raise
        except Exception as error:  # of `datasets`, pyarrow and what they stand on: any damage of a file
            raise EvaluationError(
                f"{at}: `datasets` cannot read its data ({_said(error)}), which arrived as the hub has it; "
                "look for a repaired revision on the hub and name that in eval/suites.yaml",
                DATA,
            ) from error
        for split, rows in loaded.items():
            if odd := _odd_column(rows.features):
                raise EvaluationError(
                    f"{at}: column {odd[:60]!r} of {split} holds no text or numbers, and its files would be "
                    "opened; look for a repaired revision on the hub and name that in eval/suites.yaml",
                    DATA,
                )


def _said(error: BaseException) -> str:
    """What went wrong with a dataset: counts that differ have a class of error of their own."""
    kind = type(error).__name__
    counts = {
        "NonMatchingSplitsSizesError": "it has other numbers of rows than its README.md states",
        "ExpectedMoreSplitsError": "it lacks splits that its README.md states",
        "UnexpectedSplitsError": "it has splits that its README.md does not state",
    }
    return counts.get(kind) or one_line(error)


def _odd_column(features: Any, name: str = "") -> str | None:
    """A column that is no text, number, class, or list or mapping of them: pictures are files to open."""
    from datasets import ClassLabel, LargeList, List, Value

    if isinstance(features, dict):
        found = (_odd_column(each, str(key)) for key, each in features.items())
        return next((each for each in found if each is not None), None)
    if isinstance(features, (List, LargeList)):
        return _odd_column(features.feature, name)
    return None if isinstance(features, (Value, ClassLabel)) else name


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    import datasets

    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


@contextlib.contextmanager
def disk_errors(at: str) -> Iterator[None]:
    """Turn errors of the disk and of memory into one line."""
    try:
        yield
    except MemoryError as error:
        raise EvaluationError(f"{at}: not enough memory for its data", STORAGE) from error
    except Exception as error:
        reason = _disk_error(error)
        if reason is None:
            raise
        where = f" ({reason.filename})" if reason.filename else ""
        raise EvaluationError(
            f"{at}: cannot write its data{where}: {reason.strerror}; HF_HOME and HF_DATASETS_CACHE must be "
            "folders that can be written, with space left",
            STORAGE,
        ) from error


def _disk_error(error: BaseException | None) -> OSError | None:
    """The error of the disk in a chain of causes."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in DISK:
            return error
        error = error.__cause__
    return None
