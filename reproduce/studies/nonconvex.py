"""Theorem 4 by number: reweighted minibatch SGD on a small network whose smoothness constant is known.

    p(x) = sum_j a_j tanh(v_j.x),   f_i = (p(x_i) - y_i)^2 / 2,   only v is trained

The Hessian of f_i is grad p grad p' + (p - y) Hess p. |grad p|^2 <= ||a||^2 ||x||^2; Hess p is block-diagonal
with blocks a_j tanh''(v_j.x) x x'; |p - y| <= ||a||_1 + |y|. So for every v its norm is at most

    L_i = ||x_i||^2 (||a||_2^2 + (||a||_1 + |y_i|) max_j |a_j| max |tanh''|),   max |tanh''| = 4 / (3 sqrt 3)

and L = max_i L_i. Float64. Shapes: S seeds, K methods, N samples, M samples of a step, D inputs, H hidden
units, T steps. theta is v, (S, K, H, D).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from reproduce.studies.ensemble import Weigher
from reproduce.studies.settings import Method

TANH_CURVATURE = 4 / (3 * math.sqrt(3))
"""Largest |tanh''| = 2 t (1 - t^2) at t = tanh = 1/sqrt(3)."""

TARGET_NOISE = 0.5
"""Standard deviation of the targets' noise: no minimiser is common to all samples; Theorem 4 needs none."""

STEP = 0.5
"""Step size in units of 1/L; at 1/L the theorem's weight term would vanish."""

ROUNDING = 1e-12
"""What float64 may add: this share of 2 F(theta_0) / eta."""

