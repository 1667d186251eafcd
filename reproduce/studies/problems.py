"""Problems the theorems are about: convex, smooth, one minimiser for all samples; and losses to be weighted.

Float64. Shapes: S seeds, K methods, N samples, M samples of a step, D features, T steps, B batches.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ScalarLoss:
    """A convex loss of a residual u = x.theta - y, with its minimum 0 at u = 0."""

    name: str
    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    """First derivative."""
    curvature: float
    """Largest second derivative: a sample's smoothness constant is curvature x ||x||^2."""


def logcosh(u: Tensor) -> Tensor:
    """log cosh u to full relative precision, near 0 and where cosh overflows."""
    size = u.abs()
    near = 0.5 * torch.log1p(torch.sinh(size.clamp_max(1.0)).square())
    far = size + torch.log1p(torch.exp(-2 * size)) - math.log(2)
    return torch.where(size < 1.0, near, far)


SQUARE = ScalarLoss(name="linear regression", value=torch.square, slope=lambda u: 2 * u, curvature=2.0)
LOGCOSH = ScalarLoss(name="log-cosh regression", value=logcosh, slope=torch.tanh, curvature=1.0)
LOSSES = (SQUARE, LOGCOSH)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One interpolated regression a seed: f_i(theta) = loss(x_i.theta - y_i), y_i = x_i.theta*."""

    loss: ScalarLoss
    inputs: Tensor
    """(S, N, D)."""
    targets: Tensor
    """(S, N)."""
    optimum: Tensor
    """(S, D): theta*, which minimises every f_i; f_i(theta*) = 0."""
    smoothness: Tensor
    """(S,): L, the largest smoothness constant among a seed's samples."""

    def mean_smoothness(self) -> Tensor:
        """(S,): L_F of the mean loss: curvature x the largest eigenvalue of X'X / N; at most L."""
        moments = self.inputs.mT @ self.inputs / self.inputs.shape[1]
        largest: Tensor = torch.linalg.eigvalsh(moments)[:, -1]
        return self.loss.curvature * largest

    def gap(self, theta: Tensor) -> Tensor:
        """F(theta) - F(theta*), the mean over all samples: (S, K, D) -> (S, K)."""
        return self.loss.value(residuals(theta, self.inputs, self.targets)).mean(dim=-1)


def residuals(theta: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
    """u_i = x_i.theta - y_i of parameters (S, K, D) on samples (S, M, D), (S, M) -> (S, K, M)."""
    return torch.bmm(theta, inputs.mT) - targets.unsqueeze(1)


def regression_problem(loss: ScalarLoss, seeds: Sequence[int], samples: int, features: int) -> Problem:
    """Standard normal inputs and theta*, one draw a seed; the sizes and laws are ours."""
    drawn = [_generator(seed, 0) for seed in seeds]
    inputs = torch.from_numpy(np.stack([rng.standard_normal((samples, features)) for rng in drawn]))
    optimum = torch.from_numpy(np.stack([rng.standard_normal(features) for rng in drawn]))
    return Problem(
        loss=loss,
        inputs=inputs,
        # The residual's own arithmetic, so that it is exactly 0 at theta*.
        targets=residuals(optimum.unsqueeze(1), inputs, torch.zeros_like(inputs[..., 0])).squeeze(1),
        optimum=optimum,
        smoothness=loss.curvature * inputs.square().sum(dim=-1).amax(dim=-1),
    )


def minibatches(seeds: Sequence[int], steps: int, samples: int, batch: int) -> Tensor:
    """Sample numbers (S, T, M) int64, drawn without replacement within a step; the same for every method."""
    drawn = [_generator(seed, 1).random((steps, samples)).argsort(axis=-1)[:, :batch] for seed in seeds]
    return torch.from_numpy(np.stack(drawn))


def _generator(seed: int, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, 100 + stream]))


NORMAL_QUARTILE = 0.6744897501960817
"""Upper quartile of the standard normal."""

STUDENT_QUARTILE = math.sqrt(2 / 3)
"""Upper quartile of Student's t with 2 degrees of freedom: a sqrt(2/(1 - a^2)) with a = 2 x 3/4 - 1."""

OUTLIER_AT = 10.0
"""Where the one outlier lies, in standard deviations of the others."""


def _gaussian(rng: np.random.Generator, batches: int, samples: int) -> Floats:
    return rng.standard_normal((batches, samples))


def _student(rng: np.random.Generator, batches: int, samples: int) -> Floats:
    drawn: Floats = rng.standard_t(2, (batches, samples)) * (NORMAL_QUARTILE / STUDENT_QUARTILE)
    return drawn


def _lognormal(rng: np.random.Generator, batches: int, samples: int) -> Floats:
    # exp(N(0, 1)) has its quartiles at exp(-q) and exp(q), q the normal's: 2 sinh(q) apart.
    drawn: Floats = rng.lognormal(0.0, 1.0, (batches, samples)) * (
        NORMAL_QUARTILE / math.sinh(NORMAL_QUARTILE)
    )
    return drawn


def _one_outlier(rng: np.random.Generator, batches: int, samples: int) -> Floats:
    drawn = _gaussian(rng, batches, samples)
    drawn[:, 0] = OUTLIER_AT
    return drawn


LOSS_SHAPES: Mapping[str, Callable[[np.random.Generator, int, int], Floats]] = {
    "Gaussian": _gaussian,
    "Student t, 2 d.f.": _student,
    "log-normal": _lognormal,
    "one outlier": _one_outlier,
}
"""Shapes of a batch's losses. Their quartiles lie as far apart as the standard normal's, a spread that all of
them have: dro_kl's lambda is measured against it. The outlier stands 10 above a standard normal bulk."""


def batch_losses(shape: str, batches: int, samples: int, seed: int) -> Tensor:
    """Losses (B, M) of so many batches; a seed's draws depend on the shape and the batch size alone."""
    stream = 2 + list(LOSS_SHAPES).index(shape)
    rng = np.random.Generator(np.random.Philox(key=[seed, 1000 * samples + stream]))
    return torch.from_numpy(LOSS_SHAPES[shape](rng, batches, samples))
