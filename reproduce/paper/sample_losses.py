"""A run's losses window by window, held against its results.json. No torch."""

from collections.abc import Mapping
from math import isclose

import numpy as np
from numpy.typing import NDArray

from eval.results import LOG_PERPLEXITY, PERPLEXITY_SUITE, ResultsError
from eval.sample_losses import FILE_NAME, read_sample_losses
from reproduce.errors import DataError
from reproduce.paper.runs import Run

ROUNDING = 1e-9
"""Relative: another machine may add the same losses in another order."""

MEAN = "mean"


def has_sample_losses(run: Run) -> bool:
    """Whether the run folder has the file; runs of older versions do not."""
    path = run.path / FILE_NAME
    return path.exists() and not path.is_symlink()


def sample_losses(run: Run) -> Mapping[str, NDArray[np.float32]]:
    """Domain -> the losses whose means the run's results.json gives, in nats a token.

    Raises:
        DataError: missing, damaged, or of another model or evaluation set than results.json is.
    """
    path, results = run.path / FILE_NAME, run.results
    try:
        found = read_sample_losses(path)
    except ResultsError as error:
        raise DataError(str(error)) from error
    means = {
        score.task: (score.value, score.n)
        for score in results.scores
        if (score.suite, score.metric) == (PERPLEXITY_SUITE, LOG_PERPLEXITY) and score.task != MEAN
    }
    unlike = _unlike(run, found.step, found.eval_set_sha256)
    if not unlike and set(found.losses) != set(means):
        unlike = "has other domains"
    for domain, losses_n in found.losses.items():
        if not unlike and len(losses_n) != means[domain][1]:
            unlike = f"has {len(losses_n)} windows of {domain:.40}"
        if not unlike and not isclose(_mean(losses_n), means[domain][0], rel_tol=ROUNDING):
            unlike = f"has another mean on {domain:.40}"
    if unlike:
        raise DataError(f"{path}: {unlike} than results.json beside it; run `reweight eval {run.path}` again")
    return found.losses


def _unlike(run: Run, step: int, eval_set_sha256: str) -> str:
    if step != run.results.step:
        return f"is of step {step}, another"
    return "is of another evaluation set" if eval_set_sha256 != run.results.eval_set_sha256 else ""


def _mean(losses_n: NDArray[np.float32]) -> float:
    return float(losses_n.astype(np.float64).mean())
