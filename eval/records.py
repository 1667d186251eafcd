"""One JSON a task evaluation: what was scored on what, item by item, and whether it has to be run again.

Knows nothing about models or harnesses; loads without torch.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from eval.errors import EvaluationError
from eval.json_files import Fields, finite, read_json_object, write_text_atomically
from eval.results import Score

SCHEMA = 1
GP_IRT = "gp_irt"
"""Metric of a tiny task's estimate for the whole benchmark, beside the plain mean over its items."""

MAX_BYTES = 64 * 1024 * 1024
"""The largest task (MMLU, 14042 items) takes a few hundred kilobytes."""

TASK = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
"""A task's name is part of a file's."""


@dataclass(frozen=True, kw_only=True)
class Seeds:
    """Seeds of one evaluation; lm-eval's defaults."""

    random: int = 0
    numpy: int = 1234
    torch: int = 1234
    fewshot: int = 1234
    """Decides which shots are drawn."""


@dataclass(frozen=True, kw_only=True)
class Key:
    """What a score depends on: with an equal key there is nothing to run again."""

    model_sha256: str
    task: str
    task_version: str
    num_fewshot: int
    limit: int | None
    """First items scored; None: all."""

    seeds: Seeds

    def __post_init__(self) -> None:
        """Refuse a task whose name would leave the folder of records."""
        if not TASK.fullmatch(self.task):
            raise ValueError(f"{self.task!r:.60} is no task name")

    @property
    def file_name(self) -> str:
        """<task>-<n>shot-<12 hexadecimal digits of the sha256 of the whole key>.json."""
        canonical = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        return f"{self.task}-{self.num_fewshot}shot-{digest[:12]}.json"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One number about one task."""

    name: str
    """acc, acc_norm, exact_match, perplexity."""

    value: float
    """Finite; accuracies as fractions."""

    stderr: float | None
    """Standard error of `value` over the items; None where the harness gives none."""

    higher_is_better: bool


@dataclass(frozen=True, kw_only=True)
class TaskRecord:
    """One task, scored."""

    schema: int = SCHEMA
    key: Key
    metrics: tuple[Metric, ...]
    """At least one; each name once."""

    n: int
    """Items scored."""

    requests: int
    """Prompts with a continuation that the model was asked for."""

    truncated: int
    """Requests longer than the context, cut from the left."""

    shots_kept: float
    """Mean over the requests of the shots that survived whole; num_fewshot where none was truncated."""

    context: int
    """Tokens that the model takes."""

    prompt_sha256: str
    """Over all contexts and continuations, in order."""

    dataset: str
    """repository@commit, or a local name."""

    dtype: str
    batch_size: int
    device: str
    ranks: int
    seconds: float
    versions: Mapping[str, str]
    """Library -> version."""

    items: Mapping[str, tuple[float, ...]]
    """Metric -> its value on each of the n items, in the order of the split (0 or 1 for accuracies)."""

    gp_irt: float | None
    """Tiny tasks only, a fraction: the estimate of the whole benchmark's accuracy."""

    gp_irt_note: str | None
    """Tiny tasks only: why there is no estimate."""


def write_record(folder: Path, record: TaskRecord) -> Path:
    """Write a record under its key's name: whole or not at all, even if the machine stops midway.

    Raises:
        EvaluationError: exit code 6 where a value is not finite, else 3, where `read_record` would refuse it.
        OSError: naming the file.
    """
    path = folder / record.key.file_name
    document = asdict(record) | {"versions": dict(sorted(record.versions.items()))}
    try:
        lines = [f"{json.dumps(name)}: {_json(value)}" for name, value in document.items()]
    except ValueError as error:
        raise EvaluationError(
            f"{path}: not written, a value of {record.key.task} is NaN or infinite; look at the model", 6
        ) from error
    text = "{\n" + ",\n".join(lines) + "\n}\n"  # one line a field: n items on n lines would drown the rest
    _record(path, json.loads(text))
    write_text_atomically(path, text)
    return path


def read_record(path: Path) -> TaskRecord:
    """Read a record.

    Raises:
        EvaluationError: exit code 3; missing, damaged, of another schema, a wrong type, a NaN.
    """
    try:
        document = read_json_object(path, MAX_BYTES, lambda what: _broken(path, what))
    except OSError as error:
        raise _broken(path, f"cannot be read ({error.strerror})") from error
    return _record(path, document)


def find_record(folder: Path, key: Key, warn: Callable[[str], None]) -> TaskRecord | None:
    """The record of exactly this key, or None.

    Args:
        warn: told in one line about a file of that name that is damaged or of another key.
    """
    path = folder / key.file_name
    if not os.path.lexists(path):
        return None
    try:
        record = read_record(path)
    except EvaluationError as error:
        warn(str(error))
        return None
    if record.key != key:
        warn(str(_broken(path, "is of another key than its name says")))
        return None
    return record


