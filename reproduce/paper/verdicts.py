"""The rules by which a number of ours is judged against one of the paper's.

How a cell is judged
  At the paper's scale: `reproduced` when our mean is no further from the printed value than the tolerance
  plus half a printed unit for rounding; else `differs`. The tolerance is ours: 0.02 nats; for an accuracy,
  1.96 standard errors of the difference of two models measured on that many test items, both at the printed
  level: the standard error that came with our score says the same at our level, and would make the bar
  depend on how far off we are. A gp-IRT estimate counts as a mean over its items, which is on the wide
  side.
  The printed value is one run's, so it scatters as our seeds do. From ENOUGH_SEEDS seeds on their 95%
  prediction interval for one further run, mean +- t s sqrt(1 + 1/n), takes the tolerance's place where it
  is wider, up to WIDEST tolerances: seeds that scatter without bounds must not reproduce everything. (The
  interval of our mean would not do: it shrinks with every seed while the printed value goes on scattering,
  so that enough seeds would make any true reproduction differ.)
  At reduced scale: only the sign of (strategy - uniform), against the sign of the printed difference. The
  differences are paired by seed; their 95% t interval excludes zero or leaves the cell unresolved. Where
  the paper prints no difference, the interval has to lie within what may print as none (`equal_within`) to
  agree, and wholly outside to disagree. Uniform itself has no such difference, so its reduced-scale cells
  stay `not_run`, with our value beside.
Every interval is 95% by itself: among twenty cells, one misses by chance.
"""

import math
from collections.abc import Sequence
from typing import Literal

from reproduce.paper.tables import Column, Printed, Table
from reproduce.statistics import Interval, accuracy_stderr, mean_interval

Verdict = Literal[
    "reproduced",
    "differs",
    "not_run",
    "reduced_scale_same_sign",
    "reduced_scale_opposite_sign",
    "reduced_scale_unresolved",
]
OUTSIDE: tuple[Verdict, ...] = ("differs", "reduced_scale_opposite_sign")
"""Verdicts that `--strict` exits 8 for."""

WIDEST = 2.5
"""With several seeds, our mean may be this many tolerances off at most (0.05 nats)."""

ENOUGH_SEEDS = 3
"""Two values say next to nothing about their spread: t is 12.7 there."""

NORMAL_975 = 1.959964


def sign_verdict(interval: Interval | None, paper_difference: float, equal: float) -> Verdict:
    """Judge a reduced-scale difference by its sign alone; `equal`: see `equal_within`."""
    if interval is None or interval.low is None or interval.high is None:
        return "reduced_scale_unresolved"
    low, high = interval.low, interval.high
    if paper_difference == 0:
        if -equal <= low and high <= equal:
            return "reduced_scale_same_sign"
        outside = low > equal or high < -equal
        return "reduced_scale_opposite_sign" if outside else "reduced_scale_unresolved"
    if low <= 0 <= high:
        return "reduced_scale_unresolved"
    same = (interval.mean > 0) == (paper_difference > 0)
    return "reduced_scale_same_sign" if same else "reduced_scale_opposite_sign"


def paper_verdict(ours: Sequence[float], printed: Printed, tolerance: float) -> tuple[Verdict, str]:
    """Judge a run at the paper's scale; the second value says what the verdict rests on.

    Args:
        ours: one value a seed, in the table's unit.
        printed: the paper's.
        tolerance: as `tolerance_of` gives it.
    """
    interval = mean_interval(ours)
    off, half = abs(interval.mean - printed.value), printed.unit / 2 + 1e-12
    if off <= tolerance + half:
        few = f"{interval.n} seed{'s' * (interval.n > 1)}: judged by a tolerance of {tolerance:.2g} (ours)"
        return "reproduced", few if interval.n < ENOUGH_SEEDS else ""
    if interval.half_width is None or interval.n < ENOUGH_SEEDS:
        return "differs", f"off by {off:.3g}, tolerance {tolerance:.2g} (ours)"
    scatter = interval.half_width * math.sqrt(interval.n + 1)  # of one further run
    if off > scatter + half:
        return "differs", f"off by {off:.3g}; one further run of ours would be within {scatter:.3g}"
    if off > WIDEST * tolerance + half:
        return "differs", f"off by {off:.3g}: our seeds scatter so far that they tell nothing"
    return "reproduced", f"off by {off:.3g}, within what one further run of ours may be: {scatter:.3g}"


def equal_within(table: Table, column: Column, printed: Printed) -> float:
    """How far from zero a difference may be that the paper prints as none, in the table's unit.

    Both values were rounded, so by one printed unit; and by one item, where that is more.
    """
    sizes = [key.n for key in column.parts if key.n is not None]
    return max(printed.unit, *(table.factor / (n * len(sizes)) for n in sizes)) if sizes else printed.unit


def tolerance_of(table: Table, column: Column, printed: Printed) -> float:
    """What one seed may be off, in the table's unit."""
    if table.tolerance is not None:
        return table.tolerance
    sizes = [key.n for key in column.parts if key.n is not None]
    # A mean of k tasks has the variance of their sum over k^2; each accuracy is taken at the printed level.
    variance = sum(accuracy_stderr(printed.value / 100, n) ** 2 for n in sizes) / len(sizes) ** 2
    return float(table.factor * NORMAL_975 * (2 * variance) ** 0.5)
