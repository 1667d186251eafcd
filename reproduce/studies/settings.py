"""What the toy regression and its sweep can be asked for. The paper lost its numbers: nearly all defaults are
ours. Loads without torch, for `--help`.
"""

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace

from reproduce.errors import UserError
from reproduce.recipe.checks import STRATEGY_NAMES
from reproduce.studies.options import distinct, fits_memory, known_strategies, positive_integer, within
from reproduce.study import Scalar

BASELINE = "uniform"
LAMBDA_STRATEGIES = ("dro_kl", "capped_softmax")
"""Their temperature is a lambda in units of the loss."""

LARGEST_SCALE = 1e6
"""Of noise and of outliers' features: beyond it float64 squares lose the clean samples."""

CHUNK_NUMBERS = 1 << 16
"""Losses of a step (worlds x methods x batch) that are worked on at a time: they stay in a core's cache."""

CURVE_POINTS = 120
"""Recorded steps of a run, at most, besides the start."""

RUN_BYTES = 8 * (CURVE_POINTS + 32)
"""Memory of what is kept of a run."""

IN_GRID = ("outlier_share", "outlier_scale", "noise")
"""Of the data's fields, those that a sweep varies."""

ROW_BYTES = 2000
"""Memory of a sweep's cell and method, and of its text, roughly."""


@dataclass(frozen=True, kw_only=True)
class DataSetup:
    """How a world's samples are drawn (Appendix B.1)."""

    features: int = 20
    """Inputs of the linear model, standard normal."""
    outputs: int = 1
    """Targets a sample; its loss is their mean squared error (Eq. 11)."""
    samples: int = 1000
    """Training samples, outliers among them."""
    test_samples: int = 1000
    """Held-out samples, all clean."""
    outlier_share: float = 0.1
    """Share of the training samples that are outliers, in [0, 1)."""
    outlier_scale: float = 1.0
    """Standard deviation of the outliers' features; the clean samples' is 1."""
    noise: float = 0.1
    """Standard deviation of the clean targets' noise."""

    def __post_init__(self) -> None:
        for name in ("features", "outputs", "samples", "test_samples"):
            positive_integer(f"--{name.replace('_', '-')}", getattr(self, name))
        within("--outlier-share", self.outlier_share, 0.0, 1.0, "a share", high_open=True)
        within("--outlier-scale", self.outlier_scale, 0.0, LARGEST_SCALE, "a standard deviation")
        within("--noise", self.noise, 0.0, LARGEST_SCALE, "a standard deviation")
        if self.outliers == self.samples:
            raise UserError(
                f"--outlier-share {self.outlier_share:g} of {self.samples} samples leaves no clean one; "
                "ask for a smaller share or more --samples"
            )

    @property
    def outliers(self) -> int:
        """Training samples that are outliers: the share, rounded."""
        return round(self.outlier_share * self.samples)

    @property
    def bytes_a_world(self) -> int:
        """Memory of one world's arrays while they are made and used."""
        return 8 * (self.samples + self.test_samples) * 2 * (self.features + 1 + self.outputs)


@dataclass(frozen=True, kw_only=True)
class Method:
    """How a run weighs its samples and steps."""

    strategy: str
    """A key of the method's `STRATEGIES`."""
    r: float
    """Temperature; the lambda of dro_kl and capped_softmax; without effect on uniform."""
    lr: float = 0.0
    """Learning rate: theta -= lr x velocity. May be left to the caller of `simulate`."""
    momentum: float = 0.0
    """velocity = momentum x velocity + weighted gradient."""

    @property
    def name(self) -> str:
        """Strategy and temperature, as tables and figures show it."""
        sign = "λ" if self.strategy in LAMBDA_STRATEGIES else "r"
        return self.strategy if self.strategy == BASELINE else f"{self.strategy} {sign}={self.r:g}"


@dataclass(frozen=True, kw_only=True)
class RegressionSettings:
    """`reweight toy regression`."""

    data: DataSetup = field(default_factory=DataSetup)
    strategies: tuple[str, ...] = STRATEGY_NAMES
    r: tuple[float, ...] = (0.4,)
    """Temperatures, lambdas for dro_kl and capped_softmax; 0.4 is the paper's for GPT-2."""
    lr: float = 0.01
    momentum: float = 0.0
    batch: int = 32
    steps: int = 1000
    seeds: int = 50
    """How many; each has its own data and batches."""
    first_seed: int = 1
    thresholds: tuple[float, ...] = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01)
    """Shares of the held-out loss at the start, parameters 0."""
    workers: int = 1
    """Threads; the result does not depend on them."""

    def __post_init__(self) -> None:
        known_strategies(self.strategies)
        check_run(self.r, self.lr, self.momentum, self.batch, self.steps, self.seeds, self.first_seed)
        check_thresholds(self.thresholds)
        runs = self.seeds * len(self.methods)
        a_seed = self.data.bytes_a_world + 4 * self.steps * self.batch
        fits_memory(
            f"{runs:,} runs of {self.seeds:,} seeds",
            self.seeds * a_seed
            + runs * (RUN_BYTES + 8 * len(self.thresholds))
            + self.workers * chunk_bytes(self.data, self.methods, self.batch, self.seeds),
            "ask for fewer --seeds, --samples or --steps, or a smaller --batch",
        )

    @property
    def seed_numbers(self) -> range:
        """The seeds."""
        return range(self.first_seed, self.first_seed + self.seeds)

    @property
    def methods(self) -> list[Method]:
        """Every strategy at every temperature; uniform, which has none, once and first."""
        return methods_of(self.strategies, self.r, self.lr, self.momentum)

    def as_settings(self) -> dict[str, Scalar | tuple[Scalar, ...]]:
        """As study.json holds them, flat; how many threads worked is none."""
        own = {name: value for name, value in asdict(self).items() if name not in ("data", "workers")}
        return {**asdict(self.data), **own}


