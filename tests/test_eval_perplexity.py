"""Log-perplexity adds up right, and the evaluation set has one identity."""

import math

import numpy as np
import pytest

from eval.perplexity import EvaluationSet, log_perplexity, spread


def test_values_by_hand() -> None:
    windows = {
        "a": np.array([[1, 1], [2, 2], [6, 6]], dtype=np.int32),
        "b": np.array([[4, 4], [8, 8]], dtype=np.int32),
    }
    told: list[int] = []
    scores = log_perplexity(
        EvaluationSet(windows=windows), lambda t: t[:, 0].astype(np.float32), 2, told.append
    )
    # a: mean of 1, 2, 6 = 3; variance (4 + 1 + 9)/2 = 7. b: mean 6, variance 8.
    assert scores["a"].value == 3.0
    assert scores["a"].stderr == pytest.approx(math.sqrt(7 / 3))
    assert scores["b"].stderr == pytest.approx(2.0)
    # The mean is over domains, not over windows: (3 + 6)/2.
    assert scores["mean"].value == 4.5
    assert scores["mean"].stderr == pytest.approx(math.sqrt(7 / 3 + 4) / 2)
    assert scores["mean"].n == 5
    assert told == [2, 3, 5]


def test_one_window_has_no_standard_error() -> None:
    windows = {"a": np.array([[1, 1]], dtype=np.int32), "b": np.array([[4, 4], [8, 8]], dtype=np.int32)}
    scores = log_perplexity(EvaluationSet(windows=windows), lambda t: t[:, 0].astype(np.float32), 2)
    assert (scores["a"].stderr, scores["b"].stderr, scores["mean"].stderr) == (None, 2.0, None)


def test_digest_depends_on_tokens_domains_and_shape_only() -> None:
    a = np.arange(6, dtype=np.int32).reshape(2, 3)
    base = EvaluationSet(windows={"x": a, "y": a}).sha256
    assert EvaluationSet(windows={"y": a, "x": a.copy()}).sha256 == base
    assert EvaluationSet(windows={"x": a, "z": a}).sha256 != base
    assert EvaluationSet(windows={"x": a.reshape(3, 2), "y": a}).sha256 != base
    changed = a.copy()
    changed[1, 1] += 1
    assert EvaluationSet(windows={"x": changed, "y": a}).sha256 != base


def test_spread_is_even_and_without_repeats() -> None:
    assert spread(4, 8).tolist() == [0, 2, 4, 6]
    assert spread(9, 4).tolist() == [0, 1, 2, 3]
    assert spread(3, 0).tolist() == []
    chosen = spread(128, 1000)
    assert len(set(chosen.tolist())) == 128
    assert chosen.max() < 1000
