"""A batch is a function of (seed, step): pure, fair to the weights, a permutation within each epoch."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from data_prep import batches as batches_module
from data_prep.batches import Batches, BatchPlan, permute
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


def digest(*arrays: np.ndarray) -> str:
    content = b"".join(np.ascontiguousarray(each, dtype="<i8").tobytes() for each in arrays)
    return hashlib.sha256(content).hexdigest()[:16]


MAPPING = {"code": 6.0, "prose": 3.0, "tables": 1.0}


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (1, "af5570f5a1810b7a"),
        (2, "9d34149fbd1fe777"),
        (3, "e92b80d2ee5ab0f6"),
        (1000, "6d32c20c3896c276"),
        (4097, "f2b77039816677ba"),
        (10000000, "18a65c2b9aedcc5d"),
        (1000000000, "90d04c629d2e14ab"),
    ],
)
def test_the_permutation_of_recorded_runs(size: int, expected: str) -> None:
    """Digests of the first version's answers: a run that is resumed or repeated must see the same batches."""
    count = min(size, 5000)
    assert digest(permute(np.arange(count) * (size // count), size, f"k{size}")) == expected


@pytest.mark.parametrize(
    ("order", "weights", "seed", "global_batch", "sequence", "expected"),
    [
        ("shuffled", "uniform", 5, 7, 16, "326422ab5f61de54"),
        ("shuffled", "uniform", 0, 32, 32, "511cc3bccc89eafd"),
        ("shuffled", "uniform", 123456, 1, 100, "b81cec6b81f492a3"),
        ("shuffled", "natural", 5, 7, 16, "326422ab5f61de54"),
        ("shuffled", "natural", 0, 32, 32, "511cc3bccc89eafd"),
        ("shuffled", "natural", 123456, 1, 100, "b81cec6b81f492a3"),
        ("shuffled", MAPPING, 5, 7, 16, "9c16d9758cc73df7"),
        ("shuffled", MAPPING, 0, 32, 32, "e4de7a673d4c587f"),
        ("shuffled", MAPPING, 123456, 1, 100, "b9b9ecb191d02b1f"),
        ("file", "uniform", 5, 7, 16, "2183dd89ca18224e"),
        ("file", "uniform", 0, 32, 32, "4bb68b6143217516"),
        ("file", "uniform", 123456, 1, 100, "1e6a2d0cd73abcb6"),
        ("file", "natural", 5, 7, 16, "2183dd89ca18224e"),
        ("file", "natural", 0, 32, 32, "4bb68b6143217516"),
        ("file", "natural", 123456, 1, 100, "1e6a2d0cd73abcb6"),
        ("file", MAPPING, 5, 7, 16, "df161f4ddf8835e2"),
        ("file", MAPPING, 0, 32, 32, "6e7e0b3c497332af"),
        ("file", MAPPING, 123456, 1, 100, "223980a3ba410044"),
    ],
)
def test_the_batches_of_recorded_runs(
    store: TokenStore,
    order: str,
    weights: str | Mapping[str, float],
    seed: int,
    global_batch: int,
    sequence: int,
    expected: str,
) -> None:
    """Digests of the first version's answers, over several epochs, far steps, and a step asked for again."""
    batches = make(
        store, order=order, domain_weights=weights, seed=seed, global_batch=global_batch, sequence=sequence
    )
    seen: list[np.ndarray] = []
    for step in (*range(1, 60), 700, 70_001, 3):
        plan = batches.plan(step)
        seen += [plan.domains_M, plan.windows_M, batches.tokens(plan)]
    assert digest(*seen) == expected


@pytest.mark.parametrize("planned", [1, 20, 1 << 15])
def test_plans_do_not_depend_on_how_many_are_made_at_once(
    store: TokenStore, monkeypatch: pytest.MonkeyPatch, planned: int
) -> None:
    expected = [make(store).plan(step) for step in range(1, 50)]
    monkeypatch.setattr(batches_module, "SAMPLES_PLANNED", planned)
    monkeypatch.setattr(batches_module, "SAMPLES_COUNTED", 10 * planned)
    batches = make(store)
    for step in (49, 7, 48, *range(1, 50)):
        assert np.array_equal(batches.plan(step).windows_M, expected[step - 1].windows_M)
        assert np.array_equal(batches.plan(step).domains_M, expected[step - 1].domains_M)


@pytest.mark.parametrize("order", ["shuffled", "file"])
def test_parts_read_ahead_or_not_are_the_rows_of_the_whole(store: TokenStore, order: str) -> None:
    whole, ranks, plain = (make(store, order=order, global_batch=10) for _ in range(3))
    own = (np.array([0, 1, 2]), np.array([3, 4, 5, 5]), np.arange(6, 10))
    for step in (*range(1, 30), 5, 6, 200, 201):
        expected = whole.tokens(whole.plan(step))
        for samples in own:
            plan = ranks.plan(step).part(samples)
            assert np.array_equal(ranks.tokens(plan), expected[samples])
            assert np.array_equal(plan.part(np.array([1])).samples, samples[[1]])
            bare = BatchPlan(domains_M=plan.domains_M, windows_M=plan.windows_M)
            assert np.array_equal(plain.tokens(bare), expected[samples])


def test_a_rank_with_one_sample_of_many_reads_no_further_ahead_than_plans_are_kept(
    store: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plans of an earlier block would be made anew, their positions counted from step 1."""
    monkeypatch.setattr(batches_module, "SAMPLES_PLANNED", 128)
    batches = make(store, global_batch=64)
    made: list[int] = []
    real = Batches._plan_steps

    def counted(self: Batches, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        made.append(first)
        return real(self, first, last)

    monkeypatch.setattr(Batches, "_plan_steps", counted)
    for step in range(1, 60):
        batches.tokens(batches.plan(step).part(np.array([9])))
    assert made == sorted(set(made))


def test_plans_are_shared_and_so_cannot_be_changed(store: TokenStore) -> None:
    plan = make(store).plan(1)
    with pytest.raises(ValueError, match="read-only"):
        plan.windows_M[0] = 1


def test_a_plan_of_a_window_that_is_not_there_is_refused(store: TokenStore) -> None:
    """It would lie in the next domain."""
    batches = make(store)
    for window in (-1, int(batches.windows_K[0])):
        with pytest.raises(IndexError):
            batches.tokens(BatchPlan(domains_M=np.array([0]), windows_M=np.array([window])))
