"""Weighted gradient descent as Theorems 1 and 2 have it, with everything recorded that their bounds speak of.

    z_{t+1} = z_t - eta sum_i w_i grad f_i(theta_t)
    theta_{t+1} = (lambda_{t+1} theta_t + z_{t+1}) / (lambda_{t+1} + 1),      theta_0 = z_0 = 0

With lambda = 0 that is plain descent, theta = z; with lambda_t = t/2 it is heavy ball in the
iterate-averaging form of Sebbouh et al. (2021). Float64.

Shapes: S seeds, K methods, M samples of a step, D features, T steps.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reproduce.studies.ensemble import Weigher
from reproduce.studies.problems import Problem, residuals
from reproduce.studies.settings import Method


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """A way to descend, and its bound: constant x L ||theta_0 - theta*||^2 / T + delta term."""

    name: str
    source: str
    """The statement it is held against."""
    minibatch: bool = False
    heavy_ball: bool = False
    step: float = 0.5
    """Step size eta, in units of 1/L."""
    constant: float = 2.0
    by_mean: bool = False
    """Step and bound follow L_F, the smoothness of the mean loss, in place of L: that needs w <= 2/M."""


FULL = Algorithm(name="full gradient", source="Theorem 1")
FULL_CAPPED = Algorithm(
    name="full gradient, step 1/(4L)", source="Theorem 1, by w <= 2/M", step=0.25, constant=4.0
)
FULL_MEAN = Algorithm(
    name="full gradient, step 1/(4 L_F)", source="ours", step=0.25, constant=4.0, by_mean=True
)
SGD = Algorithm(name="minibatch SGD", source="Theorem 2", minibatch=True)
FULL_HEAVY_BALL = Algorithm(name="full-gradient heavy ball", source="Theorem 2", heavy_ball=True)
HEAVY_BALL = Algorithm(name="minibatch heavy ball", source="Theorem 2", minibatch=True, heavy_ball=True)
ALGORITHMS = (FULL, FULL_CAPPED, FULL_MEAN, SGD, FULL_HEAVY_BALL, HEAVY_BALL)


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What one algorithm's runs on one problem did. g_i are gaps on step t's samples, w_i their weights."""

    problem: Problem
    algorithm: Algorithm
    distance: Tensor
    """(T + 1, S, K): ||z_t - theta*||^2."""
    gap: Tensor
    """(T, S, K): F(theta_t) - F*, all samples."""
    judged_gap: Tensor
    """(T, S, K): the gap that the theorem bounds after t + 1 steps: of the mean of theta_0..theta_t (plain
    descent), or of theta_t (heavy ball)."""
    weighted: Tensor
    """(T, S, K): sum_i w_i g_i(theta_t)."""
    weighted_before: Tensor
    """(T, S, K): sum_i w_i g_i(theta_{t-1}), the same weights and samples; 0 at t = 0."""
    delta: Tensor
    """(T, S, K): sum_i (1/M - w_i) g_i(theta_t)."""
    delta_before: Tensor
    """(T, S, K): sum_i (1/M - w_i) g_i(theta_{t-1}); 0 at t = 0."""
    top_weight: Tensor
    """(T, S, K): M max_i w_i."""
    spread: Tensor
    """(T, S, K): largest less smallest loss of the step."""
    lemma_ratio: Tensor
    """(T, S, K): largest ||grad f_i||^2 / (2 L g_i)."""


def descend(
    problem: Problem,
    algorithm: Algorithm,
    methods: Sequence[Method],
    batches: Tensor,
    advance: Callable[[], None] = lambda: None,
) -> Trace:
    """Run every method from theta_0 = 0 with step eta = algorithm.step / L.

    Args:
        problem: S regressions.
        algorithm: full gradient or minibatch, plain or heavy ball.
        methods: K of them; they differ in their weights only.
        batches: (S, T, M) sample numbers; a full-gradient algorithm takes all samples and needs T of it only.
        advance: called after each step.
    """
    weigh = Weigher(methods)
    steps, rows_S = batches.shape[1], torch.arange(len(batches)).unsqueeze(1)
    eta = (algorithm.step / step_smoothness(problem, algorithm)).view(-1, 1, 1)
    theta = torch.zeros(len(batches), len(methods), problem.inputs.shape[-1], dtype=torch.float64)
    z, before, total = theta, theta, torch.zeros_like(theta)
    records: list[_Record] = []
    distances = [_square(z - problem.optimum.unsqueeze(1))]
    for t in range(steps):
        inputs, targets = problem.inputs, problem.targets
        if algorithm.minibatch:
            inputs, targets = inputs[rows_S, batches[:, t]], targets[rows_S, batches[:, t]]
        total = total + theta
        judged = theta if algorithm.heavy_ball else total / (t + 1)
        record, gradient = _step(problem, weigh, (theta, before, judged), (inputs, targets), first=t == 0)
        records.append(record)
        z = z - eta * gradient
        momentum = (t + 1) / 2 if algorithm.heavy_ball else 0.0
        theta, before = (momentum * theta + z) / (momentum + 1), theta
        distances.append(_square(z - problem.optimum.unsqueeze(1)))
        advance()
    return _trace(problem, algorithm, records, distances)


def step_smoothness(problem: Problem, algorithm: Algorithm) -> Tensor:
    """(S,): the L of the algorithm's step and bound."""
    return problem.mean_smoothness() if algorithm.by_mean else problem.smoothness


_Record = tuple[Tensor, ...]
"""Step t's entry of each field of Trace from `gap` on, (S, K)."""


def _step(
    problem: Problem,
    weigh: Weigher,
    iterates: tuple[Tensor, Tensor, Tensor],
    samples: tuple[Tensor, Tensor],
    *,
    first: bool,
) -> tuple[_Record, Tensor]:
    """What is recorded of a step, and its weighted gradient (S, K, D)."""
    theta, before, judged = iterates
    inputs, targets = samples
    u = residuals(theta, inputs, targets)
    g, slope = problem.loss.value(u), problem.loss.slope(u)
    w = weigh(g)
    g_before = torch.zeros_like(g) if first else problem.loss.value(residuals(before, inputs, targets))
    less = 1 / g.shape[-1] - w
    norms = slope.square() * inputs.square().sum(dim=-1).unsqueeze(1)
    lemma = norms / (2 * problem.smoothness.view(-1, 1, 1) * g)
    record = (
        problem.gap(theta),
        problem.gap(judged),
        (w * g).sum(dim=-1),
        (w * g_before).sum(dim=-1),
        (less * g).sum(dim=-1),
        (less * g_before).sum(dim=-1),
        g.shape[-1] * w.amax(dim=-1),
        g.amax(dim=-1) - g.amin(dim=-1),
        # At a sample's minimum both sides are 0.
        torch.where(norms > 0, lemma, 0.0).amax(dim=-1),
    )
    return record, torch.bmm(w * slope, inputs)


def _trace(
    problem: Problem, algorithm: Algorithm, records: Sequence[_Record], distances: Sequence[Tensor]
) -> Trace:
    gap, judged, weighted, weighted_before, delta, delta_before, top, spread, lemma = (
        torch.stack(entries) for entries in zip(*records, strict=True)
    )
    return Trace(
        problem=problem,
        algorithm=algorithm,
        distance=torch.stack(list(distances)),
        gap=gap,
        judged_gap=judged,
        weighted=weighted,
        weighted_before=weighted_before,
        delta=delta,
        delta_before=delta_before,
        top_weight=top,
        spread=spread,
        lemma_ratio=lemma,
    )


def _square(vectors: Tensor) -> Tensor:
    return vectors.square().sum(dim=-1)
