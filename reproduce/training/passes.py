"""Forward and backward passes over the micro-batches of one step, one function for each way of weighing.

Every rank runs the same number of passes, whatever its share: sharded layers and gathers are collectives.

Shapes: B own samples of this rank, M samples of the global batch, T tokens.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from reproduce.method import Gather, LaggedRange, Reweighted, SampleReweighter, gather_losses, sample_slices
from reproduce.training.clock import PhaseTimer
from reproduce.training.sharding import collecting


@dataclass(frozen=True, kw_only=True)
class Work:
    """One rank's part of a step."""

    model: nn.Module
    reweighter: SampleReweighter
    micro_batches: Sequence[Tensor]
    """Token ids (b, T) each."""
    counts: Sequence[int]
    """Samples that each rank really brings; the rest of its micro-batches fills up the shape."""
    rank: int
    gather: Gather | None
    kept_graphs: int
    """Micro-batches, the last ones, whose graph is kept until the weights are known."""
    step: int
    before_forward: Callable[[int], AbstractContextManager[object]]
    """Seeds dropout for a micro-batch and gives the context of its forward pass."""
    timer: PhaseTimer

    @property
    def parts(self) -> list[slice]:
        """Where each micro-batch lies among the own samples."""
        return sample_slices([len(part) for part in self.micro_batches])

    @property
    def samples(self) -> int:
        """M."""
        return sum(self.counts)

    @property
    def world(self) -> int:
        """Ranks."""
        return len(self.counts)

    def losses(self, part: int) -> Tensor:
        """Losses (b,) of a micro-batch."""
        with self.before_forward(part):
            losses: Tensor = self.model(self.micro_batches[part])
        self.timer.mark("forward")
        return losses

    def backward(self, loss: Tensor) -> None:
        """Back-propagate a scalar."""
        loss.backward()  # type: ignore[no-untyped-call]
        self.timer.mark("backward")

    def weigh(self, losses_B: Tensor, counts: Sequence[int] | None = None) -> Reweighted:
        """Weights over all ranks; of one micro-batch where its own counts are given."""
        weighed = self.reweighter.weigh(losses_B, self.step, counts or self.counts, self.gather)
        self.timer.mark("weights")
        return weighed

    def counts_of(self, part: slice) -> list[int]:
        """How many samples of a micro-batch each rank really brings."""
        return [min(max(count - part.start, 0), part.stop - part.start) for count in self.counts]

    def scored(self) -> Tensor:
        """Losses (B,) of all own samples, without gradients."""
        with torch.no_grad():
            return torch.cat([self.losses(part) for part in range(len(self.micro_batches))])

    def without_nonfinite(self) -> tuple["Work", tuple[int, ...]]:
        """The work without samples whose loss is not finite, and their places in the global batch.

        The others move to the front of each rank's share; what follows only fills up the shape.
        """
        own_B = self.scored()
        everybody = (self.gather or gather_losses)(own_B) if self.world > 1 else own_B
        rows = torch.isfinite(everybody).view(self.world, -1).tolist()
        starts = [part.start for part in sample_slices(self.counts)]
        dropped = tuple(
            starts[rank] + place
            for rank, row in enumerate(rows)
            for place in range(self.counts[rank])
            if not row[place]
        )
        if not dropped or len(dropped) == self.samples:
            return self, ()  # of nothing but such samples the step makes a halt
        counts = [sum(row[:count]) for row, count in zip(rows, self.counts, strict=True)]
        kept = [place for place in range(self.counts[self.rank]) if rows[self.rank][place]]
        tokens_BT = torch.cat(list(self.micro_batches))
        if kept:
            filled = kept + [kept[0]] * (len(tokens_BT) - len(kept))
            tokens_BT = tokens_BT[torch.tensor(filled, device=tokens_BT.device)]
        else:
            tokens_BT = torch.zeros_like(tokens_BT)
        sizes = [len(part) for part in self.micro_batches]
        return replace(self, micro_batches=torch.split(tokens_BT, sizes), counts=counts), dropped


