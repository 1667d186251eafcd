"""Losses in, weights out: normalisation, the strategies f(h), Eq. 4, DRO-KL and Proposition 1.

Shapes: M samples of the global batch; leading dimensions (...), if any, are batches weighted one by one.
Everything here is pure, on-device tensor arithmetic in float32, or float64 where the losses are: no
synchronisation, no branch on a value, so it can be compiled and run between forward and backward. Only
`sample_weights`, the checked entry point, looks at the values.
"""

import math
from collections.abc import Callable, Mapping
from numbers import Real

import torch
from torch import Tensor

RANGE_FLOOR = 1e-6
"""Smallest denominator of the normalisation, in nats (released code)."""

CAP = 2.0
"""Proposition 1's bound on a weight, as a multiple of the uniform weight 1/M."""

CAP_TOLERANCE = 1e-12
"""Relative rounding error under which a weight still counts as within the cap."""


def normalise(losses_M: Tensor, delta: float = 1.0) -> Tensor:
    """h_i = 2 delta (l_i - l_min)/(l_max - l_min) - delta, in [-delta, delta] (Algorithm 1, line 3).

    Losses that are all equal map to one constant, so every strategy gives them equal scores.

    Args:
        losses_M: (..., M) losses in nats, over the whole global batch.
        delta: half-width of the range; 1 throughout the paper.

    Returns:
        (..., M) float32, or float64 where the losses are.
    """
    losses_M = _wide(losses_M)
    low, high = torch.aminmax(losses_M, dim=-1, keepdim=True)
    return scaled(losses_M, low, high, delta)


def _wide(losses_M: Tensor) -> Tensor:
    """At least float32."""
    return losses_M.to(torch.promote_types(losses_M.dtype, torch.float32))


def scaled(losses: Tensor, low: Tensor, high: Tensor, delta: float) -> Tensor:
    """Losses mapped so that `low` becomes -delta and `high` becomes delta."""
    # Halved first (exact in binary), so that the range of huge losses of both signs cannot overflow.
    share = (losses / 2 - low / 2) / (high / 2 - low / 2).clamp_min(RANGE_FLOOR / 2)
    return delta * (2.0 * share - 1.0)


def uniform_score(h_M: Tensor, delta: float) -> Tensor:
    """f(h) = 0: every sample alike, the baseline."""
    return torch.zeros_like(h_M)


def linupper_score(h_M: Tensor, delta: float) -> Tensor:
    """f(h) = min(h + delta, delta): down-weights low losses, caps high ones (Section 4)."""
    return (h_M + delta).clamp_max(delta)


def quadratic_score(h_M: Tensor, delta: float) -> Tensor:
    """f(h) = 1 - h^2/delta^2: favours the middle (Section 4; `mid` in the released code)."""
    return 1.0 - (h_M / delta).square()


def extremes_score(h_M: Tensor, delta: float) -> Tensor:
    """f(h) = |h|: favours both ends (Section 4)."""
    return h_M.abs()


def readme_uniform_score(h_M: Tensor, delta: float) -> Tensor:
    """f(h) = h: what the released README calls uniform; Eq. 4 then makes it a normalised DRO-KL."""
    return h_M


def linear_score(h_M: Tensor, delta: float) -> Tensor:
    """f(h) = (h + delta)/2: uncapped; `upper` in the released GPT-2 code, in none of the paper's tables."""
    return (h_M + delta) / 2.0


SCORES: Mapping[str, Callable[[Tensor, float], Tensor]] = {
    "uniform": uniform_score,
    "linupper": linupper_score,
    "quadratic": quadratic_score,
    "extremes": extremes_score,
    "linear": linear_score,
    "readme_uniform": readme_uniform_score,
}
"""Strategy -> f(h), a function of normalised losses (..., M) and delta."""


def _tempered_softmax(score_M: Tensor, r: float | Tensor) -> Tensor:
    # The maximum is taken off before the division: s/r itself can overflow where r is tiny.
    return torch.softmax((score_M - score_M.amax(dim=-1, keepdim=True)) / r, dim=-1)


def _score_weights(score: Callable[[Tensor, float], Tensor]) -> "Strategy":
    def weights(losses_M: Tensor, r: float | Tensor, delta: float) -> Tensor:
        return _tempered_softmax(score(normalise(losses_M, delta), delta), r)

    return weights


def _uniform_weights(losses_M: Tensor, r: float | Tensor, delta: float) -> Tensor:
    # 1/M exactly, not a softmax of equal scores: uniform training must be the plain mean, bit for bit.
    return torch.full_like(_wide(losses_M), 1.0 / losses_M.shape[-1])


def _dro_kl_weights(losses_M: Tensor, r: float | Tensor, delta: float) -> Tensor:
    return _tempered_softmax(_wide(losses_M), r)


