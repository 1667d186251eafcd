"""Proposition 1: conditions of optimality by hand, scipy's solver, and LinUpper beside the optimum."""

import importlib
import math

import numpy as np
import pytest
import torch

from reproduce.errors import UserError
from reproduce.method import STRATEGIES
from reproduce.studies.problems import LOSS_SHAPES, batch_losses
from reproduce.studies.proposition import (
    AGREEMENT,
    KKT_TOLERANCE,
    agreement,
    compare_all,
    in_chunks,
    kkt_residual,
    load_solver,
    objective,
    scipy_weights,
    stand_in,
)


def capped(gaps: np.ndarray, r: float) -> np.ndarray:
    return STRATEGIES["capped_softmax"](torch.from_numpy(gaps), r, 1.0).numpy()


# Gaps 0, 0, 0, log 9 at r = 1 and M = 4: uncapped, the weights are 1/12 and 9/12. The cap is 1/2; the rest
# share the other half.
HAND_GAPS, HAND_WEIGHTS = np.array([0.0, 0.0, 0.0, math.log(9)]), np.array([1 / 6, 1 / 6, 1 / 6, 1 / 2])


def test_the_hand_worked_optimum_has_no_residual_and_its_neighbours_have() -> None:
    assert kkt_residual(HAND_WEIGHTS, HAND_GAPS, 1.0) < 1e-15
    assert capped(HAND_GAPS, 1.0) == pytest.approx(HAND_WEIGHTS, abs=1e-15)
    # Feasible, not stationary.
    assert kkt_residual(np.array([0.16, 0.17, 0.17, 0.5]), HAND_GAPS, 1.0) > 1e-3
    # Stationary among the free, but the capped one would rather be lower: gaps say it belongs to the others.
    assert kkt_residual(HAND_WEIGHTS, np.zeros(4), 1.0) > 0.1
    # Below the cap where more would help.
    assert kkt_residual(np.full(4, 0.25), HAND_GAPS, 1.0) > 0.1
    # Not summing to 1; above the cap.
    assert kkt_residual(HAND_WEIGHTS * 1.001, HAND_GAPS, 1.0) > 1e-4
    assert kkt_residual(np.array([1 / 12, 1 / 12, 1 / 12, 9 / 12]), HAND_GAPS, 1.0) > 0.1


@pytest.mark.parametrize("shape", list(LOSS_SHAPES))
@pytest.mark.parametrize("r", [0.1, 1.0, 5.0])
def test_capped_softmax_is_optimal_and_no_feasible_neighbour_is_better(shape: str, r: float) -> None:
    generator = torch.Generator().manual_seed(3)
    gaps_BM = batch_losses(shape, 20, 33, 4)
    ours_BM = STRATEGIES["capped_softmax"](gaps_BM, r, 1.0)
    for w, g in zip(ours_BM.numpy(), gaps_BM.numpy(), strict=True):
        assert kkt_residual(w, g, r) < KKT_TOLERANCE
    r_B1 = torch.full((20, 1), r, dtype=torch.float64)
    best_B = objective(ours_BM, gaps_BM, r_B1)
    for other in ("uniform", "linupper", "quadratic"):
        target_BM = STRATEGIES[other](gaps_BM, 2.0, 1.0)  # r = 2 keeps the cap: a convex mixture does too
        share = 0.01 * torch.rand(20, 1, generator=generator, dtype=torch.float64)
        moved_BM = ours_BM + share * (target_BM - ours_BM)
        assert torch.all(objective(moved_BM, gaps_BM, r_B1) >= best_B - 1e-12 * best_B.abs())


def test_the_solver_agrees_and_a_wrong_temperature_does_not() -> None:
    pytest.importorskip("scipy")
    solver = load_solver()
    solved, converged = scipy_weights(HAND_GAPS, 1.0, solver)
    assert converged
    assert solved == pytest.approx(HAND_WEIGHTS, abs=AGREEMENT)
    found = [agreement(shape, 12, 0.4, 2, 5, solver) for shape in LOSS_SHAPES]
    assert max(each.distance for each in found) <= AGREEMENT
    gaps = batch_losses("Gaussian", 1, 12, 5)[0].numpy()
    assert np.abs(scipy_weights(gaps, 0.4, solver)[0] - capped(gaps, 0.401)).max() > 10 * AGREEMENT


def test_without_scipy_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(UserError, match=r"pip install scipy"):
        load_solver()


def test_the_objective_by_hand() -> None:
    # M = 2, gaps 0 and 1, w = 1/4, 3/4, r = 2: (1/2 - 3/4) x 1 + 2 (1/4 log 1/2 + 3/4 log 3/2).
    w, g = torch.tensor([[0.25, 0.75]], dtype=torch.float64), torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    expected = -0.25 + 2 * (0.25 * math.log(0.5) + 0.75 * math.log(1.5))
    assert objective(w, g, torch.tensor([[2.0]], dtype=torch.float64)).item() == pytest.approx(expected)
    assert objective(torch.full((1, 2), 0.5, dtype=torch.float64), g, torch.ones(1, 1)).item() == 0.0


def test_linupper_is_compared_at_the_temperature_of_its_slope() -> None:
    losses = batch_losses("Gaussian", 1, 9, 3)
    gaps = losses[0].numpy()
    best = capped(gaps, 2.0 * (gaps.max() - gaps.min()) / 2)
    scores = np.minimum(2 * (gaps - gaps.min()) / (gaps.max() - gaps.min()), 1.0)
    ours = np.exp(scores / 2.0) / np.exp(scores / 2.0).sum()
    # Below LinUpper's cap both rise alike with the loss: the same ratios.
    low, next_low = np.argsort(gaps)[:2]
    assert ours[next_low] / ours[low] == pytest.approx(best[next_low] / best[low])
    found = stand_in("Gaussian", 9, 2.0, 1, 3)
    assert found.distance == pytest.approx(np.abs(ours - best).sum() / 2)


def test_stand_in_counts_only_batches_within_the_cap() -> None:
    outlier = stand_in("one outlier", 32, 0.1, 20, 1)
    assert (outlier.within_cap, outlier.improvement) == (0.0, None)
    mild = stand_in("Gaussian", 32, 2.0, 20, 1)
    assert mild.within_cap == 1.0
    assert mild.improvement is not None
    assert 0 < mild.improvement < 1
    assert 0 < mild.distance < outlier.distance


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = batch_losses("Gaussian", 50, 16, 2)
    whole = in_chunks("capped_softmax", losses, 0.4)
    monkeypatch.setattr("reproduce.studies.proposition.CHUNK_NUMBERS", 700)  # 2 batches of 16 x 16 at a time
    assert torch.equal(in_chunks("capped_softmax", losses, 0.4), whole)


def test_every_combination_is_compared_once() -> None:
    pytest.importorskip("scipy")
    heard: list[float] = []
    agreements, stand_ins = compare_all(("Gaussian",), (4, 8), (0.4, 2.0), (1, 5), 1, heard.append)
    places = [(each.samples, each.r) for each in agreements]
    assert (
        places == [(each.samples, each.r) for each in stand_ins] == [(4, 0.4), (4, 2.0), (8, 0.4), (8, 2.0)]
    )
    assert heard == [0.25, 0.5, 0.75, 1.0]
