"""One training step, to be read against Algorithm 1. No logging, no I/O, no branch on a strategy's name.

Shapes: B own samples of this rank, M samples of the global batch, T tokens. Steps count from 1.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from reproduce.method import LaggedRange, Reweighted, SampleReweighter
from reproduce.training.agreement import NotedGather
from reproduce.training.clock import NO_TIMER, PhaseTimer
from reproduce.training.mesh import Mesh
from reproduce.training.passes import Work, lagged_pass, micro_passes, two_passes, uniform_pass
from reproduce.training.sharding import clip_gradients

Scope = Literal["global", "micro", "lagged"]


@dataclass(frozen=True, kw_only=True)
class StepOutcome:
    """What happened, still on the device."""

    reweighted: Reweighted
    """Losses and weights of the global batch, and r."""
    grad_norm: Tensor
    """Global gradient norm before clipping, a scalar."""
    broken: Tensor
    """1.0 if this or an earlier step met a number that is not finite, or ranks disagreed; the update was then
    left out."""
    notes: Tensor | None = None
    """(W, NOTE) every rank's note; None where one process computes alone."""
    dropped: tuple[int, ...] = ()
    """Places in the global batch of samples that were left out because their loss is not finite."""


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """What stays the same from step to step."""

    seed: int
    micro_batch: int
    """Samples of one forward pass."""
    clip_norm: float
    scope: Scope = "global"
    """What a sample is weighed against; recipe.schema.ReweightingSpec."""
    global_batch: int | None = None
    """M; None: every rank's samples all count."""
    kept_graphs: int = 1
    """Micro-batches whose graph is kept until the weights are known."""
    drop_nonfinite: bool = False
    """Leave out samples whose loss is not finite, at the price of one more forward pass and a wait."""


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
    lagged: LaggedRange | None = None,
    passes: Callable[[Work], Reweighted] | None = None,
    note: Tensor | None = None,
    timer: PhaseTimer = NO_TIMER,
) -> StepOutcome:
    """Algorithm 1 for the own samples (B, T) of the global batch.

    Args:
        model: as sharding.share_model returns it; token ids (b, T) -> losses (b,).
        optimizer: fused, so that `found_inf` leaves an update out.
        reweighter: strategy and temperature.
        tokens_BT: own samples; B is the same on all ranks, filled up at the end where the shares are uneven.
        step: 1 for the first.
        lr: learning rate of this step.
        broken: the previous step's flag, 0.0 at first.
        mesh: where this rank computes.
        settings: what stays the same.
        lagged: the range of losses seen so far; scope lagged needs one.
        passes: how samples are weighed where no strategy does it; leaves the gradient of the update.
        note: what this rank tells the others; needed where there are others.
        timer: told what the time went to.
    """
    gather = NotedGather(note) if note is not None else None
    work = _work(model, reweighter, tokens_BT, step, mesh, settings, gather, timer)
    dropped: tuple[int, ...] = ()
    if settings.drop_nonfinite:
        work, dropped = work.without_nonfinite()

    # 1.-6. Per-sample losses, weights over the global batch, gradients of the weighted sum.
    optimizer.zero_grad(set_to_none=True)
    reweighted = (passes or _passes(work, settings.scope, lagged))(work)
    if lagged is not None:
        lagged.see(reweighted.losses_M)

    # 7. Clip and update, unless a number is not finite or ranks are not computing the same step.
    grad_norm = clip_gradients(model, settings.clip_norm)
    broken = torch.maximum(broken, 1.0 - _finite(reweighted, grad_norm).float())
    if gather is not None:
        broken = torch.maximum(broken, gather.disagreement())
    _update(optimizer, lr, unless=broken)
    timer.mark("optimizer")
    notes = None if gather is None else gather.notes
    return StepOutcome(
        reweighted=reweighted, grad_norm=grad_norm, broken=broken, notes=notes, dropped=dropped
    )


def _work(
    model: nn.Module,
    reweighter: SampleReweighter,
    tokens_BT: Tensor,
    step: int,
    mesh: Mesh,
    settings: StepSettings,
    gather: NotedGather | None,
    timer: PhaseTimer,
) -> Work:
    return Work(
        model=model,
        reweighter=reweighter,
        micro_batches=torch.split(tokens_BT, settings.micro_batch),
        counts=mesh.shares(settings.global_batch or mesh.world * len(tokens_BT)),
        rank=mesh.rank,
        gather=gather,
        kept_graphs=settings.kept_graphs,
        step=step,
        before_forward=_before_forward(mesh, settings, step),
        timer=timer,
    )


def _finite(reweighted: Reweighted, grad_norm: Tensor) -> Tensor:
    numbers = (grad_norm, reweighted.losses_M, reweighted.weights_M)
    return torch.stack([torch.isfinite(each).all() for each in numbers]).all()


def _update(optimizer: torch.optim.Optimizer, lr: float, *, unless: Tensor) -> None:
    """AdamW's step, left out on the device itself where `unless` is 1.0."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.found_inf = unless  # type: ignore[attr-defined]
    optimizer.step()


def _passes(work: Work, scope: Scope, lagged: LaggedRange | None) -> Callable[[Work], Reweighted]:
    if work.reweighter.is_uniform(work.step):
        return uniform_pass
    if scope == "micro":
        return micro_passes
    if scope == "lagged" and lagged is not None and lagged.known:
        return lambda work: lagged_pass(work, lagged)
    return two_passes


def _before_forward(
    mesh: Mesh, settings: StepSettings, step: int
) -> Callable[[int], AbstractContextManager[object]]:
    def prepare(part: int) -> AbstractContextManager[object]:
        mesh.seed(settings.seed, step, part)
        return mesh.autocast()

    return prepare
