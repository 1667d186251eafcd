"""What a folder of runs holds of a table or figure, and what the rest would take. Nothing is written."""

import shlex
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from reproduce.cli.console import duration
from reproduce.errors import DataError, ResumeError, UserError, one_line
from reproduce.paper.needs import Needs, NeedsScale, needs, what_it_shows

if TYPE_CHECKING:
    from reproduce.cli.machine import Machine
    from reproduce.recipe import Recipe

State = Literal["complete", "partial", "missing", "other"]
Gpu = Literal["a100", "h100", "h200"]

TEN_YEARS = 10 * 365 * 86_400


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One run that is needed."""

    recipe: "Recipe"
    path: Path
    state: State
    """`other`: the folder holds another run, or a damaged one."""

    step: int
    """Steps that are done: a partial run's up to its newest checkpoint."""

    why: str
    """What is wrong with the folder, where it is another's."""

    unscored: tuple[str, ...]
    """Suites of tasks that it is still to be scored on."""

    seconds: float
    """Left, on this machine."""

    gpu_hours: float
    """Left, on the GPUs that the plan is for."""

    disk_bytes: int
    """That it will take; none where it is complete."""

    @property
    def left(self) -> bool:
        """Whether something is to be trained."""
        return self.state != "complete"

    def document(self) -> dict[str, Any]:
        """For --json."""
        return {
            "recipe": self.recipe.name,
            "seed": self.recipe.seed,
            "run": str(self.path),
            "state": self.state,
            "why": self.why,
            "step": self.step,
            "steps": self.recipe.train.steps,
            "unscored": list(self.unscored),
            "seconds": self.seconds,
            "gpu_hours": self.gpu_hours,
            "disk_bytes": self.disk_bytes,
        }


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A table or figure, and where it stands."""

    id: str
    scale: NeedsScale
    on: Gpu
    needs: Needs
    runs: Sequence[PlannedRun]
    data: Path | None
    out: Path

    @property
    def left(self) -> list[PlannedRun]:
        """What is to be trained, in order."""
        return [run for run in self.runs if run.left]

    @property
    def study(self) -> Path | None:
        """Folder of the toy study, where it is one."""
        return None if self.needs.study is None else self.out / "toy" / self.needs.study

    def data_state(self) -> str:
        """Whether the token store is there, by the first run that still needs it; empty where none does."""
        from reproduce.cli.train_plan import store_state

        return store_state(self.left[0].recipe, self.data) if self.left else ""

    def result(self) -> list[str]:
        """The arguments of `reweight` that show the result."""
        if self.needs.study is not None:
            return ["toy", self.needs.study, "--out", str(self.study)]
        if self.id.startswith("figure"):
            folders = dict.fromkeys(str(run.path.parent) for run in self.runs)
            return ["figures", *folders, "--only", self.id, "--out", str(self.out / "figures")]
        return ["compare", "--against", "paper", "--table", self.id, *(str(run.path) for run in self.runs)]

    def then(self) -> str:
        """The command that shows the result."""
        return shlex.join(["reweight", *self.result()])

    def document(self) -> dict[str, Any]:
        """For --json."""
        return {
            "id": self.id,
            "scale": self.scale,
            "shows": what_it_shows(self.id),
            "runs": [run.document() for run in self.runs],
            "complete": len(self.runs) - len(self.left),
            "missing": len(self.left),
            "suites": list(self.needs.suites),
            "study": self.needs.study,
            "device": self.on,
            "gpu_hours": sum(run.gpu_hours for run in self.runs),
            "seconds": sum(run.seconds for run in self.runs),
            "disk_bytes": sum(run.disk_bytes for run in self.runs),
            "data": self.data_state(),
            "note": self.needs.note,
            "then": self.then(),
        }

    def rows(self) -> Iterator[tuple[str, ...]]:
        """For a reader, a line a run."""
        for run in self.runs:
            state = (
                f"step {run.step:,} of {run.recipe.train.steps:,}" if run.state == "partial" else run.state
            )
            scores = f", no {', '.join(run.unscored)}" if run.unscored and not run.left else ""
            took = (_time(run.seconds), _hours(run.gpu_hours), _gb(run.disk_bytes)) if run.left else ("",) * 3
            yield (str(run.path), state + scores, *took)

    def lines(self) -> Iterator[str]:
        """For a reader, what is left in all and what comes of it."""
        for run in self.runs:
            if run.why:
                yield f"{run.path}: {run.why}"
        if self.left:
            hours, disk = sum(run.gpu_hours for run in self.left), sum(run.disk_bytes for run in self.left)
            here = _time(sum(run.seconds for run in self.left))
            yield (
                f"left: {len(self.left)} of {len(self.runs)} runs, {_hours(hours)} {self.on.upper()}-hours, "
                f"or {here} on this machine, and {_gb(disk)} of disk; scoring and data come on top"
            )
            yield f"data: {self.data_state()}"
        if self.needs.suites:
            yield (
                f"then scored on {' and '.join(self.needs.suites)}, on top: "
                "`reweight eval RUN --suite NAME --dry-run` says how long"
            )
        if self.needs.note:
            yield f"note: {self.needs.note}"
        yield f"then: {self.then()}"


def make_plan(name: str, scale: NeedsScale, seeds: int, data: Path | None, out: Path, on: Gpu) -> Plan:
    """Look at what is there.

    Args:
        name: table or figure.
        scale: of its runs.
        seeds: runs of each recipe; at the paper's scale from the recipe's own seed on, else from 1.
        data: token store; None is each recipe's default place.
        out: folder of runs.
        on: GPUs to work out hours for.

    Raises:
        UserError: no such table or figure.
    """
    from reproduce.recipe import load_recipe

    asked = needs(name, scale)
    machines: dict[tuple[str, bool], Machine] = {}
    runs = []
    for index in range(seeds):
        for each in asked.recipes:
            own = load_recipe(each)
            recipe = load_recipe(each, (), own.seed + index if scale == "paper" else 1 + index)
            runs.append(_planned(recipe, out, asked, on, machines))
    return Plan(id=name, scale=scale, on=on, needs=asked, runs=runs, data=data, out=out)


def _planned(
    recipe: "Recipe", out: Path, asked: Needs, on: Gpu, machines: "dict[tuple[str, bool], Machine]"
) -> PlannedRun:
    from reproduce.cli.machine import catalogued, this_machine
    from reproduce.recipe.estimate import Layout, estimate
    from reproduce.training.launch import local_ranks

    path = out / recipe.name / f"seed-{recipe.seed}"
    state, step, why = _state(path, recipe)
    kind = (recipe.train.precision, recipe.parallel.compile)
    if kind not in machines:
        machines[kind] = this_machine(recipe)  # it is measured: once a kind, not once a run
    gpu, here = catalogued(recipe, on), machines[kind]
    layout = Layout(ranks=asked.ranks, ranks_a_node=min(asked.ranks, 8))
    cost = estimate(recipe, gpu.precision, layout, gpu.device)
    left = cost.flops * (0.0 if state == "complete" else 1 - step / recipe.train.steps)
    ranks = local_ranks(None)
    return PlannedRun(
        recipe=recipe,
        path=path,
        state=state,
        step=step,
        why=why,
        unscored=tuple(suite for suite in asked.suites if not scored(path, suite)),
        seconds=here.seconds(left, Layout(ranks=ranks, ranks_a_node=ranks)),
        gpu_hours=left / gpu.flops / 3600,
        disk_bytes=0 if state == "complete" else max(0, cost.disk_bytes - _size(path)),
    )


def _state(path: Path, recipe: "Recipe") -> tuple[State, int, str]:
    """State, steps done, and what is wrong."""
    from reproduce.training.run_dir import RunDir

    folder = RunDir(path)
    if not (path / "recipe.yaml").exists():
        return "missing", 0, ""
    try:
        folder.check_recipe(recipe)
    except (ResumeError, DataError, OSError) as error:
        return "other", 0, one_line(str(error))
    steps = recipe.train.steps
    if folder.complete or (folder.stripped and _results_step(path) == steps):
        return "complete", steps, ""  # what is compared and drawn is there, with or without the model
    if folder.stripped:
        return "other", 0, "its model and checkpoints are gone; restore them, or move the folder away"
    # What was done since the newest checkpoint is done again.
    return "partial", min(max([0, *folder.saved_steps]), steps), ""


def _size(folder: Path) -> int:
    """Bytes of the files below a folder; what goes away meanwhile counts as nothing."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.lstat().st_size
    return total


def _results_step(run: Path) -> int | None:
    from eval.results import ResultsError, read_results

    try:
        return read_results(run / "results.json").step
    except (ResultsError, UserError, OSError):
        return None


def scored(run: Path, suite: str) -> bool:
    """Whether a run's results hold every task of a suite, over all of its items."""
    from eval.results import ResultsError, read_results
    from eval.suites import load_suites

    try:
        results = read_results(run / "results.json")
    except (ResultsError, UserError, OSError):
        return False
    known = {score.task for score in results.scores if score.suite == suite and score.limit is None}
    return {task.name for task in load_suites()[suite].tasks} <= known


def _time(seconds: float) -> str:
    return duration(seconds) if seconds < TEN_YEARS else "over 10 years"


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.1f}" if hours >= 0.1 else f"{hours:.4f}"


def _gb(count: int) -> str:
    return f"{count / 1e9:,.2f} GB"
