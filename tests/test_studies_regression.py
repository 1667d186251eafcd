"""The toy regression: sums over seeds against independent ones, verdicts worked out by hand, the study."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from studies_worlds import SMALL, contest

from reproduce.errors import UserError
from reproduce.statistics import sign_test
from reproduce.studies import options
from reproduce.studies.contest import Contest
from reproduce.studies.regression import run_regression
from reproduce.studies.settings import Method, RegressionSettings
from reproduce.studies.summary import band_line, duel, median, quantile
from reproduce.studies.verdicts import fastest, lowest, regression_findings
from reproduce.study import Study
from reproduce.study_file import read_study, study_text, write_study

INF = math.inf
QUICK = RegressionSettings(data=SMALL, lr=0.03, batch=8, steps=60, seeds=8, thresholds=(0.5, 0.1, 0.01))
NAMES = ("uniform", "linupper", "quadratic", "extremes")
FOUR = [Method(strategy=name, r=0.4) for name in NAMES]


def float64(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


# --- sums over seeds ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 2, 7, 20, 1500])
def test_the_sign_test_is_scipys_binomial_test(n: int) -> None:
    from scipy.stats import binomtest

    for wins in {0, n // 3, n // 2, n}:
        expected = binomtest(wins, n, 0.5).pvalue if n else 1.0
        assert sign_test(wins, n - wins) == pytest.approx(expected, rel=1e-9)


def test_quantiles_are_observed_values_and_infinities_sort_last() -> None:
    # Of 5: the middle is the third. Of 4: the lower middle, the second; half of them infinite do no harm.
    assert float(median(torch.tensor([5.0, INF, 1.0, 3.0, INF]))) == 5.0
    assert float(median(torch.tensor([INF, 2.0, INF, 1.0]))) == 2.0
    assert float(median(torch.tensor([INF, INF, 1.0]))) == INF
    # 95% of 40: an observed value that at least 2.5% (the first) or 97.5% (the 39th) stay at or below.
    values = torch.arange(40.0).flip(0)
    assert [float(quantile(values, share)) for share in (0.025, 0.975)] == [0.0, 38.0]
    columns = torch.tensor([[1.0, INF], [2.0, INF], [3.0, 4.0]])
    assert median(columns).tolist() == [2.0, INF]


def test_a_band_breaks_where_half_of_the_seeds_are_lost() -> None:
    values = torch.tensor([[1.0, 1.0, INF], [2.0, INF, INF], [3.0, 3.0, 9.0]])
    line = band_line("a", "uniform", [1, 2, 4], values)
    assert (line.x, line.y) == ((1.0, 2.0, 4.0), (2.0, 3.0, None))
    assert line.low == (1.0, 1.0, 9.0)
    assert line.high == (3.0, None, None)


def test_a_duel_counts_seeds_and_takes_the_ratio_where_both_are_finite() -> None:
    found = duel(float64([1.0, 2.0, INF, 5.0, INF]), float64([4.0, 8.0, 3.0, INF, INF]))
    # Lower in seeds 0, 1, 3; higher in seed 2; a tie in seed 4. Ratios 1/4 and 1/4: their mean is 1/4.
    assert (found.wins, found.losses) == (3, 1)
    assert found.ratio is not None
    assert (found.ratio.n, found.ratio.mean) == (2, pytest.approx(0.25, rel=1e-12))
    # Logs -2 and -4 (base 2): the mean is -3, 1/8.
    uneven = duel(float64([1.0, 1.0]), float64([4.0, 16.0]))
    assert uneven.ratio is not None
    assert uneven.ratio.mean == pytest.approx(0.125, rel=1e-12)
    assert duel(float64([INF]), float64([INF])).ratio is None


def test_a_duel_is_resolved_at_its_part_of_the_level() -> None:
    # 9 of 10: p = 2 (1 + 10)/2^10 = 0.0215, below 0.05 and above 0.05/3.
    ours, theirs = torch.ones(10), torch.tensor([2.0] * 9 + [0.5])
    assert [duel(ours, theirs).outcome(n) for n in (1, 2, 3)] == [-1, -1, 0]
    assert [duel(theirs, ours).outcome(n) for n in (1, 2, 3)] == [1, 1, 0]
    assert duel(ours, ours).outcome() == 0


# --- verdicts -----------------------------------------------------------------------------------------------


def arriving(steps: list[list[float | list[float]]], seeds: int = 20) -> Contest:
    """steps[k][h] of FOUR's methods; one number: the same in every seed."""
    lanes = [[each if isinstance(each, list) else [each] * seeds for each in method] for method in steps]
    reached = torch.tensor(lanes, dtype=torch.float64).permute(2, 0, 1)
    thresholds = (0.5, 0.2, 0.1)[: reached.shape[2]]
    return contest(FOUR[: len(steps)], torch.ones(seeds, len(steps)), reached, thresholds)