WeightsBy = Literal["gradient norm", "loss"]
"""What the strategies are given: Theorem 4's ||grad f_i||, or f_i, as LinUpper really is."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """One regression a seed by a network of H hidden units."""

    inputs: Tensor
    """(S, N, D)."""
    targets: Tensor
    """(S, N)."""
    output: Tensor
    """(H,): a."""
    start: Tensor
    """(S, H, D): theta_0."""

    @property
    def smoothness(self) -> Tensor:
        """(S,): L."""
        reach = self.output.abs().sum() + self.targets.abs()
        bend = reach * self.output.abs().max() * TANH_CURVATURE
        return (self.inputs.square().sum(dim=-1) * (self.output.square().sum() + bend)).amax(dim=-1)


def draw_network(seeds: Sequence[int], samples: int, features: int, hidden: int) -> Network:
    """Standard normal inputs, targets of another network of that size with noise; sizes and laws are ours."""
    drawn = [_draw(seed, samples, features, hidden) for seed in seeds]
    inputs, teacher, start, noise = (torch.from_numpy(np.stack(each)) for each in zip(*drawn, strict=True))
    signs = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(hidden)[:hidden]
    output = signs / math.sqrt(hidden)
    clean = (torch.tanh(teacher @ inputs.mT) * output.view(-1, 1)).sum(dim=-2)
    return Network(inputs=inputs, targets=clean + TARGET_NOISE * noise, output=output, start=start)


def _draw(seed: int, samples: int, features: int, hidden: int) -> tuple[np.ndarray, ...]:
    rng = np.random.Generator(np.random.Philox(key=[seed, 200]))
    return (
        rng.standard_normal((samples, features)),
        rng.standard_normal((hidden, features)),
        rng.standard_normal((hidden, features)),
        rng.standard_normal(samples),
    )


@dataclass(frozen=True, kw_only=True)
class PerSample:
    """Losses and gradients of single samples: grad f_i with respect to v_j is factor_ij x_i."""

    losses: Tensor
    """(S, K, M)."""
    factors: Tensor
    """(S, K, H, M): (p_i - y_i) a_j (1 - tanh^2(v_j.x_i))."""
    inputs: Tensor
    """(S, M, D)."""

    def square_norms(self) -> Tensor:
        """||grad f_i||^2, (S, K, M)."""
        return self.factors.square().sum(dim=-2) * self.inputs.square().sum(dim=-1).unsqueeze(1)

    def gradient(self, weights: Tensor) -> Tensor:
        """sum_i w_i grad f_i of weights (S, K, M), (S, K, H, D)."""
        S, K, H, M = self.factors.shape
        weighted = (self.factors * weights.unsqueeze(-2)).view(S, K * H, M)
        return torch.bmm(weighted, self.inputs).view(S, K, H, -1)

    def square_distances(self, direction: Tensor) -> Tensor:
        """||grad f_i - direction||^2 of (S, K, H, D), (S, K, M)."""
        S, K, H, D = direction.shape
        along = torch.bmm(direction.reshape(S, K * H, D), self.inputs.mT).view(self.factors.shape)
        inner = (self.factors * along).sum(dim=-2)
        square = self.square_norms() - 2 * inner + direction.square().sum(dim=(-2, -1)).unsqueeze(-1)
        return square.clamp_min(0.0)


def per_sample(theta: Tensor, inputs: Tensor, targets: Tensor, output: Tensor) -> PerSample:
    """Losses and gradients by hand: theta (S, K, H, D), inputs (S, M, D), targets (S, M), output (H,)."""
    S, K, H, D = theta.shape
    hidden = torch.tanh(torch.bmm(theta.reshape(S, K * H, D), inputs.mT)).view(S, K, H, -1)
    errors = (hidden * output.view(-1, 1)).sum(dim=-2) - targets.unsqueeze(1)
    factors = errors.unsqueeze(-2) * output.view(-1, 1) * (1 - hidden.square())
    return PerSample(losses=errors.square() / 2, factors=factors, inputs=inputs)


@dataclass(frozen=True, kw_only=True)
class NonConvexTrace:
    """What the runs did; (T, S, K) unless said otherwise."""

    eta: Tensor
    """(S, 1)."""
    smoothness: Tensor
    """(S, 1)."""
    loss: Tensor
    """(T + 1, S, K): F(theta_t), never below 0."""
    gradient: Tensor
    """||grad F(theta_t)||^2."""
    weighted_norms: Tensor
    """sum_i w_i ||grad f_i||^2."""
    mean_norms: Tensor
    """(1/M) sum_i ||grad f_i||^2 over the step's samples."""
    weighted_spread: Tensor
    """sum_i w_i ||grad f_i - grad F||^2."""
    widest: Tensor
    """max_i ||grad f_i - grad F||^2 over all N samples."""
    delta_by_norm: Tensor
    """sum_i (1/M - w_i) ||grad f_i||^2 with weights by gradient norm, at this run's theta_t."""
    delta_by_loss: Tensor
    """The same with weights by loss."""


def train(
    network: Network,
    methods: Sequence[Method],
    weights_by: WeightsBy,
    batches: Tensor,
    advance: Callable[[], None] = lambda: None,
) -> NonConvexTrace:
    """Run every method on minibatches (S, T, M) with step 1/(2L)."""
    weigh = Weigher(methods)
    S, rows_S = len(batches), torch.arange(len(batches)).unsqueeze(1)
    eta = STEP / network.smoothness
    theta = network.start.unsqueeze(1).expand(S, len(methods), -1, -1)
    losses, records = [], []
    for t in range(batches.shape[1]):
        chosen = batches[:, t]
        everything = per_sample(theta, network.inputs, network.targets, network.output)
        step = per_sample(
            theta, network.inputs[rows_S, chosen], network.targets[rows_S, chosen], network.output
        )
        by_norm, by_loss = weigh(step.square_norms().sqrt()), weigh(step.losses)
        w = by_norm if weights_by == "gradient norm" else by_loss
        losses.append(everything.losses.mean(dim=-1))
        records.append(_record(everything, step, (w, by_norm, by_loss)))
        theta = theta - eta.view(-1, 1, 1, 1) * step.gradient(w)
        advance()
    last = per_sample(theta, network.inputs, network.targets, network.output)
    losses.append(last.losses.mean(dim=-1))
    names = [field.name for field in fields(NonConvexTrace)][3:]
    columns = (torch.stack(column) for column in zip(*records, strict=True))
    return NonConvexTrace(
        eta=eta.unsqueeze(-1),
        smoothness=network.smoothness.unsqueeze(-1),
        loss=torch.stack(losses),
        **dict(zip(names, columns, strict=True)),
    )


