"""`reweight reproduce`: one command a table or figure; what is there stays, what is missing is run."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from reproduce.cli.children import Children, children
from reproduce.cli.console import UserPath, emit_json, json_option, note, print_table
from reproduce.errors import ExitCode

if TYPE_CHECKING:
    from reproduce.cli.reproduce_plan import Gpu, Plan
    from reproduce.paper.needs import NeedsScale

SEEDS = {"paper": 1, "nano": 3}
"""Runs of each recipe where --seeds does not say: the paper's one, and as few as give an interval."""


@click.command()
@click.argument("name", metavar="TABLE|FIGURE")
@click.option("--scale", type=click.Choice(["paper", "nano"]), default="paper", show_default=True)
@click.option("--seeds", type=click.IntRange(1, 100), help="Runs of each recipe.  [default: 1, nano 3]")
@click.option("--dry-run", is_flag=True, help="Say what is missing and what it would cost, run nothing.")
@click.option("--data", type=UserPath(file_okay=False), help="Token store.")
@click.option(
    "--out", type=UserPath(file_okay=False), default=Path("runs"), show_default=True, help="Folder of runs."
)
@click.option(
    "--on",
    type=click.Choice(["a100", "h100", "h200"]),
    default="h100",
    show_default=True,
    help="GPU-hours of this kind.",
)
@json_option
def command(
    name: str,
    scale: str,
    seeds: int | None,
    dry_run: bool,
    data: Path | None,
    out: Path,
    on: str,
    as_json: bool,
) -> int:
    """Train, score and compare or draw what one table or figure of the paper takes.

    Runs go to OUT/RECIPE/seed-SEED, one after the other, each a `reweight train` of its own; complete ones
    stay. Ctrl-C saves and stops (130), and the same command continues. At --scale nano reduced-scale twins
    stand for the paper's runs: minutes on two CPU cores each, judged by sign at most.

    \b
    Tables: table1 table2 table3 table12 llama1b_average llama1b_lur llama1b_qa llama7b_average llama7b_lur
    llama7b_qa. Figures: figure1 ... figure8, drawn in OUT/figures; 7 and 8 are toy studies.

    \b
    Examples:
      reweight reproduce table1 --dry-run
      reweight reproduce table1 --scale nano
      reweight reproduce figure5 --scale nano --seeds 1
      reweight reproduce figure7
    """
    from reproduce.cli.reproduce_plan import make_plan
    from reproduce.training.launch import launched

    if launched(os.environ):
        raise click.UsageError(
            "reproduce starts its own processes, and a launcher already did; start it alone"
        )
    plan = make_plan(name, cast("NeedsScale", scale), seeds or SEEDS[scale], data, out, cast("Gpu", on))
    if dry_run:
        return _tell(plan, as_json)
    _check(plan)
    with children() as made:
        code = _run(plan, made) or _score(plan, made)
        if code:
            return code
        done = make_plan(name, plan.scale, seeds or SEEDS[scale], data, out, plan.on)
        return _show(done, made, as_json)


def _tell(plan: "Plan", as_json: bool) -> int:
    from reproduce.paper.needs import what_it_shows

    if as_json:
        emit_json(plan.document())
        return ExitCode.DONE
    click.echo(f"{plan.id}, {plan.scale} scale: {what_it_shows(plan.id)}")
    if plan.runs:
        columns = ("run", "state", "here", f"{plan.on.upper()}-hours", "disk")
        print_table("nothing is written", columns, list(plan.rows()))
    for line in plan.lines():
        click.echo(line)
    return ExitCode.DONE


def _check(plan: "Plan") -> None:
    """Refuse before the first run what the last would fail on: no data, too little of it, no lm-eval."""
    from reproduce.cli.eval_needs import require_lm_eval
    from reproduce.training.data import open_store, training_batches

    if plan.needs.suites:
        require_lm_eval()
    for run in {run.recipe.name: run for run in plan.left}.values():
        training_batches(open_store(run.recipe, plan.data), run.recipe)


def _run(plan: "Plan", made: Children) -> int:
    """Train what is missing; the exit code of the first run that did not end well."""
    left = plan.left
    for index, run in enumerate(left, start=1):
        note(f"{index}/{len(left)} {run.path}")
        arguments = ["--recipe", run.recipe.name, "--seed", run.recipe.seed, "--out", run.path]
        data = [] if plan.data is None else ["--data", plan.data]
        code = made.run("train", *arguments, *data)
        if code:
            return _stopped(f"reweight train in {run.path}", code, made)
    return ExitCode.DONE


def _score(plan: "Plan", made: Children) -> int:
    """Score runs on the suites that they have no scores of."""
    from reproduce.cli.reproduce_plan import scored

    for run in plan.runs:
        for suite in plan.needs.suites:
            if scored(run.path, suite):
                continue
            note(f"{run.path}: {suite}")
            code = made.run("eval", run.path, "--suite", suite)
            if code:
                return _stopped(f"reweight eval {run.path} --suite {suite}", code, made)
    return ExitCode.DONE


def _stopped(what: str, code: int, made: Children) -> int:
    if made.stopped is None:
        note(f"reweight: {what} ended with exit code {code}; mend that and run the same command again")
    else:
        note("stopped; run the same command again to continue")
    return code


def _show(plan: "Plan", made: Children, as_json: bool) -> int:
    """Compare, draw, or run the toy study."""
    arguments = plan.result()
    if not as_json:
        code = made.shown(*arguments)
    else:
        code, out = made.output(*arguments, "--json")
        if not code:
            emit_json(plan.document() | {"result": json.loads(out)})
    return _stopped(f"reweight {arguments[0]}", code, made) if code else code