HALF = [1.0] * 10 + [9.0] * 10
"""Below 5 in half of the seeds: no difference."""


@pytest.mark.parametrize(
    ("steps", "outcome", "where"),
    [
        # Rows: uniform, linupper (ours), quadratic. Columns: thresholds 0.5, 0.2, 0.1.
        ([[5, 9, 20], [4, 8, 19], [6, 10, 21]], "holds", ""),
        ([[5, 9, 20], [5, 9, 20], [5, 9, 20]], "unresolved", ""),
        ([[5, 9, 20], [6, 8, 19], [6, 10, 21]], "only_where", "at 0.2, 0.1 of the loss at the start"),
        ([[5, 9, 20], [4, 8, 30], [6, 10, 21]], "only_where", "down to 0.2 of the loss at the start"),
        ([[5, 9, 20], [4, 10, INF], [6, 10, 21]], "only_where", "down to 0.5 of the loss at the start"),
        # First against one rival but behind the other fails.
        ([[5, 9, 20], [6, 10, 21], [7, 11, 22]], "does_not", ""),
        # Nobody arrives at 0.1, and at 0.2 the seeds are divided.
        ([[5, 5, INF], [4, HALF, INF], [6, 5, INF]], "only_where", "down to 0.5 of the loss at the start"),
        ([[5, 5, INF], [HALF, 5, INF], [6, 5, INF]], "unresolved", ""),
        # An unresolved threshold between two that hold: not "down to".
        ([[5, 5, 20], [4, HALF, 19], [6, 5, 21]], "only_where", "at 0.5, 0.1 of the loss at the start"),
        # Arriving beats never arriving.
        ([[INF, INF, INF], [4, 8, 900], [INF, INF, INF]], "holds", ""),
    ],
)
def test_who_is_fastest(steps: list[list[float | list[float]]], outcome: str, where: str) -> None:
    found = fastest("claim", "source", arriving(steps), 1, [0, 2])
    assert (found.outcome, found.where, found.seeds) == (outcome, where, 20)


def test_the_level_is_shared_by_rivals_and_thresholds() -> None:
    # 15 of 20: p = 2 (1 + 20 + 190 + 1140 + 4845 + 15504)/2^20 = 0.0414: resolved alone, not among two.
    ours = [4.0] * 15 + [6.0] * 5
    assert fastest("c", "s", arriving([[5], [ours]]), 1, [0]).outcome == "holds"
    assert fastest("c", "s", arriving([[5, 5], [ours, ours]]), 1, [0]).outcome == "unresolved"
    assert fastest("c", "s", arriving([[5], [ours], [5]]), 1, [0, 2]).outcome == "unresolved"


def test_evidence_names_the_best_rival_and_who_never_arrives() -> None:
    found = fastest("claim", "source", arriving([[5, INF], [4, INF], [3, INF]]), 1, [0, 2])
    assert found.evidence.endswith("0.5: 4 against 3; 0.2: never against never")


@pytest.mark.parametrize(
    ("finals", "outcome"),
    [
        ([2.0, 1.0, 3.0], "holds"),
        ([2.0, 2.5, 3.0], "does_not"),
        ([2.0, 2.0, 3.0], "unresolved"),
        ([2.0, INF, 3.0], "does_not"),
        ([INF, 1.0, INF], "holds"),
        ([INF, INF, INF], "unresolved"),
    ],
)
def test_who_ends_lowest(finals: list[float], outcome: str) -> None:
    made = contest(FOUR[:3], torch.tensor([finals] * 20))
    assert lowest("claim", "source", made, 1, [0, 2]).outcome == outcome


