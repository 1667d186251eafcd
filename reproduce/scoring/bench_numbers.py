"""The numbers of `reweight eval` and of lm-eval's command line, brought to the same names.

No torch here.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from eval.records import TaskRecord, read_record
from eval.suites import EvalTask
from reproduce.errors import DataError

Numbers = Mapping[tuple[str, str], float]
"""(task, metric) -> value; besides metrics and their standard errors also `items` and `shots`."""


def our_numbers(tasks: Sequence[EvalTask], out: Path) -> Numbers:
    """What `reweight eval` found.

    Raises:
        DataError: a task has no record below `out`.
        EvaluationError: it is damaged.
    """
    by_task: dict[str, TaskRecord] = {}
    for path in out.rglob("*shot-*.json"):
        record = read_record(path)
        by_task[record.key.task] = record
    numbers: dict[tuple[str, str], float] = {}
    for task in tasks:
        if task.name not in by_task:
            raise DataError(f"reweight eval left no record of {task.name} in {out}; run it alone to see why")
        record = by_task[task.name]
        numbers[task.name, "items"] = record.n
        numbers[task.name, "shots"] = record.key.num_fewshot
        for metric in record.metrics:
            numbers[task.name, metric.name] = metric.value
            if metric.stderr is not None and _same_error(metric.name):
                numbers[task.name, f"{metric.name}_stderr"] = metric.stderr
    return numbers


def their_numbers(tasks: Sequence[EvalTask], out: Path) -> Numbers:
    """What lm-eval's command line found.

    Raises:
        DataError: there is not one results file below `out`, or it lacks a number.
    """
    files = list(out.rglob("results_*.json"))
    if len(files) != 1:
        raise DataError(f"lm_eval left {len(files)} results files in {out}, not one; run it alone to see why")
    numbers: dict[tuple[str, str], float] = {}
    try:
        document = json.loads(files[0].read_text(encoding="utf-8"))
        for task in tasks:
            result = document["results"][task.name]
            numbers[task.name, "items"] = sum(
                document["n-samples"][name]["effective"] for name in task.subtasks
            )
            numbers[task.name, "shots"] = document["n-shot"][task.subtasks[0]]
            for metric in task.metrics:
                numbers[task.name, metric] = result[f"{metric},{task.filter}"]
                error = result[f"{metric}_stderr,{task.filter}"]
                # "N/A" of a single item.
                if isinstance(error, float) and not math.isnan(error) and _same_error(metric):
                    numbers[task.name, f"{metric}_stderr"] = error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{files[0]}: not as lm-eval 0.4.13 writes it ({error!r:.80}); install that version"
        ) from None
    return numbers


def _same_error(metric: str) -> bool:
    """Theirs of perplexity is drawn at random, ours is not."""
    return metric != "perplexity"
