"""Log-perplexity per domain: the mean token cross entropy on fixed held-out windows (Table 1's metric).

This module adds up; which model makes the losses, and on what device, is the caller's.
Shapes: n windows of a domain, T tokens of a window.
"""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

METRIC_VERSION = "1"
"""Raised whenever the same windows and model would give another number."""

MEAN = "mean"

Losses = Callable[[NDArray[np.int32]], NDArray[np.float32]]
"""Token ids (b, T) -> losses (b,), nats a token."""


@dataclass(frozen=True, kw_only=True)
class EvaluationSet:
    """The windows that every run on a store is measured on."""

    windows: Mapping[str, NDArray[np.int32]]
    """Domain -> token ids (n, T)."""

    @property
    def sha256(self) -> str:
        """Digest of domains, shapes and tokens: equal digests, comparable numbers."""
        digest = hashlib.sha256()
        for domain in sorted(self.windows):
            tokens = np.ascontiguousarray(self.windows[domain], dtype="<i4")
            digest.update(f"{domain} {tokens.shape}\n".encode())
            digest.update(tokens.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class LogPerplexity:
    """Log-perplexity of one domain, or the plain mean over domains."""

    value: float
    """Nats a token."""
    stderr: float | None
    """Standard error over windows, nats; the mean takes each domain's. None: one window has none."""
    n: int
    """Windows."""
    losses_n: NDArray[np.float32] | None = field(default=None, repr=False, compare=False)
    """The windows' losses whose mean is `value`; None for the mean over domains."""


def spread(count: int, available: int) -> NDArray[np.int64]:
    """`count` window indices spread evenly over `available`; all of them where there are fewer."""
    count = min(count, available)
    return np.arange(count, dtype=np.int64) * available // max(count, 1)


def log_perplexity(
    evaluation: EvaluationSet, losses: Losses, batch: int, advance: Callable[[int], None] | None = None
) -> dict[str, LogPerplexity]:
    """Log-perplexity of each domain, and under `mean` their unweighted mean as Table 1 prints it.

    Args:
        evaluation: the windows; every domain has at least one.
        losses: the model; all windows have T tokens, so the mean of window losses is the mean over tokens.
        batch: windows handed to `losses` at a time.
        advance: told, after each batch, how many windows are done.
    """
    scores = {}
    done = 0
    for domain, windows in evaluation.windows.items():
        parts = []
        for start in range(0, len(windows), batch):
            part = windows[start : start + batch]
            parts.append(losses(part))
            done += len(part)
            if advance is not None:
                advance(done)
        scores[domain] = _summary(np.concatenate(parts))
    domains = list(scores.values())
    scores[MEAN] = LogPerplexity(
        value=sum(s.value for s in domains) / len(domains),
        stderr=_stderr_of_mean([s.stderr for s in domains]),
        n=sum(s.n for s in domains),
    )
    return scores


def _stderr_of_mean(stderrs: list[float | None]) -> float | None:
    known = [s for s in stderrs if s is not None]
    return math.sqrt(sum(s**2 for s in known)) / len(known) if len(known) == len(stderrs) else None


def _summary(losses_n: NDArray[np.float32]) -> LogPerplexity:
    exact_n = losses_n.astype(np.float64)
    n = len(exact_n)
    stderr = float(exact_n.std(ddof=1) / math.sqrt(n)) if n > 1 else None
    return LogPerplexity(value=float(exact_n.mean()), stderr=stderr, n=n, losses_n=losses_n)
