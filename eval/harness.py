"""One task in, one record out: lm-eval builds the prompts and computes the metrics, nothing here does.

Of lm-eval neither cache is used: its response cache gives one model's answers to another, its request cache
ignores the seed of the shots. Importing this module imports lm_eval.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lm_eval
import lm_eval.api.task
import numpy as np
import torch
from lm_eval.api.metrics import mean_stderr, pooled_sample_stderr
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager

from eval.errors import EvaluationError
from eval.language_model import ScoringModel
from eval.records import Key, Metric, TaskRecord
from eval.suites import EvalTask
from eval.surroundings import seeded, without_warnings
from eval.task_prepare import DISK

OWN_TASKS = Path(__file__).parent / "tasks"
LIBRARIES = ("lm_eval", "datasets", "transformers", "tokenizers", "torch", "numpy")


@dataclass(frozen=True, kw_only=True)
class TaskData:
    """Where a task's data lies."""

    folders: Mapping[str | None, Path]
    """Configuration -> what datasets.load_dataset(folder, name=configuration) reads."""
    dataset: str
    """repository@commit, or a local name: what the record says."""


def task_manager(tasks: Sequence[EvalTask]) -> TaskManager:
    """lm-eval's index of just these tasks: that of all 13,000 takes it ten seconds."""
    shipped = Path(lm_eval.__file__).parent / "tasks"
    folders = {task.shipped for task in tasks if task.shipped is not None}
    with without_warnings():
        return TaskManager(
            include_defaults=False,
            include_path=[*(str(shipped / f) for f in sorted(folders)), str(OWN_TASKS)],
        )


def evaluate_task(
    model: ScoringModel,
    task: EvalTask,
    data: TaskData,
    key: Key,
    *,
    manager: TaskManager,
    dtype: str,
) -> TaskRecord:
    """Score a model on one task. With several ranks, all call this and get the same record.

    Args:
        model: what answers.
        task: of a suite.
        data: its data, on this machine.
        key: of the record; its limit and seeds decide what is scored, its fewshot seed the shots.
        manager: of `task_manager`, holding this task.
        dtype: of the model's weights, for the record.

    Raises:
        EvaluationError: 3 for data that cannot be read or scored; 2 for a task that does not fit this model
            or this lm-eval; 6 for numbers that are not finite; 7 for a lack of memory.
    """
    started = time.monotonic()
    with seeded(key.seeds), _named_errors(task, data):
        # Together: files may be damaged on one machine only.
        loaded = model.together(lambda: _load(manager, task, data))
        shots = {name: _Shots(each) for name, each in loaded["tasks"].items()}
        for each in loaded["tasks"].values():
            _check_shots(task, each)
            each.set_config(key="num_fewshot", value=task.num_fewshot)
            each.set_fewshot_seed(seed=key.seeds.fewshot)
        model.begin()
        results = evaluate(lm=model, task_dict=loaded, limit=key.limit, bootstrap_iters=0, log_samples=True)
    samples = {name: _of_filter(results["samples"][name], task) for name in task.subtasks}
    requests = model.requests
    kept = sum(shots[cut.task].after(cut.doc_id, cut.characters) for cut in requests.cuts)
    uncut = requests.number - len(requests.cuts)
    return TaskRecord(
        key=key,
        metrics=tuple(_metric(task, name, results, samples) for name in task.metrics),
        n=sum(len(each) for each in samples.values()),
        requests=requests.number,
        truncated=len(requests.cuts),
        shots_kept=(task.num_fewshot * uncut + kept) / requests.number,
        context=model.max_length,
        prompt_sha256=requests.sha256,
        dataset=data.dataset,
        dtype=dtype,
        batch_size=model.batch_size,
        device=model.device_name,
        ranks=model.ranks,
        seconds=round(time.monotonic() - started, 3),
        versions=library_versions(),
        items={
            metric: tuple(_number(sample[metric]) for name in task.subtasks for sample in samples[name])
            for metric in task.metrics
        },
        gp_irt=None,
        gp_irt_note=None,
    )


def library_versions() -> dict[str, str]:
    """Library -> version of what decides a score."""
    return {name: version(name) for name in sorted(LIBRARIES)}


def _load(manager: TaskManager, task: EvalTask, data: TaskData) -> dict[str, Any]:
    """The task as lm-eval has it, reading its data from the folder: in a group, members take overrides."""
    members = [
        {"task": name, "dataset_path": str(data.folders[config]), "dataset_name": config}
        for name, config in zip(task.subtasks, task.configs, strict=True)
    ]
    group = {"group": f"reweight_{task.name}", "task": members}
    _check_version(manager, task)
    with without_warnings():
        loaded: dict[str, Any] = manager.load([group])
    return loaded


