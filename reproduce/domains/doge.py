"""DoGE (Fan et al. 2024): more weight to domains whose gradient points where the target's does.

A step of the proxy, with g_j the gradient of domain j's mean token loss, clipped to a norm C:

    W_j     = <g_j, G>,  G = sum_i g_i (universal) or the target domain's gradient (out of domain)
    score_j = lr W_j                                                          scores: paper
              lr W_j / mean_i ||g_i||, clamped to [0, 5 lr]                   scores: released
    alpha_j proportional to alpha_j exp(score_j / mu), smoothed
    theta   : one step along sum_j alpha_j g_j, the same gradients again

A domain that the batch lacks keeps its last score, and the others share its weight in theta's step. Without
the target no score changes. Gradients are summed over ranks before anything is computed from them, so all
ranks hold the same alpha; that is why the model is not wrapped in DDP here.

Shapes: B own samples, M samples of the global batch, T tokens, K domains, P parameters.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data_prep.batches import BatchPlan
from reproduce.domains.gradients import DomainGradients
from reproduce.domains.learner import DomainLearner
from reproduce.domains.mirror import mirror_step
from reproduce.errors import StorageError
from reproduce.method import Reweighted, gather_losses, own_share, sample_slices, without_filling
from reproduce.training.model import LanguageModel
from reproduce.training.passes import Work
from reproduce.training.sharding import prepare_blocks
from reproduce.training.start import Start

SCORE_LIMIT = 5.0
"""Released scores lie in [0, this x learning rate]."""

EPSILON = 1e-6
"""Added to norms that are divided by, as in the released code and in torch's clipping."""


class DoGEMaker:
    """Makes the rule of a proxy's run."""

    identity: dict[str, str] = {}  # noqa: RUF012
    """Nothing but recipe and data decides the result."""

    def __call__(self, start: Start, model: LanguageModel) -> "DoGE":
        """A rule that has seen no step."""
        return DoGE(start, model)


class DoGE(DomainLearner):
    """The rule of a proxy's steps."""

    def __init__(self, start: Start, model: LanguageModel) -> None:
        """As DomainLearner."""
        super().__init__(start, model)
        self._target = None if self.spec.target is None else self.domains.index(self.spec.target)

    def module(self) -> nn.Module:
        """The model itself on its device.

        Raises:
            StorageError: no memory there for a gradient a domain.
        """
        prepare_blocks(self.model, self.parallel)
        self.model.to(self.mesh.device)
        parameters = list(self.model.parameters())
        try:
            self._gradients = DomainGradients(parameters, len(self.domains), self.spec.gradients_on)
        except torch.OutOfMemoryError:
            size = 4 * len(self.domains) * sum(parameter.numel() for parameter in parameters)
            raise StorageError(
                f"{len(self.domains)} gradients of the model, {size / 1e9:,.1f} GB, do not fit on the GPU "
                "beside it; keep them in host memory with --set domains.gradients_on=host"
            ) from None
        return self.model

    def passes(self, step: int, plan: BatchPlan, lr: float) -> Callable[[Work], Reweighted]:
        """A backward pass a domain, each over that domain's samples only; see the module's docstring."""
        self._members = self.members(plan)
        return lambda work: self._pass(work, plan, lr)

    def _pass(self, work: Work, plan: BatchPlan, lr: float) -> Reweighted:
        own_B = self._domain_gradients(work, plan)
        gram_KK = self._gradients.gram()
        clip_K = clip_factors(gram_KK, self.spec.clip_norm)
        inner_KK = gram_KK * clip_K * clip_K.unsqueeze(1)
        self.scores_K = self._scored(inner_KK, lr)
        self.move(mirror_step(self.alpha_K, self.scores_K / self.spec.mu, self.spec.smoothing))
        weights_K = self._members.in_batch(self.alpha_K)
        self._gradients.combine(weights_K * clip_K)
        work.timer.mark("weights")
        everybody = (work.gather or gather_losses)(own_B) if work.world > 1 else own_B
        weights_M = self._members.sample_weights(self.alpha_K)
        return Reweighted(
            own_weights_B=own_share(weights_M, work.counts, work.rank, len(own_B)),
            weights_M=weights_M,
            losses_M=without_filling(everybody, work.counts),
            r=None,
            uniform=False,
            world=work.world,
        )

    def _domain_gradients(self, work: Work, plan: BatchPlan) -> Tensor:
        """Leave every domain's gradient, summed over ranks; returns the own losses (B,)."""
        tokens_BT = torch.cat(list(work.micro_batches))
        own_domains = plan.domains_M[sample_slices(work.counts)[work.rank]]
        counts_K = np.bincount(plan.domains_M, minlength=len(self.domains))
        largest = len(work.micro_batches[0])
        losses_B = torch.zeros(len(tokens_BT), device=tokens_BT.device)
        part = 0
        for domain in range(len(self.domains)):
            with self._gradients.collecting(domain) as total:
                mine = np.flatnonzero(own_domains == domain)
                for places in _chunks(mine, largest):
                    where = self.mesh.put(torch.from_numpy(places))
                    with work.before_forward(part):
                        losses = work.model(tokens_BT[where])
                    work.timer.mark("forward")
                    work.backward(losses.sum() / int(counts_K[domain]))
                    losses_B[where] = losses.detach()
                    part += 1
                # Every rank takes part in every sum, also of a domain that it has no sample of.
                self.mesh.sum_over_ranks(total)
        return losses_B

    def _scored(self, inner_KK: Tensor, lr: float) -> Tensor:
        known_K = self._members.present_K & self.trained_K
        released = self.spec.scores == "released"
        scores_K = alignment_scores(inner_KK, lr, known_K, target=self._target, released=released)
        if self._target is not None:
            known_K = known_K & self._members.present_K[self._target]
        return torch.where(known_K, scores_K, self.scores_K)


def clip_factors(gram_KK: Tensor, limit: float) -> Tensor:
    """(K,): what each gradient is multiplied by so that its norm is at most `limit`."""
    return (limit / (gram_KK.diagonal().clamp_min(0).sqrt() + EPSILON)).clamp_max(1.0)


def alignment_scores(
    inner_KK: Tensor, lr: float, known_K: Tensor, *, target: int | None, released: bool
) -> Tensor:
    """score_j (K,) from the inner products of the domains' gradients; meaningful where `known_K`.

    Args:
        inner_KK: <g_i, g_j>.
        lr: learning rate of the step.
        known_K: bool, domains that are trained on and that the batch has.
        target: an out-of-domain target; None is universal.
        released: divide by the mean norm and clamp.
    """
    known = known_K.to(inner_KK.dtype)
    alignment_K = inner_KK @ known if target is None else inner_KK[:, target]
    if not released:
        return lr * alignment_K
    norms_K = inner_KK.diagonal().clamp_min(0).sqrt()
    mean_norm = (norms_K * known).sum() / known.sum().clamp_min(1)
    return (lr * alignment_K / (mean_norm + EPSILON)).clamp(0.0, SCORE_LIMIT * lr)


def _chunks(places: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(places), size):
        yield places[start : start + size]
