"""`reweight eval --suite gpt2_qa|llama_lur|llama_qa`: models scored on the paper's tasks through lm-eval."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.errors import EvaluationError
from eval.results import ResultsError
from eval.suites import EvalTask, Suite, load_suites
from reproduce.cli.console import Progress, emit_json, note, print_table
from reproduce.cli.eval import Asked
from reproduce.cli.eval_needs import require_lm_eval
from reproduce.errors import ExitCode, PeerFailedError, UserError, one_line

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
    from reproduce.training.mesh import joined

    check_irt_file(asked.irt_file, asked.irt_sha256)
    with joined("fp32", ParallelSpec(), PATIENCE_S) as mesh:
        session = _Session(asked, mesh)
        for path in asked.runs:
            if not session.score(path):
                break
    return session.end()


class _Session:
    """The models of one command: one that cannot be scored is named, and the others are scored."""

    def __init__(self, asked: Asked, mesh: "Mesh") -> None:
        self._asked, self._mesh, self._tasks = asked, mesh, asked.chosen()
        self._entries: list[dict[str, Any]] = []
        self._failed: list[Failure] = []
        self._refused: list[UserError | EvaluationError | ResultsError] = []
        self._homes: dict[Path, Path] = {}
        self._code = int(ExitCode.DONE)

    def score(self, path: Path) -> bool:
        """Score what a path names; whether to go on with the next one."""
        from reproduce.scoring.targets import targets

        asked, mesh = self._asked, self._mesh
        found: list[Target] = []

        def look() -> None:
            own = partial(targets, path, asked.which, asked.data, asked.out, mesh.device)
            found.extend(mesh.together(own))
            other = self._homes.setdefault(found[0].home, path.resolve())
            if other != path.resolve():
                raise UserError(
                    f"{path}: its scores would take the place of those of {other} in {found[0].home}; score "
                    "it by a command of its own, with --out"
                )

        if not self._tried(look):
            return self._go_on
        for target in found:
            self._tried(partial(self._score, target))
            if not self._go_on:
                return False
        if mesh.leads and not found[0].final:
            self._tried(partial(self._draw, found[0].home))
        return self._go_on

    def end(self) -> int:
        """Print what is printed last; the exit code is that of the first failure."""
        if len(self._refused) == 1 and not self._entries:
            if self._mesh.leads or not isinstance(self._refused[0], PeerFailedError):
                raise self._refused[0]
            return self._code  # the rank that failed says why
        if self._mesh.leads:
            if self._asked.as_json and self._entries:
                emit_json(self._entries)
            _name_failures(self._failed, self._refused)
        return self._code

    @property
    def _go_on(self) -> bool:
        # The next model's records would find the same disk.
        return not any(error.exit_code == ExitCode.STORAGE for error in self._refused)

    def _tried(self, action: Callable[[], object]) -> bool:
        """Whether it went well; all ranks agree on that, or this one writes alone."""
        try:
            action()
        except (UserError, EvaluationError, ResultsError) as error:
            self._refused.append(error)
            self._code = self._code or error.exit_code
            return False
        return True

    def _score(self, target: "Target") -> None:
        outcome = _score(self._asked, target, self._tasks, self._mesh)
        self._failed += outcome.failures
        self._code = self._code or next((each.exit_code for each in outcome.failures), 0)
        self._entries.append(_entry(target, self._asked.suite, outcome))
        if self._mesh.leads and not self._asked.as_json:
            _tell(target, load_suites()[self._asked.suite], outcome)

    def _draw(self, home: Path) -> None:
        from reproduce.scoring.curves import draw_curves

        for file in draw_curves(home, self._asked.suite, self._tasks, options_of(self._asked), _warn):
            _warn(f"wrote {file}")


def _warn(message: str) -> None:
    note(one_line(message))


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
            record_scores(target, asked.suite, (record,), _warn)

    with _told(target, mesh) as events:
        return score_tasks(model, tasks, target.records, ClientHub(), mesh, options_of(asked), events(keep))


@contextmanager
def _told(
    target: "Target", mesh: "Mesh"
) -> "Iterator[Callable[[Callable[[TaskRecord], None]], ScoringEvents]]":
    """Progress lines about the tasks of a model, on the leading rank."""
    from reproduce.scoring.tasks import ScoringEvents

    shown = _Shown(one_line(target.label) if mesh.leads else None)

    def events(keep: "Callable[[TaskRecord], None]") -> "ScoringEvents":
        def scored(record: "TaskRecord", was_there: bool) -> None:
            shown.close()
            keep(record)
            if mesh.leads:
                _tell_task(target, record, was_there)

        return ScoringEvents(
            warn=_warn if mesh.leads else lambda message: None,
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
        _warn(f"{target.label} {record.key.task}: scored before, kept")
        return
    cut = f"; {truncation(record)}" if record.truncated else ""
    _warn(f"{target.label} {record.key.task}: {record.n} items in {record.seconds:.1f} s{cut}")


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
        print_table(
            f"{one_line(target.label)}: {suite.name}{first} (* likely the paper's metric)", columns, rows
        )
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


def _name_failures(failed: "Sequence[Failure]", refused: Sequence[Exception]) -> None:
    for what, messages in (
        ("tasks", [failure.message for failure in failed]),
        ("models", [str(error) for error in refused]),
    ):
        if messages:
            note(f"failed {what}: {len(messages)}; the scores of the others are kept")
        for message in dict.fromkeys(messages):
            note(f"  {one_line(message)}")
