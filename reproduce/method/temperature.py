"""r(step): the temperature's schedules, the paper's and both released codes'.

The paper: r is large (100) for a number of warm-up steps, then constant. The released GPT-2 code trains
with exactly uniform weights for those steps; the released Llama code uses r = 100 in them.
"""

from dataclasses import dataclass
from typing import Literal, get_args

WarmupStyle = Literal["uniform", "large_r"]
WARMUP_STYLES: tuple[str, ...] = get_args(WarmupStyle)

LARGE_R = 100.0
"""The paper's r during warm-up: e^(1/100), one percent between the largest and the smallest weight."""


@dataclass(frozen=True, kw_only=True)
class Temperature:
    """The temperature of every step. Steps count from 1."""

    r: float
    """Temperature after the warm-up, > 0."""

    warmup_steps: int = 0
    """Steps 1 .. warmup_steps are warm-up."""

    warmup: WarmupStyle = "large_r"
    """uniform: exactly uniform weights in warm-up (released GPT-2 code). large_r: r = 100 (paper, and
    released Llama code)."""

    def __post_init__(self) -> None:
        if not self.r > 0:
            raise ValueError(f"r must be a positive number, found {self.r!r}")
        if self.warmup not in WARMUP_STYLES:
            raise ValueError(f"warmup must be one of {', '.join(WARMUP_STYLES)}, found {self.warmup!r}")

    def at(self, step: int) -> float | None:
        """Temperature of a step, None where the weights are exactly uniform."""
        if step > self.warmup_steps:
            return self.r
        return None if self.warmup == "uniform" else LARGE_R
