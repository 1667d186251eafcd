"""Proposition 1 by number: is capped_softmax the minimiser, and how far from it is LinUpper?

    minimise J(w) = sum_i (1/M - w_i) g_i + r KL(w || uniform)   over   sum_i w_i = 1, 0 <= w_i <= 2/M

Float64. Shapes: B batches (problems), M samples. Losses stand for the gaps g: a constant added to all gaps
adds nothing to J, since the weights sum to 1.
"""

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reproduce.errors import UserError
from reproduce.method import STRATEGIES
from reproduce.method.strategies import CAP
from reproduce.studies.problems import Floats, batch_losses

AGREEMENT = 1e-6
"""Largest difference to scipy's weights that counts as agreement."""

KKT_TOLERANCE = 1e-9
"""Largest residual of the conditions of optimality that counts as rounding."""

LEAST_WEIGHT = 1e-12
"""Lower limit on M w for the solver: the gradient of w log w has no value at 0."""

LEAST_LOGARITHM = 1e-290
"""Smallest M w whose logarithm still has its digits."""

FREE_MARGIN = 1e-9
"""A weight this much (relatively) below 2/M counts as free."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """One shape, batch size and r: capped_softmax against the solver and the conditions of optimality."""

    shape: str
    samples: int
    r: float
    problems: int
    distance: float
    """Largest |w_i - solver's w_i| over all problems."""
    kkt: float
    """Largest residual of `kkt_residual`."""
    stopped_early: int
    """Problems in which the solver reported another end than convergence (its line search met rounding)."""


def load_solver() -> Any:
    """scipy.optimize; UserError where scipy is not installed."""
    try:
        return importlib.import_module("scipy.optimize")
    except ImportError as error:
        raise UserError("reweight toy bounds checks Proposition 1 with scipy: pip install scipy") from error


def scipy_weights(gaps_M: Floats, r: float, solver: Any) -> tuple[Floats, bool]:
    """The minimiser by SLSQP with the analytic gradient, from uniform weights; whether it says it converged.

    In units v = M w, and J / r without its constant: (1/M) sum_i v_i (log v_i - s_i), s = (g - max g)/r.
    """
    M = len(gaps_M)
    s_M = (gaps_M - gaps_M.max()) / r

    def objective(v_M: Floats) -> float:
        return float(np.sum(v_M * (np.log(v_M) - s_M)) / M)

    def gradient(v_M: Floats) -> Floats:
        slope: Floats = (np.log(v_M) + 1.0 - s_M) / M
        return slope

    found = solver.minimize(
        objective,
        np.ones(M),
        jac=gradient,
        bounds=[(LEAST_WEIGHT, CAP)] * M,
        constraints={"type": "eq", "fun": lambda v_M: v_M.sum() - M, "jac": lambda v_M: np.ones(M)},
        method="SLSQP",
        options={"ftol": 1e-16, "maxiter": 1000},
    )
    return np.asarray(found.x, dtype=np.float64) / M, bool(found.success)


def kkt_residual(weights_M: Floats, gaps_M: Floats, r: float) -> float:
    """How far weights are from the conditions of optimality, in units of r; J is convex, so 0 is the minimum.

    There must be one nu with log(M w_i) - g_i/r = nu wherever w_i < 2/M, at most nu wherever w_i = 2/M; the
    weights must sum to 1 and keep the cap. Weights below LEAST_LOGARITHM / M, near underflow, are left out.
    """
    M = len(weights_M)
    cap = CAP / M
    s_M = (gaps_M - gaps_M.max()) / r
    level_M = np.log(np.maximum(M * weights_M, LEAST_LOGARITHM)) - s_M
    capped_M = weights_M >= cap * (1 - FREE_MARGIN)
    free_M = ~capped_M & (M * weights_M > LEAST_LOGARITHM)
    feasibility = max(abs(math.fsum(weights_M) - 1.0), M * float((weights_M - cap).max()))
    if not free_M.any():
        return feasibility
    nu = level_M[np.argmax(np.where(free_M, weights_M, -1.0))]
    off_M = (level_M - nu) / (1.0 + np.abs(s_M))  # a level carries the rounding of its own g/r
    stationarity = float(np.abs(off_M[free_M]).max())
    return max(feasibility, stationarity, float(off_M[capped_M].max()) if capped_M.any() else 0.0)


