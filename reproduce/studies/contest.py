"""Finished runs of several methods on the same seeds, and who beat whom. Shapes as in ensemble.py."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from reproduce.studies.ensemble import Outcome
from reproduce.studies.settings import Method
from reproduce.studies.summary import Duel, duel, median


@dataclass(frozen=True, kw_only=True)
class Contest:
    """K methods in the same S worlds."""

    methods: Sequence[Method]
    outcome: Outcome
    thresholds: tuple[float, ...]

    @property
    def seeds(self) -> int:
        """Worlds, one a seed."""
        return len(self.outcome.initial)

    def place(self, strategy: str, r: float | None = None) -> int | None:
        """Which method it is; r None: the first of that strategy. None where it was not run."""
        for k, method in enumerate(self.methods):
            if method.strategy == strategy and r in (None, method.r):
                return k
        return None

    def final(self, ours: int, theirs: int) -> Duel:
        """Final losses, seed by seed."""
        return duel(self.outcome.final[:, ours], self.outcome.final[:, theirs])

    def steps(self, ours: int, theirs: int, threshold: int) -> Duel:
        """Steps to a threshold, seed by seed; who never arrives loses to who does."""
        return duel(self.outcome.reached[:, ours, threshold], self.outcome.reached[:, theirs, threshold])

    def median_final(self, k: int) -> float:
        """Final loss of the middle seed, infinite where that has diverged."""
        return float(median(self.outcome.final[:, k]))

    def median_steps(self, k: int, threshold: int) -> float:
        """Steps of the middle seed, infinite where that never arrives."""
        return float(median(self.outcome.reached[:, k, threshold]))

    def diverged(self, k: int) -> int:
        """Seeds in which the method diverged."""
        return int((self.outcome.diverged[:, k] > 0).sum())

    def arrived(self, k: int, threshold: int) -> int:
        """Seeds in which the method reached a threshold."""
        return int(torch.isfinite(self.outcome.reached[:, k, threshold]).sum())

    def outlier_factor(self, k: int) -> float | None:
        """Late weight on outliers over their share; None where there are none, or the runs diverged."""
        share = self.outcome.outlier_share.mean()
        factor = float(self.outcome.outlier_weight[:, k].mean() / share)
        return factor if math.isfinite(factor) else None

    def outlier_weights_differ(self, k: int) -> bool:
        """Whether the late weight on outliers differs from their share, by the sign test over seeds."""
        return duel(self.outcome.outlier_weight[:, k], self.outcome.outlier_share).outcome() != 0
