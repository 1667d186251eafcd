"""From results.json with task scores to cells and claims: the tables of accuracies, and what counts."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from paper_runs import GPT2_QA, TASKS, make_run, paper_llama, paper_medium, task_scores

from eval.results import Score
from eval.suites import load_suites
from reproduce.cli.root import run
from reproduce.errors import UserError
from reproduce.paper.claim_verdicts import ClaimResult, claim_results
from reproduce.paper.compare import Cell, cells
from reproduce.paper.matching import group_runs, match_rows
from reproduce.paper.readings import different_questions, scoring_differences
from reproduce.paper.report import render
from reproduce.paper.runs import find_runs
from reproduce.paper.tables import load_tables
from reproduce.paper.task_scores import shown_scores
from reproduce.paper.verdicts import tolerance_of
from reproduce.paper.versus import against

# Table 2 as printed, without the means.
TABLE2 = {
    "uniform": "25.7 27.5 49.0 55.5",
    "linupper": "27.9 27.6 51.8 56.2",
    "quadratic": "25.5 28.6 48.7 54.6",
    "extremes": "26.5 27.7 49.6 55.2",
}
# Table 12, dro_kl.
DRO = {
    0.4: "23.2 24.4 41.1 54.0",
    1.0: "25.5 28.7 48.6 56.2",
    2.0: "26.8 27.5 49.4 55.7",
    5.0: "25.9 28.2 50.5 56.5",
    10.0: "26.3 27.6 49.4 55.4",
}
DOGE = {"arxiv": 0.088, "book": 0.045, "c4": 0.269, "cc": 0.214, "github": 0.07, "stackexchange": 0.166}
DOGE |= {"wikipedia": 0.148}
LLAMA_1B = {
    "uniform": (
        "33.19 63.80 77.0 49.87 45.20 26.04 31.91 32.07 51.26 66.86 40.46 56.17 56.75",
        "61.59 20.28 26.02 91.30 43.86 11.05",
    ),
    "linupper": (
        "33.02 63.38 77.0 49.60 43.30 25.49 36.92 36.56 52.35 59.40 40.85 62.11 59.12",
        "65.47 23.66 27.48 91.90 45.19 10.73",
    ),
}


def judged(root: Path) -> tuple[dict[tuple[str, str, str], Cell], dict[str, ClaimResult]]:
    tables = load_tables()
    found = match_rows(group_runs(find_runs([root])), tables)
    by_place = {(cell.table, cell.row, cell.column): cell for cell in cells(tables, found)}
    return by_place, {claim.id: claim for claim in claim_results(tables, found)}


def medium(root: Path, strategy: str, scores: Sequence[Score], seed: int = 0, **changes: object) -> Path:
    return make_run(root, strategy, seed, {}, scores=scores, **paper_medium(**changes))


def llama(root: Path, size: str, r: float, strategy: str, lur: str, qa: str) -> Path:
    scores = task_scores("llama_lur", lur) + task_scores("llama_qa", qa)
    return make_run(root, strategy, 0, {}, scores=scores, **paper_llama(size, reweighting__r=r))


def one_cell(root: Path, scores: Sequence[Score], column: str = "logiqa") -> Cell:
    """Table 2's cell of a single linupper run."""
    medium(root, "linupper", scores)
    return judged(root)[0]["table2", "GPT2-medium/linupper", column]


def changed(scores: Sequence[Score], task: str, **fields: object) -> list[Score]:
    return [replace(s, **fields) if s.task == task else s for s in scores]  # type: ignore[arg-type]


LINUPPER = task_scores("gpt2_qa", TABLE2["linupper"])


def test_the_suites_name_each_task_as_written_here() -> None:
    for suite, tasks in TASKS.items():
        said = {t.name: (t.paper_metric, t.num_fewshot, t.n) for t in load_suites()[suite].tasks}
        plain = {t: ("acc_norm" if m == "gp_irt" else m, shots, n) for t, (m, shots, n) in tasks.items()}
        assert said == plain


