"""`reweight toy`: the paper's toy studies and theorems, by number, in seconds on a CPU."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from reproduce.cli.console import UserPath, json_option
from reproduce.cli.toy_docs import docs
from reproduce.cli.toy_options import FLOATS, INTEGERS, NAMES, Row, command_line, declare, filled
from reproduce.cli.toy_run import HOME, available_cores, finish
from reproduce.studies.bounds_settings import BoundsSettings
from reproduce.studies.dro_settings import DroSettings
from reproduce.studies.settings import DataSetup, RegressionSettings, SweepSettings

F = TypeVar("F", bound=Callable[..., Any])

DATA = (
    Row("--features", int, "Inputs of the linear model.", "features"),
    Row("--outputs", int, "Targets a sample.", "outputs"),
    Row("--samples", int, "Training samples, outliers among them.", "samples"),
    Row("--test-samples", int, "Held-out samples, all clean.", "test_samples"),
)
LAW = (
    Row(
        "--outlier-share",
        FLOATS,
        "Share of samples with random targets, in [0, 1).",
        "outlier_share",
        "outlier_shares",
    ),
    Row(
        "--outlier-scale",
        FLOATS,
        "Spread of outliers' features; others' is 1.",
        "outlier_scale",
        "outlier_scales",
    ),
    Row("--noise", FLOATS, "Standard deviation of the targets' noise.", "noise", "noises"),
)
RUNS = (
    Row("--steps", int, "Steps of a run.", "steps"),
    Row("--seeds", int, "How many seeds.", "seeds"),
    Row("--seed", int, "The first of them.", "first_seed"),
)
MOMENTUM = Row("--momentum", float, "Momentum, in [0, 1).", "momentum")
THRESHOLD = Row(
    "--threshold", FLOATS, "Shares of the loss at the start; steps to each are counted.", "thresholds"
)
REGRESSION = (
    Row("--strategy", NAMES, "Strategies to compare.", "strategies"),
    Row("--r", FLOATS, "Temperatures; lambdas of dro_kl and capped_softmax.", "r"),
    Row("--lr", FLOATS, "Learning rate.", "lr", "lrs"),
    MOMENTUM,
    Row("--batch", INTEGERS, "Samples of a step.", "batch", "batches"),
    *RUNS,
    THRESHOLD,
)
DRO = (
    Row("--lambda", FLOATS, "Lambdas of dro_kl and capped_softmax; Table 12's.", "lambdas"),
    Row("--r", FLOATS, "LinUpper's temperatures.", "r"),
    Row("--lr", FLOATS, "Learning rates.", "lrs"),
    MOMENTUM,
    Row("--batch", int, "Samples of a step.", "batch"),
    *RUNS,
    THRESHOLD,
    Row("--search-lr", FLOATS, "Lowest and highest learning rate of the search.", "search_lrs"),
    Row("--search-seeds", int, "Seeds of the search.", "search_seeds"),
    Row("--search-steps", int, "Steps within which a run of the search may diverge.", "search_steps"),
)
BOUNDS = (
    Row("--samples", int, "Samples of each problem.", "samples"),
    Row("--features", int, "Parameters of each problem.", "features"),
    Row("--batch", int, "Samples of a minibatch.", "batch"),
    *RUNS,
    Row("--r", FLOATS, "Temperatures of strategies that score normalised losses.", "r"),
    Row("--lambda", FLOATS, "Lambdas of dro_kl and capped_softmax.", "lambdas"),
    Row("--cap-size", INTEGERS, "Batch sizes of the survey of w <= 2/M.", "cap_sizes"),
    Row("--cap-r", FLOATS, "Its temperatures, and Proposition 1's.", "cap_r"),
    Row("--cap-batches", int, "Random batches of each kind in it.", "cap_batches"),
    Row("--problems", int, "Random problems of each kind that scipy solves for Proposition 1.", "problems"),
)


def out_option(default: str) -> Callable[[F], F]:
    """--out, with the folder it has when not given."""
    return click.option(
        "--out", type=UserPath(file_okay=False), help=f"The folder to write.  [default: {default}]"
    )


def workers_option(function: F) -> F:
    """--workers."""
    return click.option("--workers", type=click.IntRange(1, 256), help="Threads.  [default: the cores]")(
        function
    )


@click.group()
def command() -> None:
    """The paper's toy studies: small, seeded, drawn, each with its verdicts.

    \b
    Examples:
      reweight toy regression
      reweight toy regression --outlier-share 0.25 --r 0.4,1 --seeds 200
      reweight toy regression --sweep
      reweight toy dro
      reweight toy bounds

    Each writes study.json, CSV, SVG and PNG to a folder below runs/toy, where `reweight compare` and
    `reweight report` find them. The same seed gives the same files.
    """


command.add_command(docs)


@command.command("regression")
@click.option("--sweep", is_flag=True, help="Every combination of the values, in place of one setup.")
@declare((*DATA, *LAW), DataSetup(), SweepSettings())
@declare(REGRESSION, RegressionSettings(), SweepSettings())
@workers_option
@out_option(f"{HOME}/regression, with --sweep {HOME}/sweep")
@json_option
@click.pass_context
def regression(
    ctx: click.Context, /, sweep: bool, workers: int | None, out: Path | None, as_json: bool, **chosen: Any
) -> int:
    """Linear regression with outliers: every strategy, many seeds (the paper's Figure 7).

    Clean targets are Wx + b + noise, outliers' are random; minibatch SGD from zero; the loss is that of
    held-out clean samples. With --sweep: who is faster and who ends lower over outlier share and scale,
    noise, learning rate, r and batch size; minutes. The paper lost its numbers: all defaults but r
    are ours.

    \b
    Examples:
      reweight toy regression
      reweight toy regression --strategy linupper,quadratic --r 0.4,1,2 --momentum 0.9
      reweight toy regression --sweep --noise 0.1 --lr 0.01,0.03 --batch 32
    """
    threads = workers or available_cores()
    if sweep:
        grid = SweepSettings(
            data=DataSetup(**filled(DATA, chosen)),
            workers=threads,
            **filled((*LAW, *REGRESSION), chosen, grid=True),
        )

        def run_grid(line: str, advance: Any) -> Any:
            from reproduce.studies.sweep_report import run_sweep

            return run_sweep(grid, line, advance)

        line = command_line("regression", ctx, "--sweep")
        return finish("sweep", out, line, grid.as_settings(), run_grid, as_json)
    settings = RegressionSettings(
        data=DataSetup(**filled((*DATA, *LAW), chosen)), workers=threads, **filled(REGRESSION, chosen)
    )

    def run_one(line: str, advance: Any) -> Any:
        from reproduce.studies.regression import run_regression

        return run_regression(settings, line, advance)

    return finish(
        "regression", out, command_line("regression", ctx), settings.as_settings(), run_one, as_json
    )


@command.command("dro")
@declare((*DATA, *LAW), DroSettings().data)
@declare(DRO, DroSettings())
@workers_option
@out_option(f"{HOME}/dro")
@json_option
@click.pass_context
def dro(ctx: click.Context, /, workers: int | None, out: Path | None, as_json: bool, **chosen: Any) -> int:
    """DRO-KL beside uniform and LinUpper with a quarter of outliers (the paper's Figure 8).

    At several lambdas and learning rates; then the largest learning rate at which each method does not
    diverge, searched seed by seed. DRO-KL on raw losses is an assumption: the paper gives no formula.

    \b
    Examples:
      reweight toy dro
      reweight toy dro --lambda 1,10 --lr 0.003,0.01 --seeds 10
      reweight toy dro --outlier-scale 3
    """
    data = DataSetup(**{"outlier_share": DroSettings().data.outlier_share, **filled((*DATA, *LAW), chosen)})
    settings = DroSettings(data=data, workers=workers or available_cores(), **filled(DRO, chosen))

    def run_it(line: str, advance: Any) -> Any:
        from reproduce.studies.dro import run_dro

        return run_dro(settings, line, advance)

    return finish("dro", out, command_line("dro", ctx), settings.as_settings(), run_it, as_json)


@command.command("bounds")
@declare(BOUNDS, BoundsSettings())
@out_option(f"{HOME}/bounds")
@json_option
@click.pass_context
def bounds(ctx: click.Context, /, out: Path | None, as_json: bool, **chosen: Any) -> int:
    """The theorems by number: measured gaps beside the bounds, Proposition 1, and the cap w <= 2/M.

    Full-gradient, minibatch and heavy-ball descent on two convex problems whose samples share a minimiser,
    with every strategy; a small non-convex network for Theorem 4; Proposition 1 against scipy's solver; how
    often random batches break the cap. The paper gives no sizes: all but the temperatures are ours.

    \b
    Examples:
      reweight toy bounds
      reweight toy bounds --seeds 50 --steps 1000
      reweight toy bounds --cap-size 32 --cap-r 0.4
    """
    settings = BoundsSettings(**filled(BOUNDS, chosen))

    def run_it(line: str, advance: Any) -> Any:
        from reproduce.studies.bounds import run_bounds

        return run_bounds(settings, line, advance)

    return finish("bounds", out, command_line("bounds", ctx), settings.as_settings(), run_it, as_json)
