"""What `reweight toy dro` can be asked for. Loads without torch, for `--help`.

The lambdas are Table 12's and the share of outliers is B.3's; the learning rates and all else are ours.
"""

import math
from dataclasses import asdict, dataclass, field

from reproduce.errors import UserError
from reproduce.studies.options import distinct, fits_memory, positive_integer, within
from reproduce.studies.settings import (
    BASELINE,
    LAMBDA_STRATEGIES,
    RUN_BYTES,
    DataSetup,
    Method,
    check_run,
    check_thresholds,
    chunk_bytes,
)
from reproduce.study import Scalar

TOLERANCE = 0.02
"""The search ends once the smallest rate seen to diverge is at most so much above the largest seen not to."""

CHECKED = (0.25, 0.5, 0.75, 0.9)
"""At these shares of the rate that was found, each run is repeated: none of them should diverge either."""

LARGEST_RATE = 1e6


@dataclass(frozen=True, kw_only=True)
class DroSettings:
    """`reweight toy dro`."""

    data: DataSetup = field(default_factory=lambda: DataSetup(outlier_share=0.25))
    lambdas: tuple[float, ...] = (0.4, 1.0, 2.0, 5.0, 10.0)
    """Of dro_kl, and of capped_softmax beside it, in units of the loss."""
    r: tuple[float, ...] = (0.4, 1.0)
    """LinUpper's temperatures; Figure 8 has 0.4."""
    lrs: tuple[float, ...] = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
    """Ours: from where uniform is too slow for the steps to where most methods diverge."""
    momentum: float = 0.0
    batch: int = 32
    steps: int = 1000
    seeds: int = 30
    """How many; each has its own data and batches."""
    first_seed: int = 1
    thresholds: tuple[float, ...] = (0.5, 0.3, 0.25, 0.2, 0.15, 0.1)
    """Shares of the held-out loss at the start, parameters 0."""
    search_seeds: int = 20
    """Seeds of the search for the largest stable learning rate, from the first on."""
    search_steps: int = 300
    """Steps within which a run of the search may diverge."""
    search_lrs: tuple[float, ...] = (0.001, 10.0)
    """Lowest and highest learning rate of the search."""
    workers: int = 1
    """Threads; the result does not depend on them."""

    def __post_init__(self) -> None:
        check_run(self.r, 1.0, self.momentum, self.batch, self.steps, self.seeds, self.first_seed)
        for option, values in (("--lambda", self.lambdas), ("--lr", self.lrs)):
            distinct(option, values)
        for each in self.lambdas:
            within("--lambda", each, 1e-6, 1e6, "a temperature")
        for each in self.lrs:
            within("--lr", each, 0.0, LARGEST_RATE, "a learning rate", low_open=True)
        check_thresholds(self.thresholds)
        positive_integer("--search-seeds", self.search_seeds)
        positive_integer("--search-steps", self.search_steps)
        self._check_search()
        self._check_memory()

    def _check_search(self) -> None:
        if len(self.search_lrs) != 2:
            given = ",".join(f"{each:g}" for each in self.search_lrs)
            raise UserError(f"--search-lr {given[:60]}: expected two learning rates, LOWEST,HIGHEST")
        for each in self.search_lrs:
            within("--search-lr", each, 0.0, LARGEST_RATE, "a learning rate", low_open=True)
        low, high = self.search_lrs
        if not high > low * (1 + TOLERANCE):
            raise UserError(f"--search-lr {low:g},{high:g}: expected a rate and one more than 2% above it")

    def _check_memory(self) -> None:
        runs = self.seeds * len(self.methods) * len(self.lrs)
        seeds = max(self.seeds, self.search_seeds)
        lanes = self.methods * max(len(self.lrs), 2 * len(CHECKED) + 1)
        a_seed = self.data.bytes_a_world + 4 * max(self.steps, self.search_steps) * self.batch
        fits_memory(
            f"{runs:,} runs of {seeds:,} seeds",
            2 * seeds * a_seed
            + runs * (RUN_BYTES + 8 * len(self.thresholds))
            + self.workers * chunk_bytes(self.data, lanes, self.batch, seeds),
            "ask for fewer --seeds, --samples or --steps, or a smaller --batch",
        )

    @property
    def seed_numbers(self) -> range:
        """Seeds of the runs at given learning rates."""
        return range(self.first_seed, self.first_seed + self.seeds)

    @property
    def search_seed_numbers(self) -> range:
        """Seeds of the search."""
        return range(self.first_seed, self.first_seed + self.search_seeds)

    @property
    def methods(self) -> list[Method]:
        """Uniform, LinUpper at each r, then dro_kl and capped_softmax at each lambda."""
        pairs = [
            (BASELINE, 1.0),
            *(("linupper", each) for each in self.r),
            *((name, each) for name in LAMBDA_STRATEGIES for each in self.lambdas),
        ]
        return [Method(strategy=name, r=each, momentum=self.momentum) for name, each in pairs]

    @property
    def halvings(self) -> int:
        """Steps of the bisection."""
        low, high = self.search_lrs
        return math.ceil(math.log2(math.log(high / low) / math.log1p(TOLERANCE)))

    def as_settings(self) -> dict[str, Scalar | tuple[Scalar, ...]]:
        """As study.json holds them, flat. How many threads worked is none."""
        own = {name: value for name, value in asdict(self).items() if name not in ("data", "workers")}
        return {**asdict(self.data), **own}
