"""Own losses in, own weights out, over the global batch: the step of Algorithm 1 between the passes.

Shapes: B own samples of this rank, M samples of the global batch (all ranks, all micro-batches), W ranks.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from reproduce.method.strategies import STRATEGIES
from reproduce.method.temperature import Temperature, WarmupStyle

Gather = Callable[[Tensor], Tensor]
"""(B,) float32 of this rank -> (W * B,) of all ranks in rank order; B is the same on all."""


@dataclass(frozen=True, kw_only=True)
class Reweighted:
    """One step's weights, and what they came from."""

    own_weights_B: Tensor
    """(B,) weights of the own samples, float32, no gradient; 0 where a sample only fills up the shape."""

    weights_M: Tensor
    """(M,) weights of the global batch; they sum to 1 (with `first_node_weights`, only nearly)."""

    losses_M: Tensor
    """(M,) losses of the global batch in nats, detached, float32."""

    r: float | None
    """Temperature of this step; None: exactly uniform."""

    uniform: bool
    """Whether every weight is exactly 1/M, whatever the losses."""

    world: int
    """Ranks that share the global batch."""

    even: bool = True
    """Whether every rank brings equally many samples, none of them to fill up the shape."""

    def loss(self, losses_B: Tensor, part: slice | None = None) -> Tensor:
        """The scalar to back-propagate: world x sum of own weight x own loss.

        Gradient averaging over ranks makes that the sum over the global batch (Algorithm 1, line 6).

        Args:
            losses_B: own losses with their graph, or those of one micro-batch.
            part: where that micro-batch lies among the own samples; the scalars of all parts add up.
        """
        own_B = self.own_weights_B if part is None else self.own_weights_B[part]
        if self.uniform and self.even:
            # The plain mean's own reduction: uniform training is bit-equal to it.
            share = len(own_B) / len(self.own_weights_B)
            return losses_B.mean() if share == 1 else losses_B.mean() * share
        return self.world * (own_B * losses_B).sum()


@dataclass(frozen=True, kw_only=True)
class WeightStatistics:
    """What a step's weights look like, as Python numbers (reading them synchronises the device)."""

    loss: float
    """Plain mean of the losses, nats: comparable across strategies."""
    weighted_loss: float
    """Weighted sum of the losses, nats: what was back-propagated."""
    max_weight: float
    """Largest weight times M; Proposition 1's bound is 2."""
    min_weight: float
    """Smallest weight times M."""
    ess: float
    """Effective sample size 1/sum(w^2), in samples; M when uniform, 0 where no sample has a weight."""
    entropy: float
    """-sum(w ln w), nats; ln M when uniform."""