def test_the_papers_claims_at_every_temperature_that_was_run() -> None:
    own = [FOUR[0], *(Method(strategy=name, r=r) for name in ("linupper", "quadratic") for r in (0.4, 1.0))]
    made = contest(own, torch.ones(20, 5), torch.ones(20, 5, 1), thresholds=(0.5,))
    weight = torch.tensor([0.25, 0.5, 0.25, 0.1, INF]).double().expand(20, 5)
    made = dataclasses.replace(made, outcome=dataclasses.replace(made.outcome, outlier_weight=weight))
    found = {each.claim: each.outcome for each in regression_findings(made)}
    faster = {f"LinUpper converges fastest (r = {r})": "unresolved" for r in ("0.4", "1")}
    lower = {f"LinUpper ends below the others (r = {r})": "unresolved" for r in ("0.4", "1")}
    quadratic = {f"Quadratic converges faster than uniform (r = {r})": "unresolved" for r in ("0.4", "1")}
    # A share of 0.25: 0.5 is more, 0.25 the same, 0.1 less; of a run that overflowed nothing is said.
    outliers = {
        "linupper r=0.4 down-weights outliers": "does_not",
        "linupper r=1 down-weights outliers": "unresolved",
        "quadratic r=0.4 down-weights outliers": "holds",
    }
    assert found == faster | lower | quadratic | outliers


def test_without_the_strategies_that_a_claim_speaks_of_there_is_no_finding() -> None:
    own = [FOUR[0], Method(strategy="dro_kl", r=0.4)]
    assert regression_findings(contest(own, torch.ones(5, 2), torch.ones(5, 2, 1), (0.5,))) == ()


# --- the study ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study() -> Study:
    return run_regression(QUICK, "reweight toy regression")


def test_the_same_settings_give_the_same_bytes(study: Study) -> None:
    again = run_regression(dataclasses.replace(QUICK, workers=2), "reweight toy regression")
    assert study_text(again) == study_text(study)
    other = run_regression(dataclasses.replace(QUICK, first_seed=2), "reweight toy regression")
    assert study_text(other) != study_text(study)


def test_the_study_is_whole_and_can_be_read_back(study: Study, tmp_path: Path) -> None:
    assert study_text(read_study(write_study(tmp_path, study))) == study_text(study)
    methods = len(QUICK.methods)
    assert len(study.table("final").rows) == methods
    assert len(study.table("steps").rows) == methods
    assert len(study.table("paired").rows) == (methods - 1) * 4
    (figure,) = study.figures
    assert figure.id == "figure7"
    assert all(len(panel.lines) == methods for panel in figure.panels)
    assert {finding.seeds for finding in study.findings} == {8}
    assert study.settings["outlier_share"] == 0.2
    assert "workers" not in study.settings


def test_a_seed_gives_the_same_run_whatever_other_seeds_are_run(study: Study) -> None:
    alone = run_regression(dataclasses.replace(QUICK, first_seed=3, seeds=1), "reweight toy regression")
    # One seed: median, low and high are that seed's, and lie within the range of the eight.
    for one, many in zip(alone.table("final").rows, study.table("final").rows, strict=True):
        assert one[1] == one[2] == one[3]
        assert many[2] <= one[1] <= many[3]


def test_a_diverging_study_is_a_result() -> None:
    wild = run_regression(
        dataclasses.replace(QUICK, lr=1e6, strategies=NAMES, steps=100), "reweight toy regression"
    )
    rows = [dict(zip(wild.table("final").columns, row, strict=True)) for row in wild.table("final").rows]
    assert all(row["diverged"] == row["overflowed"] == row["seeds"] == 8 for row in rows)
    assert all(row["final loss, median"] is None for row in rows)
    assert "inf" not in study_text(wild).lower().replace("infin", "")
    assert not {each.outcome for each in wild.findings} & {"holds", "does_not"}


