"""Two models on the same windows or items: differences pair by pair, and what they are uncertain over.

Two questions that one interval cannot answer both:
  over samples   would these very models differ so on other held-out text?
  over seeds     would the method differ so, trained again from other seeds?

Windows are taken as independent. The fixed evaluation set spreads them evenly over a domain, as far apart as
the split allows; of a small split all windows may be in the set, and those of one document follow
each other. `neighbours` says how alike they are; well above zero, an interval over samples is too narrow.

S seeds, n windows of a domain, K domains; d = ours - theirs.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reproduce.statistics import CONFIDENCE, Interval, mean_interval, sign_test, t_cdf, t_quantile

Floats = NDArray[np.floating]

MEAN = "mean"
"""The unweighted mean over domains."""


@dataclass(frozen=True, kw_only=True)
class PairedSamples:
    """One domain, or the mean over domains."""

    diff: float
    """ours - theirs, averaged over seeds and windows."""

    stderr: float | None
    """Over windows, of differences averaged over the seeds; None: one window."""

    z: float | None
    """diff / stderr; None without a spread."""

    over_samples: Interval
    """Of these models, on other windows: t interval with the windows' degrees of freedom."""

    over_seeds: Interval
    """Of the method, on these windows: t interval over paired seeds; no bounds with one seed."""

    stderr_both: float | None
    """Over new seeds and new windows at once, from the two-way analysis; None with one seed or window."""

    neighbours: float | None
    """Correlation of a window's difference with the next one's; None for the mean, and where all agree."""


@dataclass(frozen=True)
class _Domain:
    """What the S x n differences of one domain say."""

    by_seed_S: Floats
    variance: float | None
    """Of the mean over windows."""

    freedom: int
    rest: float | None
    """Variance of the mean that is of neither seeds nor windows, counted in both of the others."""

    neighbours: float | None


def paired_samples(
    ours: Mapping[str, Sequence[Floats]], theirs: Mapping[str, Sequence[Floats]]
) -> dict[str, PairedSamples]:
    """Differences by domain, and of the mean over domains.

    Args:
        ours: domain -> for each seed its losses (n,), on the same windows in the same order.
        theirs: the same of the other models; seed by seed a pair.

    Raises:
        ValueError: other domains, seeds or windows on a side, or none.
    """
    if not ours or set(ours) != set(theirs):
        raise ValueError("pairs need the same domains on both sides, one at least")
    domains = {name: _domain(_differences(ours[name], theirs[name])) for name in ours}
    found = {name: _summary([domain], domain.neighbours) for name, domain in domains.items()}
    return found | {MEAN: _summary(list(domains.values()), None)}


def _differences(ours: Sequence[Floats], theirs: Sequence[Floats]) -> Floats:
    shapes = {array.shape for array in (*ours, *theirs)}
    if len(ours) != len(theirs) or len(shapes) != 1 or 0 in next(iter(shapes)):
        raise ValueError("pairs need the same seeds and windows on both sides, one at least")
    return np.stack(ours).astype(np.float64) - np.stack(theirs).astype(np.float64)


def _domain(d_Sn: Floats) -> _Domain:
    seeds, n = d_Sn.shape
    by_seed_S, by_window_n = d_Sn.mean(axis=1), d_Sn.mean(axis=0)
    if n == 1:
        return _Domain(by_seed_S, None, 0, None, None)
    rest = None
    if seeds > 1:
        left_Sn = d_Sn - by_seed_S[:, None] - by_window_n[None, :] + d_Sn.mean()
        # Mean square of what neither explains, over S n: its share of the grand mean's variance.
        rest = float((left_Sn**2).sum() / ((seeds - 1) * (n - 1)) / (seeds * n))
    centred_n = by_window_n - by_window_n.mean()
    squares = float((centred_n**2).sum())
    alike = float((centred_n[1:] * centred_n[:-1]).sum()) / squares if squares > 0 else None
    return _Domain(by_seed_S, squares / (n - 1) / n, n - 1, rest, alike)


