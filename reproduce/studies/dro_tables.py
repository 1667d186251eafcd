"""Tables and figures of `reweight toy dro`. Shapes: S seeds, K methods, R learning rates, H thresholds."""

from collections.abc import Sequence

import torch

from reproduce.studies.dro_races import Races
from reproduce.studies.dro_settings import TOLERANCE, DroSettings
from reproduce.studies.ensemble import DIVERGED, recorded_steps
from reproduce.studies.regression import loss_lines, ratio, spread
from reproduce.studies.settings import BASELINE, LAMBDA_STRATEGIES
from reproduce.studies.stability import Stability
from reproduce.studies.summary import as_row, band_line, median, quantile
from reproduce.study import Figure, Line, Mark, Panel, Scalar, Table, finite_or_none

ASSUMED = "weights from raw losses, our assumption"
"""What has to be said of dro_kl."""


def dro_tables(races: Races, stability: Stability) -> tuple[Table, ...]:
    """Losses by learning rate, the search, each method at its best and at its quickest learning rate."""
    return (_stable_table(stability), _rates_table(races), _best_table(races), _quickest_table(races))


def _stable_table(stability: Stability) -> Table:
    rows: list[tuple[Scalar, ...]] = []
    for k, method in enumerate(stability.methods):
        largest = stability.largest[:, k]
        rows.append(
            (
                method.name,
                *(stability.said(stability.ranked(k, share)) for share in (0.5, 0.0, 1.0)),
                *ratio(None if k == 0 else stability.against(k, 0)),
                float(stability.safe[k]) or None,
                int((largest == 0).sum()),
                int(largest.isinf().sum()),
                int((stability.relapses[:, k] > 0).sum()),
                stability.seeds,
            )
        )
    columns = (
        "method",
        "largest stable lr, median",
        "lowest",
        "highest",
        "x uniform",
        "low",
        "high",
        "lower in",
        "higher in",
        "no seed diverges at",
        "diverge at the bracket's bottom",
        "stable at its top",
        "diverge again at a lower lr",
        "seeds",
    )
    title = (
        f"Largest learning rate that does not diverge (loss above {DIVERGED:g} times the start) within "
        f"{stability.steps} steps, by bisection to {100 * TOLERANCE:g}%, every seed by itself"
    )
    return Table(id="stable", title=title, columns=columns, rows=tuple(rows))


def _rates_table(races: Races) -> Table:
    rows: list[tuple[Scalar, ...]] = []
    for lr, contest in zip(races.lrs, races.at, strict=True):
        for k, method in enumerate(contest.methods):
            rows.append(
                (
                    lr,
                    method.name,
                    *spread(contest.outcome.final[:, k]),
                    *ratio(None if k == 0 else contest.final(k, 0)),
                    contest.diverged(k),
                    int(contest.outcome.overflowed[:, k].sum()),
                    races.above_start(races.lrs.index(lr), k),
                    contest.seeds,
                    contest.outlier_factor(k),
                )
            )
    columns = (
        "lr",
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
        "not diverged, but above the start",
        "seeds",
        "weight on outliers x uniform",
    )
    return Table(
        id="rates", title="Held-out loss at the end, by learning rate", columns=columns, rows=tuple(rows)
    )


def _best_table(races: Races) -> Table:
    contest = races.at_best
    rows: list[tuple[Scalar, ...]] = [
        (
            method.name,
            method.lr,
            "yes" if method.lr in (min(races.lrs), max(races.lrs)) else "no",
            *spread(contest.outcome.final[:, k]),
            contest.diverged(k),
            contest.seeds,
            *(finite_or_none(contest.median_steps(k, h)) for h in range(len(races.thresholds))),
        )
        for k, method in enumerate(contest.methods)
    ]
    columns = (
        "method",
        "lr",
        "at the grid's edge",
        "final loss, median",
        "2.5%",
        "97.5%",
        "diverged",
        "seeds",
        *(f"steps to {threshold:g}" for threshold in races.thresholds),
    )
    title = "Each method at the learning rate where its median final loss is lowest; median steps to a share"
    return Table(id="best", title=title, columns=columns, rows=tuple(rows))


