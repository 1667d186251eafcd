"""Theorems 1 and 2: every method, problem and algorithm, reduced to what tables and figures need.

Shapes: S seeds, K methods, T steps, P recorded numbers of steps.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reproduce.method.strategies import RANGE_FLOOR
from reproduce.statistics import Interval, mean_interval, t_quantile
from reproduce.studies.bounds_check import (
    Held,
    capped_road_constant,
    classic_terms,
    delta_terms,
    failed_steps,
    hold,
    over_cap,
)
from reproduce.studies.bounds_run import ALGORITHMS, Algorithm, Trace, descend, step_smoothness
from reproduce.studies.bounds_settings import BoundsSettings
from reproduce.studies.ensemble import recorded_steps
from reproduce.studies.problems import LOSSES, minibatches, regression_problem
from reproduce.studies.settings import Method
from reproduce.studies.summary import ALPHA

POINTS = 60
"""Of a curve, at most."""


@dataclass(frozen=True, kw_only=True)
class Race:
    """One problem and algorithm, all methods and seeds."""

    problem: str
    algorithm: Algorithm
    methods: tuple[Method, ...]
    held: Held
    steps: int
    points: tuple[int, ...]
    """Numbers of steps at which the curves are kept."""
    gap_curve: Tensor
    """(P, S, K): the gap that the theorem bounds."""
    classic_curve: Tensor
    """(P, S, K)."""
    delta_curve: Tensor
    """(P, S, K): the bound's other term."""
    weighted: Tensor
    """(S, K): (1/T) sum_t sum_i w_i g_i(theta_t)."""
    steps_over_cap: Tensor
    """(S, K): steps with a weight above 2/M."""
    failed_within_cap: int
    """Failed steps among those that keep the cap."""
    step_factor: Tensor
    """(S,): L over the smoothness that the step follows; 1 unless that is the mean loss's."""
    top_weight: Tensor
    """(K,): largest M w."""
    capped_road_classic: Tensor
    """(S, K): classic term of the proof that needs the cap, at the step these weights leave it."""
    lemma_ratio: float
    """Largest ||grad f_i||^2 / (2 L g_i)."""
    floor_step: Tensor
    """(S, K): first step whose losses span less than RANGE_FLOOR, infinite if none; weights even out."""

    @property
    def name(self) -> str:
        """Problem and algorithm."""
        return f"{self.problem}, {self.algorithm.name}"

    @property
    def seeds(self) -> int:
        """Runs of a method."""
        return len(self.held.gap)

    def excess(self, k: int) -> Interval | None:
        """Mean over seeds of gap less bound, in units of the classic term; None where a run is not finite.

        That unit does not depend on the batches, so in expectation over them the theorem holds in it too.
        """
        values = ((self.held.gap - self.held.bound) / self.held.classic)[:, k].tolist()
        return mean_interval(values) if all(map(math.isfinite, values)) else None


def run_races(settings: BoundsSettings, advance: Callable[[float], None]) -> list[Race]:
    """All problems by all algorithms; `advance` is told the share that is done."""
    methods = settings.methods
    batches = minibatches(settings.seed_numbers, settings.steps, settings.samples, settings.batch)
    races: list[Race] = []
    total = len(LOSSES) * len(ALGORITHMS) * settings.steps
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        advance(done / total)

    for loss in LOSSES:
        problem = regression_problem(loss, settings.seed_numbers, settings.samples, settings.features)
        for algorithm in ALGORITHMS:
            races.append(reduced(descend(problem, algorithm, methods, batches, count), methods))
    return races


def reduced(trace: Trace, methods: Sequence[Method]) -> Race:
    """A trace without its steps."""
    steps = len(trace.gap)
    points = recorded_steps(steps, POINTS)[1:]
    at = torch.tensor(points) - 1
    over = over_cap(trace)
    scale = step_smoothness(trace.problem, trace.algorithm).unsqueeze(-1) * trace.distance[0] / steps
    below = trace.spread < RANGE_FLOOR
    first = below.to(torch.int8).argmax(dim=0).double()
    return Race(
        problem=trace.problem.loss.name,
        algorithm=trace.algorithm,
        methods=tuple(methods),
        held=hold(trace),
        steps=steps,
        points=points,
        gap_curve=trace.judged_gap[at],
        classic_curve=classic_terms(trace)[at],
        delta_curve=delta_terms(trace)[at],
        weighted=trace.weighted.mean(dim=0),
        steps_over_cap=over.sum(dim=0),
        failed_within_cap=int((failed_steps(trace) & ~over).sum()),
        step_factor=trace.problem.smoothness / step_smoothness(trace.problem, trace.algorithm),
        top_weight=trace.top_weight.amax(dim=(0, 1)),
        capped_road_classic=capped_road_constant(trace) * scale,
        lemma_ratio=float(trace.lemma_ratio.max()),
        floor_step=torch.where(below.any(dim=0), first, torch.inf),
    )


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Whether the bound orders the methods as the measured gaps do."""

    pairs: int
    """Pairs of methods whose gaps and bounds both differ, at ALPHA shared by all pairs."""
    agree: int
    """Of those, pairs in which the method with the lower bound has the lower gap."""


def ranking(race: Race) -> Ranking:
    """Every pair of methods, paired by seed."""
    gap, bound = race.held.gap, race.held.bound
    K = gap.shape[1]
    comparisons = K * (K - 1) // 2
    by_gap, by_bound = (_signs(values, comparisons) for values in (gap, bound))
    both = torch.triu(by_gap * by_bound, diagonal=1)
    return Ranking(pairs=int((both != 0).sum()), agree=int((both > 0).sum()))


def _signs(values: Tensor, comparisons: int) -> Tensor:
    """(S, K) -> (K, K): sign of the mean difference of two methods, 0 where its interval holds 0."""
    S = len(values)
    if S < 2:
        return torch.zeros(values.shape[1], values.shape[1])
    differences = values.unsqueeze(2) - values.unsqueeze(1)
    mean = differences.mean(dim=0)
    reach = t_quantile(1 - ALPHA / (2 * comparisons), S - 1) * differences.std(dim=0) / math.sqrt(S)
    return torch.where(mean.abs() > reach, torch.sign(mean), 0.0)
