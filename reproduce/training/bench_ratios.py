"""From seconds to ratios: which variants of the training benchmark are held against each other, and how sure.

No torch here. Intervals are of the median and assume no distribution: a shared machine's noise has none.
"""

import math
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

PARTS = 4
"""Micro-batches of the accumulation pair."""

FORWARD_SHARE = 0.33
"""Bound on a forward pass as a share of a step: exact accumulation repeats (PARTS - 1)/PARTS of one."""

OURS, UNIFORM = "ours", "ours, uniform"
PLAIN, HUGGING_FACE = "plain loop", "Hugging Face loss"
TRAINER, RELEASED = "Trainer", "released"
ONE_PASS, EXACT = f"{PARTS} parts, one pass", f"{PARTS} parts, exact"

Clock = Literal["cpu", "wall"]
Verdict = Literal["met", "missed", "unresolved"]


class Seconds(NamedTuple):
    """What one turn took, by two clocks."""

    wall: float
    cpu: float
    """Of all threads of this process. With one thread on a CPU it is what the wall clock would show if
    nobody else wanted the core."""

    def since(self, start: "Seconds") -> "Seconds":
        """Seconds from one reading to the other."""
        return Seconds(self.wall - start.wall, self.cpu - start.cpu)


def now() -> Seconds:
    """Both clocks' readings."""
    return Seconds(time.perf_counter(), time.process_time())


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two variants held against each other: seconds of the one over seconds of the other."""

    of: str
    over: str
    at_least: float | None = None
    """Lower end of the target, on the reference shape with one CPU thread."""
    at_most: float | None = None
    """Upper end of it."""
    close: bool = False
    """Whether a per cent decides: the two then run A B B A within a round."""


COMPARISONS: Mapping[str, Comparison] = {
    "uniform": Comparison(of=OURS, over=UNIFORM, at_least=0.99, at_most=1.01, close=True),
    "plain": Comparison(of=PLAIN, over=OURS, at_least=1.15),
    "huggingface": Comparison(of=HUGGING_FACE, over=OURS),
    "trainer": Comparison(of=TRAINER, over=OURS, at_least=1.2),
    "released": Comparison(of=RELEASED, over=OURS, at_least=1.4),
    "accumulation": Comparison(
        of=EXACT, over=ONE_PASS, at_most=1 + FORWARD_SHARE * (PARTS - 1) / PARTS, close=True
    ),
}
"""What there is to choose from, in the order shown."""

Round = Mapping[str, Sequence[Seconds]]
"""Variant -> what each of its turns in one round took; as many turns in every round."""


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """One comparison over all rounds."""

    key: str
    of: str
    over: str
    median: float
    low: float
    high: float
    """Smallest and largest round."""
    ci_low: float | None
    ci_high: float | None
    """95% interval of the median; None below six rounds."""
    at_least: float | None
    at_most: float | None
    """The target; None where there is none or it is not for this shape."""
    verdict: Verdict | None
    """met: the whole interval lies within the target; missed: none of it; None without a target."""
    rounds: tuple[float, ...]
    wall_median: float
    """The median by the wall clock, whichever clock the rest is by."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """One variant over all rounds."""

    variant: str
    tokens_per_s: float
    """Median over its turns, by the wall clock."""
    best_tokens_per_s: float
    seconds: tuple[tuple[Seconds, ...], ...]
    """Of each round, of each turn in it: wall, CPU."""


def turns(keys: Sequence[str], done: int) -> list[str]:
    """The order of one round's turns. Odd rounds run backwards, and their close pairs B A A B."""
    chosen = [COMPARISONS[key] for key in COMPARISONS if key in keys]
    order: list[str] = []
    peers = [pair.of for pair in chosen if not pair.close]
    for pair in chosen:
        if pair.close and OURS in (pair.of, pair.over):
            order += _mirrored(pair, done)
    # Without that pair, ours runs on both sides of the peers.
    order = order + peers if order or not peers else [OURS, *peers, OURS]
    for pair in chosen:
        if pair.close and OURS not in (pair.of, pair.over):
            order += _mirrored(pair, done)
    return order[::-1] if done % 2 else order


def ratios(keys: Sequence[str], rounds: Sequence[Round], clock: Clock, with_targets: bool) -> list[Ratio]:
    """The chosen comparisons over the rounds measured, at least one."""
    return [_ratio(key, rounds, clock, with_targets) for key in COMPARISONS if key in keys]


def speeds(rounds: Sequence[Round], tokens: int) -> list[Speed]:
    """Every variant's speed over the rounds measured, at least one; `tokens` are those of one turn."""
    found = []
    for name in rounds[0]:
        every = [seconds.wall for one in rounds for seconds in one[name]]
        found.append(
            Speed(
                variant=name,
                tokens_per_s=tokens / statistics.median(every),
                best_tokens_per_s=tokens / min(every),
                seconds=tuple(tuple(one[name]) for one in rounds),
            )
        )
    return found


def median_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """A 95% interval of the median; None for fewer than six values.

    Of n sorted values, the true median lies below the k-th with probability P(Binomial(n, 1/2) < k). The
    interval runs from the k-th to the k-th from the end, k the largest that keeps this at 2.5% or less.
    """
    count = len(values)
    below, k = 0, 0
    while (below := below + math.comb(count, k)) <= 0.025 * 2**count:
        k += 1
    ordered = sorted(values)
    return (ordered[k - 1], ordered[-k]) if k else None


def load_average() -> float | None:
    """Processes that wanted to run over the last minute; None where the system does not say."""
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):
        return None


def _mirrored(pair: Comparison, done: int) -> list[str]:
    first, second = (pair.over, pair.of) if done % 2 else (pair.of, pair.over)
    return [first, second, second, first]


def _by_round(pair: Comparison, rounds: Sequence[Round], clock: Clock) -> list[float]:
    def mean(turns_of_one: Sequence[Seconds]) -> float:
        return statistics.fmean(getattr(seconds, clock) for seconds in turns_of_one)

    return [mean(one[pair.of]) / mean(one[pair.over]) for one in rounds]


def _ratio(key: str, rounds: Sequence[Round], clock: Clock, with_targets: bool) -> Ratio:
    pair = COMPARISONS[key]
    by_round = _by_round(pair, rounds, clock)
    interval = median_interval(by_round)
    at_least, at_most = (pair.at_least, pair.at_most) if with_targets else (None, None)
    return Ratio(
        key=key,
        of=pair.of,
        over=pair.over,
        median=statistics.median(by_round),
        low=min(by_round),
        high=max(by_round),
        ci_low=interval[0] if interval else None,
        ci_high=interval[1] if interval else None,
        at_least=at_least,
        at_most=at_most,
        verdict=_verdict(interval, at_least, at_most),
        rounds=tuple(by_round),
        wall_median=statistics.median(_by_round(pair, rounds, "wall")),
    )


def _verdict(
    interval: tuple[float, float] | None, at_least: float | None, at_most: float | None
) -> Verdict | None:
    if at_least is None and at_most is None:
        return None
    low, high = at_least or 0.0, at_most or math.inf
    if interval is None:
        return "unresolved"
    if low <= interval[0] and interval[1] <= high:
        return "met"
    return "missed" if interval[1] < low or interval[0] > high else "unresolved"
