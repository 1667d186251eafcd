"""The same methods in the same worlds at several learning rates, and each method's own best one.

Shapes: S seeds, K methods, R learning rates, H thresholds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from reproduce.studies.contest import Contest
from reproduce.studies.ensemble import Outcome
from reproduce.studies.settings import Method


@dataclass(frozen=True, kw_only=True)
class Races:
    """K methods at each of R learning rates."""

    whole: Contest
    """K x R methods, learning rates innermost, as ensemble.with_rates orders them."""
    lrs: tuple[float, ...]

    @property
    def methods(self) -> Sequence[Method]:
        """K of them; their own learning rates are without meaning."""
        return self.whole.methods[:: len(self.lrs)]

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Shares of the held-out loss at the start."""
        return self.whole.thresholds

    @property
    def seeds(self) -> int:
        """Worlds, one a seed."""
        return self.whole.seeds

    @cached_property
    def at(self) -> tuple[Contest, ...]:
        """All methods at one learning rate, for each of them."""
        return tuple(self.chosen([j] * len(self.methods)) for j in range(len(self.lrs)))

    def chosen(self, rates: Sequence[int]) -> Contest:
        """Every method k at a learning rate of its own, rates[k]."""
        lanes = [k * len(self.lrs) + j for k, j in enumerate(rates)]
        return Contest(
            methods=[self.whole.methods[lane] for lane in lanes],
            outcome=_lanes(self.whole.outcome, lanes),
            thresholds=self.thresholds,
        )

    def best(self, k: int) -> int:
        """Which learning rate gives method k the lowest median final loss; of equals the smallest."""
        return min(range(len(self.lrs)), key=lambda j: (self.at[j].median_final(k), self.lrs[j]))

    def quickest(self, k: int, h: int) -> int:
        """Which learning rate takes method k to threshold h in the fewest steps, by the median."""
        return min(range(len(self.lrs)), key=lambda j: (self.at[j].median_steps(k, h), self.lrs[j]))

    def above_start(self, j: int, k: int) -> int:
        """Seeds in which method k ends above where it began at learning rate j, and has not diverged."""
        outcome = self.at[j].outcome
        above = outcome.final[:, k] > outcome.initial
        return int((above & (outcome.diverged[:, k] == 0)).sum())

    @cached_property
    def at_best(self) -> Contest:
        """Every method at the learning rate that gives it the lowest median final loss."""
        return self.chosen([self.best(k) for k in range(len(self.methods))])

    @cached_property
    def at_quickest(self) -> Contest:
        """As at_best, but steps to a threshold are those at the learning rate that is quickest to it."""
        K, H = len(self.methods), len(self.thresholds)
        quickest = [self.chosen([self.quickest(k, h) for k in range(K)]) for h in range(H)]
        reached = [contest.outcome.reached[:, :, h] for h, contest in enumerate(quickest)]
        best = self.at_best
        return replace(best, outcome=replace(best.outcome, reached=torch.stack(reached, dim=-1)))


def _lanes(outcome: Outcome, lanes: list[int]) -> Outcome:
    """The outcome of some of the methods."""
    return Outcome(
        curve=outcome.curve[:, lanes],
        reached=outcome.reached[:, lanes],
        final=outcome.final[:, lanes],
        diverged=outcome.diverged[:, lanes],
        overflowed=outcome.overflowed[:, lanes],
        initial=outcome.initial,
        outlier_weight=outcome.outlier_weight[:, lanes],
        outlier_share=outcome.outlier_share,
    )
