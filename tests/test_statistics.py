"""Student's t against published tables, and intervals worked out by hand."""

import math

import pytest

from reproduce.statistics import (
    accuracy_stderr,
    mean_interval,
    paired_interval,
    t_cdf,
    t_quantile,
    welch_interval,
)

# NIST/SEMATECH e-Handbook, table of critical values of Student's t: (p, degrees of freedom, value).
NIST = [
    (0.90, 1, 3.078),
    (0.975, 1, 12.706),
    (0.975, 2, 4.303),
    (0.975, 3, 3.182),
    (0.975, 4, 2.776),
    (0.95, 5, 2.015),
    (0.975, 9, 2.262),
    (0.99, 10, 2.764),
    (0.995, 20, 2.845),
    (0.975, 30, 2.042),
    (0.975, 100, 1.984),
    (0.999, 60, 3.232),
]


@pytest.mark.parametrize(("p", "freedom", "value"), NIST)
def test_quantiles_match_the_published_table(p: float, freedom: int, value: float) -> None:
    assert t_quantile(p, freedom) == pytest.approx(value, abs=5.1e-4)
    assert t_quantile(1 - p, freedom) == pytest.approx(-value, abs=5.1e-4)


def test_closed_forms() -> None:
    # One degree of freedom is Cauchy: quantile tan(pi (p - 1/2)). Two: a sqrt(2 / (1 - a^2)), a = 2p - 1.
    assert t_quantile(0.975, 1) == pytest.approx(math.tan(math.pi * 0.475), rel=1e-9)
    assert t_quantile(0.975, 2) == pytest.approx(0.95 * math.sqrt(2 / (1 - 0.95**2)), rel=1e-9)
    # Very many degrees of freedom: the normal quantile, 1.959963985.
    assert t_quantile(0.975, 1e7) == pytest.approx(1.959963985, abs=1e-5)
    assert t_quantile(0.5, 7) == 0.0


@pytest.mark.parametrize("freedom", [1, 1.5, 2, 3.7, 10, 250])
@pytest.mark.parametrize("p", [0.5001, 0.6, 0.9, 0.99, 0.9999])
def test_quantile_inverts_the_distribution(p: float, freedom: float) -> None:
    assert t_cdf(t_quantile(p, freedom), freedom) == pytest.approx(p, abs=1e-10)


@pytest.mark.parametrize(("p", "freedom"), [(0, 3), (1, 3), (0.9, 0), (0.9, -1), (math.nan, 2)])
def test_impossible_quantiles_are_refused(p: float, freedom: float) -> None:
    with pytest.raises(ValueError, match="no t quantile"):
        t_quantile(p, freedom)


def test_interval_of_three_values() -> None:
    # 1, 2, 3: mean 2, standard deviation 1, standard error 1/sqrt(3) = 0.57735, t(0.975, 2) = 4.30265,
    # so half the width is 2.48414.
    interval = mean_interval([1.0, 2.0, 3.0])
    assert interval.mean == 2.0
    assert interval.low == pytest.approx(-0.48414, abs=1e-5)
    assert interval.high == pytest.approx(4.48414, abs=1e-5)
    assert interval.half_width == pytest.approx(2.48414, abs=1e-5)
    assert not interval.excludes(0.0)
    assert interval.excludes(5.0)


def test_one_value_has_no_interval() -> None:
    interval = mean_interval([3.3])
    assert (interval.mean, interval.low, interval.high, interval.n) == (3.3, None, None, 1)
    assert not interval.excludes(100.0)


@pytest.mark.parametrize("values", [[], [math.nan, 1.0], [math.inf]])
def test_no_values_or_broken_ones_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        mean_interval(values)


def test_pairing_uses_shared_seeds_only_and_removes_what_they_share() -> None:
    # Seeds differ by whole nats, the difference is 0.10 and 0.12 on the two shared seeds:
    # mean 0.11, standard deviation 0.01414, standard error 0.01, t(0.975, 1) = 12.7062.
    interval = paired_interval({0: 3.10, 1: 5.12, 7: 9.0}, {0: 3.0, 1: 5.0, 8: 1.0})
    assert interval is not None
    assert interval.n == 2
    assert interval.mean == pytest.approx(0.11)
    assert interval.half_width == pytest.approx(0.127062, abs=1e-6)
    assert paired_interval({0: 1.0}, {1: 1.0}) is None


def test_welch_matches_a_worked_example() -> None:
    # a: mean 3, variance 2.5, n 5 -> 0.5; b: mean 6, variance 20/3, n 4 -> 5/3. Difference -3.
    # freedom = (13/6)^2 / (0.25/4 + (25/9)/3) = 4.69444 / 0.988426 = 4.74942; t(0.975) = 2.6126...
    interval = welch_interval([1, 2, 3, 4, 5], [3, 5, 7, 9])
    assert interval.mean == pytest.approx(-3.0)
    assert interval.half_width == pytest.approx(math.sqrt(13 / 6) * t_quantile(0.975, 4.74942), rel=1e-5)
    assert welch_interval([1.0], [2.0, 3.0]).low is None
    same = welch_interval([2.0, 2.0], [1.0, 1.0])
    assert (same.low, same.high) == (1.0, 1.0)


@pytest.mark.parametrize("size", [2.0**1000, 2.0**-1000])
def test_values_of_any_size_have_the_interval_of_their_shares(size: float) -> None:
    # Squares of 2e301 are no floats, those of 9e-302 are zero; a power of two changes no digit.
    plain, scaled = mean_interval([1.0, 2.5, 3.0]), mean_interval([size, 2.5 * size, 3 * size])
    assert plain.low is not None
    assert plain.high is not None
    assert (scaled.mean, scaled.low, scaled.high) == (plain.mean * size, plain.low * size, plain.high * size)
    one, other = (
        welch_interval([1.0, 2.0], [3.0, 5.0]),
        welch_interval([size, 2 * size], [3 * size, 5 * size]),
    )
    assert one.low is not None
    assert (other.mean, other.low) == (one.mean * size, one.low * size)


def test_an_interval_wider_than_a_float_is_infinite() -> None:
    # Mean 2e307; half the width is 12.7 times the error 4e307, so beyond 1.8e308.
    wide = mean_interval([-2e307, 6e307])
    assert wide.mean == pytest.approx(2e307)
    assert (wide.low, wide.high) == (-math.inf, math.inf)
    assert not wide.excludes(0.0)
    assert mean_interval([2e307, 2e307]).high == 2e307
    assert mean_interval([0.0, 0.0]).high == 0.0


def test_standard_error_of_an_accuracy() -> None:
    # SciQ, 51.8% of 1000: sqrt(0.518 * 0.482 / 1000) = 0.0158011.
    assert accuracy_stderr(0.518, 1000) == pytest.approx(0.0158011, abs=1e-7)
