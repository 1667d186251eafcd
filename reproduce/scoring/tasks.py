"""Score one model on tasks: what is there stays, what fails fails alone, every record is written at once.

On several ranks all call `score_tasks`; rank 0 decides and writes. Nothing here prints.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
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
        StorageError: a record cannot be written; those before it are kept.
    """
    keys = keys_of(model.sha256, tasks, options)
    failures: dict[str, Failure] = {}
    records = _known(folder, keys, options, events, failures) if mesh.leads else {}
    done = set(json.loads(mesh.exchange(json.dumps(list(records)))[0]))
    data: dict[str, TaskData] = {}
    for task in (task for task in tasks if task.name not in done):
        events.fetching(task)
        found = shared_data(task, hub, mesh, options)
        if isinstance(found, Failure):
            failures[task.name] = found
        else:
            data[task.name] = found
    if data:
        _score(model, keys, tasks, data, folder, mesh, options, events, records, failures)
    return Outcome(
        records=tuple(records[task.name] for task in tasks if task.name in records),
        failures=tuple(failures[task.name] for task in tasks if task.name in failures),
    )


def _score(
    model: Model,
    keys: Mapping[str, Key],
    tasks: Sequence[EvalTask],
    data: Mapping[str, TaskData],
    folder: Path,
    mesh: Mesh,
    options: ScoringOptions,
    events: ScoringEvents,
    records: dict[str, TaskRecord],
    failures: dict[str, Failure],
) -> None:
    """Score the tasks whose data is there, in their order, into `records` and `failures`."""
    quiet_libraries()
    loaded = mesh.together(model.load)
    network, tokenizer = loaded.network, loaded.tokenizer
    scoring = ScoringModel(
        network, tokenizer, batch_size=options.batch_size, ranks=mesh, progress=events.progress
    )
    waiting = [task for task in tasks if task.name in data]
    manager = task_manager(waiting)
    for task in waiting:
        if any(json.loads(text) for text in mesh.exchange(json.dumps(events.stop()))):
            break
        name = task.name
        events.scoring(task)
        try:
            records[name] = evaluate_task(
                scoring, task, data[name], keys[name], manager=manager, dtype=loaded.dtype
            )
        except EvaluationError as error:
            failures[name] = Failure(task=name, message=str(error), exit_code=error.exit_code)
            continue
        _write(folder, records[name], mesh)
        records[name] = _estimated(folder, records[name], mesh.leads, options, failures)
        events.scored(records[name], False)


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


def _known(
    folder: Path,
    keys: Mapping[str, Key],
    options: ScoringOptions,
    events: ScoringEvents,
    failures: dict[str, Failure],
) -> dict[str, TaskRecord]:
    """Task -> record that is there; a tiny task's gets its estimate if it could not have it before."""
    found: dict[str, TaskRecord] = {}
    for name, key in keys.items():
        record = find_record(folder, key, events.warn)
        if record is None:
            continue
        found[name] = _estimated(folder, record, True, options, failures)
        events.scored(found[name], True)
    return found


def shared_data(task: EvalTask, hub: Hub, mesh: Mesh, options: ScoringOptions) -> TaskData | Failure:
    """The task's data, fetched once a node; where one node fails, all hold the task for failed."""
    answer: dict[str, object] = {}
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


def _estimated(
    folder: Path, record: TaskRecord, leads: bool, options: ScoringOptions, failures: dict[str, Failure]
) -> TaskRecord:
    """A tiny task's record with its gp-IRT estimate, or why there is none; it was written without before."""
    task = record.key.task
    if task not in TINY or not leads or (record.gp_irt is not None and options.irt_file is None):
        return record
    try:
        estimate = gp_irt(record.items["acc_norm"], TINY[task], options.irt_file, options.irt_sha256)
        value, why_not = estimate.value, estimate.why_not
    except EvaluationError as error:
        value, why_not = None, str(error)
        failures[task] = Failure(task=task, message=f"{task}: {error}", exit_code=error.exit_code)
    now = replace(record, gp_irt=value, gp_irt_note=why_not)
    if now != record:
        _write_alone(folder, now)
    return now


def _write(folder: Path, record: TaskRecord, mesh: Mesh) -> None:
    def write() -> None:
        if mesh.leads:
            _write_alone(folder, record)

    mesh.together(write)


def _write_alone(folder: Path, record: TaskRecord) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_record(folder, record)
    except OSError as error:
        raise StorageError(
            f"cannot write the record of {record.key.task} into {folder}: {error.strerror}; free space and "
            "run the same command again: the tasks before it are kept"
        ) from None
