"""Own losses in, own weights out, over the global batch: the step of Algorithm 1 between the passes.

Shapes: B own samples of this rank, M samples of the global batch (all ranks, all micro-batches).
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from reproduce.method.strategies import STRATEGIES
from reproduce.method.temperature import Temperature, WarmupStyle


@dataclass(frozen=True, kw_only=True)
class Reweighted:
    """One step's weights, and what they came from."""

    own_weights_B: Tensor
    """(B,) own slice of the weights, float32, no gradient."""

    weights_M: Tensor
    """(M,) weights of the global batch; they sum to 1."""

    losses_M: Tensor
    """(M,) losses of the global batch in nats, detached, float32."""

    r: float | None
    """Temperature of this step; None: exactly uniform."""

    uniform: bool
    """Whether every weight is exactly 1/M, whatever the losses."""

    world: int
    """Ranks that share the global batch."""

    def loss(self, losses_B: Tensor, part: slice | None = None) -> Tensor:
        """The scalar to back-propagate: world x sum of own weight x own loss.

        Gradient averaging over ranks makes that the sum over the global batch (Algorithm 1, line 6).

        Args:
            losses_B: own losses with their graph, or those of one micro-batch.
            part: where that micro-batch lies among the own samples; the scalars of all parts add up.
        """
        own_B = self.own_weights_B if part is None else self.own_weights_B[part]
        if self.uniform and len(own_B) == len(self.own_weights_B):
            # The plain mean's own reduction: uniform training is bit-equal to it.
            return losses_B.mean()
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
    """Effective sample size 1/sum(w^2), in samples; M when uniform."""
    entropy: float
    """-sum(w ln w), nats; ln M when uniform."""


class SampleReweighter:
    """The method as one object for a training loop: plain, DDP or FSDP.

        reweighter = SampleReweighter("linupper", r=0.4, warmup_steps=1000)
        for step in range(1, steps + 1):
            losses_B = sample_losses(model(tokens_BT).logits, tokens_BT)
            reweighter(losses_B, step).backward()

    Where torch.distributed is initialised, weights are computed over all ranks (each rank must bring
    the same number of samples). With micro-batches, `weigh` the losses of all of them first, then
    back-propagate `loss(losses, part)` of each.
    """

    def __init__(
        self,
        strategy: str = "linupper",
        r: float = 0.4,
        warmup_steps: int = 0,
        *,
        warmup: WarmupStyle = "large_r",
        delta: float = 1.0,
    ) -> None:
        """Settings as in `sample_weights` and `Temperature`, with their ValueErrors."""
        if strategy not in STRATEGIES:
            raise ValueError(f"unknown strategy {strategy!r}; known: {', '.join(STRATEGIES)}")
        if not delta > 0:
            raise ValueError(f"delta must be a positive number, found {delta!r}")
        self.strategy = strategy
        self.delta = delta
        self.temperature = Temperature(r=r, warmup_steps=warmup_steps, warmup=warmup)

    def is_uniform(self, step: int) -> bool:
        """Whether this step's weights are exactly 1/M, known without looking at the losses."""
        return self.strategy == "uniform" or self.temperature.at(step) is None

    def weights(self, losses_M: Tensor, step: int) -> Tensor:
        """Weights (M,) of a global batch from its detached losses (M,); no synchronisation, no gradient."""
        losses_M = losses_M.detach().float()
        r = self.temperature.at(step)
        strategy = STRATEGIES["uniform" if r is None else self.strategy]
        return strategy(losses_M, r or 1.0, self.delta)

    def __call__(self, losses_B: Tensor, step: int) -> Tensor:
        """The scalar to back-propagate for own losses (B,) of the global batch's step, 1 for the first.

        `weigh` gives the weights too, and what to record.
        """
        return self.weigh(losses_B, step).loss(losses_B)

    def weigh(self, losses_B: Tensor, step: int) -> Reweighted:
        """Gather, weigh, and take the own slice by global rank (Algorithm 1, lines 2 to 5).

        Args:
            losses_B: (B,) own per-sample losses, nats; of all micro-batches, B equal on all ranks.
            step: 1 for the first step.
        """
        own = losses_B.numel()
        losses_M = self.gather(losses_B.detach().float())
        weights_M = self.weights(losses_M, step)
        world, rank = _world_and_rank()
        return Reweighted(
            own_weights_B=weights_M[rank * own : (rank + 1) * own],
            weights_M=weights_M,
            losses_M=losses_M,
            r=self.temperature.at(step),
            uniform=self.is_uniform(step),
            world=world,
        )

    def gather(self, own_B: Tensor) -> Tensor:
        """Everybody's values (M,), in rank order."""
        world, _ = _world_and_rank()
        if world == 1:
            return own_B
        everybody_M = own_B.new_empty(world * own_B.numel())
        # torch 2.13 renames the collective and deprecates the old name; both take the same arguments.
        collective = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
        collective(everybody_M, own_B.contiguous())
        return everybody_M


def weight_statistics(losses_M: Tensor, weights_M: Tensor) -> WeightStatistics:
    """Summaries of one step's losses (M,) and weights (M,). Synchronises once: call it on steps that log."""
    w = weights_M.double()
    losses = losses_M.double()
    entropy = 0.0 - torch.special.xlogy(w, w).sum()  # not -sum: a one-hot batch has entropy 0, not -0
    values = torch.stack(
        [
            losses.mean(),
            (w * losses).sum(),
            w.max() * w.numel(),
            w.min() * w.numel(),
            1 / w.square().sum(),
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


def _world_and_rank() -> tuple[int, int]:
    # The global rank: indexing by the local one is the released Llama code's defect.
    if not (dist.is_available() and dist.is_initialized()):
        return 1, 0
    return dist.get_world_size(), dist.get_rank()
