"""A batch is a function of (seed, step): pure, fair to the weights, a permutation within each epoch."""

from pathlib import Path

import numpy as np
import pytest

from data_prep.batches import Batches, permute
from data_prep.errors import DataError, UserError
from data_prep.token_store import TokenStore, write_store
from tests.conftest import DOMAINS, domain_tokens, tiny_tokenizer


def make(store: TokenStore, **changes: object) -> Batches:
    settings = {
        "split": "train",
        "domain_weights": "uniform",
        "global_batch": 7,
        "sequence": 16,
        "seed": 5,
        "order": "shuffled",
        **changes,
    }
    return Batches(store, **settings)  # type: ignore[arg-type]


def test_a_step_does_not_depend_on_the_steps_asked_before(store: TokenStore) -> None:
    forwards = make(store)
    in_order = [forwards.plan(step) for step in range(1, 40)]
    jumper = make(store)
    for step in (30, 3, 39, 1, 17):
        plan = jumper.plan(step)
        assert np.array_equal(plan.domains_M, in_order[step - 1].domains_M)
        assert np.array_equal(plan.windows_M, in_order[step - 1].windows_M)


def test_tokens_are_the_windows_of_the_concatenated_domain(store: TokenStore) -> None:
    batches = make(store)
    plan = batches.plan(4)
    tokens = batches.tokens(plan)
    whole = {d: np.concatenate([domain_tokens(d, 3000, 1), domain_tokens(d, 1500, 2)]) for d in DOMAINS}
    for row, k, window in zip(tokens, plan.domains_M, plan.windows_M, strict=True):
        expected = whole[batches.domains[k]][16 * window : 16 * (window + 1)]
        assert np.array_equal(row, expected)


@pytest.mark.parametrize("order", ["shuffled", "file"])
def test_every_window_once_an_epoch(store: TokenStore, order: str) -> None:
    batches = make(store, order=order, domain_weights={"code": 1.0}, global_batch=10)
    windows = np.concatenate([batches.plan(step).windows_M for step in range(1, 85)])
    size = int(batches.windows_K[0])
    assert size == 4500 // 16
    first, second = windows[:size], windows[size : 2 * size]
    assert sorted(first) == sorted(second) == list(range(size))
    if order == "file":
        assert list(first) == list(range(size))
    else:
        assert list(first) != list(range(size))
        assert list(first) != list(second)


def test_seeds_differ(store: TokenStore) -> None:
    one, two = make(store, seed=1).plan(1), make(store, seed=2).plan(1)
    assert not (np.array_equal(one.domains_M, two.domains_M) and np.array_equal(one.windows_M, two.windows_M))


def test_domain_shares_follow_the_weights(store: TokenStore) -> None:
    weights = {"code": 6.0, "prose": 3.0, "tables": 1.0}
    batches = make(store, domain_weights=weights, global_batch=50)
    drawn = np.concatenate([batches.plan(step).domains_M for step in range(1, 401)])
    shares = np.bincount(drawn, minlength=3) / len(drawn)
    # 20,000 independent draws: a share's standard error is at most 0.0035; four of them.
    assert shares == pytest.approx([0.6, 0.3, 0.1], abs=0.014)


def test_natural_weights_are_token_shares(tmp_path: Path) -> None:
    tokens = {"train": {"code": [domain_tokens("code", 300, 1)], "prose": [domain_tokens("prose", 100, 1)]}}
    store = write_store(tmp_path / "s", tokens, tokenizer=tiny_tokenizer())
    assert make(store, domain_weights="natural").probabilities_K.tolist() == [0.75, 0.25]


def test_running_out_is_refused_with_the_numbers(store: TokenStore) -> None:
    batches = make(store, sequence=100, global_batch=9)  # 45 windows a domain, 135 in all
    batches.check_enough(5)
    with pytest.raises(UserError, match=r"has 45 windows of 100 tokens.*data.repeat=true") as caught:
        batches.check_enough(40)
    assert caught.value.exit_code == 2


def test_check_counts_exactly_what_is_drawn(store: TokenStore) -> None:
    batches = make(store, sequence=100, global_batch=9)
    steps = next(s for s in range(1, 40) if _exhausts(make(store, sequence=100, global_batch=9), s, 45))
    batches.check_enough(steps - 1)
    with pytest.raises(UserError):
        batches.check_enough(steps)


def _exhausts(batches: Batches, steps: int, windows: int) -> bool:
    drawn = np.concatenate([batches.plan(s).domains_M for s in range(1, steps + 1)])
    return bool(np.bincount(drawn).max() > windows)


def test_unknown_domain_and_a_domain_without_a_window_are_refused(store: TokenStore) -> None:
    with pytest.raises(UserError, match=r"names cod, which .* does not have; its domains: code"):
        make(store, domain_weights={"cod": 1.0})
    with pytest.raises(DataError, match="not one window of 5000 tokens"):
        make(store, sequence=5000)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64, 65, 1000, 4096, 4097])
def test_permute_is_a_bijection(size: int) -> None:
    image = permute(np.arange(size), size, "key")
    assert sorted(image) == list(range(size))


def test_permute_scatters() -> None:
    """Neighbours land far apart: for a random permutation the mean gap is size/3."""
    size = 10_000
    image = permute(np.arange(size), size, "key")
    assert np.abs(np.diff(image)).mean() == pytest.approx(size / 3, rel=0.05)
    assert abs(np.corrcoef(np.arange(size), image)[0, 1]) < 0.04