@dataclass(frozen=True, kw_only=True)
class SweepSettings:
    """`reweight toy regression --sweep`: every combination of the tuples."""

    data: DataSetup = field(default_factory=DataSetup)
    """Its share, scale and noise are those of the grid."""
    outlier_shares: tuple[float, ...] = (0.0, 0.02, 0.05, 0.1, 0.25, 0.4)
    outlier_scales: tuple[float, ...] = (1.0, 3.0, 10.0)
    noises: tuple[float, ...] = (0.0, 0.1, 1.0)
    lrs: tuple[float, ...] = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256)
    batches: tuple[int, ...] = (8, 32, 128)
    strategies: tuple[str, ...] = ("uniform", "linupper", "quadratic", "extremes")
    r: tuple[float, ...] = (0.4, 1.0, 2.0)
    momentum: float = 0.0
    steps: int = 500
    seeds: int = 10
    first_seed: int = 1
    thresholds: tuple[float, ...] = (0.5, 0.1)
    """Shares of the held-out loss at the start."""
    workers: int = 1
    """Threads; the result does not depend on them."""

    def __post_init__(self) -> None:
        known_strategies(self.strategies)
        for option, values in (
            ("--outlier-share", self.outlier_shares),
            ("--outlier-scale", self.outlier_scales),
            ("--noise", self.noises),
            ("--lr", self.lrs),
            ("--batch", self.batches),
        ):
            distinct(option, values)
        for lr, batch in itertools.product(self.lrs, self.batches):
            check_run(self.r, lr, self.momentum, batch, self.steps, self.seeds, self.first_seed)
        check_thresholds(self.thresholds)
        rows = len(self.methods) * len(self.lrs) * len(self.batches)
        rows *= len(self.outlier_shares) * len(self.outlier_scales) * len(self.noises)
        a_seed = self.data.bytes_a_world + 4 * self.steps * max(self.batches)
        fits_memory(
            f"a sweep of {rows:,} cells x {self.seeds:,} seeds",
            rows * (ROW_BYTES + 8 * self.seeds * (len(self.thresholds) + 4))
            + self.seeds * a_seed
            + self.workers
            * max(
                chunk_bytes(self.data, self.methods * len(self.lrs), batch, self.seeds)
                for batch in self.batches
            ),
            "give fewer values, fewer --seeds or a smaller --batch",
        )
        _ = self.setups  # every combination must be a world

    @property
    def seed_numbers(self) -> range:
        """The seeds."""
        return range(self.first_seed, self.first_seed + self.seeds)

    @property
    def setups(self) -> list[DataSetup]:
        """Share outermost, then scale, then noise."""
        return [
            replace(self.data, outlier_share=share, outlier_scale=scale, noise=noise)
            for share, scale, noise in itertools.product(
                self.outlier_shares, self.outlier_scales, self.noises
            )
        ]

    @property
    def methods(self) -> list[Method]:
        """Every strategy at every temperature; uniform once and first."""
        return methods_of(self.strategies, self.r, self.lrs[0], self.momentum)

    def as_settings(self) -> dict[str, Scalar | tuple[Scalar, ...]]:
        """As study.json holds them, flat; the values in the grid stand for the data's own."""
        own = {name: value for name, value in asdict(self).items() if name not in ("data", "workers")}
        return {**{name: value for name, value in asdict(self.data).items() if name not in IN_GRID}, **own}


def chunk_bytes(data: DataSetup, methods: Sequence[Method], batch: int, seeds: int) -> int:
    """Memory of a step of the worlds a thread works on at a time; capped_softmax compares all pairs."""
    K, D1, Q = len(methods), data.features + 1, data.outputs
    worlds = min(seeds, max(1, CHUNK_NUMBERS // (K * batch)))
    paired = 3 * batch * sum(method.strategy == "capped_softmax" for method in methods)
    return 8 * worlds * batch * (2 * (D1 + Q) + K * (2 * Q + 6) + paired)


def methods_of(strategies: Sequence[str], r: Sequence[float], lr: float, momentum: float) -> list[Method]:
    """Every strategy at every temperature; uniform once, first, and also where it was not asked for."""
    others = [
        Method(strategy=name, r=each, lr=lr, momentum=momentum)
        for name in strategies
        if name != BASELINE
        for each in r
    ]
    return [Method(strategy=BASELINE, r=1.0, lr=lr, momentum=momentum), *others]


def check_run(
    r: Sequence[float], lr: float, momentum: float, batch: int, steps: int, seeds: int, first_seed: int
) -> None:
    """UserError for what no run can have."""
    distinct("--r", r)
    for each in r:
        within("--r", each, 1e-6, 1e6, "a temperature")
    within("--lr", lr, 0.0, 1e6, "a learning rate", low_open=True)
    within("--momentum", momentum, 0.0, 1.0, "a momentum", high_open=True)
    for option, count in (("--batch", batch), ("--steps", steps), ("--seeds", seeds)):
        positive_integer(option, count)
    within("--seed", first_seed, 0, 2**31, "a seed")


def check_thresholds(thresholds: Sequence[float]) -> None:
    """UserError for a threshold that nothing can cross."""
    distinct("--threshold", thresholds)
    for each in thresholds:
        within("--threshold", each, 0.0, 1.0, "a share of the loss at the start", low_open=True)
