"""`reweight eval --dry-run`: what scoring would fetch and take, and what would fail. Nothing is written."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce.cli.console import duration, emit_json, note, print_table, quantity
from reproduce.cli.eval import Asked
from reproduce.cli.eval_needs import require_lm_eval
from reproduce.cli.eval_tasks import options_of
from reproduce.errors import ExitCode, one_line

if TYPE_CHECKING:
    from reproduce.scoring.preflight import TaskPlan


def plan(asked: Asked) -> int:
    """Print the plan of every model; the exit code is that of the first task that would fail."""
    require_lm_eval()
    documents = [_plan(asked, path) for path in asked.runs]
    if asked.as_json:
        emit_json(documents)
    codes = [task["exit_code"] for document in documents for task in document["tasks"]]
    return next((code for code in codes if code), ExitCode.DONE)


def _plan(asked: Asked, path: Path) -> dict[str, Any]:
    from eval.surroundings import quiet_libraries
    from reproduce.scoring.hub import ClientHub
    from reproduce.scoring.preflight import plan_tasks
    from reproduce.scoring.targets import targets
    from reproduce.training.mesh import make_mesh

    quiet_libraries()
    found = targets(path, asked.which, asked.data, asked.out, make_mesh("fp32").device)
    loaded = found[0].open().load()
    plans = plan_tasks(asked.chosen(), loaded, found[0].records, ClientHub(), options_of(asked))
    if not asked.as_json:
        _tell(path, asked.suite, plans, len(found), str(loaded.network.device))
    return {
        "model": str(path),
        "suite": asked.suite,
        "models": len(found),
        "device": str(loaded.network.device),
        "seconds": len(found) * sum(each.seconds for each in plans),
        "fetch_bytes": sum(each.missing_bytes for each in plans),
        "tasks": [_document(each) for each in plans],
    }


def _document(plan: "TaskPlan") -> dict[str, Any]:
    return {
        "task": plan.task.name,
        "num_fewshot": plan.task.num_fewshot,
        "dataset": plan.dataset,
        "bytes": plan.bytes,
        "missing_bytes": plan.missing_bytes,
        "requests": plan.requests,
        "tokens": plan.tokens,
        "seconds": plan.seconds,
        "recorded": plan.recorded,
        "problem": plan.problem,
        "exit_code": plan.exit_code,
    }


def _tell(path: Path, suite: str, plans: "list[TaskPlan]", models: int, device: str) -> None:
    rows = [
        (
            each.task.name,
            each.task.num_fewshot,
            f"{each.requests:,}",
            quantity(each.tokens),
            "-" if each.recorded else duration(each.seconds),
            _data(each),
        )
        for each in plans
    ]
    columns = ("task", "shots", "requests", "tokens", "at most", "data")
    print_table(f"{one_line(str(path))}: {suite} would take, on this {device}", columns, rows)
    total = models * sum(each.seconds for each in plans)
    several = f", {models} checkpoints" if models > 1 else ""
    fetch = sum(each.missing_bytes for each in plans)
    note(f"in all{several}: at most {duration(total)}; {_size(fetch)} to fetch; tokens are an estimate")
    for each in plans:
        if each.problem is not None:
            note(f"will fail: {one_line(each.problem)}")


def _data(plan: "TaskPlan") -> str:
    if plan.recorded:
        return "scored before"
    if plan.problem is not None:
        return "will fail"
    if not plan.missing_bytes:
        return "cached"
    return f"{_size(plan.missing_bytes)} to fetch"


def _size(size: int) -> str:
    return f"{quantity(size)}B" if size else "nothing"