def as_scores(record: TaskRecord, suite: str) -> tuple[Score, ...]:
    """The record's metrics, and its gp-IRT estimate if it has one, as scores of a results.json."""
    metrics = list(record.metrics)
    if record.gp_irt is not None:
        metrics.append(Metric(name=GP_IRT, value=record.gp_irt, stderr=None, higher_is_better=True))
    return tuple(
        Score(
            suite=suite,
            task=record.key.task,
            metric=metric.name,
            value=metric.value,
            stderr=metric.stderr,
            n=record.n,
            num_fewshot=record.key.num_fewshot,
            task_version=record.key.task_version,
            higher_is_better=metric.higher_is_better,
            limit=record.key.limit,
            requests=record.requests,
            truncated=record.truncated,
            shots_kept=record.shots_kept,
            context=record.context,
            prompt_sha256=record.prompt_sha256,
            model_sha256=record.key.model_sha256,
            dataset=record.dataset,
            batch_size=record.batch_size,
            seeds=asdict(record.key.seeds),
            versions=record.versions,
        )
        for metric in metrics
    )


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _broken(path: Path, what: str) -> EvaluationError:
    return EvaluationError(f"{path}: {what}; delete the file and run `reweight eval` again", 3)


def _record(path: Path, document: object) -> TaskRecord:
    read = Fields.of("the record", document, TaskRecord, lambda what: _broken(path, what))
    if read.integer("schema", minimum=0) != SCHEMA:
        raise read.wrong("schema", f"{SCHEMA}, which is what this version reads")
    n, requests = read.integer("n", minimum=1), read.integer("requests", minimum=1)
    record = TaskRecord(
        key=_key(read),
        metrics=_metrics(read),
        n=n,
        requests=requests,
        truncated=read.integer("truncated", minimum=0),
        shots_kept=read.number("shots_kept", minimum=0.0),
        context=read.integer("context", minimum=1),
        prompt_sha256=read.sha256("prompt_sha256"),
        dataset=read.text("dataset"),
        dtype=read.text("dtype"),
        batch_size=read.integer("batch_size", minimum=1),
        device=read.text("device"),
        ranks=read.integer("ranks", minimum=1),
        seconds=read.number("seconds", minimum=0.0),
        versions=read.texts("versions"),
        items=_items(read, n),
        gp_irt=read.optional_number("gp_irt"),
        gp_irt_note=read.optional_text("gp_irt_note"),
    )
    if record.truncated > requests:
        raise read.wrong("truncated", f"at most {requests}, the number of requests")
    if record.shots_kept > record.key.num_fewshot:
        raise read.wrong("shots_kept", f"at most {record.key.num_fewshot}, the shots asked for")
    if record.gp_irt is not None and record.gp_irt_note is not None:
        raise read.wrong("gp_irt", "null beside a gp_irt_note, which says why there is none")
    return record


def _key(read: Fields) -> Key:
    entry = Fields.of("key", read.entry.get("key"), Key, read.refuse)
    seeds = Fields.of("key.seeds", entry.entry.get("seeds"), Seeds, read.refuse)
    if not TASK.fullmatch(entry.text("task")):
        raise entry.wrong("task", "a task's name")
    return Key(
        model_sha256=entry.sha256("model_sha256"),
        task=entry.text("task"),
        task_version=entry.text("task_version"),
        num_fewshot=entry.integer("num_fewshot", minimum=0),
        limit=entry.optional_integer("limit", minimum=1),
        seeds=Seeds(**{field.name: seeds.integer(field.name, minimum=0) for field in fields(Seeds)}),
    )


def _metrics(read: Fields) -> tuple[Metric, ...]:
    entries = read.entry.get("metrics")
    if not isinstance(entries, list) or not entries:
        raise read.wrong("metrics", "a list of metrics")
    metrics = tuple(_metric(read, index, entry) for index, entry in enumerate(entries))
    if len({metric.name for metric in metrics}) != len(metrics):
        raise read.refuse("the record gives a metric twice")
    if any(metric.name == GP_IRT for metric in metrics):
        raise read.refuse(f"the record gives {GP_IRT} among the metrics, it has a field of its own")
    return metrics


def _metric(read: Fields, index: int, entry: object) -> Metric:
    metric = Fields.of(f"metrics[{index}]", entry, Metric, read.refuse)
    return Metric(
        name=metric.text("name"),
        value=metric.number("value"),
        stderr=metric.optional_number("stderr", minimum=0.0),
        higher_is_better=metric.flag("higher_is_better"),
    )


def _items(read: Fields, n: int) -> dict[str, tuple[float, ...]]:
    entries = read.entry.get("items")
    if not isinstance(entries, dict):
        raise read.wrong("items", "metrics with their values")
    items = {}
    for metric, values in entries.items():
        numbers = [finite(value) for value in values] if isinstance(values, list) else []
        known = tuple(number for number in numbers if number is not None)
        if len(known) != n or len(numbers) != n:
            raise read.refuse(f"items.{metric:.40} is not a list of {n} finite numbers, one an item")
        items[metric] = known
    return items
