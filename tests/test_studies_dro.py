"""DRO-KL beside LinUpper and uniform: each at its best rate, the verdicts on Figure 8, the whole study."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from studies_worlds import SMALL, contest

from reproduce.errors import UserError
from reproduce.studies import options
from reproduce.studies.contest import Contest
from reproduce.studies.dro import run_dro
from reproduce.studies.dro_races import Races
from reproduce.studies.dro_settings import TOLERANCE, DroSettings
from reproduce.studies.dro_verdicts import (
    bears_larger,
    cap_helps,
    diverges,
    dro_findings,
    ends_below,
    needs_smaller,
)
from reproduce.studies.settings import Method
from reproduce.studies.stability import Stability
from reproduce.study import Finding, Study
from reproduce.study_file import read_study, study_text, write_study

UNIFORM, LINUPPER, DRO, CAPPED = (
    Method(strategy="uniform", r=1.0),
    Method(strategy="linupper", r=0.4),
    Method(strategy="dro_kl", r=5.0),
    Method(strategy="capped_softmax", r=5.0),
)
FOUR = [UNIFORM, LINUPPER, DRO, CAPPED]
QUICK = DroSettings(
    data=dataclasses.replace(SMALL, outlier_share=0.25),
    lambdas=(0.4, 5.0),
    r=(0.4,),
    lrs=(0.003, 0.03, 3.0),
    batch=8,
    steps=40,
    seeds=4,
    thresholds=(0.5, 0.1),
    search_seeds=3,
    search_steps=30,
)


# --- races --------------------------------------------------------------------------------------------------


def races(
    finals: list[list[list[float]]], methods: list[Method], lrs: tuple[float, ...], seeds: int
) -> Races:
    """finals[k][j]: method k's losses by seed at learning rate j; one value: the same in every seed."""
    lanes = [lane * seeds if len(lane) == 1 else lane for method in finals for lane in method]
    own = [dataclasses.replace(method, lr=lr) for method in methods for lr in lrs]
    final = torch.tensor(lanes, dtype=torch.float64).T
    return Races(whole=contest(own, final), lrs=lrs)


def test_every_method_at_its_own_best_rate() -> None:
    made = races(
        [[[3.0], [1.0], [1.0]], [[math.inf], [9.0], [4.0]]], [UNIFORM, LINUPPER], (0.1, 0.2, 0.4), seeds=3
    )
    # Of equals the smaller rate.
    assert [made.best(k) for k in range(2)] == [1, 2]
    assert [method.lr for method in made.at_best.methods] == [0.2, 0.4]
    assert made.at_best.outcome.final.tolist() == [[1.0, 4.0]] * 3
    assert [method.strategy for method in made.methods] == ["uniform", "linupper"]
    assert made.at[0].outcome.final.tolist() == [[3.0, math.inf]] * 3
    assert made.at[0].diverged(1) == 3


def test_every_method_at_its_quickest_rate_to_each_threshold() -> None:
    # Steps of one method at two rates: to the first threshold 5 and 9, to the second never and 20.
    own = [dataclasses.replace(UNIFORM, lr=lr) for lr in (0.1, 0.2)]
    reached = torch.tensor([[[5.0, math.inf], [9.0, 20.0]]]).expand(3, 2, 2)
    whole = contest(own, torch.ones(3, 2), reached, thresholds=(0.5, 0.1))
    made = Races(whole=whole, lrs=(0.1, 0.2))
    assert [made.quickest(0, h) for h in range(2)] == [0, 1]
    assert made.at_quickest.outcome.reached.tolist() == [[[5.0, 20.0]]] * 3


def test_a_run_that_ends_above_its_start_is_counted_apart_from_divergence() -> None:
    # Every made-up run began at 10.
    made = races([[[10.0, 10.1, math.inf, 2.0]]], [UNIFORM], (0.1,), seeds=4)
    assert made.above_start(0, 0) == 1
    assert made.at[0].diverged(0) == 1


# --- verdicts -----------------------------------------------------------------------------------------------

LOST = math.inf


def mixed(lost: int, seeds: int) -> list[float]:
    return [LOST] * lost + [1.0] * (seeds - lost)