def test_noise_free_clean_data_is_learnt_to_rounding() -> None:
    clean = dataclasses.replace(SMALL, noise=0.0, outlier_share=0.0)
    found = run_regression(
        dataclasses.replace(QUICK, data=clean, strategies=NAMES, lr=0.1, steps=600, seeds=2), "x"
    )
    # Interpolation: every strategy's gradient vanishes at the truth, so the loss goes to rounding squared.
    assert all(row[3] < 1e-24 for row in found.table("final").rows)


# --- settings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("strategies", ("linupper", "upper"), "--strategy 'upper': unknown; there is uniform"),
        ("strategies", (), "--strategy: give at least one value"),
        ("strategies", ("linupper", "linupper"), "--strategy linupper,linupper: the same value twice"),
        ("r", (0.0,), "--r 0: "),
        ("r", (0.4, -1.0), "--r -1: "),
        ("r", (float("nan"),), "--r nan: "),
        ("lr", 0.0, "--lr 0: "),
        ("lr", float("inf"), "--lr inf: "),
        ("momentum", 1.0, "--momentum 1: "),
        ("momentum", -0.1, "--momentum -0.1: "),
        ("batch", 0, "--batch 0: "),
        ("steps", 0, "--steps 0: "),
        ("steps", -3, "--steps -3: "),
        ("seeds", 0, "--seeds 0: "),
        ("seeds", 10**12, "--seeds 1000000000000: "),
        ("first_seed", -1, "--seed -1: "),
        ("thresholds", (0.0,), "--threshold 0: "),
        ("thresholds", (1.5,), "--threshold 1.5: "),
        ("thresholds", (0.1, 0.1), "--threshold 0.1,0.1: the same value twice"),
    ],
)
def test_bad_settings_are_one_line_that_names_the_option(setting: str, value: object, said: str) -> None:
    with pytest.raises(UserError) as caught:
        dataclasses.replace(QUICK, **{setting: value})
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "value", "needed"),
    [
        # 8 strategies x 10 million seeds, 1,216 bytes of results each: 10 TB and more.
        ("seeds", 10_000_000, "80,000,000 runs of 10,000,000 seeds needs about "),
        # 8 seeds x 60 steps x 20,000 samples of 4 bytes: 38 MB; but capped_softmax compares all pairs of a
        # batch: 3 x 20,000^2 x 8 bytes = 9.6 GB.
        ("batch", 20_000, "64 runs of 8 seeds needs about 9.7 GB of memory, 2.0 GB are free"),
        # 8 x 8 x 10 million x 4 bytes of batches: 2.6 GB. 8 x 5 million samples x 2 x 6 numbers: 3.8 GB.
        ("steps", 10_000_000, "64 runs of 8 seeds needs about 2.6 GB"),
        ("data", dataclasses.replace(SMALL, samples=5_000_000), "64 runs of 8 seeds needs about 3.8 GB"),
    ],
)
def test_more_than_memory_is_refused(
    setting: str, value: object, needed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(options, "available_bytes", lambda: 2_000_000_000)
    with pytest.raises(UserError) as caught:
        dataclasses.replace(QUICK, **{setting: value})
    assert str(caught.value).startswith(needed)
    assert "\n" not in str(caught.value)


def test_memory_that_the_system_does_not_tell_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "available_bytes", lambda: 1_000_000_000)
    options.fits_memory("it", 800_000_000, "ask for less")
    with pytest.raises(UserError, match=r"it needs about 0\.8 GB of memory, 1\.0 GB are free; ask for less"):
        options.fits_memory("it", 800_000_001, "ask for less")
    monkeypatch.setattr(options, "available_bytes", lambda: None)
    options.fits_memory("it", 10**18, "ask for less")


def test_uniform_is_run_once_and_first_whatever_was_asked() -> None:
    asked = dataclasses.replace(QUICK, strategies=("linupper", "dro_kl"), r=(0.4, 1.0))
    assert [method.name for method in asked.methods] == [
        "uniform",
        "linupper r=0.4",
        "linupper r=1",
        "dro_kl λ=0.4",
        "dro_kl λ=1",
    ]
    assert len({method.name for method in QUICK.methods}) == len(QUICK.methods)
    assert np.all([method.lr == 0.03 for method in QUICK.methods])