class SampleReweighter:
    """The method as one object for a training loop: plain, DDP or FSDP.

        reweighter = SampleReweighter("linupper", r=0.4, warmup_steps=1000)
        for step in range(1, steps + 1):
            losses_B = sample_losses(model(tokens_BT).logits, tokens_BT)
            reweighter(losses_B, step).backward()

    Where torch.distributed is initialised, weights are computed over all ranks, which may bring different
    numbers of samples. With micro-batches, `weigh` the losses of all of them first, then back-propagate
    `loss(losses, part)` of each.
    """

    def __init__(
        self,
        strategy: str = "linupper",
        r: float = 0.4,
        warmup_steps: int = 0,
        *,
        warmup: WarmupStyle = "large_r",
        delta: float = 1.0,
        first_node_weights: int | None = None,
    ) -> None:
        """Settings as in `sample_weights` and `Temperature`, with their ValueErrors.

        `first_node_weights` reproduces a defect of the released Llama code: each run of so many samples gets
        the weights of the first so many.
        """
        if strategy not in STRATEGIES:
            raise ValueError(f"unknown strategy {strategy!r}; known: {', '.join(STRATEGIES)}")
        if not delta > 0:
            raise ValueError(f"delta must be a positive number, found {delta!r}")
        self.strategy = strategy
        self.delta = delta
        self.first_node_weights = first_node_weights
        self.temperature = Temperature(r=r, warmup_steps=warmup_steps, warmup=warmup)

    def is_uniform(self, step: int) -> bool:
        """Whether this step's weights are exactly 1/M, known without looking at the losses."""
        return self.strategy == "uniform" or self.temperature.at(step) is None

    def weights(self, losses_M: Tensor, step: int) -> Tensor:
        """Weights (M,) of a global batch from its detached losses (M,); no synchronisation, no gradient."""
        losses_M = losses_M.detach().float()
        r = self.temperature.at(step)
        strategy = STRATEGIES["uniform" if r is None else self.strategy]
        weights_M = strategy(losses_M, r or 1.0, self.delta)
        node = self.first_node_weights
        if node is None or self.is_uniform(step):
            return weights_M
        return weights_M[:node].repeat(-(-len(weights_M) // node))[: len(weights_M)]

    def __call__(self, losses_B: Tensor, step: int) -> Tensor:
        """The scalar to back-propagate for own losses (B,) of the global batch's step, 1 for the first.

        `weigh` gives the weights too, and what to record.
        """
        return self.weigh(losses_B, step).loss(losses_B)

    def weigh(
        self,
        losses_B: Tensor,
        step: int,
        counts: Sequence[int] | None = None,
        gather: Gather | None = None,
    ) -> Reweighted:
        """Gather, weigh, and take the own slice by global rank (Algorithm 1, lines 2 to 5).

        Args:
            losses_B: (B,) own per-sample losses, nats; of all micro-batches.
            step: 1 for the first step.
            counts: how many of its losses each of the W ranks really brings; where this rank's B is more, the
                rest only fills up the shape, and B must be the same on all ranks. None: the ranks tell each
                other, at the price of one more collective that the host waits for.
            gather: how the losses travel; None: torch.distributed.
        """
        world, rank = _world_and_rank()
        own = losses_B.numel()
        sent_B = losses_B.detach().float()
        if counts is None:
            counts = _counts_of_ranks(own, world, sent_B.device)
            sent_B = _filled(sent_B, max(counts))
        elif len(counts) != world or not counts[rank] <= own or max(counts) > own:
            raise ValueError(f"counts {list(counts)} do not fit {world} ranks with {own} losses each")
        if sum(counts) == 0:
            raise ValueError("no rank brings a sample")
        everybody = (gather or gather_losses)(sent_B) if world > 1 else sent_B
        losses_M = without_filling(everybody, counts)
        weights_M = self.weights(losses_M, step)
        return Reweighted(
            own_weights_B=own_share(weights_M, counts, rank, own),
            weights_M=weights_M,
            losses_M=losses_M,
            r=self.temperature.at(step),
            uniform=self.is_uniform(step),
            world=world,
            even=min(counts) == max(counts) == own,
        )


def shares(samples: int, world: int) -> list[int]:
    """How many of a global batch's samples each rank takes: even, the remainder to the first ranks."""
    return [samples // world + (rank < samples % world) for rank in range(world)]


def gather_losses(own_B: Tensor) -> Tensor:
    """Everybody's values (W * B,), in rank order; B must be the same on all ranks."""
    world, _ = _world_and_rank()
    everybody = own_B.new_empty(world * own_B.numel())
    # torch 2.13 renames the collective and deprecates the old name; both take the same arguments.
    collective = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    collective(everybody, own_B.contiguous())
    return everybody


def weight_statistics(losses_M: Tensor, weights_M: Tensor) -> WeightStatistics:
    """Summaries of one step's losses (M,) and weights (M,). Synchronises once: call it on steps that log."""
    w = weights_M.double()
    losses = losses_M.double()
    squares = w.square().sum()
    entropy = 0.0 - torch.special.xlogy(w, w).sum()  # not -sum: a one-hot batch has entropy 0, not -0
    values = torch.stack(
        [
            losses.mean(),
            (w * losses).sum(),
            w.max() * w.numel(),
            w.min() * w.numel(),
            torch.where(squares > 0, 1 / squares, squares),
            entropy,
        ]
    ).tolist()
    return WeightStatistics(
        loss=values[0],
        weighted_loss=values[1],
        max_weight=values[2],
        min_weight=values[3],
        ess=values[4],
        entropy=values[5],
    )


def _counts_of_ranks(own: int, world: int, device: torch.device) -> list[int]:
    # One number a rank: a fixed shape, which uneven losses would not be (one rank then reads garbage).
    if world == 1:
        return [own]
    return [int(count) for count in gather_losses(torch.tensor([own], device=device)).tolist()]


def _filled(values: Tensor, size: int) -> Tensor:
    """The values, with zeros up to `size`."""
    missing = size - len(values)
    return values if missing == 0 else torch.cat([values, values.new_zeros(missing)])


def own_share(values_M: Tensor, counts: Sequence[int], rank: int, own: int) -> Tensor:
    """A rank's part of the global batch's values (M,), with zeros up to its `own` samples."""
    return _filled(values_M[sample_slices(counts)[rank]], own)


def without_filling(everybody: Tensor, counts: Sequence[int]) -> Tensor:
    """(M,) the first counts[rank] values of each rank, of as many of every rank."""
    if min(counts) * len(counts) == len(everybody):
        return everybody
    rows = everybody.view(len(counts), -1)
    return torch.cat([row[:count] for row, count in zip(rows, counts, strict=True)])


def sample_slices(counts: Sequence[int]) -> list[slice]:
    """Where each rank's samples lie in the global batch."""
    ends = itertools.accumulate(counts, initial=0)
    return [slice(start, end) for start, end in itertools.pairwise(ends)]


def _world_and_rank() -> tuple[int, int]:
    # The global rank: indexing by the local one is the released Llama code's defect.
    if not (dist.is_available() and dist.is_initialized()):
        return 1, 0
    return dist.get_world_size(), dist.get_rank()