@pytest.mark.parametrize(
    ("dro", "outcome", "where"),
    [
        # Three rates; the others diverge at the third, which therefore says nothing.
        ([[LOST], [LOST], [1.0]], "holds", ""),
        ([[1.0], [LOST], [LOST]], "only_where", "at learning rate 0.2"),
        ([[1.0], [1.0], [LOST]], "does_not", ""),
        # 10 of 20: no majority. 15 of 20: p = 2 (1 + 20 + 190 + 1140 + 4845 + 15504)/2^20 = 0.0414 > 0.05/2.
        ([mixed(10, 20), mixed(15, 20), [LOST]], "unresolved", ""),
        # 16 of 20: p = 2 (1 + 20 + 190 + 1140 + 4845)/2^20 = 0.0118 < 0.05/2.
        ([mixed(10, 20), mixed(16, 20), [1.0]], "only_where", "at learning rate 0.2"),
    ],
)
def test_divergence_where_the_others_do_not(dro: list[list[float]], outcome: str, where: str) -> None:
    others = [[[1.0], [1.0], [1.0]], [[1.0], [1.0], mixed(1, 20)]]
    made = races([*others, dro], [UNIFORM, LINUPPER, DRO], (0.1, 0.2, 0.4), seeds=20)
    found = diverges(made, [2], [0, 1])
    assert (found.outcome, found.where) == (outcome, where)
    assert found.seeds == 20
    assert "at 0.4" not in found.evidence


def test_without_a_rate_that_the_others_bear_divergence_is_unresolved() -> None:
    made = races([[mixed(1, 20)], [[LOST]]], [UNIFORM, DRO], (0.1,), seeds=20)
    assert diverges(made, [1], [0]).outcome == "unresolved"


def at_lambdas(*lambdas: float) -> list[Method]:
    return [Method(strategy="dro_kl", r=lam) for lam in lambdas]


@pytest.mark.parametrize(
    ("dro", "outcome", "where", "said"),
    [
        # Two lambdas at two rates: each comparison gets 0.05/4 = 0.0125.
        (
            [[[1.0], [LOST]], [[1.0], [LOST]]],
            "only_where",
            "at learning rate 0.2",
            "0 at 0.1; 20 at 0.2",
        ),
        # 16 of 20: p = 0.0118 < 0.0125, where 0.05/5 would not do.
        (
            [[[1.0], mixed(16, 20)], [[1.0], [LOST]]],
            "only_where",
            "at learning rate 0.2",
            "0 at 0.1; 16 to 20 at 0.2",
        ),
        # 15 of 20: p = 0.0414, less than 0.05 and no more than that.
        (
            [[[1.0], mixed(15, 20)], [[LOST], [LOST]]],
            "only_where",
            "at learning rate 0.1 (λ = 5), 0.2 (λ = 5)",
            "0 to 20 at 0.1; 15 to 20 at 0.2",
        ),
        ([[[LOST], [LOST]], [[LOST], [LOST]]], "holds", "", "20 at 0.1, 0.2"),
        ([[[1.0], [1.0]], [[1.0], mixed(10, 20)]], "does_not", "", "0 at 0.1; 0 to 10 at 0.2"),
        ([[mixed(10, 20), mixed(9, 20)]] * 2, "unresolved", "", "10 at 0.1; 9 at 0.2"),
    ],
)
def test_divergence_is_one_verdict_over_all_lambdas(
    dro: list[list[list[float]]], outcome: str, where: str, said: str
) -> None:
    methods = [UNIFORM, *at_lambdas(2.0, 5.0)]
    made = races([[[1.0], [1.0]], *dro], methods, (0.1, 0.2), seeds=20)
    found = diverges(made, [1, 2], [0])
    assert (found.outcome, found.where) == (outcome, where)
    assert found.claim.startswith("DRO-KL on raw losses (λ = 2, 5) diverges")
    assert f"of 20 seeds of each λ diverge {said}" in found.evidence + ";"


def stability(*largest: list[float], methods: list[Method] = FOUR) -> Stability:
    """Largest stable rates by method; one value: the same in each of 10 seeds."""
    lanes = [each * 10 if len(each) == 1 else each for each in largest]
    found = torch.tensor(lanes, dtype=torch.float64).T
    return Stability(
        methods=methods,
        bracket=(0.01, 10.0),
        largest=found,
        relapses=torch.zeros_like(found, dtype=torch.int64),
        safe=found.amin(dim=0),
        steps=5,
    )


