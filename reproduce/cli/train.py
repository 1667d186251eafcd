"""`reweight train`: pretrain a model from a recipe."""

import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eval.suites import load_suites
from reproduce.cli.console import (
    UserPath,
    emit_json,
    json_option,
    note,
    print_log_perplexity,
    progress,
    quantity,
)
from reproduce.cli.signals import leads, stop_requests
from reproduce.errors import ExitCode

SUITES = tuple(load_suites())

if TYPE_CHECKING:
    from reproduce.recipe import Recipe
    from reproduce.training.loop import Finished
    from reproduce.training.run_dir import RunDir
    from reproduce.training.start import Scorer


@click.command()
@click.option("--recipe", "name", required=True, metavar="NAME|PATH", help="`reweight recipes` lists them.")
@click.option(
    "--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Change a value; repeatable."
)
@click.option("--data", type=UserPath(file_okay=False), help="Token store.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="Replaces the recipe's seed.")
@click.option("--out", type=UserPath(file_okay=False), help="Run folder.")
@click.option(
    "--nproc", type=click.IntRange(1, 4096), help="Processes on this machine; default: one a GPU, else one."
)
@click.option("--track", "trackers", multiple=True, metavar="NAME", help="tensorboard, wandb, trackio ...")
@click.option("--eval-suite", type=click.Choice(SUITES), help="Score these tasks while training, by lm-eval.")
@click.option("--eval-every", type=click.IntRange(min=1), default=2000, show_default=True, help="Steps.")
@click.option("--eval-limit", type=click.IntRange(1, 2**31 - 1), help="Only the first N items of each task.")
@click.option(
    "--allow-drift", multiple=True, metavar="FIELD", help="Continue although FIELD changed; put on record."
)
@click.option(
    "--strict-resume", is_flag=True, help="Refuse (5) to fall back on an older checkpoint than the newest."
)
@click.option("--dry-run", is_flag=True, help="Print what it would cost, write nothing.")
@click.option("--nodes", type=click.IntRange(1, 4096), default=1, help="--dry-run: machines.")
@click.option("--on", type=click.Choice(["a100", "h100", "h200"]), help="--dry-run: GPUs of this kind.")
@json_option
def command(
    name: str,
    overrides: tuple[str, ...],
    data: Path | None,
    seed: int | None,
    out: Path | None,
    nproc: int | None,
    trackers: tuple[str, ...],
    eval_suite: str | None,
    eval_every: int,
    eval_limit: int | None,
    allow_drift: tuple[str, ...],
    strict_resume: bool,
    dry_run: bool,
    nodes: int,
    on: str | None,
    as_json: bool,
) -> int:
    """Pretrain a model from a recipe.

    Run the same command again to continue after an interruption, also on another number of processes. The run
    folder, by default runs/RECIPE/seed-SEED, holds recipe.yaml, provenance.json, metrics.jsonl, checkpoints/,
    model/ and results.json. SIGTERM saves and leaves with 75, SIGUSR1 saves and goes on.

    Under torchrun, accelerate launch or srun the same command is one of their processes.

    \b
    Examples:
      reweight train --recipe gpt2_mini_linupper --dry-run
      reweight train --recipe gpt2_nano_linupper --seed 1
      reweight train --recipe gpt2_nano_linupper --nproc 2
      reweight train --recipe llama1b_linupper --dry-run --nproc 8 --nodes 8 --on h100
    """
    from reproduce.cli.eval_needs import refuse_without_suite
    from reproduce.recipe import load_recipe
    from reproduce.recipe.checks import refuse_learning
    from reproduce.training.launch import launched, local_ranks
    from reproduce.training.run_dir import RunDir

    recipe = load_recipe(name, overrides, seed)
    path = out or Path("runs") / recipe.name / f"seed-{recipe.seed}"
    refuse_without_suite(eval_suite)
    refuse_learning(recipe)
    start = _Start(allow_drift, strict_resume, trackers, eval_suite, eval_every, eval_limit)
    if dry_run:
        from reproduce.cli.train_plan import dry_run as plan

        arguments = _arguments(name, overrides, data, seed, out, start)
        return plan(recipe, data, path, nproc=nproc, nodes=nodes, on=on, as_json=as_json, arguments=arguments)
    if nodes != 1 or on is not None:
        raise click.UsageError(
            "--nodes and --on are for --dry-run; a launcher starts ranks on other machines"
        )
    folder = RunDir(path)
    if folder.complete:
        return _already_complete(recipe, folder, allow_drift, as_json)
    if launched(os.environ):
        if nproc is not None:
            raise click.UsageError("--nproc starts processes, and a launcher already did; leave it out")
    elif (ranks := local_ranks(nproc)) > 1:
        arguments = [*_arguments(name, overrides, data, seed, out, start), *(["--json"] if as_json else [])]
        return _train_on(ranks, recipe, path, data, allow_drift, arguments)
    return _train(recipe, path, data, start, as_json)


@dataclass(frozen=True)
class _Start:
    """Options of one start, as the command line has them."""

    allow_drift: tuple[str, ...]
    strict_resume: bool
    trackers: tuple[str, ...]
    eval_suite: str | None
    eval_every: int
    eval_limit: int | None

    def scorer(self) -> "Scorer | None":
        """What scores tasks while training."""
        if self.eval_suite is None:
            return None
        from reproduce.cli.eval_needs import require_lm_eval

        require_lm_eval()
        from reproduce.scoring.interval import IntervalScorer
        from reproduce.scoring.tasks import ScoringOptions

        warn: Callable[[str], None] = note if leads() else lambda message: None
        return IntervalScorer(self.eval_suite, self.eval_every, ScoringOptions(limit=self.eval_limit), warn)


def _already_complete(recipe: "Recipe", folder: "RunDir", allow_drift: tuple[str, ...], as_json: bool) -> int:
    folder.check_recipe(recipe, allow_drift)
    if leads():
        note(f"{folder.path} is already complete")
        if as_json:
            emit_json({"run": str(folder.path), "state": "complete", "step": recipe.train.steps})
    return ExitCode.DONE


def _train_on(
    ranks: int,
    recipe: "Recipe",
    path: Path,
    data: Path | None,
    allow_drift: tuple[str, ...],
    arguments: Sequence[str],
) -> int:
    """Start this very command once a rank, after what one process can refuse alone."""
    from reproduce.errors import RecipeError
    from reproduce.recipe.checks import impossible_layout
    from reproduce.training.data import open_store, training_batches
    from reproduce.training.run_dir import RunDir
    from reproduce.training.supervisor import run_locally

    problems = impossible_layout(recipe, ranks, ranks)
    if problems:
        lines = [f"{where}: {what}" for where, what in problems]
        raise RecipeError(f"recipe {recipe.name} on {ranks} processes", lines)
    training_batches(open_store(recipe, data), recipe)
    if (path / "recipe.yaml").exists():
        RunDir(path).check_recipe(recipe, allow_drift)
    return run_locally(ranks, arguments, path, note)


def _arguments(
    name: str, overrides: Sequence[str], data: Path | None, seed: int | None, out: Path | None, start: _Start
) -> list[str]:
    """The command line of one rank."""
    given = {"--data": data, "--seed": seed, "--out": out, "--eval-suite": start.eval_suite}
    if start.eval_suite is not None:
        given |= {"--eval-every": start.eval_every, "--eval-limit": start.eval_limit}
    arguments = ["--recipe", name]
    for option, values in (
        ("--set", overrides),
        ("--track", start.trackers),
        ("--allow-drift", start.allow_drift),
    ):
        for value in values:
            arguments += [option, value]
    for option, single in given.items():
        arguments += [] if single is None else [option, str(single)]
    return [*arguments, *(["--strict-resume"] if start.strict_resume else [])]


def _train(recipe: "Recipe", path: Path, data: Path | None, start: _Start, as_json: bool) -> int:
    from reproduce.errors import PeerFailedError
    from reproduce.training.loop import Events, Options, run

    steps, leading = recipe.train.steps, leads()
    title = f"{recipe.name} seed {recipe.seed}"
    with progress(title, steps, "steps") if leading else nullcontext() as line, stop_requests() as asked:

        def advance(step: int, logged: dict[str, Any]) -> None:
            if line is not None:
                line.update(
                    step,
                    f"step {step}/{steps} loss {logged['loss']:.3f} max weight {logged['max_weight']:.2f}/M "
                    f"{quantity(logged['tokens_per_s'])} tokens/s",
                )

        warn: Callable[[str], None] = note if leading else lambda message: None
        events = Events(warn=warn, advance=advance, stop=lambda: asked.code, saves=lambda: asked.saves)
        options = Options(
            allow_drift=start.allow_drift,
            strict_resume=start.strict_resume,
            trackers=start.trackers,
            scorer=start.scorer(),
        )
        try:
            finished = run(recipe, path, data, events, options)
        except PeerFailedError as error:
            if leading:
                raise
            return error.exit_code  # the rank that failed says why
    if leading:
        _tell(finished, path, steps, as_json)
    return finished.exit_code


def _tell(finished: "Finished", path: Path, steps: int, as_json: bool) -> None:
    if as_json:
        scores = finished.scores or {}
        emit_json(
            {
                "run": str(path),
                "state": "complete" if finished.exit_code == ExitCode.DONE else "stopped",
                "step": finished.step,
                "log_perplexity": {name: score.value for name, score in scores.items()},
            }
        )
    elif finished.scores is not None:
        print_log_perplexity(f"{path}: log-perplexity", finished.scores)
    else:
        note(f"stopped after step {finished.step} of {steps}; run the same command again to continue")