def test_tables_2_and_12_fill_from_results(tmp_path: Path) -> None:
    for strategy, values in TABLE2.items():
        medium(tmp_path, strategy, task_scores("gpt2_qa", values))
    for r, values in DRO.items():
        name = f"dro_{r:g}"
        medium(tmp_path, "dro_kl", task_scores("gpt2_qa", values), name=name, reweighting__r=r)
    found, claims = judged(tmp_path)
    own = [cell for cell in found.values() if cell.table in ("table2", "table12")]
    assert len(own) == 20 + 35
    assert {cell.verdict for cell in own} == {"reproduced"}
    mean = found["table2", "GPT2-medium/linupper", "mean"]
    # (27.9 + 27.6 + 51.8 + 56.2) / 4 = 163.5 / 4; uniform: (25.7 + 27.5 + 49.0 + 55.5) / 4 = 157.7 / 4.
    assert (mean.ours, mean.paper) == (pytest.approx(40.875), 40.9)
    assert mean.our_difference == pytest.approx(40.875 - 39.425)
    assert found["table12", "GPT2-medium/dro_kl-0.4", "sciq"].ours == pytest.approx(41.1)
    # One seed each: a mean counts beyond the tolerance of these test sets, about 2.1 points. The paper's own
    # numbers are 1.5, 1.3 and 0.5 apart; of the five lambdas only 0.4, 3.6 points down, is further off.
    assert claims["linupper_best_qa_mean"].verdict == "unresolved"
    assert (claims["linupper_above_dro"].held, claims["linupper_above_dro"].verdict) == (1, "unresolved")
    # Over the questions, LogiQA's 27.9% has the error that its score came with.
    assert (cell := found["table2", "GPT2-medium/linupper", "logiqa"]).ci_of == "ours_over_samples"
    assert (cell.sample_stderr, cell.ci_high) == (1.0, pytest.approx(27.9 + 1.95996))
    assert mean.sample_stderr == pytest.approx(0.5)  # four errors of one point: 2 / 4
    assert "not_run" in {cell.verdict for cell in found.values() if cell.table == "table3"}


@pytest.mark.parametrize(("sciq", "verdict"), [(51.8 - 4.4, "reproduced"), (51.8 - 4.5, "differs")])
def test_the_tolerance_is_that_of_the_test_set(tmp_path: Path, sciq: float, verdict: str) -> None:
    # 51.8% of 1000: standard error 1.58010 points, times sqrt(2) x 1.95996: 4.37977, and half a unit.
    cell = one_cell(tmp_path, changed(LINUPPER, "sciq", value=sciq / 100), "sciq")
    assert cell.verdict == verdict


def test_the_tolerance_of_a_mean_is_that_of_its_tasks() -> None:
    # Uniform's mean, 39.4%: 0.238764 x (1/651 + 1/1572 + 1/1000 + 1/1838) / 4^2 = 5.5457e-5; twice that has
    # the root 0.0105316, times 1.959964 and 100.
    table = load_tables()["table2"]
    mean = table.row("GPT2-medium/uniform").values[-1]
    assert tolerance_of(table, table.columns[-1], mean) == pytest.approx(2.0642, abs=1e-4)


def test_table_3_fills_by_domain_weights(tmp_path: Path) -> None:
    # As printed; the second run is LinUpper on DoGE's weights.
    for strategy, values in (("uniform", "27.2 27.5 52.8 55.8"), ("linupper", "28.6 28.0 53.2 56.3")):
        scores = task_scores("gpt2_qa", values)
        medium(tmp_path, strategy, scores, name=f"doge_{strategy}", data__domain_weights=DOGE)
    found, claims = judged(tmp_path)
    cell = found["table3", "GPT2-medium/doge/linupper", "mean"]
    # (28.6 + 28.0 + 53.2 + 56.3) / 4 = 166.1 / 4.
    assert (cell.verdict, cell.ours) == ("reproduced", pytest.approx(41.525))
    assert found["table2", "GPT2-medium/linupper", "mean"].verdict == "not_run"
    # None of the four gains is beyond what its test set leaves open; DoReMi never ran.
    claim = claims["linupper_improves_domain_reweighting"]
    assert (claim.held, claim.of, claim.verdict) == (0, 8, "not_run")


