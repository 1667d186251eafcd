"""What both algorithms carry from step to step: weights, their sum over steps, each domain's last score.

Shapes: K domains.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_prep.batches import Batches, BatchPlan
from reproduce.domains.mirror import Members
from reproduce.errors import ResumeError, UserError
from reproduce.recipe.schema import DomainsSpec
from reproduce.training.model import LanguageModel
from reproduce.training.start import Start

COLLAPSED = 0.9
"""A domain with more than this share has taken over."""

ADVICE = (
    "train the reference on the natural mix (data.domain_weights=natural), raise train.global_batch, lower "
    "domains.eta to 0.1 (doge: raise domains.mu), and shuffle"
)
"""What users of the original DoReMi were told when their weights went to one domain."""


class DomainLearner:
    """The state of an algorithm in one run, and its words in the metrics."""

    def __init__(self, start: Start, model: LanguageModel) -> None:
        """Uniform weights over the domains in play, no step taken.

        Raises:
            UserError: fewer than two domains to weigh; a target that the data lacks.
        """
        assert start.recipe.domains is not None
        self.spec: DomainsSpec = start.recipe.domains
        self.mesh = start.mesh
        self.model = model
        self.parallel = start.recipe.parallel
        self.domains = start.batches.domains
        self.trained_K = trained(start.batches, self.spec, str(start.store.path)).to(self.mesh.device)
        self.alpha_K = self.trained_K.double() / self.trained_K.sum()
        self.total_K = torch.zeros_like(self.alpha_K)
        self.scores_K = torch.zeros_like(self.alpha_K)
        self._warn = start.events.warn
        self._warned = False
        self._absent: list[str] = []

    def members(self, plan: BatchPlan) -> Members:
        """The step's samples by domain."""
        counts_K = np.bincount(plan.domains_M, minlength=len(self.domains))
        self._absent = [name for name, count in zip(self.domains, counts_K, strict=True) if not count]
        return Members.of(self.mesh.put(torch.tensor(plan.domains_M)), len(self.domains))

    def move(self, alpha_K: Tensor) -> None:
        """The weights after this step's update."""
        self.alpha_K = alpha_K
        self.total_K = self.total_K + alpha_K

    def state(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        return {
            "domains/alpha": self.alpha_K,
            "domains/total": self.total_K,
            "domains/scores": self.scores_K,
        }

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """From a checkpoint.

        Raises:
            ResumeError: it holds no state of these domains.
        """
        for name, now in self.state().items():
            then = saved.get(name)
            if then is None or (then.shape, then.dtype) != (now.shape, now.dtype):
                raise ResumeError(
                    f"the checkpoint holds no {name} of {len(self.domains)} domains; choose another --out"
                )
        self.alpha_K, self.total_K, self.scores_K = (
            saved[name].to(self.mesh.device) for name in self.state()
        )

    def line(self, step: int) -> dict[str, Any]:
        """The step's weights, their mean over the steps so far, scores, entropy (nats) and largest weight."""
        alpha = self.alpha_K.tolist()
        named = dict(zip(self.domains, alpha, strict=True))
        largest = max(named, key=named.__getitem__)
        if named[largest] > COLLAPSED and not self._warned:
            self._warned = True
            self._warn(
                f"step {step}: domain {largest} has {named[largest]:.0%} of the weight, so little else is "
                f"trained on. What others were advised: {ADVICE}"
            )
        return {
            "alpha": named,
            "average_alpha": dict(zip(self.domains, (self.total_K / step).tolist(), strict=True)),
            "domain_score": dict(zip(self.domains, self.scores_K.tolist(), strict=True)),
            "alpha_entropy": entropy(alpha),
            "alpha_max": named[largest],
            "missing_domains": self._absent,
        }


def trained(batches: Batches, spec: DomainsSpec, where: str) -> Tensor:
    """(K,) bool: which domains are weighed; all that are drawn but an out-of-domain target.

    One that is never drawn would keep a share that no gradient has ever spoken of.

    Raises:
        UserError: fewer than two of them; a target that is none of the domains, or is never drawn, so that no
            score would ever change.
    """
    domains, target = batches.domains, spec.target
    if target is not None and target not in domains:
        raise UserError(f"domains.target: {where} has no domain '{target}'; there is {', '.join(domains)}")
    if target is not None and batches.probabilities_K[domains.index(target)] == 0:
        raise UserError(
            f"data.domain_weights gives the target '{target}' no weight, and the proxy draws by it; give it "
            "some, or use uniform"
        )
    drawn = [bool(share > 0) for share in batches.probabilities_K]
    found = torch.tensor([each and domain != target for domain, each in zip(domains, drawn, strict=True)])
    if int(found.sum()) < 2:
        names = ", ".join(domain for domain, each in zip(domains, drawn, strict=True) if each)
        raise UserError(
            f"{where} has the domains {', '.join(domains)}"
            + ("" if all(drawn) else f", of which data.domain_weights draws {names}")
            + ": weights need at least two to train on"
            + (" besides the target" if target is not None else "")
            + "; prepare more of them"
            + ("" if all(drawn) else ", or give others weight")
        )
    return found


def entropy(weights: list[float]) -> float:
    """-sum a ln a, nats."""
    return math.fsum(-a * math.log(a) for a in weights if a > 0)
