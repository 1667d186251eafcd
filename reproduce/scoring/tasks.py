"""Score one model on tasks: what is there stays, what fails fails alone, every record is written at once.

On several ranks all call `score_tasks`; rank 0 decides and writes. Nothing here prints.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from errno import EDQUOT, ENOSPC
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Protocol

from data_prep.errors import StorageError
from eval.errors import EvaluationError
from eval.gp_irt import gp_irt
from eval.harness import TaskData, evaluate_task, task_manager
from eval.language_model import ScoringModel
from eval.logiqa_text import logiqa_folder
from eval.records import Key, Seeds, TaskRecord, find_record, write_record
from eval.suites import EvalTask
from eval.surroundings import quiet_libraries
from eval.task_data import Hub, fetch, locate
from eval.task_prepare import prepare
from reproduce.scoring.models import Loaded
from reproduce.training.mesh import Mesh

TINY = {"tinyArc": "arc", "tinyWinogrande": "winogrande"}
"""Task -> benchmark that gp-IRT estimates from its 100 items."""


@dataclass(frozen=True, kw_only=True)
class ScoringOptions:
    """How tasks are scored."""

    limit: int | None = None
    """First items of each task, or of each of its parts."""
    seeds: Seeds = field(default_factory=Seeds)
    batch_size: int = 8
    irt_file: Path | None = None
    """Parameters of gp-IRT, as its authors publish them."""
    irt_sha256: str | None = None
    logiqa_text: Path | None = None
    """Folder of LogiQA's published text files, where the hub has them no longer."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A task that was not scored."""

    task: str
    message: str
    exit_code: int


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of tasks, in their order; of one that was not begun, nothing."""

    records: tuple[TaskRecord, ...]
    failures: tuple[Failure, ...]


@dataclass(frozen=True, kw_only=True)
class ScoringEvents:
    """Who is told what meanwhile."""

    warn: Callable[[str], None]
    fetching: Callable[[EvalTask], None] = lambda task: None
    scoring: Callable[[EvalTask], None] = lambda task: None
    """A task begins."""
    progress: Callable[[int, int], None] = lambda done, total: None
    """Requests of this rank that are scored, of how many."""
    scored: Callable[[TaskRecord, bool], None] = lambda record, was_there: None
    """A record is there; whether it was before."""
    stop: Callable[[], bool] = lambda: False
    """Whether to leave after the task at hand; asked on every rank, one that says so is enough."""


class Model(Protocol):
    """Something to score."""

    @property
    def sha256(self) -> str:
        """Digest of everything that decides its answers."""

    def load(self) -> Loaded:
        """The model on its device."""


def score_tasks(
    model: Model,
    tasks: Sequence[EvalTask],
    folder: Path,
    hub: Hub,
    mesh: Mesh,
    options: ScoringOptions,
    events: ScoringEvents,
) -> Outcome:
    """Score what `folder` has no record of; a task that fails is in the outcome, the others go on.

    Args:
        model: loaded only if a task is missing and its data is there.
        tasks: of one suite, or several.
        folder: of records.
        hub: where data sets are.
        mesh: of the ranks that call this together.
        options: how.
        events: who is told.

    Raises:
        DataError: the model cannot be loaded.
        StorageError: a record cannot be written; those before it are kept.
    """
    work = _Work(folder=folder, mesh=mesh, options=options, events=events)
    keys = keys_of(mesh.together(lambda: model.sha256), tasks, options)
    mesh.together(lambda: _look_up(work, keys) if mesh.leads else None)
    done = set(json.loads(mesh.exchange(json.dumps(list(work.records)))[0]))
    waiting: list[tuple[EvalTask, TaskData]] = []
    for task in (task for task in tasks if task.name not in done):
        events.fetching(task)
        found = shared_data(task, hub, mesh, options)
        if isinstance(found, Failure):
            work.failures[task.name] = found
        else:
            waiting.append((task, found))
    if waiting:
        _score(work, model, keys, waiting)
    return Outcome(
        records=tuple(work.records[task.name] for task in tasks if task.name in work.records),
        failures=tuple(work.failures[task.name] for task in tasks if task.name in work.failures),
    )


@dataclass(frozen=True, kw_only=True)
class _Work:
    """One call of `score_tasks`, and what has come of it."""

    folder: Path
    mesh: Mesh
    options: ScoringOptions
    events: ScoringEvents
    records: dict[str, TaskRecord] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)


def _score(
    work: _Work, model: Model, keys: Mapping[str, Key], waiting: Sequence[tuple[EvalTask, TaskData]]
) -> None:
    """Score the tasks whose data is there."""
    mesh, events = work.mesh, work.events
    loaded = mesh.together(model.load)
    mesh.together(lambda: _check_folder(work.folder) if mesh.leads else None)
    scoring = ScoringModel(
        loaded.network,
        loaded.tokenizer,
        batch_size=work.options.batch_size,
        ranks=mesh,
        progress=events.progress,
    )
    manager = task_manager([task for task, _ in waiting])
    for task, data in waiting:
        if any(json.loads(text) for text in mesh.exchange(json.dumps(events.stop()))):
            break
        events.scoring(task)
        try:
            record = evaluate_task(scoring, task, data, keys[task.name], manager=manager, dtype=loaded.dtype)
        except EvaluationError as error:
            work.failures[task.name] = Failure(task=task.name, message=str(error), exit_code=error.exit_code)
            continue
        mesh.together(partial(_keep, work, record))


def task_data(task: EvalTask, hub: Hub, logiqa_text: Path | None) -> TaskData:
    """A task's data, on this machine and readable.

    Raises:
        EvaluationError: 3 for data that is damaged or gone, 4 for the hub, 7 for the disk.
    """
    if logiqa_text is not None and task.raw_text is not None:
        return TaskData(
            folders=dict.fromkeys(task.configs, logiqa_folder(logiqa_text, task.raw_text)),
            dataset="the authors' text files",
        )
    located = locate(task, hub)
    folders = fetch(located, hub)
    prepare(located.at, folders)
    return TaskData(folders=folders, dataset=located.dataset)


def keys_of(sha256: str, tasks: Sequence[EvalTask], options: ScoringOptions) -> Mapping[str, Key]:
    """Task -> what its record is found by."""
    return {
        task.name: Key(
            model_sha256=sha256,
            task=task.name,
            task_version=task.version,
            num_fewshot=task.num_fewshot,
            limit=options.limit,
            seeds=options.seeds,
        )
        for task in tasks
    }


def _look_up(work: _Work, keys: Mapping[str, Key]) -> None:
    """Take the records that are there; a tiny task's gets its estimate if it could not have it before."""
    for name, key in keys.items():
        record = find_record(work.folder, key, work.events.warn)
        if record is not None:
            work.records[name] = _estimated(work, record)
            work.events.scored(work.records[name], True)


