"""The paper's contribution, usable alone in anyone's training loop. Needs torch and nothing else.

losses_B = sample_losses(logits, labels)              # one forward
weights = SampleReweighter("linupper", r=0.4, warmup_steps=1000)
weights(losses_B, step).backward()                    # gathers over ranks where there are ranks
"""

from reproduce.method.heads import HEADS, Head, accepted_head
from reproduce.method.lagged import LaggedRange
from reproduce.method.losses import head_losses, head_token_losses, sample_losses
from reproduce.method.reweighter import (
    Gather,
    Reweighted,
    SampleReweighter,
    WeightStatistics,
    gather_losses,
    own_share,
    sample_slices,
    shares,
    weight_statistics,
    without_filling,
)
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
    "HEADS",
    "LOSS_GAP_STRATEGIES",
    "SCORES",
    "STRATEGIES",
    "WARMUP_STYLES",
    "Gather",
    "Head",
    "LaggedRange",
    "Reweighted",
    "SampleReweighter",
    "Temperature",
    "WeightStatistics",
    "accepted_head",
    "gather_losses",
    "head_losses",
    "head_token_losses",
    "normalise",
    "own_share",
    "sample_losses",
    "sample_slices",
    "sample_weights",
    "shares",
    "weight_statistics",
    "without_filling",
]
