"""DoReMi (Xie et al. 2023, Algorithm 1): more weight to domains where the proxy is worse than a reference.

A step of the proxy, on a batch that draws all domains alike:

    e_ij    = l_proxy(token) - l_reference(token)
    score_i = mean over the batch's tokens of domain i of max(e_ij, 0)       clipped by token
    alpha   = (1 - c) alpha' + c / k,  alpha'_i proportional to alpha_i exp(eta score_i)
    theta   : one step on sum_i alpha_i x mean token loss of domain i        not clipped

A domain that the batch lacks keeps its last score, and the others share its weight in theta's step. Losses
and excesses of all ranks are gathered before the update, so all ranks hold the same alpha to the bit.

Shapes: B own samples, M samples of the global batch, S predicted tokens of a sample, K domains.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from data_prep.batches import BatchPlan
from reproduce.domains.learner import DomainLearner
from reproduce.domains.mirror import mirror_step
from reproduce.domains.reference import load_reference, reference_sha256
from reproduce.method import Reweighted, gather_losses, own_share, without_filling
from reproduce.training.model import LanguageModel
from reproduce.training.passes import Work, two_passes
from reproduce.training.sharding import copy_to_ranks, prepare_blocks
from reproduce.training.start import Start


@dataclass(frozen=True, kw_only=True)
class DoReMiMaker:
    """Makes the rule of a proxy's run."""

    reference: Path
    """Run folder of the finished reference."""

    @property
    def identity(self) -> dict[str, str]:
        """The reference's weights."""
        return {"reference_sha256": reference_sha256(self.reference)}

    def __call__(self, start: Start, model: LanguageModel) -> "DoReMi":
        """Load the reference onto the device."""
        return DoReMi(start, model, load_reference(self.reference, start.recipe).to(start.mesh.device))


class DoReMi(DomainLearner):
    """The rule of a proxy's steps."""

    def __init__(self, start: Start, model: LanguageModel, reference: nn.Module) -> None:
        """`reference` has `token_losses` as the model has, on the mesh's device; it is never trained."""
        super().__init__(start, model)
        self._excess = ExcessModel(model, reference)
        self._seen: list[Tensor] = []
        self._weighed = False

    def module(self) -> nn.Module:
        """The proxy beside its reference, averaged over ranks."""
        prepare_blocks(self.model, self.parallel)
        return copy_to_ranks(self._excess, self.mesh)

    def passes(self, step: int, plan: BatchPlan, lr: float) -> Callable[[Work], Reweighted]:
        """Weights first, gradients after, as for any strategy; see the module's docstring."""
        self._members = self.members(plan)
        self._seen, self._weighed = [], False
        return lambda work: two_passes(_ExcessWork.of(work, self))

    def losses(self, work: Work, part: int) -> Tensor:
        """Losses (b,) of a micro-batch; its excess is kept until the batch is weighed."""
        losses, excess = work.model(work.micro_batches[part], not self._weighed)
        if not self._weighed:
            self._seen.append(excess)
        result: Tensor = losses
        return result

    def weigh(self, work: Work, losses_B: Tensor) -> Reweighted:
        """Update alpha by the whole batch's excess, and give each sample its share of its domain's weight."""
        self._weighed = True
        sent = torch.cat([losses_B.detach().float(), torch.cat(self._seen)])
        everybody = (work.gather or gather_losses)(sent) if work.world > 1 else sent
        rows = everybody.view(work.world, 2, -1)
        losses_M, excess_M = (without_filling(rows[:, i].flatten(), work.counts) for i in (0, 1))
        self.scores_K = self._members.means(excess_M, self.scores_K)
        self.move(mirror_step(self.alpha_K, self.spec.eta * self.scores_K, self.spec.smoothing))
        weights_M = self._members.sample_weights(self.alpha_K)
        return Reweighted(
            own_weights_B=own_share(weights_M, work.counts, work.rank, len(losses_B)),
            weights_M=weights_M,
            losses_M=losses_M,
            r=None,
            uniform=False,
            world=work.world,
        )


class ExcessModel(nn.Module):
    """Token ids -> the proxy's losses, with their graph, and each sample's mean clipped excess, without."""

    def __init__(self, proxy: LanguageModel, reference: nn.Module) -> None:
        """The reference is no part of the module: it has no gradient, no optimizer state, no checkpoint."""
        super().__init__()
        self.proxy = proxy
        self._reference: Any = (reference,)

    def forward(self, tokens_BT: Tensor, scored: bool) -> tuple[Tensor, Tensor | None]:
        """Losses (B,) float32, nats a token; excess (B,) where it is asked for, else None."""
        ours_BS = self.proxy.token_losses(tokens_BT)
        losses_B = ours_BS.mean(dim=1)
        if not scored:
            return losses_B, None
        with torch.no_grad():
            theirs_BS = self._reference[0].token_losses(tokens_BT)
            return losses_B, clipped_excess(ours_BS, theirs_BS)


def clipped_excess(ours_BS: Tensor, theirs_BS: Tensor) -> Tensor:
    """(B,): max(ours - theirs, 0) of every token, then the mean. Never negative, unlike the mean's clip."""
    return (ours_BS.detach() - theirs_BS).clamp_min(0).mean(dim=1)


@dataclass(frozen=True, kw_only=True)
class _ExcessWork(Work):
    """A step's work in which DoReMi gives losses and weights."""

    rule: DoReMi

    @classmethod
    def of(cls, work: Work, rule: DoReMi) -> "_ExcessWork":
        return cls(rule=rule, **{field.name: getattr(work, field.name) for field in fields(Work)})

    def losses(self, part: int) -> Tensor:
        with self.before_forward(part):
            losses = self.rule.losses(self, part)
        self.timer.mark("forward")
        return losses

    def weigh(self, losses_B: Tensor, counts: object = None) -> Reweighted:
        weighed = self.rule.weigh(self, losses_B)
        self.timer.mark("weights")
        return weighed
