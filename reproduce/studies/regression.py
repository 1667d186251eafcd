"""`reweight toy regression`: the paper's Figure 7, every strategy on the same data and batches, many seeds.

Shapes: S seeds, K methods, H thresholds, P recorded steps.
"""

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from reproduce.studies.contest import Contest
from reproduce.studies.ensemble import Protocol, recorded_steps, simulate
from reproduce.studies.settings import DataSetup, RegressionSettings
from reproduce.studies.setup import draw_batches, make_worlds
from reproduce.studies.summary import BAND, Duel, as_row, band_line, median, quantile
from reproduce.studies.verdicts import regression_findings
from reproduce.studies.versions import versions
from reproduce.study import Figure, Line, Mark, Panel, Scalar, Study, Table, finite_or_none

Advance = Callable[[float, str], None]
"""Told the share of the work that is done, and what is being done."""


def run_regression(
    settings: RegressionSettings, command: str, advance: Advance = lambda share, what: None
) -> Study:
    """Run everything and sum it up; the same settings give the same Study."""
    contest = run_contest(settings, advance)
    return Study(
        study="regression",
        title=f"Toy regression with {100 * settings.data.outlier_share:g}% outliers",
        command=command,
        settings=settings.as_settings(),
        versions=versions(),
        tables=(final_table(contest), _steps_table(contest), _arrival_table(contest), _paired_table(contest)),
        figures=(_figure(contest, settings),),
        findings=regression_findings(contest),
        numbers={
            f"final {method.name}": finite_or_none(contest.median_final(k))
            for k, method in enumerate(contest.methods)
        },
    )


def run_contest(settings: RegressionSettings, advance: Advance = lambda share, what: None) -> Contest:
    """The runs, before they are summed up."""
    seeds = list(settings.seed_numbers)
    methods = settings.methods
    outcome = simulate(
        make_worlds([settings.data], seeds),
        draw_batches(seeds, settings.data.samples, settings.batch, settings.steps),
        methods,
        Protocol(steps=settings.steps, thresholds=settings.thresholds, record=recorded_steps(settings.steps)),
        workers=settings.workers,
        advance=counting(advance, settings.steps * len(methods) * len(seeds), "runs"),
    )
    return Contest(methods=methods, outcome=outcome, thresholds=settings.thresholds)


def counting(advance: Advance, total: float, what: str) -> Callable[[float], None]:
    """Turns work done bit by bit into the share that is done."""
    done = 0.0

    def count(work: float) -> None:
        nonlocal done
        done += work
        advance(done / total, what)

    return count


def final_table(contest: Contest, base: int = 0) -> Table:
    """Where each method ends: held-out loss, its ratio to a method's, divergence, weight on outliers."""
    rows = []
    for k, method in enumerate(contest.methods):
        rows.append(
            (
                method.name,
                *spread(contest.outcome.final[:, k]),
                *ratio(None if k == base else contest.final(k, base)),
                contest.diverged(k),
                int(contest.outcome.overflowed[:, k].sum()),
                contest.seeds,
                contest.outlier_factor(k),
            )
        )
    columns = (
        "method",
        "final loss, median",
        "2.5%",
        "97.5%",
        "x uniform",
        "low",
        "high",
        "lower in",
        "higher in",
        "diverged",
        "overflowed",
        "seeds",
        "weight on outliers x uniform",
    )
    return Table(id="final", title="Held-out loss at the end", columns=columns, rows=tuple(rows))


def spread(values: Tensor) -> tuple[float | None, ...]:
    """Median and the ends of the middle 95% of the seeds."""
    return as_row(np.stack([median(values), quantile(values, BAND[0]), quantile(values, BAND[1])]))


def ratio(against: Duel | None) -> tuple[Scalar, ...]:
    """Geometric mean of a ratio, its 95% interval, seeds lower and higher; nothing for the base itself."""
    if against is None:
        return (None,) * 5
    found = against.ratio
    bounds = (None,) * 3 if found is None else (found.mean, found.low, found.high)
    return (*bounds, against.wins, against.losses)


def _steps_table(contest: Contest) -> Table:
    rows = tuple(
        (
            method.name,
            *(finite_or_none(contest.median_steps(k, h)) for h in range(len(contest.thresholds))),
        )
        for k, method in enumerate(contest.methods)
    )
    columns = ("method", *(f"{threshold:g}" for threshold in contest.thresholds))
    return Table(
        id="steps", title="Median steps to a share of the loss at the start", columns=columns, rows=rows
    )


def _arrival_table(contest: Contest) -> Table:
    rows = [
        (
            threshold,
            method.name,
            *spread(contest.outcome.reached[:, k, h]),
            contest.arrived(k, h),
            contest.seeds,
        )
        for h, threshold in enumerate(contest.thresholds)
        for k, method in enumerate(contest.methods)
    ]
    columns = ("share of the start", "method", "steps, median", "2.5%", "97.5%", "arrived", "seeds")
    return Table(id="arrival", title="Steps to each threshold over seeds", columns=columns, rows=tuple(rows))


def _paired_table(contest: Contest) -> Table:
    rows: list[tuple[Scalar, ...]] = []
    for k, method in enumerate(contest.methods[1:], start=1):
        for h, threshold in enumerate(contest.thresholds):
            found = contest.steps(k, 0, h)
            rows.append((method.name, f"steps to {threshold:g}", *ratio(found), found.p))
        found = contest.final(k, 0)
        rows.append((method.name, "final loss", *ratio(found), found.p))
    columns = ("method", "of", "x uniform", "low", "high", "lower in", "higher in", "p, sign test")
    title = (
        "Against uniform, seed by seed (ratio: geometric mean where both are finite, with its 95% interval)"
    )
    return Table(id="paired", title=title, columns=columns, rows=tuple(rows))


def _figure(contest: Contest, settings: RegressionSettings) -> Figure:
    record = recorded_steps(settings.steps)
    curves = Panel(
        title="Held-out loss",
        x_label="step",
        y_label="mean squared error",
        x_log=True,
        y_log=True,
        lines=loss_lines(contest, record),
        marks=noise_mark(settings.data),
    )
    arrival = Panel(
        title="Steps to a loss",
        x_label="share of the loss at the start",
        y_label="steps",
        x_log=True,
        y_log=True,
        lines=tuple(
            band_line(method.name, method.strategy, contest.thresholds, contest.outcome.reached[:, k])
            for k, method in enumerate(contest.methods)
        ),
    )
    return Figure(
        id="figure7",
        title="Toy regression",
        caption="Held-out loss against steps, and steps to a share of the loss at the start (the paper's "
        f"Figure 7). Median and the middle 95% of {contest.seeds} seeds; a line ends where half of the seeds "
        "have diverged or never arrive.",
        panels=(curves, arrival),
    )


def loss_lines(contest: Contest, record: Sequence[int]) -> tuple[Line, ...]:
    """Held-out loss of each method over the recorded steps, the start left out for the log axis."""
    return tuple(
        band_line(method.name, method.strategy, record[1:], contest.outcome.curve[:, k, 1:])
        for k, method in enumerate(contest.methods)
    )


def noise_mark(data: DataSetup) -> tuple[Mark, ...]:
    """The held-out loss that the true parameters have, where it can be drawn."""
    return (Mark(axis="y", at=data.noise**2, label="noise"),) if data.noise else ()
