"""Many runs of weighted minibatch SGD at once: worlds x methods, float64, the trainer's own strategies.

Shapes: S worlds, K methods, M samples of a batch, Q outputs, D features and a constant 1, H thresholds,
P recorded steps. Runs never mix: a run's numbers are those it has alone, so a diverging one harms no other.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from reproduce.method import STRATEGIES
from reproduce.studies.settings import CHUNK_NUMBERS, CURVE_POINTS, Method
from reproduce.studies.setup import Worlds

DIVERGED = 100.0
"""A run has diverged once its held-out loss is this many times what it began with, or is not finite."""

TAIL_SHARE = 0.1
"""Share of the steps, at the end, over which the final loss is averaged: one step of SGD is noisy."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What all runs of a call share."""

    steps: int
    thresholds: tuple[float, ...] = ()
    """Shares of the held-out loss at the start; the first step at or below each is kept."""
    record: tuple[int, ...] = ()
    """Steps whose held-out loss is kept, rising, 0 for the start."""

    @property
    def tail(self) -> int:
        """Steps at the end whose mean is the final loss."""
        return max(1, round(TAIL_SHARE * self.steps))


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the runs did."""

    curve: Tensor
    """(S, K, P) held-out loss at the recorded steps; infinite from where a run has diverged."""
    reached: Tensor
    """(S, K, H) first step at or below each threshold; infinite where none."""
    final: Tensor
    """(S, K) mean held-out loss over the last tenth of the steps; infinite where a run has diverged."""
    diverged: Tensor
    """(S, K) first step at which a run had diverged; 0 where it did not."""
    overflowed: Tensor
    """(S, K) bool: the loss became infinite or NaN."""
    initial: Tensor
    """(S,) held-out loss at the start, parameters 0."""
    outlier_weight: Tensor
    """(S, K) mean weight of the batch's outliers together, over the steps of `final`."""
    outlier_share: Tensor
    """(S,) mean share of outliers in those batches: what uniform gives them."""


