"""The inequalities of Lemma 1 and Theorems 1 and 2 held against recorded runs, every violation counted.

With Phi_t(theta) = sum_i w_i g_i(theta) over step t's samples, c the bound's constant and
d_t = ||z_t - theta*||^2:

    plain descent   Phi_t(theta_t) <= c L (d_t - d_{t+1})
    heavy ball      (t+1) Phi_t(theta_t) - t Phi_t(theta_{t-1}) <= c L (d_t - d_{t+1})

Both hold step by step on every path, whatever samples and weights; summed over t < T they are the theorems.
Shapes: S seeds, K methods, T steps.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from reproduce.method.strategies import CAP
from reproduce.studies.bounds_run import Trace, step_smoothness

ROUNDING = 1e-12
"""What float64 may add to a side of an inequality, in units of c L times the squared distance."""

LEMMA_ROUNDING = 1e-12
"""Relative rounding in Lemma 1: an equality for the square loss and the sample with the largest ||x||."""

CAP_ROUNDING = 1e-9
"""Relative excess over 2/M from which on a weight counts as above the cap."""


@dataclass(frozen=True, kw_only=True)
class Held:
    """One algorithm's runs on one problem against its bound after T steps."""

    gap: Tensor
    """(S, K): the gap that the theorem bounds, after all steps."""
    classic: Tensor
    """(S, K): c L d_0 / T, the same for every method."""
    delta_term: Tensor
    """(S, K): what the bound adds to it; (1/T) sum_t delta_t in plain descent."""
    step_violations: Tensor
    """(K,): seeds and steps in which the step's inequality fails; NaN fails."""
    path_violations: Tensor
    """(K,): seeds and numbers of steps after which the gap exceeds the bound. With minibatches the theorem
    allows that (it speaks of the mean over batches)."""
    lemma_violations: int
    """Steps of all runs with a sample that breaks Lemma 1."""

    @property
    def bound(self) -> Tensor:
        """(S, K)."""
        return self.classic + self.delta_term


def hold(trace: Trace) -> Held:
    """Check every step, and every number of steps, of every run."""
    classic, delta_term = classic_terms(trace), delta_terms(trace)
    within = trace.judged_gap <= classic + delta_term + _slack(trace)
    return Held(
        gap=trace.judged_gap[-1],
        classic=classic[-1],
        delta_term=delta_term[-1],
        step_violations=failed_steps(trace).sum(dim=(0, 1)),
        path_violations=(~within).sum(dim=(0, 1)),
        lemma_violations=int((~(trace.lemma_ratio <= 1 + LEMMA_ROUNDING)).sum()),
    )


def failed_steps(trace: Trace) -> Tensor:
    """(T, S, K) bool: the step's inequality fails, or holds a NaN."""
    left = _with_momentum(trace, trace.weighted, trace.weighted_before)
    right = _scale(trace) * (trace.distance[:-1] - trace.distance[1:])
    # Not `>`: a NaN is above nothing.
    return ~(left <= right + _slack(trace))


def delta_terms(trace: Trace) -> Tensor:
    """(T, S, K): what the bound after t + 1 steps adds to the classic term."""
    return _with_momentum(trace, trace.delta, trace.delta_before).cumsum(dim=0) / _counts(trace)


def classic_terms(trace: Trace) -> Tensor:
    """(T, S, K): c L d_0 / (t + 1)."""
    return _scale(trace) * trace.distance[0] / _counts(trace)


def over_cap(trace: Trace) -> Tensor:
    """(T, S, K) bool: a weight of the step exceeds 2/M."""
    return ~(trace.top_weight <= CAP * (1 + CAP_ROUNDING))  # so that a NaN counts as above


def capped_road_constant(trace: Trace) -> Tensor:
    """(S, K): c of the bound that Theorem 1's proof by Cauchy-Schwarz gives for these weights.

    Its step must not exceed 1/(2 L M max w), so the constant is 2 M max w; 4 where the cap holds.
    """
    return 2 * trace.top_weight.amax(dim=0).clamp_min(CAP)


def _scale(trace: Trace) -> Tensor:
    """(S, 1): c L."""
    return trace.algorithm.constant * step_smoothness(trace.problem, trace.algorithm).unsqueeze(-1)


def _slack(trace: Trace) -> Tensor:
    """(T, S, K): what rounding may add. Where a run diverges, it grows with the distance."""
    return ROUNDING * _scale(trace) * torch.maximum(trace.distance[0], trace.distance[:-1])


def _with_momentum(trace: Trace, now: Tensor, before: Tensor) -> Tensor:
    """The step's term of the sum: (t+1) x now - t x before with heavy ball, else now."""
    if not trace.algorithm.heavy_ball:
        return now
    counts = _counts(trace)
    return counts * now - (counts - 1) * before


def _counts(trace: Trace) -> Tensor:
    """(T, 1, 1): t + 1."""
    return torch.arange(1, len(trace.gap) + 1, dtype=torch.float64).view(-1, 1, 1)
