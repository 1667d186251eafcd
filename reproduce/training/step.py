"""One training step, to be read against Algorithm 1. No logging, no I/O, no branch on a strategy's name.

Shapes: B own samples, M samples of the global batch, T tokens. Steps count from 1.
"""

import itertools
from collections.abc import Sequence
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

    With k micro-batches the first k - 1 are scored without a graph and run again once the weights are known;
    the last keeps its graph. `broken` is the previous step's flag, 0.0 at first.
    """
    micro_batches = torch.split(tokens_BT, settings.micro_batch)

    def losses_of(part: int) -> Tensor:
        mesh.seed(settings.seed, step, part)
        with mesh.autocast():
            losses: Tensor = model(micro_batches[part])
        return losses

    # 1. Forward: per-sample losses of the own samples.
    last = len(micro_batches) - 1
    with torch.no_grad():
        scored = [losses_of(part) for part in range(last)]
    live = losses_of(last)

    # 2.-5. Gather the losses of all ranks, normalise, score, weigh; own slice by global rank.
    reweighted = reweighter.weigh(torch.cat([*scored, live.detach()]), step)
    parts = _slices(micro_batches)

    # 6. Back-propagate the weighted sum over the global batch.
    optimizer.zero_grad(set_to_none=True)
    _backward(reweighted.loss(live, parts[last]))
    for part in range(last):
        _backward(reweighted.loss(losses_of(part), parts[part]))

    # 7. Clip and update, unless a number is not finite.
    grad_norm = nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
    finite = torch.isfinite(reweighted.losses_M).all() & torch.isfinite(grad_norm)
    broken = torch.maximum(broken, 1.0 - finite.float())
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.found_inf = broken  # type: ignore[attr-defined]
    optimizer.step()
    return StepOutcome(reweighted=reweighted, grad_norm=grad_norm, broken=broken)


def _backward(loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]


def _slices(micro_batches: Sequence[Tensor]) -> list[slice]:
    """Where each micro-batch's samples lie among the own samples."""
    ends = itertools.accumulate((len(part) for part in micro_batches), initial=0)
    return [slice(start, end) for start, end in itertools.pairwise(ends)]