@pytest.mark.parametrize(
    ("uniform", "linupper", "dro", "outcome", "where"),
    [
        ([0.5], [0.2], [0.04], "holds", ""),
        ([0.5], [0.2], [0.3], "only_where", "against uniform"),
        ([0.5], [0.2], [0.7], "does_not", ""),
        # Against uniform 5 wins and 5 ties, p = 2/2^5 = 0.0625; against LinUpper 5 wins and 5 losses.
        ([0.5], [0.6] * 5 + [0.3] * 5, [0.5] * 5 + [0.4] * 5, "unresolved", ""),
        # Outside the bracket: below its bottom is less than anything, two above its top are a tie.
        ([math.inf], [0.02], [0.0], "holds", ""),
        ([math.inf], [math.inf], [math.inf], "unresolved", ""),
    ],
)
def test_a_smaller_learning_rate(
    uniform: list[float], linupper: list[float], dro: list[float], outcome: str, where: str
) -> None:
    found = needs_smaller(stability(uniform, linupper, dro, [1.0]), [2], [0, 1])
    assert (found.outcome, found.where) == (outcome, where)


def test_a_smaller_learning_rate_is_one_verdict_over_all_lambdas() -> None:
    methods = [UNIFORM, LINUPPER, *at_lambdas(2.0, 5.0)]

    def judged(two: list[float], five: list[float]) -> Finding:
        return needs_smaller(stability([0.5], [0.2], two, five, methods=methods), [2, 3], [0, 1])

    assert judged([0.1], [0.05]).outcome == "holds"
    # Ratios to uniform 0.1/0.5 and 0.05/0.5; lower in all 10 seeds.
    assert "of uniform: 0.1 to 0.2 times it, lower in 10 and higher in 0 of 10 seeds" in (
        judged([0.1], [0.05]).evidence
    )
    assert judged([0.1], [0.05]).evidence.startswith("largest stable learning rate 0.05 to 0.1 (0.05 to 0.1)")
    assert judged([0.3], [0.05]).where == "against uniform, linupper r=0.4 (λ = 5)"
    assert judged([0.3], [0.7]).where == "against uniform (λ = 2)"
    assert judged([0.7], [0.6]).outcome == "does_not"
    # 9 of 10 seeds: p = 2 (1 + 10)/2^10 = 0.0215, not below 0.05/4; 10 of 10: p = 2/2^10 = 0.002.
    nearly = [0.1] * 9 + [0.6]
    assert judged(nearly, nearly).outcome == "unresolved"


def test_the_cap_is_one_verdict_over_all_lambdas() -> None:
    methods = [*at_lambdas(2.0, 5.0), *(Method(strategy="capped_softmax", r=lam) for lam in (2.0, 5.0))]

    def judged(*capped: list[float]) -> Finding:
        return cap_helps(stability([0.1], [0.1], *capped, methods=methods), [0, 1])

    helped = judged([0.8], [0.4])
    assert (helped.outcome, helped.where) == ("holds", "")
    assert "without the cap: 4 to 8 times it, lower in 0 and higher in 10 of 10 seeds" in helped.evidence
    assert (judged([0.8], [0.1]).outcome, judged([0.8], [0.1]).where) == ("only_where", "λ = 2")
    assert judged([0.05], [0.1]).outcome == "does_not"
    # 9 of 10: p = 2 (1 + 10)/2^10 = 0.0215, below 0.05/2: one part for each lambda.
    assert judged([0.8] * 9 + [0.05], [0.1]).where == "λ = 2"
    # 8 of 9, one tie: p = 2 (1 + 9)/2^9 = 0.039, below 0.05 and not below 0.05/2.
    assert judged([0.8] * 8 + [0.05, 0.1], [0.1]).outcome == "unresolved"


@pytest.mark.parametrize(
    ("ours", "outcome"),
    [
        ([2.0], "holds"),
        ([0.5], "does_not"),
        ([1.0], "unresolved"),
        ([2.0] * 8 + [0.5] * 2, "unresolved"),  # p = 2 (1 + 10 + 45)/2^10 = 0.109
        ([2.0] * 9 + [0.5], "holds"),  # p = 2 (1 + 10)/2^10 = 0.0215
    ],
)
def test_a_larger_learning_rate(ours: list[float], outcome: str) -> None:
    found = bears_larger(stability([1.0], ours, [1.0], [1.0]), 1, 0, "claim", "ours")
    assert found.outcome == outcome