def two_passes(work: Work) -> Reweighted:
    """Weights first, gradients after: all micro-batches but the last, which keep their graph, run again."""
    # 1. Forward: per-sample losses of the own samples.
    parts = work.parts
    places = range(len(parts))
    early, last = places[: -work.kept_graphs], places[-work.kept_graphs :]
    with torch.no_grad():
        scored = [work.losses(part) for part in early]
    with collecting(work.model, last=not early):
        live = {part: work.losses(part) for part in last}

        # 2.-5. Gather the losses of all ranks, normalise, score, weigh; own slice by global rank.
        reweighted = work.weigh(torch.cat([*scored, *(losses.detach() for losses in live.values())]))

        # 6. Back-propagate the weighted sum over the global batch; kept graphs at once, so that ranks
        # exchange their gradients once.
        weighted = [reweighted.loss(losses, parts[part]) for part, losses in live.items()]
        work.backward(weighted[0] if len(weighted) == 1 else torch.stack(weighted).sum())
    for part in early:
        with collecting(work.model, last=part == early[-1]):
            work.backward(reweighted.loss(work.losses(part), parts[part]))
    return reweighted


def uniform_pass(work: Work) -> Reweighted:
    """Where every weight is 1/M there is nothing to wait for: the plain mean, accumulated."""
    parts = work.parts
    seen = []
    for part, place in enumerate(parts):
        with collecting(work.model, last=part == len(parts) - 1):
            losses = work.losses(part)
            own = work.counts_of(place)[work.rank]
            # Averaged over ranks, a sum over M; in one piece the very operations of a mean.
            work.backward(losses[:own].sum() / (work.samples / work.world))
        seen.append(losses.detach())
    return work.weigh(torch.cat(seen))


def micro_passes(work: Work) -> Reweighted:
    """Weights within each micro-batch of all ranks, as the released code normalises them; one pass."""
    parts = work.parts
    weighed = []
    for part, place in enumerate(parts):
        counts = work.counts_of(place)
        with collecting(work.model, last=part == len(parts) - 1):
            losses = work.losses(part)
            reweighted = work.weigh(losses.detach(), counts)
            work.backward(reweighted.loss(losses) * (sum(counts) / work.samples))
        weighed.append(reweighted)
    return _in_order(work, weighed)


def lagged_pass(work: Work, lagged: LaggedRange) -> Reweighted:
    """One pass with unnormalised weights from the last step's range, divided by their sum at the end."""
    parts = work.parts
    r = work.reweighter.temperature.at(work.step)
    seen = []
    for part, place in enumerate(parts):
        with collecting(work.model, last=part == len(parts) - 1):
            losses = work.losses(part)
            own = work.counts_of(place)[work.rank]
            factors = lagged.unnormalised(losses[:own], r)
            work.backward((factors * losses[:own]).sum() * (work.world / work.samples))
        seen.append(losses.detach())
    weighed = work.weigh(torch.cat(seen))
    factors_M = lagged.unnormalised(weighed.losses_M, r)
    total = factors_M.sum()
    _scale_gradients(work.model, work.samples / total)
    work.timer.mark("weights")
    weights_M = factors_M / total
    own_B = torch.zeros_like(weighed.own_weights_B)
    own_B[: work.counts[work.rank]] = weights_M[sample_slices(work.counts)[work.rank]]
    return replace(weighed, own_weights_B=own_B, weights_M=weights_M)


def _scale_gradients(model: nn.Module, factor: Tensor) -> None:
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    torch._foreach_mul_([g.to_local() if isinstance(g, DTensor) else g for g in gradients], factor)


def _in_order(work: Work, weighed: Sequence[Reweighted]) -> Reweighted:
    """Micro-batches' losses and weights put together in the order of the global batch."""
    starts = [place.start for place in sample_slices(work.counts)]
    places = [
        starts[rank] + place.start + sample
        for place in work.parts
        for rank, count in enumerate(work.counts_of(place))
        for sample in range(count)
    ]
    device = weighed[0].losses_M.device
    order = torch.tensor(places).argsort().to(device, non_blocking=True)
    shares = [len(each.losses_M) / work.samples for each in weighed]
    return replace(
        weighed[0],
        own_weights_B=torch.cat(
            [each.own_weights_B * share for each, share in zip(weighed, shares, strict=True)]
        ),
        weights_M=torch.cat([each.weights_M * share for each, share in zip(weighed, shares, strict=True)])[
            order
        ],
        losses_M=torch.cat([each.losses_M for each in weighed])[order],
    )
