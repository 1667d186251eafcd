"""What `reweight toy bounds` can be asked for. The paper gives no sizes: ours. Loads without torch."""

from dataclasses import asdict, dataclass

from reproduce.errors import UserError
from reproduce.recipe.checks import STRATEGY_NAMES
from reproduce.studies.options import distinct, fits_memory, positive_integer, within
from reproduce.studies.settings import BASELINE, LAMBDA_STRATEGIES, Method
from reproduce.study import Scalar

STUDIED = tuple(name for name in STRATEGY_NAMES if name != "readme_uniform")
"""Strategies that run; of readme_uniform, a defect of the released README, only the weights are looked at."""

SMALLEST_R = 0.01
"""At 0.001 the exponents of Eq. 4 reach 1000, and scipy's solver cannot follow."""

RECORDS = 10
"""Numbers kept of a step of a run."""


@dataclass(frozen=True, kw_only=True)
class BoundsSettings:
    """`reweight toy bounds`."""

    seeds: int = 20
    """How many; each has its own data, minimiser and minibatches."""
    first_seed: int = 1
    steps: int = 500
    samples: int = 64
    """N of each problem."""
    features: int = 10
    """D; below N the minimiser is unique."""
    batch: int = 16
    """M of a minibatch, drawn without replacement."""
    r: tuple[float, ...] = (0.4, 1.0)
    """Temperatures of the strategies that score normalised losses."""
    lambdas: tuple[float, ...] = (0.1, 1.0)
    """Of dro_kl and capped_softmax, in units of the loss."""
    cap_batches: int = 2000
    """Batches of random losses a cell of the survey of w <= 2/M."""
    cap_sizes: tuple[int, ...] = (8, 32, 48, 128, 512)
    """Batch sizes of that survey; 32, 48 and 128 are the paper's."""
    cap_r: tuple[float, ...] = (0.1, 0.4, 1.0, 2.0, 5.0)
    """Its temperatures, and Proposition 1's; 0.4, 1 and 2 are the paper's."""
    problems: int = 3
    """Solved by scipy for each shape of losses, batch size and r of Proposition 1."""

    def __post_init__(self) -> None:
        for name in ("seeds", "steps", "samples", "features", "batch", "cap_batches", "problems"):
            positive_integer(f"--{name.replace('_', '-')}", getattr(self, name))
        within("--seed", self.first_seed, 0, 2**31, "a seed")
        for option, values in (("--r", self.r), ("--lambda", self.lambdas), ("--cap-r", self.cap_r)):
            distinct(option, values)
            for each in values:
                within(option, each, SMALLEST_R, 1e6, "a temperature")
        distinct("--cap-size", self.cap_sizes)
        for size in self.cap_sizes:
            within("--cap-size", size, 3, 1e6, "a batch size (no weight of two samples exceeds 2/M)")
        if not 3 <= self.batch <= self.samples:
            raise UserError(
                f"--batch {self.batch}: expected 3 to {self.samples}, the --samples it is drawn from"
            )
        self._check_memory()

    def _check_memory(self) -> None:
        runs = self.seeds * len(self.methods)
        capped = self.seeds * len(self.lambdas)
        numbers = 3 * RECORDS * self.steps * runs + 8 * runs * (self.samples + self.features)
        numbers += 6 * capped * self.samples**2  # capped_softmax compares every pair of samples
        numbers += self.seeds * (3 * self.samples * self.features + self.steps * self.batch)
        numbers += 2 * self.steps * self.samples
        fits_memory(
            f"{runs:,} runs of {self.steps:,} steps on {self.samples:,} samples",
            8 * numbers,
            "ask for fewer --seeds, --steps or --samples",
        )
        size = max(self.cap_sizes)
        fits_memory(
            f"{self.cap_batches:,} batches of {size:,} losses",
            8 * (8 * self.cap_batches * size + 6 * size**2),
            "ask for fewer --cap-batches or a smaller --cap-size",
        )

    @property
    def seed_numbers(self) -> range:
        """The seeds."""
        return range(self.first_seed, self.first_seed + self.seeds)

    @property
    def methods(self) -> list[Method]:
        """Uniform first; every other strategy at every r, or lambda."""
        others = [
            Method(strategy=name, r=each)
            for name in STUDIED
            if name != BASELINE
            for each in (self.lambdas if name in LAMBDA_STRATEGIES else self.r)
        ]
        return [Method(strategy=BASELINE, r=1.0), *others]

    def as_settings(self) -> dict[str, Scalar | tuple[Scalar, ...]]:
        """As study.json holds them."""
        return asdict(self)