def agreement(shape: str, samples: int, r: float, problems: int, seed: int, solver: Any) -> Agreement:
    """Compare capped_softmax with the solver on so many batches of random losses."""
    gaps_BM = batch_losses(shape, problems, samples, seed)
    ours_BM = STRATEGIES["capped_softmax"](gaps_BM, r, 1.0).numpy()
    solved = [scipy_weights(gaps_M, r, solver) for gaps_M in gaps_BM.numpy()]
    return Agreement(
        shape=shape,
        samples=samples,
        r=r,
        problems=problems,
        distance=max(float(np.abs(o - s).max()) for o, (s, _) in zip(ours_BM, solved, strict=True)),
        kkt=max(kkt_residual(o, g, r) for o, g in zip(ours_BM, gaps_BM.numpy(), strict=True)),
        stopped_early=sum(not converged for _, converged in solved),
    )


@dataclass(frozen=True, kw_only=True)
class StandIn:
    """One shape, batch size and r: LinUpper against the optimum at the matching temperature."""

    shape: str
    samples: int
    r: float
    batches: int
    distance: float
    """Mean total variation distance, (1/2) sum_i |w_i - w*_i|."""
    within_cap: float
    """Share of batches in which LinUpper keeps w <= 2/M."""
    improvement: float | None
    """Of the optimum's improvement of J over uniform weights, the share that LinUpper attains: mean over the
    batches within the cap (outside it J can be below the optimum's); None where there is none."""


def stand_in(shape: str, samples: int, r: float, batches: int, seed: int) -> StandIn:
    """Compare LinUpper's weights with Proposition 1's.

    Below its cap LinUpper's score is linear in the loss with slope 2/(l_max - l_min), so r on scores is
    r (l_max - l_min)/2 on raw losses.
    """
    gaps_BM = batch_losses(shape, batches, samples, seed)
    raw_r_B1 = r * (gaps_BM.amax(dim=-1, keepdim=True) - gaps_BM.amin(dim=-1, keepdim=True)) / 2
    ours_BM = STRATEGIES["linupper"](gaps_BM, r, 1.0)
    best_BM = in_chunks("capped_softmax", gaps_BM, raw_r_B1)
    improvement_B = objective(ours_BM, gaps_BM, raw_r_B1) / objective(best_BM, gaps_BM, raw_r_B1)
    within_B = samples * ours_BM.amax(dim=-1) <= CAP * (1 + FREE_MARGIN)
    return StandIn(
        shape=shape,
        samples=samples,
        r=r,
        batches=batches,
        distance=float((ours_BM - best_BM).abs().sum(dim=-1).mean() / 2),
        within_cap=float(within_B.double().mean()),
        improvement=float(improvement_B[within_B].mean()) if within_B.any() else None,
    )


def objective(weights_BM: Tensor, gaps_BM: Tensor, r_B1: Tensor) -> Tensor:
    """J(w), (B,); 0 for uniform weights."""
    M = weights_BM.shape[-1]
    linear_B = ((1 / M - weights_BM) * gaps_BM).sum(dim=-1)
    divergence_B = torch.xlogy(weights_BM, M * weights_BM).sum(dim=-1)
    return linear_B + r_B1.squeeze(-1) * divergence_B


CHUNK_NUMBERS = 1 << 20
"""Numbers that a strategy works on at a time."""


def in_chunks(strategy: str, losses_BM: Tensor, r: float | Tensor) -> Tensor:
    """Weights of many batches, so many at a time that capped_softmax's (M, M) a batch stays small."""
    M = losses_BM.shape[-1]
    size = max(1, CHUNK_NUMBERS // (M * M if strategy == "capped_softmax" else M))
    r_B1 = r if isinstance(r, Tensor) else torch.full((len(losses_BM), 1), r, dtype=torch.float64)
    parts = zip(torch.split(losses_BM, size), torch.split(r_B1, size), strict=True)
    return torch.cat([STRATEGIES[strategy](losses, r, 1.0) for losses, r in parts])


def compare_all(
    shapes: Sequence[str],
    sizes: Sequence[int],
    temperatures: Sequence[float],
    counts: tuple[int, int],
    seed: int,
    advance: Callable[[float], None],
) -> tuple[list[Agreement], list[StandIn]]:
    """Every shape, batch size and r; counts: problems for the solver, batches for LinUpper.

    `advance` is told the share that is done.
    """
    solver = load_solver()
    total = len(shapes) * len(sizes) * len(temperatures)
    agreements, stand_ins = [], []
    for shape in shapes:
        for samples in sizes:
            for r in temperatures:
                agreements.append(agreement(shape, samples, r, counts[0], seed, solver))
                stand_ins.append(stand_in(shape, samples, r, counts[1], seed))
                advance(len(agreements) / total)
    return agreements, stand_ins
