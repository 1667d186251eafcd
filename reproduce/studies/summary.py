"""Many seeds to a few numbers: medians and bands that a diverged run cannot spoil, paired comparisons.

Shapes: S seeds. A diverged run's loss, and the time of a run that never arrives, are infinite: sorted last.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from reproduce.statistics import Interval, mean_interval, sign_test
from reproduce.study import Line, finite_or_none

BAND = (0.025, 0.975)
"""Between these shares of the seeds lie 95% of them."""

ALPHA = 0.05
"""Level of a family of comparisons; each comparison gets its part of it (Bonferroni)."""

Floats = NDArray[np.float64]


def quantile(values: Tensor | Floats, share: float) -> Floats:
    """The value that so many of the seeds (first dimension) stay at or below: an observed one."""
    observed: Floats = np.quantile(np.asarray(values), share, axis=0, method="inverted_cdf")
    return observed


def median(values: Tensor | Floats) -> Floats:
    """The middle seed's value; of an even number the lower middle's."""
    return quantile(values, 0.5)


def band_line(label: str, strategy: str, x: Sequence[float], values: Tensor) -> Line:
    """Median over seeds with the band of 95% of them; values (S, P). Infinite ones become gaps."""
    middle, low, high = (quantile(values, share) for share in (0.5, *BAND))
    return Line(
        label=label,
        strategy=strategy,
        x=tuple(float(each) for each in x),
        y=as_row(middle),
        low=as_row(low),
        high=as_row(high),
    )


def as_row(values: Floats) -> tuple[float | None, ...]:
    """Numbers as JSON takes them; None where not finite."""
    return tuple(finite_or_none(float(value)) for value in values)


@dataclass(frozen=True, kw_only=True)
class Duel:
    """One quantity of two methods on the same seeds; lower is better."""

    wins: int
    """Seeds in which ours is lower."""
    losses: int
    p: float
    """Of the two-sided sign test; ties are left out."""
    ratio: Interval | None
    """ours / theirs: geometric mean over the seeds where both are finite, with its 95% interval."""

    def outcome(self, comparisons: int = 1) -> int:
        """-1: ours is lower, 1: higher, 0: unresolved, at ALPHA shared by so many comparisons."""
        if self.p > ALPHA / comparisons or self.wins == self.losses:
            return 0
        return -1 if self.wins > self.losses else 1


def duel(ours: Tensor, theirs: Tensor) -> Duel:
    """Compare two methods' values (S,), seed by seed."""
    a, b = ours.numpy(), theirs.numpy()
    wins, losses = int((a < b).sum()), int((a > b).sum())
    both = np.isfinite(a) & np.isfinite(b) & (a > 0) & (b > 0)
    logs = np.log(a[both]) - np.log(b[both])
    return Duel(
        wins=wins,
        losses=losses,
        p=sign_test(wins, losses),
        ratio=_exponential(mean_interval(logs.tolist())) if both.any() else None,
    )


def _exponential(interval: Interval) -> Interval:
    low, high = (None if bound is None else math.exp(bound) for bound in (interval.low, interval.high))
    return Interval(mean=math.exp(interval.mean), low=low, high=high, n=interval.n)