def test_evidence_says_what_lies_outside_the_bracket() -> None:
    found = bears_larger(stability([0.0], [math.inf], [1.0], [1.0]), 1, 0, "claim", "ours")
    assert found.evidence.startswith(
        "largest stable learning rate >= 10 (>= 10 to >= 10), against < 0.01 (< 0.01 to < 0.01) of uniform"
    )


def test_ending_below_uniform_by_learning_rate() -> None:
    made = races(
        [[[3.0], [2.0], [LOST]], [[1.0], [4.0], [LOST]]], [UNIFORM, LINUPPER], (0.1, 0.2, 0.4), seeds=20
    )
    found = ends_below(made, 1, 0.25)
    assert (found.outcome, found.where) == ("only_where", "at learning rate 0.1")
    assert found.claim == "With 25% outliers LinUpper (r = 0.4) ends below uniform"
    assert found.evidence.endswith("1 against 3 at 0.1, 4 against 2 at 0.2, diverged against diverged at 0.4")
    worse = races([[[1.0]], [[4.0]]], [UNIFORM, LINUPPER], (0.1,), seeds=20)
    assert ends_below(worse, 1, 0.25).outcome == "does_not"
    tied = races([[[LOST]], [[LOST]]], [UNIFORM, LINUPPER], (0.1,), seeds=20)
    assert ends_below(tied, 1, 0.25).outcome == "unresolved"


def test_the_findings_cover_every_r() -> None:
    finals = [[[2.0], [3.0]], [[2.0], [3.0]], [[5.0], [LOST]], [[2.0], [3.0]]]
    made = races(finals, FOUR, (0.1, 0.2), seeds=20)
    whole = dataclasses.replace(made.whole.outcome, reached=torch.ones(20, 8, 1, dtype=torch.float64))
    made = dataclasses.replace(
        made, whole=Contest(methods=made.whole.methods, outcome=whole, thresholds=(0.5,))
    )
    found = {
        each.claim: each.outcome for each in dro_findings(made, stability([1.0], [0.5], [0.1], [0.9]), 0.25)
    }
    dro = "DRO-KL on raw losses (λ = 5)"
    best = "each method at the learning rate that ends lowest"
    faster = "LinUpper (r = 0.4) converges faster than DRO-KL on raw losses at every λ, "
    assert found == {
        f"{dro} diverges at the learning rates that uniform and LinUpper use": "only_where",
        f"{dro} needs a smaller learning rate than uniform and LinUpper": "holds",
        faster + best: "unresolved",
        faster + "each at its quickest learning rate to each threshold": "unresolved",
        f"LinUpper (r = 0.4) ends below DRO-KL on raw losses, {best}": "holds",
        "DRO-KL's weights on raw losses (λ = 5) bear a larger learning rate under the cap 2/M": "holds",
        "LinUpper (r = 0.4) bears at least uniform's learning rate": "does_not",
        "With 25% outliers LinUpper (r = 0.4) ends below uniform": "unresolved",
    }


# --- the study ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study() -> Study:
    return run_dro(QUICK, "reweight toy dro")


def test_the_same_settings_give_the_same_bytes(study: Study) -> None:
    again = run_dro(dataclasses.replace(QUICK, workers=2), "reweight toy dro")
    assert study_text(again) == study_text(study)
    other = run_dro(dataclasses.replace(QUICK, first_seed=2), "reweight toy dro")
    assert study_text(other) != study_text(study)


def test_the_study_is_whole_and_can_be_read_back(study: Study, tmp_path: Path) -> None:
    assert study_text(read_study(write_study(tmp_path, study))) == study_text(study)
    # uniform, LinUpper, 2 lambdas of dro_kl and of capped_softmax: 6 methods, at 3 rates.
    assert len(study.table("rates").rows) == 6 * 3
    assert len(study.table("stable").rows) == len(study.table("best").rows) == 6
    assert len(study.table("quickest").rows) == 6 * 2
    assert [(figure.id, len(figure.panels)) for figure in study.figures] == [
        ("figure8", 3),
        ("loss-by-lr", 2),
        ("stable-by-lambda", 1),
    ]
    ids = [each.id for each in (*study.tables, *study.figures)]
    assert len(set(ids)) == len(ids)  # each names files
    # Over both lambdas: diverges, smaller rate, cap. Per r: three at the best rates, stable, below uniform.
    assert len(study.findings) == 3 + 1 * 5
    assert study.settings["outlier_share"] == 0.25
    assert "workers" not in study.settings
    # The assumption is said wherever DRO-KL is drawn or judged.
    assert "our assumption" in study.title
    assert all("our assumption" in figure.caption for figure in study.figures)
    assert all("raw losses" in finding.claim for finding in study.findings if "DRO-KL" in finding.claim)


