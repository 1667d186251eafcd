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
# Every mirrored pair has turns of its own: the same variant a second time.
ONE_PASS_AGAIN, KEPT = f"{PARTS} parts, one pass again", f"{PARTS} parts, exact, 2 kept"

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
    mirrored: int = 0
    """How often a round runs the two as A B B A, which cancels a steady drift: where a per cent decides."""


COMPARISONS: Mapping[str, Comparison] = {
    "uniform": Comparison(of=OURS, over=UNIFORM, at_least=0.99, at_most=1.01, mirrored=3),
    "plain": Comparison(of=PLAIN, over=OURS, at_least=1.15),
    "huggingface": Comparison(of=HUGGING_FACE, over=OURS),
    "trainer": Comparison(of=TRAINER, over=OURS, at_least=1.2),
    "released": Comparison(of=RELEASED, over=OURS, at_least=1.4),
    "accumulation": Comparison(
        of=EXACT, over=ONE_PASS, at_most=1 + FORWARD_SHARE * (PARTS - 1) / PARTS, mirrored=1
    ),
    "kept": Comparison(
        of=KEPT, over=ONE_PASS_AGAIN, at_most=1 + FORWARD_SHARE * (PARTS - 1) / PARTS, mirrored=1
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
    """Smallest and largest value."""
    ci_low: float | None
    ci_high: float | None
    """95% interval of the median; None below six values."""
    at_least: float | None
    at_most: float | None
    """The target; None where there is none or it is not for this shape."""
    verdict: Verdict | None
    """met: the whole interval lies within the target; missed: none of it; None without a target."""
    values: tuple[float, ...]
    """One a round, or as many as it mirrored the pair."""
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
    """The order of one round's turns. Odd rounds run backwards, and their mirrored pairs B A A B."""
    chosen = [COMPARISONS[key] for key in COMPARISONS if key in keys]
    peers = [pair.of for pair in chosen if not pair.mirrored]
    ours = [name for pair in chosen if pair.mirrored and pair.of == OURS for name in _mirrored(pair, done)]
    others = [name for pair in chosen if pair.mirrored and pair.of != OURS for name in _mirrored(pair, done)]
    # Without a pair of its own, ours runs on both sides of the peers.
    first = [*ours, *peers] if ours or not peers else [OURS, *peers, OURS]
    return (first + others)[:: -1 if done % 2 else 1]


def ratios(
    keys: Sequence[str],
    rounds: Sequence[Round],
    clock: Clock,
    with_targets: bool,
    comparisons: Mapping[str, Comparison] = COMPARISONS,
) -> list[Ratio]:
    """The chosen comparisons over the rounds measured, at least one."""
    return [
        _ratio(key, pair, rounds, clock, with_targets) for key, pair in comparisons.items() if key in keys
    ]


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
    return [first, second, second, first] * pair.mirrored


def _values(pair: Comparison, rounds: Sequence[Round], clock: Clock) -> list[float]:
    """Ratios of turns that ran side by side: one of every A B B A, or one a round."""
    found = []
    for one in rounds:
        of, over = ([getattr(seconds, clock) for seconds in one[name]] for name in (pair.of, pair.over))
        if pair.mirrored:
            found += [sum(of[i : i + 2]) / sum(over[i : i + 2]) for i in range(0, len(of), 2)]
        else:
            found.append(statistics.median(of) / statistics.median(over))
    return found


def _ratio(key: str, pair: Comparison, rounds: Sequence[Round], clock: Clock, with_targets: bool) -> Ratio:
    values = _values(pair, rounds, clock)
    interval = median_interval(values)
    at_least, at_most = (pair.at_least, pair.at_most) if with_targets else (None, None)
    return Ratio(
        key=key,
        of=pair.of,
        over=pair.over,
        median=statistics.median(values),
        low=min(values),
        high=max(values),
        ci_low=interval[0] if interval else None,
        ci_high=interval[1] if interval else None,
        at_least=at_least,
        at_most=at_most,
        verdict=_verdict(interval, at_least, at_most),
        values=tuple(values),
        wall_median=statistics.median(_values(pair, rounds, "wall")),
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
