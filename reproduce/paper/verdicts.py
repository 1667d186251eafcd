"""The rules by which a number of ours is judged against one of the paper's.

How a cell is judged
  At the paper's scale, several seeds: `reproduced` when the printed value lies in the 95% t interval of our
  mean, widened by half a printed unit for rounding, and our mean is no further off than WIDEST times the
  one-seed tolerance; else `differs`. The second condition keeps a few scattered seeds, whose interval covers
  anything, from reproducing everything.
  At the paper's scale, one seed: no interval. `reproduced` within the tolerance plus half a printed unit. The
  tolerance is ours: 0.02 nats; for an accuracy, 1.96 standard errors of the difference of two models measured
  on that many test items, both at the printed level: the standard error that came with our score says the
  same at our level, and would make the bar depend on how far off we are. A gp-IRT estimate counts as a mean
  over its items, which is on the wide side.
  At reduced scale: only the sign of (strategy - uniform), against the sign of the printed difference. The
  differences are paired by seed; their 95% t interval excludes zero or leaves the cell unresolved. Where the
  paper prints no difference, the interval has to lie within EQUAL to agree and wholly outside to disagree.
  Uniform itself has no such difference, so its reduced-scale cells stay `not_run`, with our value beside.
Every interval is 95% by itself: among twenty cells, one misses by chance.
"""

from typing import Literal

from reproduce.paper.tables import Column, Printed, Table
from reproduce.statistics import Interval, accuracy_stderr

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
"""With several seeds, our mean may be this many one-seed tolerances off at most (0.05 nats)."""

EQUAL = 0.01
"""A printed difference of 0.00 is reproduced in sign by a difference within this, in the table's unit."""

NORMAL_975 = 1.959964


def sign_verdict(interval: Interval | None, paper_difference: float, equal: float = EQUAL) -> Verdict:
    """Judge a reduced-scale difference by its sign alone."""
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


def paper_verdict(interval: Interval, printed: Printed, tolerance: float) -> tuple[Verdict, str]:
    """Judge a run at the paper's scale; the second value says what the verdict rests on."""
    off, half = abs(interval.mean - printed.value), printed.unit / 2
    if interval.low is None or interval.high is None:
        note = f"one seed, no interval: judged by a tolerance of {tolerance:.2g} (ours)"
        return ("reproduced" if off <= tolerance + half + 1e-12 else "differs"), note
    if not interval.low - half <= printed.value <= interval.high + half:
        return "differs", ""
    if off > WIDEST * tolerance + half:
        return "differs", f"the interval covers the paper's value only because it is wide; off by {off:.3g}"
    return "reproduced", ""


def tolerance_of(table: Table, column: Column, printed: Printed) -> float:
    """What one seed may be off, in the table's unit."""
    if table.tolerance is not None:
        return table.tolerance
    sizes = [key.n for key in column.parts if key.n is not None]
    # A mean of k tasks has the variance of their sum over k^2; each accuracy is taken at the printed level.
    variance = sum(accuracy_stderr(printed.value / 100, n) ** 2 for n in sizes) / len(sizes) ** 2
    return float(table.factor * NORMAL_975 * (2 * variance) ** 0.5)
