"""Scores of a run against its steps, from every record that lies in its folder."""

from collections.abc import Callable, Sequence
from pathlib import Path

from eval.errors import EvaluationError
from eval.records import TaskRecord, as_scores, read_record
from eval.results import Score
from eval.suites import EvalTask
from reproduce.paper.task_curves import write_curves
from reproduce.scoring.targets import RECORDS
from reproduce.scoring.tasks import ScoringOptions


def draw_curves(
    run: Path,
    suite: str,
    tasks: Sequence[EvalTask],
    options: ScoringOptions,
    warn: Callable[[str], None],
) -> list[Path]:
    """Draw all steps that were scored in this way, during training or afterwards; the files written.

    Args:
        run: run folder.
        suite: name of the tasks' suite.
        tasks: of it.
        options: records with another limit or other seeds are left out.
        warn: told in one line about a record that is damaged.
    """
    by_step: dict[int, list[Score]] = {}
    for folder in sorted((run / RECORDS).glob("step-*")):
        step = folder.name.removeprefix("step-")
        if not (step.isascii() and step.isdecimal()):
            continue
        records = [found for task in tasks if (found := _newest(folder, task, options, warn)) is not None]
        if records:
            by_step[int(step)] = [score for record in records for score in as_scores(record, suite)]
    return write_curves(run / RECORDS, suite, by_step, f"{run}: {suite}") if by_step else []


def _newest(
    folder: Path, task: EvalTask, options: ScoringOptions, warn: Callable[[str], None]
) -> TaskRecord | None:
    """The task's record at a step: the last one written, where the step was trained twice."""
    found: list[tuple[float, TaskRecord]] = []
    for path in folder.glob(f"{task.name}-{task.num_fewshot}shot-*.json"):
        try:
            record = read_record(path)
        except EvaluationError as error:
            warn(str(error))
            continue
        key = record.key
        if (key.task, key.limit, key.seeds, key.task_version) == (
            task.name,
            options.limit,
            options.seeds,
            task.version,
        ):
            found.append((path.stat().st_mtime, record))
    return max(found, key=lambda each: each[0])[1] if found else None
