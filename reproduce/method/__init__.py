"""The paper's contribution, usable alone in anyone's training loop. Needs torch and nothing else.

losses_B = sample_losses(logits, labels)              # one forward
weights = SampleReweighter("linupper", r=0.4, warmup_steps=1000)
own = weights(losses_B, step)                         # gathers over ranks where there are ranks
own.loss.backward()
"""

from reproduce.method.losses import head_losses, sample_losses
from reproduce.method.reweighter import Reweighted, SampleReweighter, WeightStatistics, weight_statistics
from reproduce.method.strategies import (
    BOUNDED_STRATEGIES,
    LOSS_GAP_STRATEGIES,
    SCORES,
    STRATEGIES,
    normalise,
    sample_weights,
)
from reproduce.method.temperature import WARMUP_STYLES, Temperature

__all__ = [
    "BOUNDED_STRATEGIES",
    "LOSS_GAP_STRATEGIES",
    "SCORES",
    "STRATEGIES",
    "WARMUP_STYLES",
    "Reweighted",
    "SampleReweighter",
    "Temperature",
    "WeightStatistics",
    "head_losses",
    "normalise",
    "sample_losses",
    "sample_weights",
    "weight_statistics",
]