def test_the_tables_agree_with_each_other(study: Study) -> None:
    rates = {
        row[:2]: dict(zip(study.table("rates").columns, row, strict=True))
        for row in study.table("rates").rows
    }
    for row in study.table("best").rows:
        name, lr, final = row[0], row[1], row[3]
        own = [each for (_, method), each in rates.items() if method == name]
        finite = [each["final loss, median"] for each in own if each["final loss, median"] is not None]
        assert final == min(finite) == rates[lr, name]["final loss, median"]
        assert study.numbers[f"final {name}"] == final
    # At learning rate 3 nothing is left: 2 x 3 x |x|^2 is far above 2.
    assert all(each["diverged"] == 4 for (lr, _), each in rates.items() if lr == 3.0)
    assert all(each["diverged"] == 0 for (lr, _), each in rates.items() if lr == 0.003)


def test_progress_ends_at_one() -> None:
    told: list[float] = []
    run_dro(
        dataclasses.replace(QUICK, seeds=2, steps=3, search_steps=2), "x", lambda share, _: told.append(share)
    )
    assert told == sorted(told)
    assert told[-1] == pytest.approx(1.0, abs=1e-12)


# --- settings -----------------------------------------------------------------------------------------------


def test_the_bisection_goes_down_to_its_tolerance() -> None:
    for low, high in ((0.001, 10.0), (0.5, 0.6), (1e-6, 1e6)):
        settings = dataclasses.replace(QUICK, search_lrs=(low, high))
        assert (high / low) ** (0.5**settings.halvings) <= 1 + TOLERANCE
        assert (high / low) ** (0.5 ** (settings.halvings - 1)) > 1 + TOLERANCE


def test_a_quarter_are_outliers_unless_asked_otherwise() -> None:
    defaults = DroSettings()
    assert defaults.data.outliers * 4 == defaults.data.samples
    assert defaults.lambdas == (0.4, 1, 2, 5, 10)  # Table 12
    assert [method.name for method in defaults.methods[:4]] == [
        "uniform",
        "linupper r=0.4",
        "linupper r=1",
        "dro_kl λ=0.4",
    ]


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("lambdas", (), "--lambda: give at least one value"),
        ("lambdas", (1.0, 1.0), "--lambda 1.0,1.0: the same value twice"),
        ("lambdas", (0.0,), "--lambda 0: "),
        ("lambdas", (float("nan"),), "--lambda nan: "),
        ("r", (0.0,), "--r 0: "),
        ("lrs", (0.1, 0.0), "--lr 0: "),
        ("lrs", (), "--lr: "),
        ("momentum", 1.0, "--momentum 1: "),
        ("batch", 0, "--batch 0: "),
        ("steps", 0, "--steps 0: "),
        ("seeds", 10**12, "--seeds 1000000000000: "),
        ("first_seed", -1, "--seed -1: "),
        ("thresholds", (0.0,), "--threshold 0: "),
        ("search_seeds", 0, "--search-seeds 0: "),
        ("search_steps", -5, "--search-steps -5: "),
        ("search_lrs", (0.0, 1.0), "--search-lr 0: "),
        ("search_lrs", (1.0, 1.0), "--search-lr 1,1: "),
        ("search_lrs", (1.0, 0.5), "--search-lr 1,0.5: "),
    ],
)
def test_bad_settings_are_one_line_that_names_the_option(setting: str, value: object, said: str) -> None:
    with pytest.raises(UserError) as caught:
        dataclasses.replace(QUICK, **{setting: value})
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_more_than_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "available_bytes", lambda: 8_000_000_000)
    # 6 methods x 3 rates x 1 million seeds, 1,232 bytes of results each.
    with pytest.raises(
        UserError, match=r"^18,000,000 runs of 1,000,000 seeds needs about [\d.]+ GB of memory"
    ):
        dataclasses.replace(QUICK, seeds=1_000_000)
    with pytest.raises(UserError, match=r"^72 runs of 1,000,000 seeds needs"):
        dataclasses.replace(QUICK, search_seeds=1_000_000)