def _keep(work: _Work, record: TaskRecord) -> None:
    """Write a new record, first as it is: its estimate may fail."""
    if work.mesh.leads:
        _write(work.folder, record)
        record = _estimated(work, record)
    work.records[record.key.task] = record
    work.events.scored(record, False)


def shared_data(task: EvalTask, hub: Hub, mesh: Mesh, options: ScoringOptions) -> TaskData | Failure:
    """The task's data, fetched once a node; where one node fails, all hold the task for failed."""
    answer: dict[str, object] = {}
    quiet_libraries()
    if mesh.local_rank == 0:
        try:
            data = task_data(task, hub, options.logiqa_text)
        except EvaluationError as error:
            answer = {"failed": str(error), "exit_code": error.exit_code}
        else:
            folders = [[name, str(path)] for name, path in data.folders.items()]
            answer = {"folders": folders, "dataset": data.dataset}
    said = [json.loads(text) for text in mesh.exchange(json.dumps(answer))]
    failed = next((each for each in said if "failed" in each), None)
    if failed is not None:
        return Failure(task=task.name, message=failed["failed"], exit_code=failed["exit_code"])
    own = said[mesh.rank - mesh.local_rank]
    return TaskData(folders={name: Path(path) for name, path in own["folders"]}, dataset=said[0]["dataset"])


def _estimated(work: _Work, record: TaskRecord) -> TaskRecord:
    """A tiny task's record with its gp-IRT estimate, or why there is none."""
    task, options = record.key.task, work.options
    if task not in TINY or (record.gp_irt is not None and options.irt_file is None):
        return record
    try:
        estimate = gp_irt(record.items["acc_norm"], TINY[task], options.irt_file, options.irt_sha256)
        value, why_not = estimate.value, estimate.why_not
    except EvaluationError as error:
        value, why_not = None, str(error)
        work.failures[task] = Failure(task=task, message=f"{task}: {error}", exit_code=error.exit_code)
    now = replace(record, gp_irt=value, gp_irt_note=why_not)
    if now != record:
        _write(work.folder, now)
    return now


def _check_folder(folder: Path) -> None:
    """Find out before hours of scoring whether records can be written (StorageError)."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise StorageError(
            f"cannot write records into {folder}: {error.strerror}; {_remedy(error)} and run the same "
            "command again"
        ) from None


def _remedy(error: OSError) -> str:
    return "free space" if error.errno in (ENOSPC, EDQUOT) else "mend that"


def _write(folder: Path, record: TaskRecord) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_record(folder, record)
    except OSError as error:
        raise StorageError(
            f"cannot write the record of {record.key.task} into {folder}: {error.strerror}; "
            f"{_remedy(error)} and run the same command again: the tasks before it are kept"
        ) from None
