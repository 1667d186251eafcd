"""The largest learning rate at which a run does not diverge, by bisection, every seed and method by itself.

Shapes: S worlds (one a seed), K methods, C checked shares.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reproduce.studies.ensemble import Protocol, simulate
from reproduce.studies.settings import Method
from reproduce.studies.setup import Worlds
from reproduce.studies.summary import Duel, duel, quantile
from reproduce.study import Scalar


@dataclass(frozen=True, kw_only=True)
class Stability:
    """What the search found."""

    methods: Sequence[Method]
    bracket: tuple[float, float]
    """Learning rates between which it looked."""
    largest: Tensor
    """(S, K) largest learning rate seen not to diverge; 0 where the bracket's bottom diverges, infinite where
    its top does not."""
    relapses: Tensor
    """(S, K) how many of the checked rates below `largest` diverge: 0 if divergence is monotone there."""
    safe: Tensor
    """(K,) largest rate at which every seed was run and none diverged; 0 where none was found."""
    steps: int
    """Within which a run may diverge."""

    @property
    def seeds(self) -> int:
        """Worlds, one a seed."""
        return len(self.largest)

    def place(self, strategy: str, r: float) -> int:
        """Which method it is; ValueError where it was not run."""
        return [(method.strategy, method.r) for method in self.methods].index((strategy, r))

    def ranked(self, k: int, share: float) -> float:
        """Largest stable learning rate that so many of the seeds stay at or below; 0.5: the middle seed's."""
        return float(quantile(self.largest[:, k], share))

    def against(self, ours: int, theirs: int) -> Duel:
        """Largest stable learning rates, seed by seed; lower is less stable."""
        return duel(self.largest[:, ours], self.largest[:, theirs])

    def said(self, largest: float) -> Scalar:
        """A largest stable learning rate as a table's cell: a text where it lies outside the bracket."""
        low, high = self.bracket
        return f"< {low:g}" if largest == 0 else f">= {high:g}" if math.isinf(largest) else largest


def search(
    worlds: Worlds,
    batches: Tensor,
    methods: Sequence[Method],
    *,
    bracket: tuple[float, float],
    halvings: int,
    checked: Sequence[float],
    workers: int = 1,
    advance: Callable[[float], None] = lambda work: None,
) -> Stability:
    """Bisect log lr in every world and method at once; each pair keeps its own bracket.

    Divergence is ensemble.DIVERGED's, within as many steps as there are batches. Both ends of the bracket are
    tried first. Bisection presumes that what diverges at a rate diverges above it: afterwards every run is
    repeated at `checked` shares of its own rate, at the smallest rate of any seed and at shares of that one.

    Args:
        worlds: S of them.
        batches: (S, steps, M) sample numbers.
        methods: K; their own learning rates are not used.
        bracket: lowest and highest learning rate.
        halvings: how often log(highest / lowest) is halved.
        checked: shares of the found rate, each in (0, 1).
        workers: threads; the result does not depend on them.
        advance: told steps x runs as they are done.
    """
    S, K, C = len(worlds.truth), len(methods), len(checked)
    protocol = Protocol(steps=batches.shape[1])

    def diverges(of: Sequence[Method], lr: Tensor) -> Tensor:
        outcome = simulate(worlds, batches, of, protocol, lr=lr, workers=workers, advance=advance)
        return outcome.diverged > 0

    low, high = (torch.full((S, K), end, dtype=torch.float64) for end in bracket)
    low_lost, high_lost = diverges(methods, low), diverges(methods, high)
    for _ in range(halvings):
        middle = (low * high).sqrt()
        lost = diverges(methods, middle)
        low, high = torch.where(lost, low, middle), torch.where(lost, middle, high)
    calm = ~(low_lost | high_lost)
    low = low.masked_fill(low_lost, 0.0).masked_fill(calm, bracket[1])
    smallest = low.amin(dim=0)
    shared = torch.stack([share * smallest for share in (1.0, *sorted(checked, reverse=True))])  # (C + 1, K)
    again = [*(share * low for share in checked), *(each.expand(S, K) for each in shared)]
    lost = diverges([*methods] * (2 * C + 1), torch.cat(again, dim=1)).view(S, 2 * C + 1, K)
    return Stability(
        methods=methods,
        bracket=bracket,
        largest=low.masked_fill(calm, torch.inf),
        relapses=lost.sum(dim=1),
        safe=shared.masked_fill(lost[:, C:].any(dim=0), 0.0).amax(dim=0),
        steps=protocol.steps,
    )


def calls(halvings: int, checked: Sequence[float]) -> int:
    """How many times `search` runs every method in every world."""
    return 2 + halvings + 2 * len(checked) + 1
