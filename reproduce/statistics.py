"""Means with Student's t intervals, for a handful of seeds. Standard library only.

The quantile comes from the regularised incomplete beta function (continued fraction, modified Lentz; DLMF
8.17.22) and bisection: exact to about 1e-10, which a table of t values is checked against in the tests.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean and its confidence interval; the bounds are None where one value gives no spread."""

    mean: float
    low: float | None
    high: float | None
    n: int
    """Values (seeds, or pairs of seeds) behind the mean."""

    @property
    def half_width(self) -> float | None:
        """Half the interval's width."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2

    def excludes(self, value: float) -> bool:
        """Whether there is an interval and `value` lies outside it."""
        return self.low is not None and self.high is not None and not self.low <= value <= self.high


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Mean of independent values with its t interval, n - 1 degrees of freedom.

    A bound that no float can hold is infinite.

    Raises:
        ValueError: no value, or one that is not finite.
    """
    n = len(values)
    if n == 0 or not all(math.isfinite(value) for value in values):
        raise ValueError("an interval needs at least one value, all finite")
    unit = _unit(values)
    shares = [value / unit for value in values]
    mean = math.fsum(shares) / n * unit
    if n == 1:
        return Interval(mean=mean, low=None, high=None, n=1)
    spread = math.sqrt(_variance(shares) / n) * t_quantile((1 + confidence) / 2, n - 1) * unit
    return Interval(mean=mean, low=mean - spread, high=mean + spread, n=n)


def paired_interval(
    ours: Mapping[int, float], reference: Mapping[int, float], confidence: float = CONFIDENCE
) -> Interval | None:
    """Interval of ours - reference over the seeds that both have; None if they share none.

    Runs of one seed share initial weights and data order, so what varies with those cancels.

    Raises:
        ValueError: a value, or a difference, that is not finite.
    """
    seeds = sorted(set(ours) & set(reference))
    return mean_interval([ours[s] - reference[s] for s in seeds], confidence) if seeds else None


def welch_interval(
    ours: Sequence[float], reference: Sequence[float], confidence: float = CONFIDENCE
) -> Interval:
    """Interval of the difference of two independent means, unequal variances (Welch, Satterthwaite).

    Without two values on each side there is a difference but no interval.
    """
    mean = mean_interval(ours).mean - mean_interval(reference).mean
    n = min(len(ours), len(reference))
    if n < 2:
        return Interval(mean=mean, low=None, high=None, n=n)
    unit = _unit((*ours, *reference))
    a, b = (_variance([each / unit for each in side]) / len(side) for side in (ours, reference))
    if a + b == 0:
        return Interval(mean=mean, low=mean, high=mean, n=n)
    freedom = (a + b) ** 2 / (a**2 / (len(ours) - 1) + b**2 / (len(reference) - 1))
    spread = math.sqrt(a + b) * t_quantile((1 + confidence) / 2, freedom) * unit
    return Interval(mean=mean, low=mean - spread, high=mean + spread, n=n)


def accuracy_stderr(fraction: float, n: int) -> float:
    """Standard error of an accuracy in [0, 1] measured on n independent items: sqrt(p (1 - p) / n)."""
    return math.sqrt(fraction * (1 - fraction) / n)


def sign_test(wins: int, losses: int) -> float:
    """Two-sided p value of so many wins and losses where both are equally likely; ties do not count.

    Exact: twice the binomial tail, at most 1.
    """
    n = wins + losses
    tail = sum(math.comb(n, k) for k in range(min(wins, losses) + 1))
    # A ratio of whole numbers: 2**n overflows a float where n is large, the quotient does not.
    return min(1.0, float(Fraction(2 * tail, 2**n)))


def t_quantile(p: float, freedom: float) -> float:
    """The value that Student's t with `freedom` degrees of freedom stays below with probability p.

    Raises:
        ValueError: p outside (0, 1) or no positive degrees of freedom.
    """
    if not 0 < p < 1 or not freedom > 0:
        raise ValueError(f"no t quantile for p={p}, freedom={freedom}")
    if p == 0.5:
        return 0.0
    if p < 0.5:
        return -t_quantile(1 - p, freedom)
    low, high = 0.0, 1.0
    while t_cdf(high, freedom) < p:
        low, high = high, 2 * high
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if t_cdf(middle, freedom) < p else (low, middle)
    return (low + high) / 2


def t_cdf(t: float, freedom: float) -> float:
    """P(T <= t) for Student's t."""
    tail = _incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t)) / 2
    return 1 - tail if t >= 0 else tail


def _unit(values: Sequence[float]) -> float:
    """A power of two of the size of the largest value: divided by it, no square leaves a float's range.

    Dividing by a power of two rounds nothing, so that an interval is the same to the last bit.
    """
    largest = max(map(abs, values))
    return 2.0 ** (math.frexp(largest)[1] - 1) if largest else 1.0


def _variance(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised I_x(a, b)."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    # The fraction converges fast only below this point; beyond it, I_x(a, b) = 1 - I_1-x(b, a) helps.
    if x > (a + 1) / (a + b + 2):
        return 1 - math.exp(log_front) * _beta_fraction(b, a, 1 - x) / b
    return math.exp(log_front) * _beta_fraction(a, b, x) / a


def _beta_fraction(a: float, b: float, x: float) -> float:
    tiny = 1e-300
    c, d = 1.0, 1 - (a + b) * x / (a + 1)
    d = 1 / (d if abs(d) > tiny else tiny)
    value = d
    for m in range(1, 1000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 + term * d
            d = 1 / (d if abs(d) > tiny else tiny)
            c = 1 + term / c
            c = c if abs(c) > tiny else tiny
            value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return value