def _record(
    everything: PerSample, step: PerSample, weights: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, ...]:
    """A step's entries of NonConvexTrace from `gradient` on."""
    w, by_norm, by_loss = weights
    full = everything.gradient(torch.full_like(everything.losses, 1 / everything.losses.shape[-1]))
    norms = step.square_norms()
    even = 1 / norms.shape[-1]
    return (
        full.square().sum(dim=(-2, -1)),
        (w * norms).sum(dim=-1),
        norms.mean(dim=-1),
        (w * step.square_distances(full)).sum(dim=-1),
        everything.square_distances(full).amax(dim=-1),
        ((even - by_norm) * norms).sum(dim=-1),
        ((even - by_loss) * norms).sum(dim=-1),
    )


@dataclass(frozen=True, kw_only=True)
class NonConvexHeld:
    """Theorem 4's sides after T steps, (S, K) unless said otherwise.

    It says gradient <= start + sigma + norms + delta.
    """

    gradient: Tensor
    """(1/T) sum_t ||grad F(theta_t)||^2."""
    start: Tensor
    """2 (F(theta_0) - 0) / (eta T); 0 is a lower bound of F."""
    sigma: Tensor
    """sigma^2, the smallest that Assumption 4 allows on the run's own path."""
    norms: Tensor
    """-(1 - L eta) (1/T) sum_t (1/M) sum_i ||grad f_i||^2."""
    delta: Tensor
    """(1 - L eta) (1/T) sum_t delta^g_t, with the weights used."""
    violations: Tensor
    """(K,): seeds and numbers of steps after which the bound fails; NaN fails."""
    step_violations: Tensor
    """(K,): seeds and steps that fail the step's inequality, with the weighted spread in place of sigma^2."""
    first: Tensor
    """||grad F(theta_0)||^2."""
    agreement: Tensor
    """(K,): share of steps at which delta^g by loss and by gradient norm have the same sign."""
    helps: Tensor
    """(K,): share of steps with delta^g < 0 under weights by loss."""

    @property
    def bound(self) -> Tensor:
        """(S, K)."""
        return self.start + self.sigma + self.norms + self.delta


def hold_nonconvex(trace: NonConvexTrace) -> NonConvexHeld:
    """Check every step and every number of steps; the bound speaks of each path, so no mean is needed."""
    T = len(trace.gradient)
    counts = torch.arange(1, T + 1, dtype=torch.float64).view(-1, 1, 1)
    keep = 1 - trace.smoothness * trace.eta
    slack = ROUNDING * 2 * trace.loss[0] / trace.eta
    sigma = trace.widest.amax(dim=0)
    descent = 2 * (trace.loss[:-1] - trace.loss[1:]) / trace.eta
    step_bound = descent + trace.weighted_spread - keep * trace.weighted_norms
    # At every number of steps by the final sigma: a larger one is as valid.
    start = 2 * trace.loss[0] / (trace.eta * counts)
    bound = start + sigma - keep * trace.weighted_norms.cumsum(dim=0) / counts
    gradient = trace.gradient.cumsum(dim=0) / counts
    mean_norms = trace.mean_norms.mean(dim=0)
    same = torch.sign(trace.delta_by_norm) == torch.sign(trace.delta_by_loss)
    return NonConvexHeld(
        gradient=gradient[-1],
        start=start[-1],
        sigma=sigma,
        norms=-keep * mean_norms,
        delta=keep * (mean_norms - trace.weighted_norms.mean(dim=0)),
        violations=(~(gradient <= bound + slack)).sum(dim=(0, 1)),
        step_violations=(~(trace.gradient <= step_bound + slack)).sum(dim=(0, 1)),
        first=trace.gradient[0],
        agreement=same.double().mean(dim=(0, 1)),
        helps=(trace.delta_by_loss < 0).double().mean(dim=(0, 1)),
    )
