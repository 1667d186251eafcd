"""`reweight domains`: domain weights as an algorithm, written as a named file that a recipe takes."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from reproduce.cli.console import UserPath, emit_json, json_option, note
from reproduce.cli.domains_show import average, show
from reproduce.errors import ExitCode, RecipeError

if TYPE_CHECKING:
    from reproduce.domains.learn import Request
    from reproduce.recipe import Recipe

F = TypeVar("F", bound=Callable[..., Any])
Algorithm = Literal["doremi", "doge"]


@click.group()
def command() -> None:
    """Learn how much of each domain to train on, and show what is known.

    \b
    Examples:
      reweight domains doremi --recipe gpt2_nano_doremi_proxy --seed 1
      reweight domains doge --recipe gpt2_nano_doge_proxy --seed 1
      reweight domains show doge runs/gpt2_nano_doge_proxy/seed-1/weights.yaml
      reweight train --recipe gpt2_nano_uniform --set data.domain_weights=doge --out runs/mine
    """


command.add_command(show)
command.add_command(average)


def options(function: F) -> F:
    """What both algorithms take."""
    for option in reversed(
        (
            click.option("--recipe", "name", required=True, metavar="NAME|PATH", help="Of the proxy."),
            click.option(
                "--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Change a value."
            ),
            click.option("--data", type=UserPath(file_okay=False), help="Token store."),
            click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="Replaces the recipe's seed."),
            click.option(
                "--out", type=UserPath(file_okay=False), help="Folder.  [default: runs/RECIPE/seed-SEED]"
            ),
            click.option(
                "--nproc",
                type=click.IntRange(1, 4096),
                help="Processes on this machine; default: one a GPU, else one.",
            ),
            click.option("--dry-run", is_flag=True, help="Print what it would cost, write nothing."),
            click.option("--on", type=click.Choice(["a100", "h100", "h200"]), help="--dry-run: such GPUs."),
            json_option,
        )
    ):
        function = option(function)
    return function


@command.command("doremi")
@click.option("--rounds", type=click.IntRange(1, 100), default=1, show_default=True, help="At most so many.")
@click.option("--reference", type=UserPath(file_okay=False), help="Finished run, first round's reference.")
@options
def doremi(rounds: int, reference: Path | None, **given: Any) -> int:
    """DoReMi: more weight to domains where a proxy is worse than a reference model (Xie et al. 2023).

    Trains the reference on the recipe's data.domain_weights, unless --reference names a run, then the proxy
    by group DRO; the weights are the mean over the proxy's steps. Another round takes them for the
    reference; rounds end when no weight moves by more than 0.001. Run the same command again to continue
    after an interruption. OUT gets weights.yaml, which a recipe takes as data.domain_weights, a figure of
    how the weights moved, and each round's two runs.

    \b
    Examples:
      reweight domains doremi --recipe gpt2_nano_doremi_proxy --seed 1
      reweight domains doremi --recipe gpt2_nano_doremi_proxy --rounds 3 --out runs/three
      reweight domains doremi --recipe gpt2_82m_doremi_proxy --dry-run --on h100
    """
    return _learn("doremi", given, rounds=rounds, reference=reference)


@command.command("doge")
@options
def doge(**given: Any) -> int:
    """DoGE: more weight to domains whose gradient points where the target's does (Fan et al. 2024).

    The target is the mean of all domains, or one that is never trained on: --set domains.target=NAME. The
    weights are the mean over the proxy's steps. Run the same command again to continue after an
    interruption. OUT gets weights.yaml, which a recipe takes as data.domain_weights, a figure of how the
    weights moved, and the proxy's run.

    \b
    Examples:
      reweight domains doge --recipe gpt2_nano_doge_proxy --seed 1
      reweight domains doge --recipe gpt2_nano_doge_proxy --set domains.target=wikipedia --out runs/to_wiki
      reweight domains doge --recipe gpt2_82m_doge_proxy --dry-run --on h100
    """
    return _learn("doge", given)


def _learn(algorithm: Algorithm, given: dict[str, Any], **doremi: Any) -> int:
    from reproduce.recipe import load_recipe
    from reproduce.training.launch import launched, local_ranks

    recipe = load_recipe(given["name"], given["overrides"], given["seed"])
    _refuse_other(recipe, algorithm)
    path = given["out"] or Path("runs") / recipe.name / f"seed-{recipe.seed}"
    if given["dry_run"]:
        from reproduce.cli.domains_plan import dry_run

        arguments = _arguments(algorithm, given, doremi)
        return dry_run(recipe, given, path, arguments=arguments, **doremi)
    if given["on"] is not None:
        raise click.UsageError("--on is for --dry-run")
    from reproduce.domains.learn import Request, check_request

    request = Request(recipe=recipe, path=path, data=given["data"], **doremi)
    if launched(os.environ):
        if given["nproc"] is not None:
            raise click.UsageError("--nproc starts processes, and a launcher already did; leave it out")
    elif (ranks := local_ranks(given["nproc"])) > 1:
        from reproduce.training.supervisor import run_locally

        check_request(request)  # what one process can refuse alone
        arguments = [*_arguments(algorithm, given, doremi), *(["--json"] if given["as_json"] else [])]
        return run_locally(ranks, arguments, None, note, verb="domains")
    return _run(request, given["as_json"])


def _refuse_other(recipe: "Recipe", algorithm: Algorithm) -> None:
    if recipe.domains is None:
        raise RecipeError(
            f"recipe {recipe.name} has no section domains, which says how weights are learned; use "
            f"gpt2_nano_{algorithm}_proxy, or --set domains.algorithm={algorithm}"
        )
    if recipe.domains.algorithm != algorithm:
        raise RecipeError(
            f"recipe {recipe.name} is for `reweight domains {recipe.domains.algorithm}`; use that, or "
            f"--set domains.algorithm={algorithm}"
        )


def _arguments(algorithm: Algorithm, given: dict[str, Any], doremi: dict[str, Any]) -> Sequence[str]:
    """The command line of one rank, after `reweight domains`."""
    arguments = [algorithm, "--recipe", given["name"]]
    for override in given["overrides"]:
        arguments += ["--set", override]
    singles = {f"--{name}": given[name] for name in ("data", "seed", "out")}
    singles |= {f"--{name}": value for name, value in doremi.items() if (name, value) != ("rounds", 1)}
    for option, value in singles.items():
        arguments += [] if value is None else [option, str(value)]
    return arguments


def _run(request: "Request", as_json: bool) -> int:
    from reproduce.cli.domains_run import phases
    from reproduce.cli.domains_show import print_learned
    from reproduce.cli.signals import leads
    from reproduce.domains.learn import learn
    from reproduce.domains.output import write_learned
    from reproduce.errors import PeerFailedError

    with phases() as events:
        try:
            learned = learn(request, events)
        except PeerFailedError as error:
            if leads():
                raise
            return error.exit_code  # the rank that failed says why
    if learned.weights is None:
        if learned.leads and as_json:
            emit_json({"run": str(request.path), "state": "stopped"})
        elif learned.leads:
            note("stopped; run the same command again to continue")
        return learned.exit_code
    if learned.leads:
        print_learned(write_learned(request.path, learned.weights), learned.weights, as_json)
    return ExitCode.DONE
