"""`reweight weights`: what a strategy does to given losses, and Figure 1."""

import sys
from pathlib import Path

import click

from reproduce.cli.console import UserPath, emit_json, json_option, note, print_table
from reproduce.errors import ExitCode, NonFiniteError
from reproduce.recipe.checks import STRATEGY_NAMES

SMALLEST = 1e-6
"""Of r and delta: below it float32 scores divided by them are no numbers any more."""


@click.command()
@click.option("--strategy", type=click.Choice(STRATEGY_NAMES), default="linupper", show_default=True)
@click.option("--r", type=float, default=0.4, show_default=True)
@click.option("--delta", type=float, default=1.0, show_default=True)
@click.option("--plot", is_flag=True, help="Draw Figure 1, the strategies' curves at this r.")
@click.option("--out", type=UserPath(dir_okay=False), default=Path("figure1.svg"), show_default=True)
@click.argument("losses", nargs=-1)
@json_option
def command(
    strategy: str, r: float, delta: float, plot: bool, out: Path, losses: tuple[str, ...], as_json: bool
) -> int:
    """Show the weights of a batch with these LOSSES (nats), or of the losses on standard input with -.

    \b
    Examples:
      reweight weights --strategy linupper --r 0.4 2.1 2.9 3.4 7.0
      echo 2.1 2.9 3.4 7.0 | reweight weights --strategy quadratic -
      reweight weights --plot --r 1
    """
    for name, value in (("--r", r), ("--delta", delta)):
        if not SMALLEST <= value <= 1 / SMALLEST:  # NaN neither
            raise click.UsageError(f"{name} {value:g}: between {SMALLEST:g} and {1 / SMALLEST:g}")
    if not plot and not losses:
        raise click.UsageError("give losses, or - to read them, or --plot")
    if plot:
        _plot(r, delta, out)
    if losses:
        _show(strategy, r, delta, _numbers(losses), as_json)
    elif as_json:
        emit_json({"figure": str(out)})
    return ExitCode.DONE


def _numbers(losses: tuple[str, ...]) -> list[float]:
    words = sys.stdin.read().split() if losses == ("-",) else list(losses)
    if not words:
        raise click.UsageError("no losses on standard input")
    try:
        return [float(word) for word in words]
    except ValueError as error:
        raise click.UsageError(f"losses are numbers: {error}") from None


def _show(strategy: str, r: float, delta: float, losses: list[float], as_json: bool) -> None:
    import torch

    from reproduce.method import BOUNDED_STRATEGIES, normalise, sample_weights, weight_statistics

    losses_M = torch.tensor(losses, dtype=torch.float32)
    try:
        weights_M = sample_weights(losses_M, strategy, r, delta)
    except ValueError as error:
        raise NonFiniteError(str(error)) from None
    statistics = weight_statistics(losses_M, weights_M)
    count = len(losses)
    h = normalise(losses_M, delta).tolist()
    weights = weights_M.tolist()
    # A score spans at most 1 at delta = 1 (Section 4), so no weight exceeds e^(1/r) times another.
    bound = torch.tensor(1.0 / r).exp().item() if strategy in BOUNDED_STRATEGIES and delta == 1 else None
    if as_json:
        emit_json(
            {
                "strategy": strategy,
                "r": r,
                "delta": delta,
                "losses": losses,
                "normalised": h,
                "weights": weights,
                "effective_sample_size": statistics.ess,
                "entropy": statistics.entropy,
                "max_weight_times_m": statistics.max_weight,
                "min_weight_times_m": statistics.min_weight,
                "breaks_cap": statistics.max_weight > 2,
                "ratio_bound": bound if bound is not None and bound != float("inf") else None,
                "loss": statistics.loss,
                "weighted_loss": statistics.weighted_loss,
            }
        )
        return
    rows = [
        (i, f"{loss:g}", f"{h_i:+.3f}", f"{w:.6f}", f"{w * count:.3f}")
        for i, (loss, h_i, w) in enumerate(zip(losses, h, weights, strict=True))
    ]
    print_table(f"{strategy}, r = {r:g}, M = {count}", ("sample", "loss", "h", "weight", "x M"), rows)
    cap = "breaks" if statistics.max_weight > 2 else "within"
    click.echo(f"effective sample size  {statistics.ess:.2f} of {count}")
    click.echo(f"largest weight x M     {statistics.max_weight:.3f}, {cap} Proposition 1's bound of 2")
    if bound is not None:
        click.echo(f"largest / smallest     at most e^(1/r) = {bound:.4g} for any losses")
    click.echo(f"mean loss {statistics.loss:.4f} nats, weighted {statistics.weighted_loss:.4f}")


def _plot(r: float, delta: float, out: Path) -> None:
    from data_prep.files import write_text_atomically
    from reproduce.cli.curves import figure_one
    from reproduce.paper.figures import strategy_curves
    from reproduce.paper.study_figures import draw_figure

    drawn = draw_figure(strategy_curves(figure_one(r, delta)), title=False, png=False)
    write_text_atomically(out, drawn.svg)
    note(f"wrote {out}")
