"""Theorems 1 and 2 by number: against a hand-worked step, a plain numpy loop, and checks that must fail."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from reproduce.errors import UserError
from reproduce.studies.bounds import BoundsSettings, run_bounds
from reproduce.studies.bounds_check import Held, delta_terms, hold, over_cap
from reproduce.studies.bounds_findings import bounds_findings
from reproduce.studies.bounds_races import ranking, reduced
from reproduce.studies.bounds_result import BoundsResult, measure
from reproduce.studies.bounds_run import (
    ALGORITHMS,
    FULL,
    FULL_CAPPED,
    FULL_HEAVY_BALL,
    FULL_MEAN,
    HEAVY_BALL,
    SGD,
    Algorithm,
    descend,
)
from reproduce.studies.problems import (
    LOGCOSH,
    LOSSES,
    SQUARE,
    Problem,
    ScalarLoss,
    logcosh,
    minibatches,
    regression_problem,
    residuals,
)
from reproduce.studies.settings import Method
from reproduce.study import Finding, Study
from reproduce.study_file import read_study, study_text, write_study

TINY = BoundsSettings(
    seeds=3,
    steps=12,
    samples=12,
    features=3,
    batch=4,
    r=(0.4,),
    lambdas=(0.2,),
    cap_batches=20,
    cap_sizes=(8, 32),
    cap_r=(0.4, 2.0),
    problems=1,
)
METHODS = TINY.methods


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def study() -> Study:
    return run_bounds(TINY, "reweight toy bounds")


@pytest.fixture(scope="module")
def result() -> BoundsResult:
    return measure(TINY, lambda share, what: None)


def problem(loss: ScalarLoss, seeds: int = 3) -> Problem:
    return regression_problem(loss, range(seeds), 12, 3)


def batches(steps: int, seeds: int = 3, batch: int = 4) -> torch.Tensor:
    return minibatches(range(seeds), steps, 12, batch)


# ---- the problems


def test_logcosh_keeps_its_digits_near_zero_and_far_out() -> None:
    # Near 0, u^2/2 - u^4/12; far out, |u| - log 2 to the last digit; between, the definition.
    u = torch.tensor([0.0, 1e-9, -1e-4, 0.5, -1.5, 40.0, -1e5], dtype=torch.float64)
    expected = [
        0.0,
        5e-19,
        5e-9 - 1e-16 / 12,
        math.log(math.cosh(0.5)),
        math.log(math.cosh(1.5)),
        40 - math.log(2),
        1e5 - math.log(2),
    ]
    assert logcosh(u).tolist() == pytest.approx(expected, rel=1e-13, abs=0)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda each: each.name)
def test_slope_is_the_derivative_and_curvature_its_steepest(loss: ScalarLoss) -> None:
    u = torch.linspace(-3, 3, 61, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(loss.value(u).sum(), u, create_graph=True)
    (second,) = torch.autograd.grad(loss.slope(u).sum(), u)
    assert torch.allclose(first, loss.slope(u), rtol=1e-12, atol=1e-14)
    assert second.max().item() == pytest.approx(loss.curvature, rel=1e-12)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda each: each.name)
def test_every_sample_is_at_its_minimum_at_the_optimum(loss: ScalarLoss) -> None:
    p = problem(loss)
    u = residuals(p.optimum.unsqueeze(1), p.inputs, p.targets)
    assert torch.equal(loss.value(u), torch.zeros_like(u))
    assert torch.all(p.gap(torch.zeros_like(p.optimum).unsqueeze(1)) > 0)


def test_smoothness_is_the_largest_of_a_sample_and_the_means_lies_below() -> None:
    p = problem(SQUARE)
    for seed in range(3):
        x = p.inputs[seed].numpy()
        hessians = [2 * np.outer(row, row) for row in x]
        assert p.smoothness[seed].item() == pytest.approx(max(np.linalg.norm(h, 2) for h in hessians))
        mean = np.linalg.norm(sum(hessians) / len(hessians), 2)
        assert p.mean_smoothness()[seed].item() == pytest.approx(mean)


def test_minibatches_hold_no_sample_twice_and_a_seed_does_not_see_the_others() -> None:
    drawn = batches(50)
    assert drawn.shape == (3, 50, 4)
    assert all(len(set(row)) == 4 for row in drawn.reshape(-1, 4).tolist())
    assert torch.equal(drawn[2], minibatches([2], 50, 12, 4)[0])
    # Each sample is as likely as any: 150 draws of 4 of 12, so 50 each, standard deviation 5.8.
    assert torch.bincount(drawn.flatten(), minlength=12).sub(50).abs().max() < 25


# ---- the runs


def test_a_step_worked_out_by_hand() -> None:
    # x = 1, 2; theta* = 1; theta_0 = 0: losses 1 and 4. LinUpper scores 0 and 1; r = 1.
    w = (1 / (1 + math.e), math.e / (1 + math.e))
    p = Problem(
        loss=SQUARE,
        inputs=torch.tensor([[[1.0], [2.0]]], dtype=torch.float64),
        targets=torch.tensor([[1.0, 2.0]], dtype=torch.float64),
        optimum=torch.ones(1, 1, dtype=torch.float64),
        smoothness=torch.tensor([8.0], dtype=torch.float64),  # 2 x 2^2
    )
    trace = descend(p, FULL, [Method(strategy="linupper", r=1.0)], torch.empty(1, 1, 0, dtype=torch.int64))
    # Gradients 2 x (theta - 1) x = -2 and -8; step 1/16.
    theta = (2 * w[0] + 8 * w[1]) / 16
    assert trace.distance.flatten().tolist() == pytest.approx([1.0, (1 - theta) ** 2])
    assert trace.gap.item() == trace.judged_gap.item() == 2.5
    assert trace.weighted.item() == pytest.approx(w[0] + 4 * w[1])
    assert trace.delta.item() == pytest.approx((0.5 - w[0]) + 4 * (0.5 - w[1]))
    assert trace.top_weight.item() == pytest.approx(2 * w[1])
    assert trace.spread.item() == 3.0
    assert trace.lemma_ratio.item() == 1.0  # 64 / (2 x 8 x 4); the other sample: 4 / (2 x 8 x 1)
    held = hold(trace)
    assert held.classic.item() == 16.0  # 2 x 8 x 1 / 1
    assert held.bound.item() == pytest.approx(16 + 0.5 - w[0] + 4 * (0.5 - w[1]))


def linupper_weights(losses: np.ndarray, r: float) -> np.ndarray:
    h = 2 * (losses - losses.min()) / (losses.max() - losses.min()) - 1
    raised = np.exp(np.minimum(h + 1, 1) / r)
    return raised / raised.sum()


@pytest.mark.parametrize("algorithm", [SGD, HEAVY_BALL], ids=lambda each: each.name)
def test_a_run_is_that_of_a_plain_loop_in_the_classic_form(algorithm: Algorithm) -> None:
    """Heavy ball as theta - alpha g + beta (theta - before): the two forms are one method."""
    p, drawn, steps = problem(LOGCOSH), batches(30), 30
    trace = descend(p, algorithm, [Method(strategy="linupper", r=0.4)], drawn)
    held = hold(trace)
    seed = 1
    x, y, optimum = p.inputs[seed].numpy(), p.targets[seed].numpy(), p.optimum[seed].numpy()
    eta = 1 / (2 * np.square(x).sum(axis=1).max())
    theta, before, path, term = np.zeros(3), np.zeros(3), [], 0.0
    for t in range(steps):
        rows = drawn[seed, t].numpy()
        path.append(theta)
        u = x[rows] @ theta - y[rows]
        losses = np.log(np.cosh(u))
        w = linupper_weights(losses, 0.4)
        gradient = (w * np.tanh(u)) @ x[rows]
        now, then = losses, np.log(np.cosh(x[rows] @ before - y[rows]))
        if algorithm.heavy_ball:
            term += (t + 1) * np.sum((1 / 4 - w) * now) - t * np.sum((1 / 4 - w) * then)
            alpha, beta = eta / (1 + (t + 1) / 2), (t / 2) / (1 + (t + 1) / 2)
            theta, before = theta - alpha * gradient + beta * (theta - before), theta
        else:
            term += np.sum((1 / 4 - w) * now)
            theta, before = theta - eta * gradient, theta
    judged = path[-1] if algorithm.heavy_ball else np.mean(path, axis=0)
    gap = np.log(np.cosh(x @ judged - y)).mean()
    classic = optimum @ optimum / (eta * steps)  # 2 L d_0 / T
    assert held.gap[seed, 0].item() == pytest.approx(gap, rel=1e-9)
    assert held.classic[seed, 0].item() == pytest.approx(classic, rel=1e-12)
    assert held.delta_term[seed, 0].item() == pytest.approx(term / steps, rel=1e-7, abs=1e-12)


def test_seeds_and_methods_do_not_see_one_another() -> None:
    p, drawn = problem(SQUARE), batches(10)
    together = descend(p, HEAVY_BALL, METHODS, drawn)
    one = regression_problem(SQUARE, [2], 12, 3)
    alone = descend(one, HEAVY_BALL, [METHODS[3]], drawn[2:])
    assert torch.allclose(together.gap[:, 2:, 3:4], alone.gap, rtol=1e-12, atol=0)


# ---- the inequalities


def failures(held: Held) -> int:
    return int(held.step_violations.sum())


@pytest.mark.parametrize("loss", LOSSES, ids=lambda each: each.name)
@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda each: each.name)
def test_every_inequality_holds(loss: ScalarLoss, algorithm: Algorithm) -> None:
    trace = descend(problem(loss), algorithm, METHODS, batches(60))
    held, over = hold(trace), over_cap(trace)
    if algorithm.by_mean:  # a theorem about weights within 2/M only
        within = ~over.any(dim=0).any(dim=0)
        assert within.sum() >= 2
        assert held.step_violations[within].sum() == held.path_violations[within].sum() == 0
        return
    assert held.lemma_violations == failures(held) == 0
    assert over.any()  # dro_kl; the bound holds all the same
    if not algorithm.minibatch:
        assert held.path_violations.sum() == 0


@pytest.mark.parametrize("algorithm", [FULL, SGD, FULL_HEAVY_BALL, HEAVY_BALL], ids=lambda each: each.name)
def test_a_step_too_long_is_noticed(algorithm: Algorithm) -> None:
    """2/L: on one sample alone, whose curvature L is, the square loss goes back and forth for ever."""
    p = problem(SQUARE)
    largest = p.inputs.square().sum(dim=-1).argmax(dim=-1)
    rows = torch.arange(3)
    alone = replace(
        p, inputs=p.inputs[rows, largest].unsqueeze(1), targets=p.targets[rows, largest].unsqueeze(1)
    )
    drawn = torch.zeros(3, 20, 1, dtype=torch.int64)
    uniform = [Method(strategy="uniform", r=1.0)]
    assert failures(hold(descend(alone, algorithm, uniform, drawn))) == 0
    assert failures(hold(descend(alone, replace(algorithm, step=2.0), uniform, drawn))) > 0


@pytest.mark.parametrize("loss", LOSSES, ids=lambda each: each.name)
def test_a_smoothness_constant_too_small_is_noticed(loss: ScalarLoss) -> None:
    right = problem(loss)
    wrong = replace(right, smoothness=right.smoothness / 20)
    held = hold(descend(wrong, FULL, METHODS, batches(20)))
    assert held.lemma_violations > 0
    assert held.step_violations.min() > 0


def test_a_bound_that_is_too_low_is_noticed_on_the_path() -> None:
    trace = descend(problem(SQUARE), FULL, METHODS, batches(20))
    raised = replace(trace, judged_gap=trace.judged_gap * 1000)
    assert hold(trace).path_violations.sum() == 0
    assert hold(raised).path_violations.min() > 0


def test_numbers_that_are_not_finite_fail_and_count_as_above_the_cap() -> None:
    trace = descend(problem(SQUARE), FULL, METHODS, batches(5))
    broken = replace(trace, weighted=trace.weighted * math.nan, top_weight=trace.top_weight * math.nan)
    assert hold(broken).step_violations.tolist() == [15] * len(METHODS)
    assert over_cap(broken).all()


def test_rounding_is_not_so_generous_that_it_hides_a_failure() -> None:
    """The smallest right side of any step stays far above what rounding may add."""
    trace = descend(problem(SQUARE), FULL, METHODS, batches(60))
    right = (trace.distance[:-1] - trace.distance[1:]) / trace.distance[0]
    assert right.min() > 100 * 1e-12


def test_the_cap_decides_whether_the_long_step_diverges() -> None:
    drawn = torch.empty(3, 200, 0, dtype=torch.int64)
    p = regression_problem(SQUARE, range(3), 64, 10)
    methods = [Method(strategy=name, r=0.1) for name in ("capped_softmax", "dro_kl")]
    held = hold(descend(p, FULL_MEAN, methods, drawn))
    assert held.step_violations[0] == held.path_violations[0] == 0
    assert held.step_violations[1] > 0
    assert not held.gap[:, 1].max() < 1e3  # grown, or no number any more


def test_uniform_has_no_delta_and_the_heavy_ball_term_telescopes() -> None:
    trace = descend(problem(LOGCOSH), FULL_HEAVY_BALL, METHODS, batches(9))
    assert delta_terms(trace)[:, :, 0].abs().max() < 1e-16
    # All samples in every step: the sum over t of the steps' left sides is T (F - F*) less the delta terms.
    counts = torch.arange(1, 10, dtype=torch.float64).view(-1, 1, 1)
    left = (counts * trace.weighted - (counts - 1) * trace.weighted_before).sum(dim=0)
    assert torch.allclose(left / 9 + delta_terms(trace)[-1], trace.gap[-1], rtol=1e-9, atol=1e-12)


# ---- settings


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"seeds": 0}, r"--seeds 0: expected"),
        ({"steps": -1}, r"--steps -1: expected"),
        ({"batch": 13}, r"--batch 13: expected 3 to 12, the --samples"),
        ({"batch": 2}, r"--batch 2: expected 3 to 12"),
        ({"first_seed": -1}, r"--seed -1"),
        ({"r": ()}, r"--r: give at least one"),
        ({"r": (0.4, 0.0)}, r"--r 0: expected"),
        ({"r": (0.4, math.nan)}, r"--r nan: expected"),
        ({"lambdas": (1.0, 1.0)}, r"--lambda .*twice"),
        ({"cap_r": (0.0001,)}, r"--cap-r 0.0001"),
        ({"cap_sizes": (2,)}, r"--cap-size 2: expected"),
        ({"problems": 0}, r"--problems 0"),
        ({"seeds": 10_000_000}, r"runs of .* needs about .* GB of memory.*--seeds"),
        ({"samples": 5_000_000}, r"needs about .* GB of memory"),
        ({"cap_batches": 10_000_000, "cap_sizes": (100_000,)}, r"losses needs about .* GB.*--cap-batches"),
    ],
)
def test_settings_that_cannot_run_are_refused_in_one_line(change: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        replace(TINY, **change)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_methods_are_all_strategies_but_the_readmes() -> None:
    names = [method.name for method in BoundsSettings(r=(0.4, 1.0), lambdas=(0.1,)).methods]
    assert names[0] == "uniform"
    assert len(names) == 1 + 4 * 2 + 2
    assert "linupper r=1" in names
    assert "dro_kl λ=0.1" in names


# ---- the study


def test_the_study_reads_back_and_repeats_byte_for_byte(tmp_path: Path, study: Study) -> None:
    heard: list[float] = []
    again = run_bounds(TINY, "reweight toy bounds", lambda share, what: heard.append(share))
    assert study_text(again) == study_text(study)
    assert study_text(read_study(write_study(tmp_path, study))) == study_text(study)
    assert heard == sorted(heard)
    assert heard[-1] == pytest.approx(1.0)
    assert study.versions["scipy"]
    for figure in study.figures:
        for panel in figure.panels:
            assert all(len(line.x) <= 120 for line in getattr(panel, "lines", ()))


def test_failures_are_counted_where_a_theorem_speaks(study: Study) -> None:
    failed, total = {}, 0
    table = study.table("bounds")
    for row in table.rows:
        cells = dict(zip(table.columns, row, strict=True))
        longer = "4 L_F" in str(cells["algorithm"])
        failed[longer] = failed.get(longer, 0) + int(str(cells["failed steps"]))
        total += 0 if longer else TINY.steps * TINY.seeds
    numbers = study.numbers
    assert numbers["steps checked"] == total
    assert numbers["failed steps"] == failed[False] == 0
    # Beyond the cap the longer step is allowed nobody: dro_kl diverges with it.
    assert numbers["failed steps with 1/(4 L_F), within 2/M"] == 0
    assert numbers["failed steps with 1/(4 L_F), beyond 2/M"] == failed[True]


def test_the_bounds_table_says_what_the_runs_did(study: Study, result: BoundsResult) -> None:
    table = study.table("bounds")
    assert len(table.rows) == len(LOSSES) * len(ALGORITHMS) * len(METHODS)
    row = dict(zip(table.columns, table.rows[1], strict=True))
    race = result.races[0]
    assert (row["problem"], row["method"]) == ("linear regression", "linupper r=0.4")
    assert row["gap"] == pytest.approx(race.held.gap[:, 1].mean().item())
    assert row["bound"] == pytest.approx(row["classic term"] + row["delta term"])  # type: ignore[operator]
    assert row["(gap - bound) / classic term, at most"] < 0  # type: ignore[operator]


def finding(result: BoundsResult, claim: str) -> Finding:
    (found,) = [each for each in bounds_findings(result) if each.claim.startswith(claim)]
    return found


def test_verdicts_on_the_theorems(result: BoundsResult) -> None:
    for claim in (
        "Lemma 1",
        "Theorem 1",
        "Theorem 2 (mini",
        "Theorem 2 (heavy",
        "Theorem 4",
        "Proposition 1:",
    ):
        assert finding(result, claim).outcome == "holds", claim
    assert finding(result, "The bounds need w <= 2/M").outcome == "does_not"
    assert all(each.seeds >= 1 and each.evidence for each in bounds_findings(result))
    assert all(bool(each.where) == (each.outcome == "only_where") for each in bounds_findings(result))


@pytest.mark.parametrize(
    ("claim", "place"), [("Theorem 1", FULL), ("Theorem 2 (mini", SGD), ("Theorem 2 (heavy", HEAVY_BALL)]
)
def test_one_failed_step_overturns_a_verdict(result: BoundsResult, claim: str, place: Algorithm) -> None:
    def spoilt(held: Held) -> Held:
        return replace(held, step_violations=held.step_violations + 1)

    races = tuple(
        replace(race, held=spoilt(race.held)) if race.algorithm == place else race for race in result.races
    )
    assert finding(replace(result, races=races), claim).outcome == "does_not"


def test_a_mean_that_is_not_clearly_below_its_bound_leaves_theorem_2_open_or_denies_it(
    result: BoundsResult,
) -> None:
    def with_gap(gap_less_bound: list[float]) -> BoundsResult:
        excess = torch.tensor(gap_less_bound, dtype=torch.float64).unsqueeze(1)
        races = tuple(
            replace(race, held=replace(race.held, gap=race.held.bound + excess * race.held.classic))
            if race.algorithm == SGD
            else race
            for race in result.races
        )
        return replace(result, races=races)

    claim = "Theorem 2 (mini"
    assert finding(with_gap([-1.0, -1.1, -1.2]), claim).outcome == "holds"
    assert finding(with_gap([-1.0, 0.5, -1.2]), claim).outcome == "unresolved"
    assert finding(with_gap([1.0, 1.1, 1.2]), claim).outcome == "does_not"
    assert finding(with_gap([1.0, math.nan, 1.2]), claim).outcome == "does_not"


def test_the_cap_verdict_needs_weights_above_it(result: BoundsResult) -> None:
    kept = tuple(replace(race, steps_over_cap=race.steps_over_cap * 0) for race in result.races)
    assert finding(replace(result, races=kept), "The bounds need w <= 2/M").outcome == "unresolved"


def test_pairs_are_in_the_same_order_only_where_both_differ() -> None:
    trace = descend(problem(SQUARE, seeds=4), FULL, METHODS[:3], batches(5, seeds=4))
    race = reduced(trace, METHODS[:3])
    noise = torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=torch.float64).unsqueeze(1) * 1e-6
    # Gaps: method 0 below 1 below 2. Bounds: 0 below 1, 2 like 0. One pair agrees, one does not, one is open.
    gap = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64) + noise
    bound = torch.tensor([[5.0, 6.0, 5.0]], dtype=torch.float64) + noise
    held = replace(race.held, gap=gap, classic=torch.zeros(4, 3, dtype=torch.float64), delta_term=bound)
    found = ranking(replace(race, held=held))
    assert (found.pairs, found.agree) == (2, 1)
    one_seed = replace(held, gap=gap[:1], classic=held.classic[:1], delta_term=bound[:1])
    assert ranking(replace(race, held=one_seed)).pairs == 0


def test_weights_turn_uniform_once_losses_span_less_than_the_floor() -> None:
    p = problem(SQUARE)
    linupper = [Method(strategy="linupper", r=0.4)]
    race = reduced(descend(p, FULL_CAPPED, linupper, batches(3)), linupper)
    assert race.floor_step.tolist() == [[math.inf]] * 3
    near = replace(p, optimum=p.optimum * 1e-5, targets=p.targets * 1e-5)  # losses about 1e-9
    trace = descend(near, FULL, linupper, batches(3))
    assert reduced(trace, linupper).floor_step.tolist() == [[0.0]] * 3
    assert trace.top_weight.max() < 1.1