def _summary(domains: Sequence[_Domain], neighbours: float | None) -> PairedSamples:
    """The mean over K domains: their windows are independent of each other, their seeds are not."""
    K = len(domains)
    by_seed_S = np.stack([domain.by_seed_S for domain in domains]).mean(axis=0)
    diff = float(by_seed_S.mean())
    over_seeds = mean_interval([float(each) for each in by_seed_S])
    parts = [domain.variance for domain in domains if domain.variance is not None]
    n = sum(domain.freedom + 1 for domain in domains)
    if len(parts) < K:
        nothing = Interval(mean=diff, low=None, high=None, n=max(n, 1))
        return PairedSamples(
            diff=diff,
            stderr=None,
            z=None,
            over_samples=nothing,
            over_seeds=over_seeds,
            stderr_both=None,
            neighbours=neighbours,
        )
    variance = sum(parts) / K**2
    stderr = math.sqrt(variance)
    return PairedSamples(
        diff=diff,
        stderr=stderr,
        z=diff / stderr if stderr > 0 else None,
        over_samples=_interval(diff, stderr, _freedom(domains), n),
        over_seeds=over_seeds,
        stderr_both=_both(by_seed_S, variance, [domain.rest for domain in domains]),
        neighbours=neighbours,
    )


def _freedom(domains: Sequence[_Domain]) -> float:
    """Satterthwaite's degrees of freedom of a sum of variances."""
    pairs = [(d.variance, d.freedom) for d in domains if d.variance]
    below = sum(variance**2 / freedom for variance, freedom in pairs)
    return sum(variance for variance, _ in pairs) ** 2 / below if below > 0 else 1.0


def _interval(mean: float, stderr: float, freedom: float, n: int) -> Interval:
    spread = stderr * t_quantile((1 + CONFIDENCE) / 2, freedom)
    return Interval(mean=mean, low=mean - spread, high=mean + spread, n=n)


def _both(by_seed_S: Floats, over_windows: float, rests: Sequence[float | None]) -> float | None:
    """Seeds and windows crossed: the two variances hold what is of neither once each, so once too often."""
    if len(by_seed_S) < 2 or any(rest is None for rest in rests):
        return None
    over_seeds = float(by_seed_S.var(ddof=1)) / len(by_seed_S)
    rest = sum(rest for rest in rests if rest is not None) / len(rests) ** 2
    # Where the seeds, or the windows, differ by chance less than noise would have it, the larger part stays.
    return math.sqrt(max(over_seeds + over_windows - rest, over_seeds, over_windows))


@dataclass(frozen=True, kw_only=True)
class PairedItems:
    """Two models on the items of one task."""

    diff: float
    """ours - theirs, the mean over items."""

    interval: Interval
    """t interval over items."""

    wins: int
    """Items on which ours scored higher."""

    losses: int
    p: float | None
    """Two-sided; None where one item, or no spread, leaves nothing to test."""

    test: str
    """`mcnemar`: exact, by the sign test, for right or wrong; `paired_t` for other scores."""


def paired_items(ours: Sequence[float], theirs: Sequence[float]) -> PairedItems:
    """Compare two models' scores item by item.

    Raises:
        ValueError: no item, or not the same number on both sides.
    """
    if len(ours) != len(theirs):
        raise ValueError("pairs need the same items on both sides")
    diffs = [a - b for a, b in zip(ours, theirs, strict=True)]
    interval = mean_interval(diffs)
    wins, losses = sum(d > 0 for d in diffs), sum(d < 0 for d in diffs)
    exact = {*ours, *theirs} <= {0.0, 1.0}
    return PairedItems(
        diff=interval.mean,
        interval=interval,
        wins=wins,
        losses=losses,
        p=sign_test(wins, losses) if exact else _t_test(interval),
        test="mcnemar" if exact else "paired_t",
    )


def _t_test(interval: Interval) -> float | None:
    if not interval.half_width:
        return None
    freedom = interval.n - 1
    t = interval.mean / interval.half_width * t_quantile((1 + CONFIDENCE) / 2, freedom)
    return 2 * t_cdf(-abs(t), freedom)