def test_the_tables_of_the_small_llama_fill(tmp_path: Path) -> None:
    for strategy, (lur, qa) in LLAMA_1B.items():
        llama(tmp_path, "1.4B", 1.0, strategy, lur, qa)
    found, claims = judged(tmp_path)
    own = [cell for cell in found.values() if cell.table.startswith("llama1b")]
    assert len(own) == 6 + 28 + 14
    assert {cell.verdict for cell in own} == {"reproduced"}
    row = "Llama 1.4B/linupper"
    # The thirteen printed numbers sum to 639.10, the six to 264.43: 639.10/13, 264.43/6, 903.53/19.
    assert found["llama1b_lur", row, "mean"].ours == pytest.approx(639.10 / 13)
    assert found["llama1b_average", row, "lur"].ours == pytest.approx(49.1615, abs=1e-4)
    assert found["llama1b_average", row, "qa"].ours == pytest.approx(44.0717, abs=1e-4)
    assert found["llama1b_average", row, "all"].ours == pytest.approx(47.5542, abs=1e-4)
    assert found["llama1b_lur", row, "tinyWinogrande"].ours == pytest.approx(62.11)
    assert found["llama1b_qa", row, "triviaqa"].our_difference == pytest.approx(10.73 - 11.05)
    # Ahead on 11, on three of them by more than the items leave open: both MNLI sets and BoolQ.
    assert (claims["linupper_ahead_llama1b"].held, claims["linupper_ahead_llama1b"].of) == (3, 19)
    assert claims["linupper_ahead_llama1b"].verdict == "unresolved"


def test_the_tables_of_the_large_llama_fill(tmp_path: Path) -> None:
    tables = load_tables()
    for strategy in ("uniform", "linupper"):
        printed = [
            " ".join(p.text for p in tables[f"llama7b_{part}"].row(f"Llama 7B/{strategy}").values[:-1])
            for part in ("lur", "qa")
        ]
        llama(tmp_path, "7B", 2.0, strategy, *printed)
    found, claims = judged(tmp_path)
    assert {c.verdict for c in found.values() if c.table.startswith("llama7b")} == {"reproduced"}
    # The printed numbers average to 51.1347 (the paper prints 51.14).
    average = found["llama7b_average", "Llama 7B/linupper", "all"]
    assert average.ours == pytest.approx(51.1347, abs=1e-4)
    # Ahead on 14, on four of them by more than the items leave open.
    assert (claims["linupper_ahead_llama7b"].held, claims["linupper_ahead_llama7b"].of) == (4, 19)


def test_one_quantity_is_judged_by_one_tolerance_in_every_table(tmp_path: Path) -> None:
    # 1.5 points off on each of the 13 tasks: the mean of llama1b_lur and of llama1b_average is one number.
    lur = " ".join(f"{float(v) + 1.5:.2f}" for v in LLAMA_1B["linupper"][0].split())
    llama(tmp_path, "1.4B", 1.0, "linupper", lur, LLAMA_1B["linupper"][1])
    found, _ = judged(tmp_path)
    row = "Llama 1.4B/linupper"
    cells_ = [found["llama1b_lur", row, "mean"], found["llama1b_average", row, "lur"]]
    assert cells_[0].ours == cells_[1].ours
    assert cells_[0].verdict == cells_[1].verdict


NOT_COUNTED = [
    (
        {"limit": 4, "n": 4},
        "measured on the first 4 items only; run `reweight eval RUN --suite gpt2_qa` without",
    ),
    ({"num_fewshot": 0}, "measured with 0 shots, the suite asks for 5"),
    ({"n": 24}, "measured on 24 items, the published split has 651: other data"),
    ({"metric": "acc"}, "scored by acc, the table's metric is acc_norm"),
]


@pytest.mark.parametrize(("fields", "said"), NOT_COUNTED)
def test_a_score_made_otherwise_fills_no_cell(tmp_path: Path, fields: dict[str, object], said: str) -> None:
    cell = one_cell(tmp_path, changed(LINUPPER, "logiqa", **fields))
    assert (cell.ours, cell.verdict, cell.scale) == (None, "not_run", "paper")
    assert cell.note.startswith("logiqa: ")
    assert said in cell.note
    found, _ = judged(tmp_path)
    assert found["table2", "GPT2-medium/linupper", "sciq"].verdict == "reproduced"
    mean = found["table2", "GPT2-medium/linupper", "mean"]
    assert (mean.ours, mean.note) == (None, "mean: not formed, no score that counts of logiqa")


def test_of_several_shots_the_suites_count(tmp_path: Path) -> None:
    other = [replace(score, num_fewshot=0, value=0.99) for score in LINUPPER]
    assert one_cell(tmp_path, [*other, *LINUPPER]).ours == pytest.approx(27.9)


def test_a_missing_task_leaves_the_mean_open(tmp_path: Path) -> None:
    cell = one_cell(tmp_path, [s for s in LINUPPER if s.task in ("sciq", "piqa")])
    assert (cell.ours, cell.note) == (None, "not measured by these runs")
    mean = judged(tmp_path)[0]["table2", "GPT2-medium/linupper", "mean"]
    assert (mean.ours, mean.note) == (None, "mean: not formed, no score that counts of logiqa, logiqa2")


