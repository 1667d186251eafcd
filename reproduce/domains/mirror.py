"""Domain weights of one step, pure: the mirror-descent update that both algorithms share, and what it weighs.

Shapes: K domains, M samples of the global batch. Weights and scores are float64, whatever the model's dtype.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

SMALLEST = 1e-300
"""A weight in play stays above 0: it can come back."""


def mirror_step(alpha_K: Tensor, gain_K: Tensor, smoothing: float = 0.0) -> Tensor:
    """alpha_i' proportional to alpha_i exp(gain_i), then (1 - c) alpha' + c / k over the domains in play.

    DoReMi, Algorithm 1, with gain = eta x excess loss; DoGE, Eq. for the domain weights, with gain =
    score / mu. In logarithms, so that no gain overflows.

    Args:
        alpha_K: weights that sum to 1; a domain with weight 0 is not in play and stays at 0.
        gain_K: finite.
        smoothing: c.
    """
    playing_K = (alpha_K > 0).to(alpha_K.dtype)
    # A weight that underflowed to 0 would be out of play for good.
    moved_K = torch.softmax(alpha_K.log() + gain_K, dim=0).clamp_min(SMALLEST) * playing_K
    return (1 - smoothing) * moved_K + smoothing * playing_K / playing_K.sum()


@dataclass(frozen=True, kw_only=True)
class Members:
    """Which samples of a global batch belong to which domain, on the device."""

    one_hot_MK: Tensor
    """1.0 where the sample is of the domain."""

    @classmethod
    def of(cls, domains_M: Tensor, domains: int) -> "Members":
        """From each sample's domain, an index below `domains`."""
        # Not one_hot, which on some devices reads the largest index first.
        all_K = torch.arange(domains, device=domains_M.device)
        return cls(one_hot_MK=(domains_M.unsqueeze(1) == all_K).double())

    @property
    def counts_K(self) -> Tensor:
        """Samples of each domain."""
        return self.one_hot_MK.sum(dim=0)

    @property
    def present_K(self) -> Tensor:
        """bool: whether the batch has a sample of the domain."""
        return self.counts_K > 0

    def means(self, values_M: Tensor, last_K: Tensor) -> Tensor:
        """Mean value of each domain's samples; of a domain without one, `last_K`."""
        # A product, not index_add_: on a GPU that adds in any order, and ranks must agree to the bit.
        sums_K = values_M.double() @ self.one_hot_MK
        return torch.where(self.present_K, sums_K / self.counts_K.clamp_min(1), last_K)

    def in_batch(self, alpha_K: Tensor) -> Tensor:
        """The weights of the domains that the batch has, scaled to sum to 1; 0 for the others.

        All 0 for a batch of an out-of-domain target alone: there is nothing to train on, and 0/0 would end
        the run.
        """
        present_K = alpha_K * self.present_K
        return present_K / present_K.sum().clamp_min(SMALLEST)

    def sample_weights(self, alpha_K: Tensor) -> Tensor:
        """(M,) float32, sum 1: a domain's weight, shared evenly by its samples.

        With them the weighted sum of sample losses is sum_i alpha_i x mean loss of domain i.
        """
        each_K = self.in_batch(alpha_K) / self.counts_K.clamp_min(1)
        return (self.one_hot_MK @ each_K).float()
