"""One training step, to be read against Algorithm 1. No logging, no I/O, no branch on a strategy's name.

Shapes: B own samples, M samples of the global batch, T tokens. Steps count from 1.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reproduce.method import Reweighted, SampleReweighter
from reproduce.training.mesh import Mesh


@dataclass(frozen=True, kw_only=True)
class StepOutcome:
    """What happened, still on the device."""

    reweighted: Reweighted
    """Losses and weights of the global batch, and r."""
    grad_norm: Tensor
    """Global gradient norm before clipping, a scalar."""
    broken: Tensor
    """1.0 if this or an earlier step met a number that is not finite; the update was then left out."""


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """What stays the same from step to step."""

    seed: int
    micro_batch: int
    """Samples of one forward pass."""
    clip_norm: float


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    reweighter: SampleReweighter,
    tokens_BT: Tensor,
    *,
    step: int,
    lr: float,
    broken: Tensor,
    mesh: Mesh,
    settings: StepSettings,
) -> StepOutcome:
    """Algorithm 1 for the own samples (B, T) of the global batch; weights are exact over the global batch.

    `broken` is the previous step's flag, 0.0 at first.
    """
    micro_batches = torch.split(tokens_BT, settings.micro_batch)

    def losses_of(part: int) -> Tensor:
        mesh.seed(settings.seed, step, part)
        with mesh.autocast():
            losses: Tensor = model(micro_batches[part])
        return losses

    # 1.-6. Per-sample losses, weights over the global batch, gradients of the weighted sum.
    optimizer.zero_grad(set_to_none=True)
    passes = _one_pass if reweighter.is_uniform(step) else _two_passes
    reweighted = passes(losses_of, _slices(micro_batches), reweighter, step)

    # 7. Clip and update, unless a number is not finite.
    grad_norm = nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
    finite = torch.isfinite(reweighted.losses_M).all() & torch.isfinite(grad_norm)
    broken = torch.maximum(broken, 1.0 - finite.float())
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.found_inf = broken  # type: ignore[attr-defined]
    optimizer.step()
    return StepOutcome(reweighted=reweighted, grad_norm=grad_norm, broken=broken)


def _two_passes(
    losses_of: Callable[[int], Tensor], parts: Sequence[slice], reweighter: SampleReweighter, step: int
) -> Reweighted:
    """Weights first, gradients after: all micro-batches but the last, which keeps its graph, run again."""
    # 1. Forward: per-sample losses of the own samples.
    *early, last = range(len(parts))
    with torch.no_grad():
        scored = [losses_of(part) for part in early]
    live = losses_of(last)

    # 2.-5. Gather the losses of all ranks, normalise, score, weigh; own slice by global rank.
    reweighted = reweighter.weigh(torch.cat([*scored, live.detach()]), step)

    # 6. Back-propagate the weighted sum over the global batch.
    _backward(reweighted.loss(live, parts[last]))
    for part in early:
        _backward(reweighted.loss(losses_of(part), parts[part]))
    return reweighted


def _one_pass(
    losses_of: Callable[[int], Tensor], parts: Sequence[slice], reweighter: SampleReweighter, step: int
) -> Reweighted:
    """Where every weight is 1/M there is nothing to wait for: the plain mean, accumulated."""
    seen = []
    own = parts[-1].stop
    for part, samples in enumerate(parts):
        losses = losses_of(part)
        _backward(losses.mean() * ((samples.stop - samples.start) / own))
        seen.append(losses.detach())
    return reweighter.weigh(torch.cat(seen), step)


def _backward(loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]


def _slices(micro_batches: Sequence[Tensor]) -> list[slice]:
    """Where each micro-batch's samples lie among the own samples."""
    ends = itertools.accumulate((len(part) for part in micro_batches), initial=0)
    return [slice(start, end) for start, end in itertools.pairwise(ends)]