def _capped_softmax_weights(losses_M: Tensor, r: float | Tensor, delta: float) -> Tensor:
    """Proposition 1: w_i = min(2/M, exp(l_i/r)/Z), Z such that the weights sum to 1.

    With the probabilities sorted downwards, let k samples sit at the cap; the rest share 1 - 2k/M in
    proportion to their probability. The right k is the smallest whose largest free weight obeys the cap.
    """
    count = losses_M.shape[-1]
    if count <= CAP:
        return _uniform_weights(losses_M, r, delta)  # the cap 2/M admits every weight only when M > 2
    cap = CAP / count
    gaps_M = losses_M.double()
    logits_M = (gaps_M - gaps_M.amax(dim=-1, keepdim=True)) / r
    sorted_M, order_M = torch.sort(logits_M, dim=-1, descending=True)
    # Row k: the mass of the samples from k on, in units of sample k's. Differences first: a running
    # logsumexp would lose the digits of a tail that lies far below the top.
    gaps_MM = (sorted_M.unsqueeze(-2) - sorted_M.unsqueeze(-1)).clamp_max(0.0)
    tail_M = torch.triu(gaps_MM.exp()).sum(dim=-1)
    capped_M = torch.arange(count, device=losses_M.device, dtype=torch.float64)
    free_mass_M = 1.0 - cap * capped_M
    fits_M = (free_mass_M >= 0) & (free_mass_M / tail_M <= cap * (1 + CAP_TOLERANCE))
    # The first k that fits; k = floor(M/2) always does.
    k = torch.argmax(fits_M.to(torch.int8), dim=-1, keepdim=True)
    row_M = gaps_MM.gather(-2, k.unsqueeze(-1).expand_as(gaps_MM[..., :1, :])).squeeze(-2)
    free_M = free_mass_M.expand_as(tail_M).gather(-1, k) * row_M.exp() / tail_M.gather(-1, k)
    weights_sorted_M = torch.where(capped_M < k, torch.full_like(free_M, cap), free_M)
    weights_M = torch.empty_like(weights_sorted_M).scatter(-1, order_M, weights_sorted_M)
    return weights_M.to(_wide(losses_M).dtype)


Strategy = Callable[[Tensor, float | Tensor, float], Tensor]
"""(losses (..., M), r, delta) -> weights (..., M) that sum to 1, in the dtype `normalise` gives. A tensor r
is a scalar or (..., 1)."""

STRATEGIES: Mapping[str, Strategy] = {
    "uniform": _uniform_weights,
    **{name: _score_weights(score) for name, score in SCORES.items() if name != "uniform"},
    "dro_kl": _dro_kl_weights,
    "capped_softmax": _capped_softmax_weights,
}
"""Every strategy by the paper's name. `dro_kl` and `capped_softmax` take raw losses; r is their lambda."""

BOUNDED_STRATEGIES = ("uniform", "linupper", "quadratic", "extremes", "linear")
"""Scores within [0, 1] at delta = 1: no weight exceeds e^(1/r) times another."""

LOSS_GAP_STRATEGIES = ("dro_kl", "capped_softmax")
"""Weights from raw losses: no bound that holds for every batch but the cap 2/M of capped_softmax."""


def _is_positive(value: object) -> bool:
    return isinstance(value, Real) and math.isfinite(value) and float(value) > 0


def sample_weights(losses: Tensor, strategy: str = "linupper", r: float = 0.4, delta: float = 1.0) -> Tensor:
    """Weights of one global batch (Eq. 4), with its inputs checked.

    Args:
        losses: (M,) per-sample losses in nats, any floating dtype; no gradient flows through the weights.
        strategy: a key of `STRATEGIES`.
        r: temperature, > 0; the lambda of dro_kl.
        delta: half-width of the normalised losses, > 0.

    Returns:
        (M,) float32, non-negative, summing to 1.

    Raises:
        ValueError: unknown strategy; r or delta not a positive number; losses empty, not 1-D, or
            not finite (the message names the sample).
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"unknown strategy {strategy!r}; known: {', '.join(STRATEGIES)}")
    for name, value in (("r", r), ("delta", delta)):
        if not _is_positive(value):
            raise ValueError(f"{name} must be a positive number, found {value!r}")
    if losses.dim() != 1 or losses.numel() == 0:
        raise ValueError(f"losses must be a non-empty vector (M,), found shape {tuple(losses.shape)}")
    losses_M = losses.detach().float()
    finite_M = torch.isfinite(losses_M)
    if not bool(finite_M.all()):
        sample = int((~finite_M).nonzero()[0])
        raise ValueError(f"loss of sample {sample} is {losses_M[sample].item()}; losses must be finite")
    return STRATEGIES[strategy](losses_M, float(r), float(delta))