def _check_version(manager: TaskManager, task: EvalTask) -> None:
    """Refuse to score another definition of a task under the suite's version of it."""
    entry = manager.task_index.get(task.name)
    found = None if entry is None or entry.cfg is None else entry.cfg.get("metadata", {}).get("version")
    if str(found) != task.version:
        raise EvaluationError(
            f"{task.name}: lm-eval {version('lm_eval')} has version {found} of it, and the suites are "
            f"written for {task.version}; install the lm-eval that constraints.txt names",
            2,
        )


def _check_shots(task: EvalTask, loaded: Any) -> None:
    """Refuse a split too small to draw the shots from."""
    split = loaded.config.fewshot_split or loaded.config.training_split
    # From the split that is scored lm-eval draws one more: the item itself may be among them.
    need, have = task.num_fewshot + (split == task.split), len(loaded.sampler.df)
    if task.num_fewshot and have < need:
        raise EvaluationError(
            f"{task.name}: {task.num_fewshot} shots take {need} items of the split {split}, and the data has "
            f"{have}; look for the whole data set on the hub",
            3,
        )


class _Shots:
    """Where the shots begin in each prompt of a task, in characters; taken down while lm-eval builds it."""

    def __init__(self, task: Any) -> None:
        self._starts: list[list[int]] = []
        self._turns: list[int] = []
        turn, context = task.build_qa_turn, task.fewshot_context

        def build_qa_turn(**parts: Any) -> Any:
            messages = turn(**parts)
            self._turns.append(sum(len(message.to_text()) for message in messages))
            return messages

        def fewshot_context(doc: Any, num_fewshot: int, **rest: Any) -> Any:
            self._turns = []
            text = context(doc, num_fewshot=num_fewshot, **rest)
            # A description would come before the shots; no task of ours that has shots has one.
            assert not (num_fewshot and task.config.description), task.task_name
            lengths = self._turns[:num_fewshot]
            self._starts.append([sum(lengths[:place]) for place in range(num_fewshot)])
            return text

        task.build_qa_turn, task.fewshot_context = build_qa_turn, fewshot_context

    def after(self, doc_id: int, dropped: int) -> int:
        """Shots of an item that are whole after so many characters were dropped from the prompt's start."""
        return sum(start >= dropped for start in self._starts[doc_id])


def _of_filter(samples: Sequence[dict[str, Any]], task: EvalTask) -> list[dict[str, Any]]:
    """The samples as the task's filter left them, in the order of the split."""
    return sorted((s for s in samples if s["filter"] == task.filter), key=lambda sample: sample["doc_id"])


def _metric(
    task: EvalTask, name: str, results: dict[str, Any], samples: dict[str, list[dict[str, Any]]]
) -> Metric:
    values = [_number(results["results"][each][f"{name},{task.filter}"]) for each in task.subtasks]
    sizes = [len(samples[each]) for each in task.subtasks]
    errors = [_stderr(name, value, samples[each]) for each, value in zip(task.subtasks, values, strict=True)]
    value, stderr = values[0], errors[0]
    if len(values) > 1:
        value = sum(v * n for v, n in zip(values, sizes, strict=True)) / sum(sizes)
        known = [error for error in errors if error is not None]
        stderr = float(pooled_sample_stderr(known, sizes)) if len(known) == len(sizes) else None
    if not np.isfinite(value):
        raise EvaluationError(
            f"{task.name}: {name} is {value}; the model's weights, or its precision, are broken", 6
        )
    return Metric(name=name, value=value, stderr=stderr, higher_is_better=task.higher_is_better[name])


def _stderr(name: str, value: float, samples: Sequence[dict[str, Any]]) -> float | None:
    """Of a mean over items, as lm-eval has it; of perplexity to first order: exp(-m) has error exp(-m) s(m).

    lm-eval bootstraps perplexity 100,000 times in worker processes, to the same number.
    """
    if len(samples) < 2:
        return None
    error = float(mean_stderr([_number(sample[name]) for sample in samples]))
    return value * error if name == "perplexity" else error


def _number(value: Any) -> float:
    return float(value)


@contextmanager
def _named_errors(task: EvalTask, data: TaskData) -> Iterator[None]:
    """Turn what lm-eval and datasets raise, which may be anything, into one line about the task."""
    try:
        yield
    except (EvaluationError, KeyboardInterrupt):
        raise
    except Exception as error:
        if hasattr(error, "exit_code"):
            raise
        # On a CPU torch raises a plain RuntimeError that only its text tells from others.
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error):
            raise EvaluationError(f"{task.name}: out of memory; lower --batch-size", 7) from None
        full = next((e for e in _causes(error) if isinstance(e, OSError) and e.errno in DISK), None)
        if full is not None:
            where = f" '{full.filename}'" if full.filename else ""
            raise EvaluationError(
                f"{task.name}: cannot use{where}: {full.strerror}; HF_HOME and HF_DATASETS_CACHE must be "
                "folders that can be written, with space left",
                7,
            ) from None
        said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise EvaluationError(
            f"{task.name}: lm-eval cannot score {data.dataset} ({said}); look whether its splits "
            "or columns have changed, or are empty",
            3,
        ) from error


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__
