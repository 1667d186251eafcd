"""Many runs at once against one run at a time, against closed forms, and against each other."""

import dataclasses
import math

import pytest
import torch
from studies_worlds import SMALL, bias_world, held_out, plain_run

from reproduce.method import STRATEGIES
from reproduce.studies import ensemble
from reproduce.studies.ensemble import Outcome, Protocol, recorded_steps, simulate, with_rates
from reproduce.studies.settings import Method
from reproduce.studies.setup import draw_batches, make_worlds

STEPS = 30
EVERY = Protocol(steps=STEPS, thresholds=(0.9, 0.5, 1e-9), record=tuple(range(STEPS + 1)))
TEMPERATURES = {"dro_kl": 5.0, "capped_softmax": 5.0}


def methods(momentum: float = 0.0, lr: float = 0.03) -> list[Method]:
    return [
        Method(strategy=name, r=TEMPERATURES.get(name, 0.4), lr=lr, momentum=momentum) for name in STRATEGIES
    ]


def same_bits(a: Outcome, b: Outcome) -> bool:
    pairs = [(getattr(a, field.name), getattr(b, field.name)) for field in dataclasses.fields(Outcome)]
    return all(torch.equal(x, y) for x, y in pairs)


def lanes(found: Outcome, worlds: list[int], which: list[int]) -> dict[str, torch.Tensor]:
    """The per-run results of some worlds and methods."""
    names = ("curve", "reached", "final", "diverged", "overflowed", "outlier_weight")
    return {name: getattr(found, name)[worlds][:, which] for name in names}


@pytest.mark.parametrize(("momentum", "outputs"), [(0.0, 1), (0.9, 3)])
def test_every_run_is_the_plain_loop_in_pytorch(momentum: float, outputs: int) -> None:
    setup = dataclasses.replace(SMALL, outputs=outputs)
    seeds, own = [5, 9], methods(momentum, lr=0.01)
    worlds, batches = make_worlds([setup], seeds), draw_batches(seeds, setup.samples, 8, STEPS)
    found = simulate(worlds, batches, own, EVERY)
    for s, seed in enumerate(seeds):
        for k, method in enumerate(own):
            test = held_out(setup, seed, worlds.truth[s])
            losses, weights = plain_run(worlds.inputs[s], worlds.targets[s], batches[s], method, test)
            assert found.curve[s, k].tolist() == pytest.approx(losses, rel=1e-10), method
            tail = losses[-EVERY.tail :]
            assert float(found.final[s, k]) == pytest.approx(sum(tail) / len(tail), rel=1e-10)
            for h, share in enumerate(EVERY.thresholds):
                arrived = [t for t, loss in enumerate(losses) if t and loss <= share * losses[0]]
                assert float(found.reached[s, k, h]) == (arrived[0] if arrived else math.inf)
            late = list(zip(weights, batches[s], strict=True))[-EVERY.tail :]
            on_outliers = [float(w[rows >= setup.samples - setup.outliers].sum()) for w, rows in late]
            assert float(found.outlier_weight[s, k]) == pytest.approx(
                sum(on_outliers) / len(on_outliers), rel=1e-10
            )
    # The runs differ from each other, or the comparison above would say little.
    assert len({round(float(loss), 9) for loss in found.final.flatten()}) == found.final.numel()