def test_a_mean_is_of_one_model(tmp_path: Path) -> None:
    mean = one_cell(tmp_path, changed(LINUPPER, "sciq", model_sha256="0" * 64), "mean")
    assert mean.ours is None
    assert "different weights" in mean.note


def test_truncation_is_said_beside_the_number(tmp_path: Path) -> None:
    # 312 of 2604 prompts: 11.98%.
    cut = {"requests": 2604, "truncated": 312, "shots_kept": 3.14}
    cell = one_cell(tmp_path, changed(LINUPPER, "logiqa", **cut))
    # The very number that the paper prints, from prompts that it may not have had: shown, not reproduced.
    assert (cell.ours, cell.verdict) == (pytest.approx(27.9), "not_run")
    assert cell.note.startswith("not measured as the printed number is taken to be: not judged; ")
    assert cell.note.endswith("logiqa: 12% of prompts truncated, 3.1 of 5 shots kept")
    found, claims = judged(tmp_path)
    mean = found["table2", "GPT2-medium/linupper", "mean"]
    assert mean.verdict == "not_run"
    assert "prompts truncated in logiqa" in mean.note
    sciq = found["table2", "GPT2-medium/linupper", "sciq"]
    assert sciq.verdict == "reproduced"
    assert "truncated" not in sciq.note
    assert claims["linupper_best_qa_mean"].verdict == "not_run"


@pytest.mark.parametrize("version", ["2.0", None])
def test_another_version_of_a_task_is_never_reproduced(tmp_path: Path, version: str | None) -> None:
    for strategy in ("uniform", "linupper"):
        scores = changed(task_scores("gpt2_qa", TABLE2[strategy]), "logiqa", task_version=version)
        medium(tmp_path, strategy, scores)
    found, _ = judged(tmp_path)
    for column in ("logiqa", "mean"):
        cell = found["table2", "GPT2-medium/linupper", column]
        assert cell.verdict == "not_run"
        assert cell.ours is not None
        assert f"logiqa: task version {version or 'not recorded'}, the suite's is 1.0" in cell.note
    assert found["table2", "GPT2-medium/linupper", "piqa"].verdict == "reproduced"
    # At reduced scale only our own two runs are subtracted, which answered the same questions.
    cell = reduced(tmp_path / "small", lambda s: s)
    assert "task version" not in cell.note


def test_claims_do_not_rest_on_cut_prompts_at_the_papers_scale(tmp_path: Path) -> None:
    for strategy, values in TABLE2.items():
        medium(tmp_path, strategy, changed(task_scores("gpt2_qa", values), "logiqa", truncated=1))
    _, claims = judged(tmp_path)
    assert claims["linupper_best_qa_mean"].verdict == "not_run"
    assert "lack a run or a score" not in claims["linupper_best_qa_mean"].note


def without_estimate(scores: Sequence[Score]) -> list[Score]:
    return [replace(s, metric="acc_norm") if s.metric == "gp_irt" else s for s in scores]


def test_a_plain_mean_stands_beside_gp_irt_without_a_verdict(tmp_path: Path) -> None:
    for strategy, (lur, qa) in LLAMA_1B.items():
        scores = without_estimate(task_scores("llama_lur", lur)) + task_scores("llama_qa", qa)
        make_run(tmp_path, strategy, 0, {}, scores=scores, **paper_llama("1.4B", reweighting__r=1.0))
    found, claims = judged(tmp_path)
    row = "Llama 1.4B/linupper"
    cell = found["llama1b_lur", row, "tinyArc"]
    assert (cell.ours, cell.verdict) == (pytest.approx(40.85), "not_run")
    assert cell.note == "tinyArc: plain mean; the paper's is gp-IRT"
    for table, column in (("llama1b_lur", "mean"), ("llama1b_average", "all")):
        mean = found[table, row, column]
        assert mean.verdict == "not_run"
        assert "plain mean of tinyArc, tinyWinogrande" in mean.note
    assert found["llama1b_average", row, "qa"].verdict == "reproduced"
    # The two tiny tasks no longer count: 17 comparisons are left.
    assert (claims["linupper_ahead_llama1b"].held, claims["linupper_ahead_llama1b"].verdict) == (3, "not_run")


