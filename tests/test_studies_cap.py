"""How large weights become: the closed form, batches that attain it, and the survey against plain numpy."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from reproduce.method import STRATEGIES
from reproduce.studies.bounds_settings import SMALLEST_R, STUDIED
from reproduce.studies.cap import CapCell, safe_temperature, survey, worst_case
from reproduce.studies.cap_findings import _kept, _paper_settings, _same
from reproduce.studies.problems import LOSS_SHAPES, batch_losses
from reproduce.studies.proposition import StandIn


@pytest.fixture(scope="module")
def cells() -> list[CapCell]:
    return survey((8, 32), (0.4, 2.0), 60, 1, lambda share: None)


def test_one_outlier_attains_the_worst_case() -> None:
    # M = 32, r = 0.4: e^2.5 = 12.18249; 32 x 12.18249 / (12.18249 + 31) = 9.0277.
    assert worst_case(32, 0.4) == pytest.approx(9.0277, abs=5e-5)
    losses = torch.zeros(32, dtype=torch.float64)
    losses[5] = 1.0
    for strategy in ("linupper", "linear"):
        top = 32 * STRATEGIES[strategy](losses, 0.4, 1.0).max().item()
        assert top == pytest.approx(worst_case(32, 0.4), rel=1e-12)
    # Quadratic: one in the middle, the others at both ends.
    ends = torch.tensor([-1.0, 1.0] * 15 + [-1.0, 0.0], dtype=torch.float64)
    assert 32 * STRATEGIES["quadratic"](ends, 0.4, 1.0).max().item() == pytest.approx(worst_case(32, 0.4))


@pytest.mark.parametrize("samples", [3, 8, 32, 512])
def test_the_safe_temperature_is_where_the_worst_case_is_two(samples: int) -> None:
    r = safe_temperature(samples)
    assert worst_case(samples, r) == pytest.approx(2.0)
    assert worst_case(samples, 0.99 * r) > 2
    assert r < 1 / math.log(2)
    with pytest.raises(ValueError, match="2 samples"):
        safe_temperature(2)


@pytest.mark.parametrize("shape", [name for name in LOSS_SHAPES if name != "one outlier"])
def test_quartiles_lie_as_far_apart_as_the_normals(shape: str) -> None:
    drawn = batch_losses(shape, 1000, 100, 7).numpy()
    low, high = np.quantile(drawn, [0.25, 0.75])
    assert high - low == pytest.approx(2 * 0.67449, rel=0.02)


def test_the_outlier_is_one_and_draws_depend_on_shape_and_size_only() -> None:
    drawn = batch_losses("one outlier", 5, 8, 1)
    assert (drawn == 10.0).sum(dim=-1).tolist() == [1] * 5
    assert not torch.equal(batch_losses("Gaussian", 5, 8, 1), batch_losses("Gaussian", 5, 8, 2))
    assert torch.equal(batch_losses("Gaussian", 9, 8, 1)[:5], batch_losses("Gaussian", 5, 8, 1))


def find(cells: list[CapCell], *place: object) -> CapCell:
    return next(cell for cell in cells if (cell.shape, cell.samples, cell.strategy, cell.r) == place)


@pytest.mark.parametrize("shape", ["Gaussian", "log-normal"])
def test_shares_are_those_of_a_plain_count(cells: list[CapCell], shape: str) -> None:
    losses = batch_losses(shape, 60, 8, 1).numpy()
    span = losses.max(axis=1, keepdims=True) - losses.min(axis=1, keepdims=True)
    scores = np.minimum(2 * (losses - losses.min(axis=1, keepdims=True)) / span, 1.0)
    tops = 8 * (np.exp(scores / 0.4) / np.exp(scores / 0.4).sum(axis=1, keepdims=True)).max(axis=1)
    cell = find(cells, shape, 8, "linupper", 0.4)
    assert cell.over == int((tops > 2).sum()) > 0
    assert cell.largest == pytest.approx(tops.max())
    assert cell.typical == pytest.approx(tops.mean())
    assert cell.step_factor == pytest.approx(2 / tops.max())
    raw = np.exp(losses / 2.0) / np.exp(losses / 2.0).sum(axis=1, keepdims=True)
    assert find(cells, shape, 8, "dro_kl", 2.0).largest == pytest.approx(8 * raw.max())


def test_no_weight_exceeds_what_the_closed_form_allows(cells: list[CapCell]) -> None:
    assert len(cells) == len(LOSS_SHAPES) * 2 * len(STRATEGIES) * 2
    bounded = [cell for cell in cells if cell.worst is not None]
    assert all(cell.largest <= cell.worst * (1 + 1e-12) for cell in bounded)  # type: ignore[operator]
    assert {cell.strategy for cell in cells} - {cell.strategy for cell in bounded} == {"dro_kl"}
    for strategy in ("uniform", "capped_softmax"):
        assert all(
            cell.over == 0 and cell.step_factor > 1 - 1e-9 for cell in cells if cell.strategy == strategy
        )
    assert all(
        find(cells, "one outlier", 32, "linupper", r).over == over for r, over in ((0.4, 60), (2.0, 0))
    )


def test_verdicts_follow_the_counts(cells: list[CapCell]) -> None:
    linupper = [cell for cell in cells if cell.strategy == "linupper"]
    assert (_kept(linupper).outcome, _kept(linupper).where) == ("only_where", "r = 2")
    assert _kept([replace(cell, over=0) for cell in linupper]).outcome == "holds"
    assert _kept([replace(cell, over=1) for cell in linupper]).outcome == "does_not"
    assert _paper_settings(linupper).outcome == "does_not"  # M = 32 at r = 0.4 is the only one here
    assert _paper_settings([replace(cell, over=0) for cell in linupper]).outcome == "holds"
    assert _paper_settings([cell for cell in linupper if cell.r == 2.0]).outcome == "unresolved"


def test_the_optimum_verdict_follows_the_distances() -> None:
    near, far = (
        StandIn(shape="Gaussian", samples=8, r=r, batches=5, distance=d, within_cap=1.0, improvement=0.5)
        for r, d in ((0.4, 1e-9), (1.0, 0.2))
    )
    assert _same([near]).outcome == "holds"
    assert _same([far]).outcome == "does_not"
    assert (_same([near, far]).outcome, _same([near, far]).where) == ("only_where", "Gaussian, M=8, r=0.4")


def test_the_names_studied_are_the_methods() -> None:
    assert set(STUDIED) == set(STRATEGIES) - {"readme_uniform"}
    assert math.isfinite(worst_case(512, SMALLEST_R))
