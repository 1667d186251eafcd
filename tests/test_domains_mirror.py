"""The update of domain weights, and the weights it gives to samples: simplex, floor, hand-worked numbers."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reproduce.domains.mirror import Members, mirror_step

WEIGHTS = st.lists(st.floats(1e-6, 1.0), min_size=2, max_size=9)
GAINS = st.floats(-1e4, 1e4)


@given(weights=WEIGHTS, smoothing=st.sampled_from([0.0, 1e-3, 0.1, 1.0]), data=st.data())
def test_weights_stay_on_the_simplex_and_above_the_floor(
    weights: list[float], smoothing: float, data: st.DataObject
) -> None:
    k = len(weights)
    alpha = torch.tensor(weights, dtype=torch.float64)
    alpha = alpha / alpha.sum()
    for _ in range(5):  # also where one domain has taken over
        gains = data.draw(st.lists(GAINS, min_size=k, max_size=k))
        alpha = mirror_step(alpha, torch.tensor(gains, dtype=torch.float64), smoothing)
        assert abs(float(alpha.sum()) - 1) < 1e-12
        assert float(alpha.min()) >= smoothing / k * (1 - 1e-12)
        assert bool(torch.isfinite(alpha).all())


def test_a_step_by_hand() -> None:
    # alpha = (1/4, 3/4), gains (ln 3, 0): alpha' ~ (3/4, 3/4) = (1/2, 1/2); equal weights stay equal under c.
    alpha = torch.tensor([0.25, 0.75], dtype=torch.float64)
    gain = torch.tensor([math.log(3), 0.0], dtype=torch.float64)
    assert mirror_step(alpha, gain, 0.1).tolist() == pytest.approx([0.5, 0.5], abs=1e-15)
    # Gains (ln 9, 0): alpha' ~ (9/4, 3/4) = (3/4, 1/4); c = 0.2: 0.8 x (3/4, 1/4) + 0.1 = (0.7, 0.3).
    gain = torch.tensor([math.log(9), 0.0], dtype=torch.float64)
    assert mirror_step(alpha, gain, 0.2).tolist() == pytest.approx([0.7, 0.3], abs=1e-15)


def test_a_domain_out_of_play_stays_at_zero_and_takes_no_smoothing() -> None:
    alpha = torch.tensor([0.5, 0.0, 0.5], dtype=torch.float64)
    moved = mirror_step(alpha, torch.tensor([0.0, 100.0, 0.0], dtype=torch.float64), 0.5)
    assert moved.tolist() == [0.5, 0.0, 0.5]


def test_a_weight_that_nearly_vanished_can_come_back() -> None:
    alpha = torch.tensor([0.5, 0.5], dtype=torch.float64)
    away = mirror_step(alpha, torch.tensor([0.0, -5000.0], dtype=torch.float64))
    assert away.tolist() == pytest.approx([1.0, 0.0], abs=1e-200)
    back = mirror_step(away, torch.tensor([0.0, 5000.0], dtype=torch.float64))
    assert float(back[1]) == pytest.approx(1.0)


def test_equal_gains_change_nothing() -> None:
    alpha = torch.tensor([0.1, 0.2, 0.7], dtype=torch.float64)
    moved = mirror_step(alpha, torch.full((3,), 800.0, dtype=torch.float64))
    assert moved.tolist() == pytest.approx(alpha.tolist(), abs=1e-12)  # e^800 would overflow


def test_means_by_domain_and_what_a_missing_domain_keeps() -> None:
    members = Members.of(torch.tensor([0, 2, 0, 2, 2]), 4)
    values = torch.tensor([1.0, 5.0, 3.0, 7.0, 9.0])
    last = torch.tensor([10.0, 20.0, 30.0, 40.0], dtype=torch.float64)
    # Domain 0: (1 + 3)/2; domain 2: (5 + 7 + 9)/3; 1 and 3 are not there.
    assert members.means(values, last).tolist() == [2.0, 20.0, 7.0, 40.0]
    assert members.counts_K.tolist() == [2, 0, 3, 0]


def test_samples_share_their_domains_weight_and_missing_weight_goes_to_the_others() -> None:
    members = Members.of(torch.tensor([0, 2, 0]), 3)
    alpha = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    # Present: 0.2 and 0.3, scaled to 0.4 and 0.6; domain 0's two samples get half of 0.4 each.
    assert members.in_batch(alpha).tolist() == pytest.approx([0.4, 0.0, 0.6])
    weights = members.sample_weights(alpha)
    assert weights.dtype == torch.float32
    assert weights.tolist() == pytest.approx([0.2, 0.6, 0.2])