def test_an_estimate_is_not_subtracted_from_a_plain_mean(tmp_path: Path) -> None:
    for strategy, edit in (("uniform", without_estimate), ("linupper", list[Score])):
        scores = edit(task_scores("llama_lur", LLAMA_1B[strategy][0]))
        make_run(tmp_path, strategy, 0, {}, scores=scores, **paper_llama("1.4B", reweighting__r=1.0))
    cell = judged(tmp_path)[0]["llama1b_lur", "Llama 1.4B/linupper", "tinyArc"]
    assert (cell.verdict, cell.our_difference) == ("reproduced", None)
    assert "gp_irt here, acc_norm there" in cell.note


def test_the_estimate_counts_where_both_are_there(tmp_path: Path) -> None:
    scores = task_scores("llama_lur", LLAMA_1B["linupper"][0])
    plain = [replace(s, metric="acc_norm", value=0.99) for s in scores if s.metric == "gp_irt"]
    changes = paper_llama("1.4B", reweighting__r=1.0)
    make_run(tmp_path, "linupper", 0, {}, scores=[*plain, *scores], **changes)
    make_run(tmp_path, "linupper", 1, {}, scores=without_estimate(scores), **changes)
    found, _ = judged(tmp_path)
    cell = found["llama1b_lur", "Llama 1.4B/linupper", "tinyArc"]
    assert (cell.ours, cell.n_seeds, cell.verdict) == (pytest.approx(40.85), 1, "reproduced")
    assert "tinyArc: seeds without gp-IRT are left out" in cell.note
    assert found["llama1b_lur", "Llama 1.4B/linupper", "rte"].n_seeds == 2


def test_a_plain_mean_has_no_sign_either(tmp_path: Path) -> None:
    for seed in range(2):
        for strategy, gain in (("uniform", 0.0), ("linupper", 0.02 + 0.01 * seed)):
            lur = without_estimate(task_scores("llama_lur", LLAMA_1B["uniform"][0]))
            scores = changed(changed(lur, "tinyArc", value=0.3 + gain), "rte", value=0.5 + gain)
            make_run(
                tmp_path, strategy, seed, {}, scores=scores, paper__model="Llama 1.4B", reweighting__r=1.0
            )
    found, _ = judged(tmp_path)
    tiny = found["llama1b_lur", "Llama 1.4B/linupper", "tinyArc"]
    assert (tiny.verdict, tiny.our_difference, tiny.ci_low) == ("not_run", pytest.approx(2.5), None)
    # Differences of 2 and 3 points: t(0.975, 1) = 12.7 leaves the sign open, but it is judged.
    assert found["llama1b_lur", "Llama 1.4B/linupper", "rte"].verdict == "reduced_scale_unresolved"


def reduced(root: Path, edit: Callable[[Score], Score], seeds: int = 2) -> Cell:
    """Two seeds of uniform, and of linupper 2 and 3 points above on logiqa, its scores edited."""
    for seed in range(seeds):
        for strategy, gain in (("uniform", 0.0), ("linupper", 0.02 + 0.01 * seed)):
            scores = changed(LINUPPER, "logiqa", value=0.25 + gain)
            scores = [edit(s) for s in scores] if strategy == "linupper" else scores
            make_run(root, strategy, seed, {}, scores=scores, paper__model="GPT2-medium", train__steps=200)
    return judged(root)[0]["table2", "GPT2-medium/linupper", "logiqa"]


def test_reduced_scale_is_judged_by_the_paired_sign(tmp_path: Path) -> None:
    cell = reduced(tmp_path, lambda s: s, seeds=3)
    # Differences 2, 3, 4 points: mean 3, half-width 4.30265 x 1 / sqrt(3) = 2.48414.
    assert cell.verdict == "reduced_scale_same_sign"
    assert (cell.our_difference, cell.ci_low) == (pytest.approx(3.0), pytest.approx(3.0 - 2.48414, abs=1e-4))


OTHER_QUESTIONS = [
    ({"prompt_sha256": "0" * 64}, "different prompts"),
    ({"task_version": "2.0"}, "task versions 2.0 and 1.0"),
    ({"prompt_sha256": None, "dataset": "owner/other@1"}, "other data (from owner/other@1 and owner/logiqa@"),
]


@pytest.mark.parametrize(("fields", "said"), OTHER_QUESTIONS)
def test_answers_to_other_questions_are_not_subtracted(
    tmp_path: Path, fields: dict[str, object], said: str
) -> None:
    cell = reduced(tmp_path, lambda s: replace(s, **fields) if s.task == "logiqa" else s)  # type: ignore[arg-type]
    assert (cell.verdict, cell.our_difference) == ("reduced_scale_unresolved", None)
    assert said in cell.note
    groups = {group.info.recipe: group for group in group_runs(find_runs([tmp_path]))}
    with pytest.raises(UserError, match="logiqa"):
        against([groups["nano_linupper"]], groups["nano_uniform"])