@pytest.mark.parametrize(("workers", "numbers"), [(2, 1 << 16), (1, 1), (3, 150)])
def test_threads_and_chunks_change_no_bit(
    workers: int, numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = [1, 2, 3, 4, 5]
    arguments = make_worlds([SMALL], seeds), draw_batches(seeds, 40, 8, STEPS), methods(0.5), EVERY
    whole = simulate(*arguments)
    monkeypatch.setattr(ensemble, "CHUNK_NUMBERS", numbers)
    assert same_bits(simulate(*arguments, workers=workers), whole)


def test_other_methods_and_worlds_beside_a_run_do_not_change_it() -> None:
    own, seeds = methods(0.5), [1, 2, 3]
    worlds, batches = make_worlds([SMALL], seeds), draw_batches(seeds, 40, 8, STEPS)
    together = simulate(worlds, batches, own, EVERY)
    # A matrix product of another shape may add in another order; nothing else may differ.
    for k, method in enumerate(own):
        alone = simulate(worlds[1:2], batches[1:2], [method], EVERY)
        for name, value in lanes(together, [1], [k]).items():
            torch.testing.assert_close(value, getattr(alone, name), rtol=1e-11, atol=0)
    order = [3, 0, 6, 2, 7, 5, 1, 4][: len(own)]
    assert sorted(order) == list(range(len(own)))
    moved = simulate(worlds, batches, [own[k] for k in order], EVERY)
    for name, value in lanes(together, [0, 1, 2], order).items():
        torch.testing.assert_close(value, getattr(moved, name), rtol=1e-11, atol=0)


def test_setups_of_one_seed_share_its_batches() -> None:
    setups = [SMALL, dataclasses.replace(SMALL, noise=1.0)]
    seeds, own = [3, 4], methods()
    both = simulate(make_worlds(setups, seeds), draw_batches(seeds, 40, 8, STEPS), own, EVERY)
    second = simulate(make_worlds(setups[1:], seeds), draw_batches(seeds, 40, 8, STEPS), own, EVERY)
    for name, value in lanes(both, [2, 3], list(range(len(own)))).items():
        assert torch.equal(value, getattr(second, name)), name


def test_a_diverging_run_leaves_the_bits_of_those_beside_it() -> None:
    seeds = [1, 2]
    worlds, batches = make_worlds([SMALL], seeds), draw_batches(seeds, 40, 8, 400)
    protocol = Protocol(steps=400, thresholds=(0.5,), record=recorded_steps(400))
    calm = [Method(strategy="linupper", r=0.4, lr=lr) for lr in (0.01, 0.02, 0.03)]
    wild = [calm[0], dataclasses.replace(calm[1], lr=50.0), calm[2]]
    good, bad = (simulate(worlds, batches, each, protocol) for each in (calm, wild))
    for name, value in lanes(good, [0, 1], [0, 2]).items():
        assert torch.equal(value, getattr(bad, name)[:, [0, 2]]), name
    assert bad.diverged[:, 1].gt(0).all()
    assert bad.overflowed.tolist() == [[False, True, False]] * 2
    assert bad.final[:, 1].isinf().all()
    assert bad.curve[:, 1, -1].isinf().all()
    assert not good.overflowed.any()


def test_thresholds_tail_and_divergence_by_hand() -> None:
    # lr 0.25: the loss after t steps is 0.5^(2t) = 4^-t. At or below 0.25 first at t = 1 (exactly 0.25);
    # below 0.01 at t = 4 (1/256); 1e-9 at t = 15 (4^-15 = 9.3e-10).
    # lr 1.5: 4^t, above 100 first at t = 4; lr 1: the error changes its sign, the loss stays 1.
    rates = [0.25, 1.5, 1.0]
    own = [Method(strategy="uniform", r=1.0, lr=lr) for lr in rates]
    protocol = Protocol(steps=20, thresholds=(1.0, 0.25, 0.01, 1e-9, 1e-30), record=(0, 1, 3, 4, 20))
    found = simulate(bias_world(), torch.zeros(1, 20, 2, dtype=torch.int32), own, protocol)
    assert found.initial.tolist() == [1.0]
    assert found.reached[0].tolist() == [
        [1, 1, 4, 15, math.inf],
        [math.inf] * 5,
        [1, *[math.inf] * 4],
    ]
    # A tenth of 20 steps: the mean of the losses after 19 and 20.
    assert float(found.final[0, 0]) == pytest.approx((4.0**-19 + 4.0**-20) / 2, rel=1e-12)
    assert found.final[0, 1:].tolist() == [math.inf, 1.0]
    assert found.curve[0].tolist() == [
        [1, 0.25, 4.0**-3, 4.0**-4, 4.0**-20],
        [1, 4, 64, math.inf, math.inf],
        [1] * 5,
    ]
    assert found.diverged.tolist() == [[0, 4, 0]]
    assert not found.overflowed.any()  # 4^20 is a number


def test_overflow_is_told_from_divergence() -> None:
    # 4^t leaves float64 (2^1024) at t = 512, or a step later as the bias is rounded.
    own = [Method(strategy="uniform", r=1.0, lr=1.5)]
    for steps, overflowed in ((511, False), (513, True)):
        batches = torch.zeros(1, steps, 1, dtype=torch.int32)
        found = simulate(bias_world(), batches, own, Protocol(steps=steps))
        assert (int(found.diverged), bool(found.overflowed)) == (4, overflowed)


def test_a_run_that_is_no_number_at_once_has_diverged() -> None:
    # The first step leaves float64: the held-out loss goes from 1 to NaN and is never above 100.
    own = [Method(strategy="uniform", r=1.0, lr=1.5e308)]
    protocol = Protocol(steps=2, thresholds=(1.0,), record=(0, 1))
    found = simulate(bias_world(), torch.zeros(1, 2, 1, dtype=torch.int32), own, protocol)
    assert int(found.diverged) == 1
    assert bool(found.overflowed)
    assert found.curve.flatten().tolist() == [1.0, math.inf]
    assert math.isinf(float(found.reached))


def test_the_weight_on_outliers_by_hand() -> None:
    # Two clean samples and an outlier, the last, whose target is 0 where theirs is 1. The learning rate is
    # next to nothing: losses stay 1, 1 and 0. The batch takes the outlier twice.
    world = dataclasses.replace(
        bias_world(),
        inputs=torch.tensor([0.0, 1.0], dtype=torch.float64).expand(1, 3, 2),
        targets=torch.tensor([[[1.0], [1.0], [0.0]]], dtype=torch.float64),
        clean=torch.tensor([2]),
    )
    batches = torch.tensor([[[0, 1, 2, 2]]], dtype=torch.int32)
    own = [Method(strategy=name, r=1.0, lr=1e-300) for name in ("uniform", "linupper", "dro_kl")]
    found = simulate(world, batches, own, Protocol(steps=1))
    assert found.outlier_share.tolist() == [0.5]
    # Normalised losses are 1 and -1, LinUpper's scores min(h + 1, 1) = 1 and 0: weights e : 1, twice each, so
    # the outliers get 1/(1 + e). DRO-KL's raw losses 1 and 0 at lambda 1 give the same.
    share = 1 / (1 + math.e)
    assert found.outlier_weight[0].tolist() == pytest.approx([0.5, share, share], rel=1e-14)


def test_a_run_that_comes_back_has_diverged_all_the_same() -> None:
    # lr 8 on the first sample: the error is multiplied by 1 - 16 = -15, the loss by 225 > 100. On the second,
    # whose constant is 1/4, by 1 - 16/16 = 0: the loss after step 2 is exactly 0.
    world = dataclasses.replace(
        bias_world(),
        inputs=torch.tensor([[[0.0, 1.0], [0.0, 0.25]]], dtype=torch.float64),
        targets=torch.tensor([[[1.0], [0.25]]], dtype=torch.float64),
        clean=torch.tensor([2]),
    )
    batches = torch.tensor([[[0], [1]]], dtype=torch.int32)
    own = [Method(strategy="uniform", r=1.0, lr=8.0)]
    found = simulate(world, batches, own, Protocol(steps=2, thresholds=(0.5,), record=(0, 1, 2)))
    assert found.curve.flatten().tolist() == [1.0, math.inf, math.inf]
    assert int(found.diverged) == 1
    assert math.isinf(float(found.reached))
    assert math.isinf(float(found.final))
    assert not found.overflowed.any()


def test_learning_rates_of_the_call_stand_in_for_the_methods() -> None:
    seeds = [1, 2]
    worlds, batches = make_worlds([SMALL], seeds), draw_batches(seeds, 40, 8, STEPS)
    base = [Method(strategy=name, r=0.4, lr=7.0) for name in ("uniform", "linupper")]
    rates = torch.tensor([[0.01, 0.02], [0.03, 0.04]], dtype=torch.float64)
    found = simulate(worlds, batches, base, EVERY, lr=rates)
    for s in range(2):
        own = [dataclasses.replace(method, lr=float(rates[s, k])) for k, method in enumerate(base)]
        alone = simulate(worlds[s : s + 1], batches[s : s + 1], own, EVERY)
        torch.testing.assert_close(found.curve[s : s + 1], alone.curve, rtol=1e-11, atol=0)


def test_progress_counts_every_step_of_every_run() -> None:
    told: list[float] = []
    seeds = [1, 2, 3]
    simulate(
        make_worlds([SMALL], seeds),
        draw_batches(seeds, 40, 8, STEPS),
        methods(),
        EVERY,
        advance=told.append,
    )
    assert sum(told) == 3 * len(STRATEGIES) * STEPS


def test_recorded_steps_rise_from_the_start_to_the_last() -> None:
    for steps in (1, 2, 7, 1000, 123_457):
        found = recorded_steps(steps)
        assert found[0] == 0
        assert found[-1] == steps
        assert list(found) == sorted(set(found))
        assert len(found) <= 122
    assert recorded_steps(5) == (0, 1, 2, 3, 4, 5)


def test_rates_are_innermost() -> None:
    two = [Method(strategy=name, r=1.0) for name in ("uniform", "linupper")]
    pairs = [(m.strategy, m.lr) for m in with_rates(two, [0.1, 0.2])]
    assert pairs == [("uniform", 0.1), ("uniform", 0.2), ("linupper", 0.1), ("linupper", 0.2)]
