"""Global weights in one pass, approximately: losses normalised by the range of the step before.

The gradient of sum_i u_i l_i / Z is linear in the unnormalised weights u_i, so the normaliser Z may arrive
after every backward pass, exactly. What the strategies need before it is the smallest and largest loss of
the global batch; this takes the previous step's, and the loop logs how far that is from the exact weights.

Shapes: B samples of one micro-batch, M samples of the global batch.
"""

import torch
from torch import Tensor

from reproduce.method.strategies import SCORES, scaled

EXPONENT_LIMIT = 40.0
"""Largest magnitude of an unnormalised weight's exponent. Neither e^40 nor e^-40 leaves float32, not even
squared; without the lower one every weight of a step after an outlier could be 0, and so their sum."""


class LaggedRange:
    """The range of the last step's losses, and unnormalised weights from it."""

    def __init__(self, strategy: str, r: float, delta: float) -> None:
        """A strategy with a score f(h), or dro_kl.

        Raises:
            ValueError: a strategy that needs every loss at once.
        """
        if strategy not in SCORES and strategy != "dro_kl":
            raise ValueError(f"{strategy} needs every loss of the batch at once; use exact global weights")
        self.strategy, self.r, self.delta = strategy, r, delta
        self._range: Tensor | None = None
        # Of every score of the paper; keeps u within (0, 1]. Here, because a copy to the device synchronises.
        ends = torch.tensor([-delta, 0.0, delta])
        self._top = 0.0 if strategy == "dro_kl" else SCORES[strategy](ends, delta).max().item()

    @property
    def known(self) -> bool:
        """Whether a step has been seen."""
        return self._range is not None

    @property
    def range(self) -> Tensor | None:
        """(2,) smallest and largest loss of the last step, nats; None before the first."""
        return self._range

    @range.setter
    def range(self, low_and_high: Tensor | None) -> None:
        self._range = low_and_high

    def see(self, losses_M: Tensor) -> None:
        """Remember the range of a step's losses for the next one."""
        self._range = torch.stack(torch.aminmax(losses_M.detach().float()))

    def unnormalised(self, losses_B: Tensor, r: float | None = None) -> Tensor:
        """u (B,) float32 of losses (B,): the weights up to a factor that is the same for the whole step.

        Args:
            losses_B: losses in nats.
            r: temperature of this step, where warm-up has another than the one settled on.
        """
        assert self._range is not None, "no step has been seen"
        low, high = self._range
        losses_B = losses_B.detach().float()
        if self.strategy == "dro_kl":
            exponents_B = losses_B - high
        else:
            h_B = scaled(losses_B, low, high, self.delta).clamp(-self.delta, self.delta)
            exponents_B = SCORES[self.strategy](h_B, self.delta) - self._top
        exponents_B = exponents_B / (self.r if r is None else r)
        factors_B: Tensor = exponents_B.clamp(-EXPONENT_LIMIT, EXPONENT_LIMIT).exp()
        return factors_B