def test_another_harness_is_said_and_not_refused(tmp_path: Path) -> None:
    cell = reduced(tmp_path, lambda s: replace(s, versions={"lm_eval": "0.4.4"}))
    assert cell.our_difference == pytest.approx(2.5)
    assert "scored by lm-eval 0.4.13 and 0.4.4" in cell.note
    groups = {group.info.recipe: group for group in group_runs(find_runs([tmp_path]))}
    told = {d.note for d in against([groups["nano_linupper"]], groups["nano_uniform"])}
    assert told == {"scored by lm-eval 0.4.13 and 0.4.4"}


def test_seeds_that_answered_different_questions_have_no_mean(tmp_path: Path) -> None:
    medium(tmp_path, "linupper", LINUPPER)
    medium(tmp_path, "linupper", changed(LINUPPER, "sciq", prompt_sha256="0" * 64), seed=1)
    found, _ = judged(tmp_path)
    sciq = found["table2", "GPT2-medium/linupper", "sciq"]
    assert (sciq.ours, sciq.verdict) == (None, "not_run")
    assert "seeds 0 and 1 have no mean" in sciq.note
    assert found["table2", "GPT2-medium/linupper", "piqa"].n_seeds == 2


def test_a_limited_run_beside_a_whole_one_is_refused(tmp_path: Path) -> None:
    reduced(tmp_path, lambda s: replace(s, limit=4, n=4))
    groups = {group.info.recipe: group for group in group_runs(find_runs([tmp_path]))}
    with pytest.raises(UserError, match="over 4 and 651 items"):
        against([groups["nano_linupper"]], groups["nano_uniform"])


def test_a_task_with_other_shots_is_refused(tmp_path: Path) -> None:
    reduced(tmp_path, lambda s: replace(s, num_fewshot=0) if s.task == "piqa" else s)
    groups = {group.info.recipe: group for group in group_runs(find_runs([tmp_path]))}
    with pytest.raises(UserError, match="piqa with different shots"):
        against([groups["nano_linupper"]], groups["nano_uniform"])


def test_equal_prompts_from_another_revision_are_one_question() -> None:
    one = LINUPPER[0]
    other = replace(one, dataset="owner/logiqa@1", context=1024)
    assert different_questions([one], [other]) == ""
    remarks = scoring_differences([one], [other])
    assert [remark.partition(" (")[0] for remark in remarks] == [
        "logiqa: the same prompts",
        "logiqa: contexts of 512 and 1024 tokens",
    ]


def test_compare_prints_the_notes_and_its_json_holds_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    medium(tmp_path, "linupper", changed(LINUPPER, "logiqa", limit=4, n=4))
    assert run(["compare", "--table", "table2", str(tmp_path)]) == 0
    assert "first 4 items only" in " ".join(capsys.readouterr().err.split())
    assert run(["compare", "--table", "table2", "--json", str(tmp_path)]) == 0
    document = json.loads(capsys.readouterr().out)
    by_column = {c["column"]: c for c in document["cells"] if c["row"] == "GPT2-medium/linupper"}
    assert by_column["logiqa"]["ours"] is None
    assert by_column["piqa"]["verdict"] == "reproduced"


def test_the_report_shows_every_task_score(tmp_path: Path) -> None:
    cut = {"requests": 2604, "truncated": 312, "shots_kept": 3.14}
    medium(tmp_path, "linupper", changed(LINUPPER, "logiqa", **cut))
    shown = {score.task: score for score in shown_scores(find_runs([tmp_path]))}
    assert list(shown) == list(GPT2_QA)
    logiqa = shown["logiqa"]
    assert (logiqa.value, logiqa.n, logiqa.metric) == ("0.2790 ± 0.0100", "651", "acc_norm")
    assert (logiqa.shots, logiqa.truncated) == ("5 (3.1 kept)", "312 of 2604")
    assert shown["piqa"].shots == "5"
    page = render(find_runs([tmp_path]))
    assert page.count('<td class="text">gpt2_qa</td>') == 4
    assert "<td>0.2790 ± 0.0100</td><td>651</td><td>5 (3.1 kept)</td><td>312 of 2604</td>" in page