def simulate(
    worlds: Worlds,
    batches: Tensor,
    methods: Sequence[Method],
    protocol: Protocol,
    lr: Tensor | None = None,
    workers: int = 1,
    advance: Callable[[float], None] = lambda work: None,
) -> Outcome:
    """Run every method in every world, from parameters 0.

    Args:
        worlds: S of them.
        batches: (S or a divisor of it, steps, M) sample numbers; fewer repeat, as setups of one seed do.
        methods: K, in any order.
        protocol: steps and what to keep.
        lr: (S, K) learning rates in place of the methods' own.
        workers: threads; the result does not depend on them.
        advance: told steps x runs as they are done.
    """
    S, K, M = len(worlds.truth), len(methods), batches.shape[-1]
    if lr is None:
        lr = torch.tensor([method.lr for method in methods], dtype=torch.float64).expand(S, K)
    size = max(1, CHUNK_NUMBERS // (K * M))
    chunks = [slice(start, min(start + size, S)) for start in range(0, S, size)]

    def work(chunk: slice) -> Outcome:
        rows = torch.arange(chunk.start, chunk.stop) % len(batches)
        found = _simulate(worlds[chunk], batches[rows], methods, protocol, lr[chunk])
        advance(float(protocol.steps * K * len(rows)))
        return found

    pool = ThreadPoolExecutor(max_workers=workers)
    try:
        return _joined(list(pool.map(work, chunks)))
    finally:
        # Interrupted, it should not work off what is still in line.
        pool.shutdown(cancel_futures=True)


def _joined(parts: Sequence[Outcome]) -> Outcome:
    names = (
        "curve",
        "reached",
        "final",
        "diverged",
        "overflowed",
        "initial",
        "outlier_weight",
        "outlier_share",
    )
    return Outcome(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


def _simulate(
    worlds: Worlds, batches: Tensor, methods: Sequence[Method], protocol: Protocol, lr: Tensor
) -> Outcome:
    """One chunk, in one thread."""
    S, N, D1 = worlds.inputs.shape
    Q, K = worlds.targets.shape[2], len(methods)
    weigh = Weigher(methods)
    inputs, targets = worlds.inputs.reshape(S * N, D1), worlds.targets.reshape(S * N, Q)
    first_row = (torch.arange(S) * N).unsqueeze(1)
    theta = torch.zeros(S, K, Q, D1, dtype=torch.float64)
    velocity = torch.zeros_like(theta)
    momentum = torch.tensor([m.momentum for m in methods], dtype=torch.float64).view(1, K, 1, 1)
    moving = any(method.momentum for method in methods)
    log = _Log(worlds.test_loss(theta), protocol)
    rate = lr.view(S, K, 1, 1)
    for step in range(1, protocol.steps + 1):
        rows = (batches[:, step - 1].long() + first_row).flatten()
        x = inputs.index_select(0, rows).view(S, -1, D1)
        y = targets.index_select(0, rows).view(S, -1, Q)
        errors = torch.bmm(theta.view(S, K * Q, D1), x.mT).view(S, K, Q, -1) - y.mT.unsqueeze(1)
        weights = weigh(errors.square().mean(dim=2))  # Eq. 11, and Eq. 4
        weighted = weights.unsqueeze(2) * errors
        gradient = torch.bmm(weighted.view(S, K * Q, -1), x).view(S, K, Q, D1).mul_(2 / Q)
        if moving:
            velocity.mul_(momentum).add_(gradient)
            gradient = velocity
        theta -= rate * gradient
        log.see(step, worlds.test_loss(theta))
        if log.in_tail(step):
            log.see_weights(weights, batches[:, step - 1] >= worlds.clean.unsqueeze(1))
    return log.outcome()


class Weigher:
    """Losses (S, K, M) -> weights (S, K, M), each method by its own strategy and temperature."""

    def __init__(self, methods: Sequence[Method]) -> None:
        """Methods of one strategy are weighted in one call."""
        self._groups = []
        for name in dict.fromkeys(method.strategy for method in methods):
            lanes = [k for k, method in enumerate(methods) if method.strategy == name]
            r = torch.tensor([methods[k].r for k in lanes], dtype=torch.float64).unsqueeze(-1)
            start, stop = lanes[0], lanes[-1] + 1
            together = len(lanes) == stop - start
            where: slice | Tensor = slice(start, stop) if together else torch.tensor(lanes)
            self._groups.append((STRATEGIES[name], where, r))

    def __call__(self, losses: Tensor) -> Tensor:
        """The weights; those of losses that are not finite are not either."""
        weights = torch.empty_like(losses)
        for strategy, where, r in self._groups:
            weights[:, where] = strategy(losses[:, where], r, 1.0)
        return weights


class _Log:
    """What is kept of the held-out losses (S, K) as the steps go by."""

    def __init__(self, start: Tensor, protocol: Protocol) -> None:
        S, K = start.shape
        self._protocol = protocol
        self._start = start
        self._levels = start.unsqueeze(-1) * torch.tensor(protocol.thresholds, dtype=torch.float64)
        self._places = {step: index for index, step in enumerate(protocol.record)}
        self._curve = torch.full((S, K, len(protocol.record)), torch.inf, dtype=torch.float64)
        self._reached = torch.full((S, K, len(protocol.thresholds)), torch.inf, dtype=torch.float64)
        self._diverged = torch.zeros(S, K, dtype=torch.int64)
        self._overflowed = torch.zeros(S, K, dtype=torch.bool)
        self._tail = torch.zeros(S, K, dtype=torch.float64)
        self._outlier_weight = torch.zeros(S, K, dtype=torch.float64)
        self._outlier_share = torch.zeros(S, dtype=torch.float64)
        self._keep(0, start)

    def see(self, step: int, loss: Tensor) -> None:
        """The held-out loss (S, K) after a step."""
        finite = torch.isfinite(loss)
        self._overflowed |= ~finite
        # Not `>`: a NaN is above nothing.
        gone = ~(loss <= DIVERGED * self._start)
        self._diverged.masked_fill_(gone & (self._diverged == 0), step)
        if self._levels.shape[-1]:
            now = (loss.unsqueeze(-1) <= self._levels) & torch.isinf(self._reached)
            self._reached.masked_fill_(now & (self._diverged == 0).unsqueeze(-1), float(step))
        if self.in_tail(step):
            self._tail += loss
        self._keep(step, loss)

    def in_tail(self, step: int) -> bool:
        """Whether the step is among the last, which the final loss is a mean of."""
        return step > self._protocol.steps - self._protocol.tail

    def see_weights(self, weights: Tensor, outlying: Tensor) -> None:
        """A late step's weights (S, K, M), and which of its samples are outliers (S, M)."""
        mask = outlying.double()
        self._outlier_weight += torch.bmm(weights, mask.unsqueeze(-1)).squeeze(-1)
        self._outlier_share += mask.mean(dim=-1)

    def outcome(self) -> Outcome:
        """Everything, once the last step is seen."""
        lost = self._diverged > 0
        final = (self._tail / self._protocol.tail).masked_fill(lost, torch.inf)
        return Outcome(
            curve=self._curve,
            reached=self._reached,
            final=final,
            diverged=self._diverged,
            overflowed=self._overflowed,
            initial=self._start[:, 0],
            outlier_weight=self._outlier_weight / self._protocol.tail,
            outlier_share=self._outlier_share / self._protocol.tail,
        )

    def _keep(self, step: int, loss: Tensor) -> None:
        place = self._places.get(step)
        if place is not None:
            self._curve[:, :, place] = loss.masked_fill(self._diverged > 0, torch.inf)


def recorded_steps(steps: int, points: int = CURVE_POINTS) -> tuple[int, ...]:
    """Step 0 and at most `points` more, even on a logarithmic scale, the last among them."""
    marks = torch.logspace(0, 1, points, base=max(steps, 2), dtype=torch.float64).round().long()
    return (0, *sorted({min(int(mark), steps) for mark in marks} | {steps}))


def with_rates(methods: Sequence[Method], rates: Sequence[float]) -> list[Method]:
    """Every method at every learning rate, rates innermost."""
    return [replace(method, lr=rate) for method in methods for rate in rates]
