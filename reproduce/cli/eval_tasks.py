"""`reweight eval --suite gpt2_qa|llama_lur|llama_qa`: models scored on the paper's tasks through lm-eval."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from eval.suites import EvalTask, Suite, load_suites
from reproduce.cli.console import Progress, emit_json, note, print_table
from reproduce.cli.eval import Asked
from reproduce.errors import ExitCode, UserError, one_line

if TYPE_CHECKING:
    from eval.records import TaskRecord
    from reproduce.scoring.targets import Target
    from reproduce.scoring.tasks import Failure, Outcome, ScoringEvents, ScoringOptions
    from reproduce.training.mesh import Mesh

PATIENCE_S = 24 * 3600
"""Ranks have different items to score, and wait for each other at the end of a task."""


def evaluate(asked: Asked) -> int:
    """Score every model asked for; the exit code is that of the first task that failed."""
    require_lm_eval()
    from eval.gp_irt import check_irt_file
    from reproduce.recipe import ParallelSpec
    from reproduce.scoring.curves import draw_curves
    from reproduce.scoring.targets import targets
    from reproduce.training.mesh import joined

    check_irt_file(asked.irt_file, asked.irt_sha256)
    tasks = asked.chosen()
    entries: list[dict[str, Any]] = []
    failed: list[Failure] = []
    with joined("fp32", ParallelSpec(), PATIENCE_S) as mesh:
        for path in asked.runs:
            look = partial(targets, path, asked.which, asked.data, asked.out, mesh.device)
            found = mesh.together(look)
            for target in found:
                outcome = _score(asked, target, tasks, mesh)
                failed += outcome.failures
                entries.append(_entry(target, asked.suite, outcome))
                if mesh.leads and not asked.as_json:
                    _tell(target, load_suites()[asked.suite], outcome)
            if mesh.leads and not found[0].final:
                for file in draw_curves(found[0].home, asked.suite, tasks, options_of(asked), note):
                    note(f"wrote {file}")
    if mesh.leads and asked.as_json:
        emit_json(entries)
    if mesh.leads:
        _name_failures(failed)
    return failed[0].exit_code if failed else ExitCode.DONE


def require_lm_eval() -> None:
    """Refuse where lm-eval is not installed (UserError): machines that only train do without it."""
    from importlib.util import find_spec

    lacking = [name for name in ("lm_eval", "datasets") if find_spec(name) is None]
    if lacking:
        raise UserError(
            f"scoring tasks needs the packages lm-eval and datasets, and {lacking[0]} is not installed; "
            "pip install them here, or score the run's folder on another machine"
        )


def options_of(asked: Asked) -> "ScoringOptions":
    """How tasks are to be scored."""
    from eval.records import Seeds
    from reproduce.scoring.tasks import ScoringOptions

    return ScoringOptions(
        limit=asked.limit,
        seeds=Seeds(fewshot=asked.fewshot_seed),
        batch_size=asked.batch_size,
        irt_file=asked.irt_file,
        irt_sha256=asked.irt_sha256,
        logiqa_text=asked.logiqa_text,
    )


def _score(asked: Asked, target: "Target", tasks: Sequence[EvalTask], mesh: "Mesh") -> "Outcome":
    from reproduce.scoring.hub import ClientHub
    from reproduce.scoring.targets import record_scores
    from reproduce.scoring.tasks import score_tasks

    model = mesh.together(target.open)

    def keep(record: "TaskRecord") -> None:
        # At once: a later task may be stopped, or find the disk full.
        if target.final and mesh.leads:
            record_scores(target, asked.suite, (record,), note)

    with _told(target, mesh) as events:
        return score_tasks(model, tasks, target.records, ClientHub(), mesh, options_of(asked), events(keep))


@contextmanager
def _told(
    target: "Target", mesh: "Mesh"
) -> "Iterator[Callable[[Callable[[TaskRecord], None]], ScoringEvents]]":
    """Progress lines about the tasks of a model, on the leading rank."""
    from reproduce.scoring.tasks import ScoringEvents

    shown = _Shown(target.label if mesh.leads else None)

    def events(keep: "Callable[[TaskRecord], None]") -> "ScoringEvents":
        def scored(record: "TaskRecord", was_there: bool) -> None:
            shown.close()
            keep(record)
            if mesh.leads:
                _tell_task(target, record, was_there)

        return ScoringEvents(
            warn=note if mesh.leads else lambda message: None,
            scoring=shown.begin,
            progress=shown.progress,
            scored=scored,
        )

    try:
        yield events
    finally:
        shown.close()


class _Shown:
    """The progress line of the task at hand."""

    def __init__(self, label: str | None) -> None:
        self._label = label
        self._task = ""
        self._line: Progress | None = None

    def begin(self, task: EvalTask) -> None:
        self.close()
        self._task = task.name

    def progress(self, done: int, total: int) -> None:
        if self._line is None and self._label is not None:
            self._line = Progress(f"{self._label} {self._task}", total, "requests")
        if self._line is not None:
            self._line.update(done)

    def close(self) -> None:
        if self._line is not None:
            self._line.close()
        self._line = None


def _tell_task(target: "Target", record: "TaskRecord", was_there: bool) -> None:
    if was_there:
        note(f"{target.label} {record.key.task}: scored before, kept")
        return
    cut = f"; {truncation(record)}" if record.truncated else ""
    note(f"{target.label} {record.key.task}: {record.n} items in {record.seconds:.1f} s{cut}")


def truncation(record: "TaskRecord") -> str:
    """How many prompts were cut, and what was left of their shots."""
    text = f"{record.truncated} of {record.requests} prompts cut to {record.context} tokens"
    if record.key.num_fewshot:
        text += f", {record.shots_kept:.1f} of {record.key.num_fewshot} shots left"
    return text


def _entry(target: "Target", suite: str, outcome: "Outcome") -> dict[str, Any]:
    from eval.records import as_scores

    scores = [asdict(score) for record in outcome.records for score in as_scores(record, suite)]
    return {
        "model": target.label,
        "step": target.step,
        "suite": suite,
        "results": str(target.home / "results.json") if target.final else None,
        "records": str(target.records),
        "scores": [{k: v for k, v in score.items() if v is not None} for score in scores],
        "gp_irt": {r.key.task: r.gp_irt_note for r in outcome.records if r.gp_irt_note is not None},
        "failed": [asdict(failure) for failure in outcome.failures],
    }


def _tell(target: "Target", suite: Suite, outcome: "Outcome") -> None:
    rows: list[tuple[object, ...]] = []
    for record in outcome.records:
        rows += _rows(record, suite.task(record.key.task))
    if rows:
        limited = next((r.key.limit for r in outcome.records if r.key.limit is not None), None)
        first = "" if limited is None else f", the first {limited} items only"
        columns = ("task", "metric", "value", "std. error", "items", "shots kept", "prompts cut")
        print_table(f"{target.label}: {suite.name}{first} (* likely the paper's metric)", columns, rows)
    for record in outcome.records:
        if record.gp_irt_note is not None:
            note(f"{record.key.task}: gp-IRT, which the paper prints, is not available: {record.gp_irt_note}")


def _rows(record: "TaskRecord", task: EvalTask) -> list[tuple[object, ...]]:
    shots = task.num_fewshot
    kept = f"{record.shots_kept:.1f} of {shots}" if shots else "0"
    cut = f"{100 * record.truncated / record.requests:.0f}%" if record.truncated else "0"
    rows: list[tuple[object, ...]] = []
    for metric in record.metrics:
        name = (
            f"{metric.name} *" if metric.name == task.paper_metric and record.gp_irt is None else metric.name
        )
        stderr = "-" if metric.stderr is None else f"{metric.stderr:.4f}"
        rows.append((record.key.task, name, f"{metric.value:.4f}", stderr, record.n, kept, cut))
    if record.gp_irt is not None:
        rows.append((record.key.task, "gp_irt *", f"{record.gp_irt:.4f}", "-", record.n, kept, cut))
    return rows


def _name_failures(failed: "Sequence[Failure]") -> None:
    if failed:
        note(f"failed tasks: {len(failed)}; the scores of the others are kept")
    for failure in failed:
        note(f"  {one_line(failure.message)}")