def _quickest_table(races: Races) -> Table:
    contest = races.at_quickest
    rows: list[tuple[Scalar, ...]] = []
    for h, threshold in enumerate(races.thresholds):
        for k, method in enumerate(contest.methods):
            steps = spread(contest.outcome.reached[:, k, h])
            lr = None if steps[0] is None else races.lrs[races.quickest(k, h)]
            rows.append((threshold, method.name, lr, *steps, contest.arrived(k, h), contest.seeds))
    columns = ("share of the start", "method", "lr", "steps, median", "2.5%", "97.5%", "arrived", "seeds")
    title = "Steps to each threshold, each method at the learning rate that is quickest to it"
    return Table(id="quickest", title=title, columns=columns, rows=tuple(rows))


def dro_figures(races: Races, stability: Stability, settings: DroSettings) -> tuple[Figure, ...]:
    """Figure 8, the final loss against the learning rate, and what is stable against lambda."""
    return (_figure8(races, settings), _rates_figure(races), _stable_figure(stability, settings))


def _figure8(races: Races, settings: DroSettings) -> Figure:
    record = recorded_steps(settings.steps)
    panels = tuple(
        Panel(
            title=f"Learning rate {lr:g}",
            x_label="step",
            y_label="mean squared error",
            x_log=True,
            y_log=True,
            lines=tuple(line for line in loss_lines(contest, record) if line.strategy != "capped_softmax"),
        )
        for lr, contest in zip(races.lrs, races.at, strict=True)
    )
    return Figure(
        id="figure8",
        title=f"DRO-KL with {100 * settings.data.outlier_share:g}% outliers",
        caption="Held-out loss against steps at each learning rate (the paper's Figure 8). Median and the "
        f"middle 95% of {races.seeds} seeds; a line ends where half of the seeds have diverged. "
        f"DRO-KL: {ASSUMED}.",
        panels=panels,
        columns=3,
    )


def _rates_figure(races: Races) -> Figure:
    start = float(median(races.whole.outcome.initial))

    def panel(title: str, strategies: Sequence[str]) -> Panel:
        lines = tuple(
            _against_rate(races, k) for k, method in enumerate(races.methods) if method.strategy in strategies
        )
        return Panel(
            title=title,
            x_label="learning rate",
            y_label="mean squared error at the end",
            x_log=True,
            y_log=True,
            lines=lines,
            marks=(Mark(axis="y", at=start, label="start"),),
        )

    return Figure(
        id="loss-by-lr",
        title="Final loss against the learning rate",
        caption="Held-out loss over the last tenth of the steps: the methods of Figure 8, and DRO-KL beside "
        f"the same weights under the cap 2/M. Median and the middle 95% of {races.seeds} seeds; a line ends "
        f"where half of the seeds diverge. DRO-KL: {ASSUMED}.",
        panels=(
            panel("Figure 8's methods", (BASELINE, "linupper", "dro_kl")),
            panel("With the cap and without", (BASELINE, *LAMBDA_STRATEGIES)),
        ),
    )


def _against_rate(races: Races, k: int) -> Line:
    method = races.methods[k]
    finals = torch.stack([contest.outcome.final[:, k] for contest in races.at], dim=1)
    order = sorted(range(len(races.lrs)), key=lambda j: races.lrs[j])
    return band_line(method.name, method.strategy, [races.lrs[j] for j in order], finals[:, order])


def _stable_figure(stability: Stability, settings: DroSettings) -> Figure:
    lambdas = sorted(settings.lambdas)
    level = [
        _ranges(method.name, method.strategy, lambdas, [k] * len(lambdas), stability)
        for k, method in enumerate(stability.methods)
        if method.strategy not in LAMBDA_STRATEGIES
    ]
    rising = [
        _ranges(name, name, lambdas, [stability.place(name, each) for each in lambdas], stability)
        for name in LAMBDA_STRATEGIES
    ]
    return Figure(
        id="stable-by-lambda",
        title="Largest stable learning rate",
        caption=f"Largest learning rate at which a run does not diverge within {stability.steps} steps, by "
        f"lambda: median and range of {stability.seeds} seeds; the methods without lambda are level lines. "
        f"DRO-KL: {ASSUMED}.",
        panels=(
            Panel(
                title="Seed by seed, by bisection",
                x_label="λ",
                y_label="learning rate",
                x_log=True,
                y_log=True,
                lines=(*level, *rising),
            ),
        ),
        columns=1,
    )


def _ranges(
    label: str, strategy: str, x: Sequence[float], places: Sequence[int], stability: Stability
) -> Line:
    """Median of the seeds, with a band from the lowest to the highest."""
    found = stability.largest[:, list(places)]
    middle, low, high = (as_row(quantile(found, share)) for share in (0.5, 0.0, 1.0))
    return Line(label=label, strategy=strategy, x=tuple(x), y=middle, low=low, high=high)
