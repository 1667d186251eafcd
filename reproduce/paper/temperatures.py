"""Figure 5 as rules: LinUpper at several r beside the uniform run that is alike in all but the reweighting.

Both rules compare two r on shared seeds, by the mean log-perplexity minus uniform's of the same seed:
  large_r_near_uniform   the largest r, LARGE at least, is nearer to uniform than the smallest
  small_r_worse          the smallest r, below the paper's 0.4, is worse than 0.4
The paper's own r for "large" and "too small" are lost in its text, so these are our reading. The 95% interval
over seeds excludes zero, or the claim is unresolved.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from reproduce.paper.extras import task_values, uniform_beside
from reproduce.paper.matching import Group
from reproduce.paper.tables import MEAN
from reproduce.statistics import mean_interval
from reproduce.study import Outcome

RULES = ("large_r_near_uniform", "small_r_worse")
LARGE = 10.0
"""At this r the largest weight of a batch is at most 1.11 times its smallest."""

PAPER_R = 0.4

Shifts = Mapping[float, Mapping[int, float]]
"""r -> seed -> LinUpper's mean log-perplexity minus uniform's, in nats."""


def judged_rule(rule: str, groups: Sequence[Group]) -> tuple[Outcome | Literal["not_run"], str]:
    """The outcome of a rule over the first recipe that it can be asked of, and what it rests on."""
    for shifts in _families(groups):
        low, high = min(shifts), max(shifts)
        if rule == "large_r_near_uniform" and high >= LARGE and low < high:
            return _compared("distance from uniform", _sizes(shifts[low]), low, _sizes(shifts[high]), high)
        if rule == "small_r_worse" and low < PAPER_R and PAPER_R in shifts:
            return _compared("minus uniform", shifts[low], low, shifts[PAPER_R], PAPER_R)
    return "not_run", ""


def _families(groups: Sequence[Group]) -> list[Shifts]:
    """Runs of LinUpper that differ in r alone, by what else they were trained with; those with several r."""
    found: dict[object, dict[float, dict[int, float]]] = {}
    for group in groups:
        twin = uniform_beside(group, groups) if group.info.strategy == "linupper" else None
        if twin is None or group.info.r is None:
            continue
        others = {
            k: v
            for k, v in group.info.settings.items()
            if k.startswith("reweighting.") and k != "reweighting.r"
        }
        ours, theirs = task_values(group, MEAN), task_values(twin, MEAN)
        shared = {seed: ours[seed] - theirs[seed] for seed in sorted(set(ours) & set(theirs))}
        if shared:
            key = (twin.info.recipe, tuple(sorted(others.items(), key=str)))
            found.setdefault(key, {}).setdefault(group.info.r, shared)
    return [family for family in found.values() if len(family) > 1]


def _sizes(shifts: Mapping[int, float]) -> dict[int, float]:
    return {seed: abs(value) for seed, value in shifts.items()}


def _compared(
    what: str, small: Mapping[int, float], low: float, large: Mapping[int, float], high: float
) -> tuple[Outcome, str]:
    """Whether what is measured at the smaller r lies above that at the larger one, on shared seeds."""
    seeds = sorted(set(small) & set(large))
    if not seeds:
        return "unresolved", f"r = {low:g} and {high:g} share no seed"
    at_low, at_high = (mean_interval([each[s] for s in seeds]).mean for each in (small, large))
    evidence = f"{what} {at_low:+.3f} nats at r = {low:g}, {at_high:+.3f} at {high:g}, seeds: {len(seeds)}"
    interval = mean_interval([small[s] - large[s] for s in seeds])
    if interval.low is None:
        return "unresolved", evidence + ", no interval"
    evidence += f"; difference {interval.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"
    if not interval.excludes(0.0):
        return "unresolved", evidence
    return ("holds" if interval.mean > 0 else "does_not"), evidence
