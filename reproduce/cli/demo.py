"""`reweight demo`: the whole chain on text that this machine already has, offline, in minutes."""

import json
import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from reproduce.cli.console import Progress, UserPath, emit_json, json_option, note, progress
from reproduce.errors import ExitCode

if TYPE_CHECKING:
    from reproduce.study import Study

RECIPES = ("demo_uniform", "demo_linupper")
TOKENIZER = "bpe:2048"
PAPER_R = 0.4
"""The paper's temperature for GPT-2, for Figure 1."""


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One training run of the demo."""

    recipe: str
    seed: int
    path: Path
    data: Path
    overrides: tuple[str, ...]


@click.command()
@click.option("--out", type=UserPath(file_okay=False), default=Path("demo"), show_default=True)
@click.option(
    "--seeds", type=click.IntRange(1, 20), default=3, show_default=True, help="Runs of each recipe."
)
@click.option("--steps", type=click.IntRange(min=16), help="Train fewer or more steps than the recipes say.")
@json_option
def command(out: Path, seeds: int, steps: int | None, as_json: bool) -> int:
    """Prepare, train uniform and LinUpper, evaluate, run a toy study, compare with the paper, report.

    The corpus is what every Python installation holds: its library's source, docstrings, language reference,
    licences, package descriptions, character names; each kind is a domain. No network, no GPU. Running it
    again continues.

    \b
    Examples:
      reweight demo
      reweight demo --out /tmp/demo --seeds 1
    """
    data = out / "data"
    overrides = () if steps is None else (f"train.steps={steps}",)
    _prepare(data)
    jobs = [
        _Job(
            recipe=recipe,
            seed=seed,
            path=out / "runs" / recipe / f"seed-{seed}",
            data=data,
            overrides=overrides,
        )
        for seed in range(1, seeds + 1)
        for recipe in RECIPES
    ]
    _train_all(jobs)
    _toy(out)
    _judge(out, as_json)
    return ExitCode.DONE


def _prepare(data: Path) -> None:
    from data_prep.pipeline import prepare
    from data_prep.spec import PrepSpec

    note("1/5 prepare: tokenizing text of this Python installation")
    prepare(PrepSpec(dataset="embedded", tokenizer=TOKENIZER, out=data))


def _train_all(jobs: list[_Job]) -> None:
    """Train side by side, one thread each: models this small gain nothing from a second thread."""
    from reproduce.recipe import load_recipe

    steps = {job.path: load_recipe(job.recipe, job.overrides).train.steps for job in jobs}
    workers = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1, 2, len(jobs))
    note(f"2/5 train: {len(jobs)} runs, {workers} at a time")
    with (
        ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool,
        progress("train", sum(steps.values()), "steps") as line,
    ):
        _watch([pool.submit(_train, job) for job in jobs], list(steps), line)


def _watch(futures: list[Future[None]], paths: list[Path], line: Progress) -> None:
    """Show the steps done until every run has ended; the first failure is raised."""
    while True:
        line.update(sum(_steps_done(path) for path in paths))
        failed = next((f for f in futures if f.done() and f.exception() is not None), None)
        if failed is not None:
            for future in futures:
                future.cancel()
            failed.result()
        if all(future.done() for future in futures):
            return
        time.sleep(0.3)


def _steps_done(path: Path) -> int:
    try:
        lines = (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return int(json.loads(lines[-1])["step"])
    except (OSError, IndexError, ValueError):
        return 0  # not begun, or its last line is being written


def _train(job: _Job) -> None:
    """In a process of its own: one run, unless it is complete."""
    import torch

    from reproduce.recipe import load_recipe
    from reproduce.training.loop import Events, run
    from reproduce.training.run_dir import RunDir

    torch.set_num_threads(1)
    recipe = load_recipe(job.recipe, job.overrides, job.seed)
    folder = RunDir(job.path)
    if folder.complete:
        folder.check_recipe(recipe)
        return
    run(recipe, job.path, job.data, Events(warn=note, advance=lambda step, line: None))


def _toy(out: Path) -> None:
    """The toy regression, quickly: the paper's strategies, fewer steps and seeds than by default."""
    from reproduce.cli.toy_run import make
    from reproduce.studies.settings import RegressionSettings

    note("3/5 toy regression: the same weights where the right answer is known")
    strategies = ("uniform", "linupper", "quadratic", "extremes")
    settings = RegressionSettings(strategies=strategies, steps=400, seeds=20)

    def run(command: str, advance: Callable[[float, str], None]) -> "Study":
        from reproduce.studies.regression import run_regression

        return run_regression(settings, command, advance)

    command = f"reweight toy regression --strategy {','.join(strategies)} --steps 400 --seeds 20"
    make("regression", out / "runs" / "toy" / "regression", command, settings.as_settings(), run)


def _judge(out: Path, as_json: bool) -> None:
    from reproduce.cli.compare import chosen_tables, judge, load_all
    from reproduce.cli.compare_print import print_judgement
    from reproduce.cli.curves import figure_one
    from reproduce.paper.report import write_report

    note("4/5 compare: the sign of LinUpper's difference from uniform, against Table 1")
    runs, studies = load_all([out / "runs"])
    judgement = judge(runs, chosen_tables(), studies)
    if not as_json:
        print_judgement(judgement, show_all=False)
    note("5/5 report")
    report = write_report(runs, out / "report.html", figure_one(PAPER_R), studies)
    if as_json:
        emit_json({"report": str(report), **judgement.document()})
    else:
        click.echo(str(report))
