"""How often each strategy gives a sample more than 2/M, the weight that the paper's proofs allow.

Float64. Shapes: B batches, M samples.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from reproduce.method.strategies import BOUNDED_STRATEGIES, CAP, STRATEGIES
from reproduce.studies.bounds_check import CAP_ROUNDING
from reproduce.studies.problems import LOSS_SHAPES, batch_losses
from reproduce.studies.proposition import in_chunks

PAIRWISE_NUMBERS = 1 << 21
"""capped_softmax works on (M, M) numbers a batch: it gets fewer batches where M is large."""


@dataclass(frozen=True, kw_only=True)
class CapCell:
    """One shape of losses, batch size, strategy and r."""

    shape: str
    samples: int
    strategy: str
    r: float
    batches: int
    over: int
    """Batches with a weight above 2/M."""
    typical: float
    """Mean over batches of M max w."""
    largest: float
    """Largest M w seen."""
    worst: float | None
    """Largest M w that any losses can give; None where the strategy's scores have no bound."""

    @property
    def share(self) -> float:
        """Share of batches above the cap."""
        return self.over / self.batches

    @property
    def step_factor(self) -> float:
        """What is left of the step 1/(4L) of the proof that needs the cap, at the largest weight seen."""
        return min(1.0, CAP / self.largest)


def worst_case(samples: int, r: float) -> float:
    """Largest M w of scores in [0, 1]: one sample at 1, the others at 0: M e^(1/r) / (e^(1/r) + M - 1)."""
    return samples / (1.0 + (samples - 1) * math.exp(-1.0 / r))


def safe_temperature(samples: int) -> float:
    """Smallest r at which the worst case keeps w <= 2/M: 1 / log(2 (M-1)/(M-2)); below 1/log 2 for no M.

    Raises:
        ValueError: M below 3, where no weight exceeds 2/M.
    """
    if samples < 3:
        raise ValueError(f"{samples} samples: no weight can exceed 2/M")
    return 1.0 / math.log(2 * (samples - 1) / (samples - 2))


def survey(
    sizes: Sequence[int],
    temperatures: Sequence[float],
    batches: int,
    seed: int,
    advance: Callable[[float], None],
) -> list[CapCell]:
    """Every shape of LOSS_SHAPES, batch size, strategy and r, on the same losses.

    `advance` is told the share that is done.
    """
    cells: list[CapCell] = []
    total = len(LOSS_SHAPES) * len(sizes) * len(STRATEGIES) * len(temperatures)
    for shape in LOSS_SHAPES:
        for samples in sizes:
            losses_BM = batch_losses(shape, batches, samples, seed)
            for strategy in STRATEGIES:
                for r in temperatures:
                    count = _batches(strategy, batches, samples)
                    top_B = samples * in_chunks(strategy, losses_BM[:count], r).amax(dim=-1)
                    cells.append(
                        CapCell(
                            shape=shape,
                            samples=samples,
                            strategy=strategy,
                            r=r,
                            batches=count,
                            over=int((top_B > CAP * (1 + CAP_ROUNDING)).sum()),
                            typical=float(top_B.mean()),
                            largest=float(top_B.max()),
                            worst=_worst(strategy, samples, r),
                        )
                    )
            advance(len(cells) / total)
    return cells


def _batches(strategy: str, batches: int, samples: int) -> int:
    return min(batches, max(8, PAIRWISE_NUMBERS // samples**2)) if strategy == "capped_softmax" else batches


def _worst(strategy: str, samples: int, r: float) -> float | None:
    if strategy == "uniform":
        return 1.0
    if strategy == "capped_softmax":
        return min(CAP, float(samples))
    if strategy == "readme_uniform":
        return worst_case(samples, r / 2)  # scores in [-1, 1]
    return worst_case(samples, r) if strategy in BOUNDED_STRATEGIES else None
