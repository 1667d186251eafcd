"""Paired differences over windows, seeds and items: worked by hand, and against scipy."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_rel

from reproduce.sample_statistics import paired_items, paired_samples

RNG = np.random.default_rng(3)


def floats(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def test_one_seed_by_hand() -> None:
    ours = {"a": [floats(1, 2, 3)], "b": [floats(5, 5, 6, 8)]}
    theirs = {"a": [floats(0, 2, 1)], "b": [floats(5, 6, 5, 4)]}
    found = paired_samples(ours, theirs)
    # a: d = 1, 0, 2: mean 1, variance 1, stderr sqrt(1/3); t(2) at 97.5% is 4.30265.
    a = found["a"]
    assert (a.diff, a.stderr, a.z) == pytest.approx((1.0, math.sqrt(1 / 3), math.sqrt(3)))
    assert a.over_samples.low == pytest.approx(1 - 4.302653 * math.sqrt(1 / 3), abs=1e-5)
    # Neighbours: centred 0, -1, 1: (0 x -1 + -1 x 1) / 2.
    assert a.neighbours == pytest.approx(-0.5)
    # b: d = 0, -1, 1, 4: mean 1, variance (1 + 4 + 0 + 9) / 3 = 14/3, over 4 windows 7/6.
    assert found["b"].stderr == pytest.approx(math.sqrt(7 / 6))
    # Mean over domains: 1; variance (1/3 + 7/6) / 4 = 3/8.
    mean = found["mean"]
    assert (mean.diff, mean.stderr) == pytest.approx((1.0, math.sqrt(3 / 8)))
    assert mean.over_samples.n == 7
    # One seed says nothing about others.
    assert (a.over_seeds.low, a.over_seeds.n, a.stderr_both, mean.stderr_both) == (None, 1, None, None)


def test_two_seeds_by_hand() -> None:
    zeros = [floats(0, 0, 0), floats(0, 0, 0)]
    found = paired_samples({"a": [floats(1, 2, 3), floats(3, 5, 4)]}, {"a": zeros})["a"]
    # Seeds' means 2, 4: mean 3, variance 2, over 2 seeds 1. Windows' means 2, 3.5, 3.5: variance 0.75, over 3
    # windows 0.25. Left over: rows minus 2 and 4, columns minus 2, 3.5, 3.5, plus 3:
    #   1-2-2+3 = 0, 2-2-3.5+3 = -0.5, 3-2-3.5+3 = 0.5; and the opposite in row 2: squares 1,
    #   over (1)(2) = 0.5, over 6 cells 1/12.
    assert found.diff == pytest.approx(3.0)
    assert found.stderr == pytest.approx(0.5)
    assert found.z == pytest.approx(6.0)
    assert found.over_seeds.n == 2
    assert found.over_seeds.half_width == pytest.approx(12.7062, abs=1e-3)  # t(1) x sqrt(1)
    assert found.stderr_both == pytest.approx(math.sqrt(1 + 0.25 - 1 / 12))


@pytest.mark.parametrize("n", [2, 5, 128, 2857])
def test_one_domain_is_scipy_s_paired_t_test(n: int) -> None:
    ours, theirs = RNG.normal(3, 1, n), RNG.normal(3, 1, n)
    found = paired_samples({"a": [ours]}, {"a": [theirs]})
    scipy = ttest_rel(ours, theirs)
    low, high = scipy.confidence_interval(0.95)
    for each in (found["a"], found["mean"]):  # the mean of one domain is that domain
        assert each.z == pytest.approx(scipy.statistic)
        assert (each.over_samples.low, each.over_samples.high) == pytest.approx((low, high))


def test_intervals_cover_what_they_say() -> None:
    """Seeds with effects of their own: over samples the interval is of these models, not of the method."""
    covered = {"these models": 0, "the method": 0, "by samples": 0}
    for _ in range(400):
        effect_S = RNG.normal(0.1, 0.05, 3)
        base_n = RNG.normal(0, 0.2, 200)
        d_Sn = effect_S[:, None] + base_n[None, :] + RNG.normal(0, 0.1, (3, 200))
        found = paired_samples({"a": list(d_Sn)}, {"a": list(np.zeros((3, 200)))})["a"]
        covered["these models"] += not found.over_samples.excludes(float(effect_S.mean()))
        covered["by samples"] += not found.over_samples.excludes(0.1)
        assert found.stderr_both is not None
        covered["the method"] += abs(found.diff - 0.1) < 4.303 * found.stderr_both
    assert 0.91 < covered["these models"] / 400 < 0.99
    assert covered["the method"] / 400 > 0.93
    assert covered["by samples"] / 400 < 0.75


def test_windows_that_follow_each_other_are_seen() -> None:
    white = RNG.normal(0, 1, 4001)
    found = paired_samples({"a": [white[1:] + white[:-1]]}, {"a": [np.zeros(4000)]})["a"]
    assert found.neighbours == pytest.approx(0.5, abs=0.06)  # they share one of two terms
    assert abs(paired_samples({"a": [white]}, {"a": [0 * white]})["a"].neighbours or 1) < 0.05


def test_nothing_to_spread() -> None:
    one = paired_samples({"a": [floats(2)]}, {"a": [floats(1)]})
    assert (one["a"].diff, one["a"].stderr, one["a"].z, one["a"].over_samples.low) == (1.0, None, None, None)
    assert one["mean"].stderr is None
    same = paired_samples({"a": [floats(2, 3)]}, {"a": [floats(2, 3)]})["a"]
    assert (same.diff, same.stderr, same.z, same.neighbours) == (0.0, 0.0, None, None)
    assert not same.over_samples.excludes(0.0)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        ({"a": [floats(1)]}, {"b": [floats(1)]}),
        ({"a": [floats(1)]}, {"a": [floats(1, 2)]}),
        ({"a": [floats(1), floats(2)]}, {"a": [floats(1)]}),
        ({"a": []}, {"a": []}),
        ({"a": [floats()]}, {"a": [floats()]}),
    ],
)
def test_what_is_no_pair_is_refused(ours: dict[str, list], theirs: dict[str, list]) -> None:
    with pytest.raises(ValueError, match="pairs need the same"):
        paired_samples(ours, theirs)


def test_items_right_or_wrong() -> None:
    # Four items on which one is right: three wins, one loss. 2 (C(4,0) + C(4,1)) / 16 = 0.625.
    found = paired_items([1, 1, 1, 0, 1, 0], [0, 0, 0, 1, 1, 0])
    assert (found.wins, found.losses, found.p, found.test) == (3, 1, 0.625, "mcnemar")
    assert found.diff == pytest.approx(2 / 6)
    ours, theirs = (RNG.random(500) < 0.6).astype(float), (RNG.random(500) < 0.5).astype(float)
    found = paired_items(ours.tolist(), theirs.tolist())
    assert found.p == pytest.approx(binomtest(found.wins, found.wins + found.losses).pvalue)
    assert paired_items([1.0, 0.0], [1.0, 0.0]).p == 1.0


def test_items_of_other_scores() -> None:
    ours, theirs = RNG.normal(0.1, 1, 80), RNG.normal(0, 1, 80)
    found = paired_items(ours.tolist(), theirs.tolist())
    scipy = ttest_rel(ours, theirs)
    assert (found.test, found.p) == ("paired_t", pytest.approx(scipy.pvalue))
    assert (found.interval.low, found.interval.high) == pytest.approx(tuple(scipy.confidence_interval(0.95)))
    assert paired_items([0.5], [0.25]).p is None
    assert paired_items([0.5, 0.5], [0.5, 0.5]).p is None
    with pytest.raises(ValueError):
        paired_items([1.0], [1.0, 0.0])
    with pytest.raises(ValueError):
        paired_items([], [])
