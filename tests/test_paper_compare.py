"""Verdicts from hand-made runs: intervals worked out by hand, refusals, and what may never be claimed."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
from paper_runs import DOMAINS, make_run, mini, paper_scale, three_seeds

from reproduce.errors import UserError
from reproduce.paper.claim_verdicts import ClaimResult, claim_results
from reproduce.paper.compare import Cell, cells
from reproduce.paper.differences import differences, refuse_undeclared
from reproduce.paper.extras import extras, unjudged
from reproduce.paper.matching import Matches, group_runs, match_rows
from reproduce.paper.runs import find_runs
from reproduce.paper.tables import Printed, load_tables
from reproduce.paper.verdicts import equal_within, paper_verdict, sign_verdict, tolerance_of
from reproduce.paper.versus import against
from reproduce.statistics import Interval


def judge(root: Path) -> dict[tuple[str, str], Cell]:
    tables = load_tables()
    found = match_rows(group_runs(find_runs([root])), tables)
    judged = cells(tables, found)
    assert len(judged) == 267  # every cell of the paper, run or not: 96+20+20+6+28+14+6+28+14+35
    return {(cell.row, cell.column): cell for cell in judged if cell.table == "table1"}


def matched(root: Path) -> Matches:
    return match_rows(group_runs(find_runs([root])), load_tables())


def claims(root: Path) -> dict[tuple[str, str], ClaimResult]:
    return {(c.id, c.model): c for c in claim_results(load_tables(), matched(root))}


def test_without_runs_every_cell_is_not_run(tmp_path: Path) -> None:
    tables = load_tables()
    judged = cells(tables, match_rows([], tables))
    assert len(judged) == 267
    assert {cell.verdict for cell in judged} == {"not_run"}
    assert all(cell.ours is None and cell.diff is None and cell.ci_low is None for cell in judged)
    assert {c.verdict for c in claim_results(tables, match_rows([], tables))} == {"not_run"}


def test_reduced_scale_is_judged_by_sign_on_paired_seeds(tmp_path: Path) -> None:
    base = mini("uniform", shift=2.0)
    three_seeds(tmp_path, "uniform", base, {})
    # book: 0.05 below uniform in the paper (4.16 - 4.21); github 0.05 above; the others equal uniform here.
    shifts = dict.fromkeys(base, 0.0) | {"book": -0.2, "github": -0.1, "arxiv": 0.0005}
    three_seeds(tmp_path, "linupper", base, shifts)
    judged = judge(tmp_path)
    book = judged["GPT2-mini/linupper", "book"]
    # Differences -0.201, -0.200, -0.199: mean -0.2, standard error 0.001/sqrt(3), t(0.975, 2) = 4.30265,
    # half-width 0.0024842. Unpaired, the seeds' spread of 0.5 nats would drown it.
    assert book.verdict == "reduced_scale_same_sign"
    assert book.our_difference == pytest.approx(-0.2)
    assert (book.ci_low, book.ci_high) == (
        pytest.approx(-0.2024842, abs=1e-6),
        pytest.approx(-0.1975158, abs=1e-6),
    )
    assert book.ci_of == "our_difference"
    assert book.paper_difference == pytest.approx(-0.05)
    assert book.ours == pytest.approx(4.21 + 2.0 - 0.2)
    assert book.n_seeds == 3
    assert judged["GPT2-mini/linupper", "github"].verdict == "reduced_scale_opposite_sign"
    # c4 wobbles by 0.001 around no difference: the interval holds zero.
    assert judged["GPT2-mini/linupper", "c4"].verdict == "reduced_scale_unresolved"
    assert judged["GPT2-mini/quadratic", "book"].verdict == "not_run"


def test_a_reduced_scale_run_is_never_reproduced(tmp_path: Path) -> None:
    # Even with the paper's very numbers.
    for strategy in ("uniform", "linupper", "quadratic", "extremes"):
        three_seeds(tmp_path, strategy, mini(strategy), {})
    judged = judge(tmp_path)
    assert "reproduced" not in {cell.verdict for cell in judged.values()}
    uniform = judged["GPT2-mini/uniform", "mean"]
    assert (uniform.verdict, uniform.ours, uniform.scale) == ("not_run", pytest.approx(3.32), "reduced")
    assert "baseline" in uniform.note


def test_one_reduced_seed_is_unresolved(tmp_path: Path) -> None:
    make_run(tmp_path, "uniform", 0, mini("uniform"))
    make_run(tmp_path, "linupper", 0, mini("linupper"))
    cell = judge(tmp_path)["GPT2-mini/linupper", "c4"]
    assert (cell.verdict, cell.ci_low) == ("reduced_scale_unresolved", None)
    assert cell.our_difference == pytest.approx(-0.06)
    assert "one seed" in cell.note


def test_only_shared_seeds_are_paired(tmp_path: Path) -> None:
    make_run(tmp_path, "uniform", 0, mini("uniform"))
    make_run(tmp_path, "linupper", 1, mini("linupper"))
    cell = judge(tmp_path)["GPT2-mini/linupper", "c4"]
    assert (cell.verdict, cell.our_difference) == ("reduced_scale_unresolved", None)
    assert "no uniform run of the same seed" in cell.note


@pytest.mark.parametrize(
    ("low", "high", "paper", "verdict"),
    [
        (-0.3, -0.1, -0.05, "same_sign"),
        (0.1, 0.3, -0.05, "opposite_sign"),
        (-0.1, 0.3, -0.05, "unresolved"),
        (-0.004, 0.009, 0.0, "same_sign"),
        (0.02, 0.03, 0.0, "opposite_sign"),
        (-0.03, -0.02, 0.0, "opposite_sign"),
        (-0.004, 0.02, 0.0, "unresolved"),
        (None, None, -0.05, "unresolved"),
    ],
)
def test_sign_rule(low: float | None, high: float | None, paper: float, verdict: str) -> None:
    mean = 0.1 if low is None or high is None else (low + high) / 2
    interval = Interval(mean=mean, low=low, high=high, n=3)
    assert sign_verdict(interval, paper, 0.01) == f"reduced_scale_{verdict}"


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [
        # Printed 3.30, half a unit is 0.005: one seed, or two, by 0.02 + 0.005.
        ([3.324], "reproduced"),
        ([3.326], "differs"),
        ([3.32, 3.327], "reproduced"),
        ([3.336, 3.352], "differs"),  # each of them differs, and t is 12.7: their spread says nothing
        # Seeds close together, a little off: more of them must not turn the verdict.
        ([3.313, 3.3131, 3.3129, 3.313, 3.313], "reproduced"),
        # 3.31, 3.335, 3.36: mean 3.335, standard deviation 0.025, so one further run is within
        # 4.30265 x 0.025 x sqrt(1 + 1/3) = 0.1242; 0.035 off lies below 2.5 x 0.02 + 0.005 = 0.055.
        ([3.31, 3.335, 3.36], "reproduced"),
        # The same spread 0.055 off and a hair more.
        ([3.3299, 3.3549, 3.3799], "reproduced"),
        ([3.3301, 3.3551, 3.3801], "differs"),
        # 4.30265 x 0.005 x 1.1547 = 0.02484, and 0.005: 0.0298 off at most.
        ([3.3247, 3.3297, 3.3347], "reproduced"),
        ([3.3249, 3.3299, 3.3349], "differs"),
    ],
)
def test_paper_scale_rule(ours: list[float], verdict: str) -> None:
    assert paper_verdict(ours, Printed(text="3.30"), 0.02)[0] == verdict


@pytest.mark.parametrize("seeds", [1, 3, 5, 20])
def test_a_true_reproduction_seldom_differs(seeds: int) -> None:
    """Ours and the printed value from one distribution, as scattered as the tolerance allows for."""
    draw = random.Random(seeds)
    sd = 0.02 / (1.96 * 2**0.5)
    differs = 0
    for _ in range(2000):
        printed = Printed(text=f"{3.3 + draw.gauss(0, sd):.2f}")
        ours = [3.3 + draw.gauss(0, sd) for _ in range(seeds)]
        differs += paper_verdict(ours, printed, 0.02)[0] == "differs"
    assert differs / 2000 < 0.05


def test_tolerance_of_an_accuracy_comes_from_its_test_set() -> None:
    table = load_tables()["table2"]
    sciq = table.columns[2]
    # 49.0% of 1000: standard error 1.58082 points, of a difference times sqrt(2) = 2.23561, times 1.95996.
    tolerance = tolerance_of(table, sciq, table.row("GPT2-medium/uniform").values[2])
    assert tolerance == pytest.approx(4.3817, abs=1e-3)
    assert tolerance_of(load_tables()["table1"], sciq, Printed(text="3.30")) == 0.02


def test_paper_scale_seeds_are_held_against_the_printed_value(tmp_path: Path) -> None:
    for seed, shift in enumerate((-0.004, 0.0, 0.004)):
        make_run(
            tmp_path, "linupper", seed, mini("linupper", shift), name="gpt2_mini_linupper", **paper_scale()
        )
    judged = judge(tmp_path)
    mean = judged["GPT2-mini/linupper", "mean"]
    assert (mean.verdict, mean.scale, mean.n_seeds, mean.ci_of) == ("reproduced", "paper", 3, "ours")
    # Standard deviation 0.004: half-width 4.30265 x 0.004 / sqrt(3) = 0.0099366.
    assert mean.ci_high == pytest.approx(3.30 + 0.0099366, abs=1e-6)
    assert mean.diff == pytest.approx(0.0, abs=1e-12)
    far = {task: value + 0.03 for task, value in mini("quadratic").items()}
    make_run(tmp_path, "quadratic", 0, far, name="gpt2_mini_quadratic", **paper_scale())
    one = judge(tmp_path)["GPT2-mini/quadratic", "mean"]
    # One seed: off by 0.03, and what is known is the error over its windows, 0.01.
    assert (one.verdict, one.ci_of, one.sample_stderr) == ("differs", "ours_over_samples", 0.01)
    assert one.ci_high == pytest.approx(3.36 + 0.03 + 0.0195996, abs=1e-6)
    assert "off by 0.03" in one.note


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"optimizer__lr": 0.1}, "optimizer.lr 0.1 (gpt2_mini_linupper: 0.0005)"),
        ({"model__dropout": 0.9}, "model.dropout 0.9"),
        ({"model__feed_forward": 16}, "model.feed_forward 16"),
        ({"data__eval_split": "train"}, "data.eval_split train"),
        ({"compatibility__bf16_losses": True}, "compatibility.bf16_losses True"),
        ({"reweighting__scope": "micro"}, "reweighting.scope micro"),
        ({"reweighting__warmup_steps": 19999}, "reweighting.warmup_steps 19999"),
        ({"reweighting__delta": 0.01}, "reweighting.delta 0.01"),
        ({"model": {}}, "model.layers None (paper: 12)"),
    ],
)
def test_what_was_trained_unlike_the_row_s_recipe_is_never_reproduced(
    tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    make_run(tmp_path, "linupper", 0, mini("linupper"), **paper_scale(**changes))
    judged = judge(tmp_path)["GPT2-mini/linupper", "mean"]
    assert (judged.scale, judged.verdict) == ("reduced", "reduced_scale_unresolved")
    assert said in judged.note


def test_a_precision_of_one_s_own_is_told_and_judged(tmp_path: Path) -> None:
    make_run(tmp_path, "uniform", 0, mini("uniform"), **paper_scale(train__precision="bf16"))
    cell = judge(tmp_path)["GPT2-mini/uniform", "mean"]
    assert cell.verdict == "reproduced"
    assert "trained with train.precision bf16 (gpt2_mini_uniform: fp32)" in cell.note


def test_a_few_held_out_windows_are_no_paper_scale(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "uniform", 0, mini("uniform"), **paper_scale())
    written = (folder / "results.json").read_text()
    (folder / "results.json").write_text(written.replace('"n": 2857', '"n": 1'))
    cell = judge(tmp_path)["GPT2-mini/uniform", "mean"]
    assert (cell.scale, cell.verdict) == ("reduced", "not_run")
    assert "1 held-out samples in a domain (paper: 2857)" in cell.note


@pytest.mark.parametrize(
    "weights", [{"arxiv": 1.0}, dict.fromkeys(DOMAINS, 0.0), dict.fromkeys((*DOMAINS[1:], "extra"), 1.0)]
)
def test_uniform_weights_are_over_the_paper_s_domains(tmp_path: Path, weights: dict[str, float]) -> None:
    make_run(tmp_path, "uniform", 0, mini("uniform"), **paper_scale(data__domain_weights=weights))
    assert {cell.verdict for cell in judge(tmp_path).values()} == {"not_run"}
    make_run(
        tmp_path / "all", "uniform", 0, mini("uniform"), name="written",
        **paper_scale(data__domain_weights=dict.fromkeys(DOMAINS, 0.5)),
    )  # fmt: skip
    assert judge(tmp_path / "all")["GPT2-mini/uniform", "mean"].verdict == "reproduced"


@pytest.mark.parametrize(
    ("setting", "value"), [("optimizer__lr", 1e-9), ("model__layers", 1), ("train__global_batch", 2)]
)
def test_no_difference_between_runs_that_differ_in_more_than_the_method(
    tmp_path: Path, setting: str, value: float
) -> None:
    for seed in range(3):
        make_run(tmp_path, "linupper", seed, mini("linupper", 0.001 * seed))
        make_run(tmp_path, "uniform", seed, mini("uniform", 3.0), **{setting: value})  # type: ignore[arg-type]
    cell = judge(tmp_path)["GPT2-mini/linupper", "mean"]
    assert (cell.verdict, cell.our_difference) == ("reduced_scale_unresolved", None)
    path = setting.replace("__", ".")
    assert f"no difference from GPT2-mini/uniform: other settings there, {path} " in cell.note
    assert {c.verdict for c in claims(tmp_path).values()} == {"not_run"}


def test_the_defects_of_the_released_code_are_part_of_the_method(tmp_path: Path) -> None:
    for seed in range(3):
        values = mini("linupper", 0.001 * seed)
        make_run(tmp_path, "linupper", seed, values, compatibility={"bf16_losses": True})
        make_run(tmp_path, "uniform", seed, mini("uniform", 0.001 * seed))
    assert judge(tmp_path)["GPT2-mini/linupper", "mean"].our_difference == pytest.approx(-0.02)


def test_text_that_is_not_recorded_is_told(tmp_path: Path) -> None:
    make_run(tmp_path, "linupper", 0, mini("linupper"), eval_set=None)
    make_run(tmp_path, "uniform", 0, mini("uniform"))
    note = judge(tmp_path)["GPT2-mini/linupper", "mean"].note
    assert "nano_linupper/seed-0 was measured on is not recorded" in note


def test_a_seed_without_a_score_is_named(tmp_path: Path) -> None:
    values = mini("linupper")
    make_run(tmp_path, "linupper", 0, values)
    make_run(tmp_path, "linupper", 1, {task: value for task, value in values.items() if task != "c4"} | {
        "mean": sum(values[task] for task in DOMAINS if task != "c4") / 6
    })  # fmt: skip
    cell = judge(tmp_path)["GPT2-mini/linupper", "c4"]
    assert (cell.n_seeds, cell.ours) == (1, 4.41)
    assert "seed 1 not measured on c4, left out" in cell.note


def test_runs_that_stand_for_no_row_are_listed(tmp_path: Path) -> None:
    make_run(tmp_path, "linupper", 0, mini("linupper"), step=300)
    make_run(tmp_path, "uniform", 0, mini("uniform"))
    groups = group_runs(find_runs([tmp_path]))
    (left_out,) = unjudged(groups, matched(tmp_path))
    assert left_out.recipe == "nano_linupper"
    assert "step 300 of 600" in left_out.why


def test_what_prints_as_no_difference() -> None:
    tables = load_tables()
    copa = next(c for c in tables["llama1b_lur"].columns if c.name == "copa")
    logiqa2 = next(c for c in tables["table12"].columns if c.name == "logiqa2")
    # Two rounded numbers: a printed unit. COPA has 100 items, so one of them is a whole point.
    assert equal_within(tables["table1"], tables["table1"].columns[0], Printed(text="2.48")) == 0.01
    assert equal_within(tables["llama1b_lur"], copa, Printed(text="77.00")) == 1.0
    assert equal_within(tables["table12"], logiqa2, Printed(text="27.5")) == 0.1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train__steps": 1000}, "steps 1000 (paper: 20000)"),
        ({"model__layers": 6}, "model.layers 6 (paper: 12)"),
        ({"data__dataset": "fineweb"}, "data.dataset fineweb"),
    ],
)
def test_a_shortened_paper_recipe_counts_as_reduced(
    tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    make_run(tmp_path, "linupper", 0, mini("linupper"), **(paper_scale() | changes))
    cell = judge(tmp_path)["GPT2-mini/linupper", "mean"]
    assert (cell.scale, cell.verdict) == ("reduced", "reduced_scale_unresolved")
    assert said in cell.note


def test_an_unfinished_run_fills_no_cell(tmp_path: Path) -> None:
    make_run(tmp_path, "linupper", 0, mini("linupper"), step=300)
    assert judge(tmp_path)["GPT2-mini/linupper", "mean"].ours is None
    groups = group_runs(find_runs([tmp_path]))
    listed = extras(groups, load_tables(), matched(tmp_path))
    assert {entry.column for entry in listed} == {*DOMAINS, "mean"}
    assert "step 300 of 600" in listed[0].note


def test_another_r_is_another_run(tmp_path: Path) -> None:
    make_run(tmp_path, "linupper", 0, mini("linupper"), reweighting__r=2.0)
    make_run(tmp_path, "uniform", 0, mini("uniform"), reweighting__r=2.0)  # uniform has no r: still the row
    judged = judge(tmp_path)
    assert judged["GPT2-mini/linupper", "mean"].ours is None
    assert judged["GPT2-mini/uniform", "mean"].ours == pytest.approx(3.32)
    groups = group_runs(find_runs([tmp_path]))
    assert {e.recipe for e in extras(groups, load_tables(), matched(tmp_path))} == {"nano_linupper"}


def test_a_run_outside_the_paper_is_listed_beside_its_uniform_twin(tmp_path: Path) -> None:
    for seed in range(2):
        make_run(tmp_path, "uniform", seed, mini("uniform"))
        values = mini("uniform", -0.1 - 0.01 * seed)
        make_run(tmp_path, "capped_softmax", seed, values, reweighting__r=1.0)
    groups = group_runs(find_runs([tmp_path]))
    listed = {e.column: e for e in extras(groups, load_tables(), matched(tmp_path))}
    # -0.10 and -0.11: mean -0.105.
    assert listed["mean"].our_difference == pytest.approx(-0.105)
    assert listed["mean"].n_seeds == 2


def test_domain_weights_decide_the_row(tmp_path: Path) -> None:
    doge = {"arxiv": 0.088, "book": 0.045, "c4": 0.269, "cc": 0.214, "github": 0.07}
    doge |= {"stackexchange": 0.166, "wikipedia": 0.148}
    exchanged = doge | {"c4": 0.214, "cc": 0.269}
    for name, weights in (("doge", doge), ("exchanged", exchanged)):
        make_run(
            tmp_path,
            "uniform",
            0,
            mini("uniform"),
            name=name,
            paper__model="GPT2-medium",
            data__domain_weights=weights,
        )
    rows = {(key[0], key[1]): match.group.info.recipe for key, match in matched(tmp_path).items()}
    assert rows == {("table3", "GPT2-medium/doge/uniform"): "doge"}


def test_other_domains_are_extra_and_the_mean_says_so(tmp_path: Path) -> None:
    for seed in range(2):
        make_run(tmp_path, "uniform", seed, {"licenses": 2.0 + seed, "code": 3.0, "mean": 2.5 + seed / 2})
        make_run(tmp_path, "linupper", seed, {"licenses": 1.9 + seed, "code": 3.0, "mean": 2.45 + seed / 2})
    judged = judge(tmp_path)
    mean = judged["GPT2-mini/linupper", "mean"]
    assert mean.verdict == "reduced_scale_same_sign"
    assert "other domains than the paper's" in mean.note
    assert judged["GPT2-mini/linupper", "c4"].verdict == "not_run"
    assert judged["GPT2-mini/linupper", "c4"].note == "not measured by these runs"
    groups = group_runs(find_runs([tmp_path]))
    listed = extras(groups, load_tables(), matched(tmp_path))
    assert {entry.column for entry in listed} == {"licenses", "code"}
    licenses = next(e for e in listed if e.column == "licenses" and e.recipe == "nano_linupper")
    assert licenses.our_difference == pytest.approx(-0.1)


def test_paper_scale_on_other_domains_is_reduced(tmp_path: Path) -> None:
    values = {"licenses": 3.30, "mean": 3.30}
    make_run(tmp_path, "linupper", 0, values, **paper_scale())
    cell = judge(tmp_path)["GPT2-mini/linupper", "mean"]
    assert cell.scale == "reduced"
    assert cell.verdict != "reproduced"


DIFFERENT = [
    ({"eval_set": "f" * 64}, "evaluation set"),
    ({"fingerprint": "f" * 64}, "training data"),
    ({"train__steps": 700}, r"steps: \d00 in .*, \d00 in "),
]


@pytest.mark.parametrize(("changes", "named"), DIFFERENT)
def test_runs_that_cannot_be_compared_are_refused(
    tmp_path: Path, changes: dict[str, object], named: str
) -> None:
    make_run(tmp_path, "uniform", 0, mini("uniform"))
    make_run(tmp_path, "linupper", 0, mini("linupper"), **changes)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=named) as caught:
        matched(tmp_path)
    assert caught.value.exit_code == 2
    assert "nano_uniform" in str(caught.value)
    assert "nano_linupper" in str(caught.value)
    groups = group_runs(find_runs([tmp_path]))
    path = {"eval_set": r"identity\.eval_set_sha256 ffff", "fingerprint": r"identity\.data_fingerprint ffff"}
    found = differences(groups[0], groups[1], ["reweighting"])
    with pytest.raises(UserError, match=path.get(next(iter(changes)), r"train\.steps 700, there 600")):
        refuse_undeclared(found, groups[1])


def test_two_recipes_for_one_row_are_refused(tmp_path: Path) -> None:
    make_run(tmp_path, "uniform", 0, mini("uniform"))
    make_run(tmp_path, "uniform", 1, mini("uniform"), name="other_uniform")
    with pytest.raises(UserError, match=r"two recipes stand for GPT2-mini/uniform"):
        matched(tmp_path)


def test_a_seed_given_twice_is_refused(tmp_path: Path) -> None:
    make_run(tmp_path / "a", "uniform", 0, mini("uniform"))
    make_run(tmp_path / "b", "uniform", 0, mini("uniform"))
    with pytest.raises(UserError, match="seed 0"):
        group_runs(find_runs([tmp_path]))


def test_seeds_trained_differently_are_refused(tmp_path: Path) -> None:
    make_run(tmp_path, "uniform", 0, mini("uniform"))
    make_run(tmp_path, "uniform", 1, mini("uniform"), optimizer__lr=2e-3)
    with pytest.raises(UserError, match=r"optimizer\.lr"):
        group_runs(find_runs([tmp_path]))


def test_a_recipe_at_several_r_is_several_groups(tmp_path: Path) -> None:
    make_run(tmp_path / "a", "linupper", 0, mini("linupper"))
    make_run(tmp_path / "b", "linupper", 0, mini("linupper", 0.1), reweighting__r=2.0)
    groups = group_runs(find_runs([tmp_path]))
    assert [g.info.recipe for g in groups] == ["nano_linupper (r = 0.4)", "nano_linupper (r = 2)"]
    # Only r = 0.4 is the paper's row; the other is ours.
    found = match_rows(groups, load_tables())
    assert {(key[1], match.group.info.r) for key, match in found.items()} == {("GPT2-mini/linupper", 0.4)}
    listed = extras(groups, load_tables(), found)
    assert {entry.recipe for entry in listed} == {"nano_linupper (r = 2)"}


def test_claims_follow_the_intervals(tmp_path: Path) -> None:
    base = mini("uniform", shift=2.0)
    three_seeds(tmp_path, "uniform", base, {})
    better = dict.fromkeys(("book", "c4", "cc", "wikipedia", "mean"), -0.1)
    three_seeds(tmp_path, "linupper", base, better | {"arxiv": 0.001, "github": 0.1, "stackexchange": -0.1})
    three_seeds(tmp_path, "quadratic", base, {"mean": -0.2})
    judged = claims(tmp_path)
    mini_claim = {name: c for (name, model), c in judged.items() if model == "GPT2-mini"}
    assert mini_claim["linupper_better_domains"].verdict == "reduced_scale_same_sign"
    assert (mini_claim["linupper_better_domains"].held, mini_claim["linupper_better_domains"].of) == (4, 4)
    # Sizes are asked of the paper's scale only.
    assert {mini_claim[f"linupper_{name}"].verdict for name in ("equal_arxiv", "worse_by")} == {"not_run"}
    # github worse as claimed, stackexchange better: one contradiction sinks the claim.
    assert mini_claim["linupper_worse_domains"].verdict == "reduced_scale_opposite_sign"
    assert mini_claim["quadratic_worse_mean"].verdict == "reduced_scale_opposite_sign"
    # Below uniform (-0.1) but above quadratic (-0.2), and extremes never ran: already contradicted.
    assert mini_claim["linupper_lowest_mean"].verdict == "reduced_scale_opposite_sign"
    assert mini_claim["extremes_worse_mean"].verdict == "not_run"
    assert judged["linupper_lowest_mean", "GPT2-small"].verdict == "not_run"


def paper_claims(root: Path) -> dict[str, str]:
    return {name: c.verdict for (name, model), c in claims(root).items() if model == "GPT2-mini"}


def test_claims_at_paper_scale_on_one_seed_are_held_to_the_tolerance(tmp_path: Path) -> None:
    for strategy in ("uniform", "linupper", "quadratic", "extremes"):
        make_run(tmp_path, strategy, 0, mini(strategy), **paper_scale())
    verdicts = paper_claims(tmp_path)
    # The paper's own numbers: 0.04 on the mean is beyond 0.02, LinUpper's 0.02 and 0.01 are not.
    assert verdicts.pop("quadratic_worse_mean") == verdicts.pop("extremes_worse_mean") == "reproduced"
    assert verdicts.keys() == {
        *("linupper_lowest_mean", "linupper_better_domains", "linupper_equal_arxiv"),
        *("linupper_worse_domains", "linupper_worse_by"),
    }
    assert set(verdicts.values()) == {"unresolved"}


def test_claims_at_paper_scale_on_several_seeds(tmp_path: Path) -> None:
    for seed in range(3):
        for strategy, wobble in (
            ("uniform", 0.0),
            ("linupper", 0.0002),
            ("quadratic", 0.1),
            ("extremes", 0.0),
        ):
            values = mini(strategy, 0.01 * seed + wobble * (seed - 1))
            make_run(tmp_path, strategy, seed, values, **paper_scale())
    verdicts = paper_claims(tmp_path)
    # Differences as printed, give or take 0.0002: all as claimed, 0.01 on arxiv counting as within 0.01.
    # Seeds of Quadratic 0.2 apart settle nothing about it, and so not which strategy is lowest either.
    assert verdicts.pop("quadratic_worse_mean") == verdicts.pop("linupper_lowest_mean") == "unresolved"
    assert set(verdicts.values()) == {"reproduced"}
    make_run(tmp_path / "far", "uniform", 0, mini("uniform"), **paper_scale())
    make_run(tmp_path / "far", "linupper", 0, mini("linupper", 3.0), **paper_scale())
    assert paper_claims(tmp_path / "far")["linupper_worse_by"] == "differs"


def test_runs_against_runs(tmp_path: Path) -> None:
    base = mini("uniform")
    three_seeds(tmp_path, "uniform", base, {})
    three_seeds(tmp_path, "linupper", base, {"book": -0.1, "github": 0.1})
    groups = {g.info.recipe: g for g in group_runs(find_runs([tmp_path]))}
    found = {d.task: d for d in against([groups["nano_linupper"]], groups["nano_uniform"])}
    assert list(found) == [*DOMAINS, "mean"]
    assert found["book"].verdict == "better"  # lower log-perplexity
    assert found["github"].verdict == "worse"
    assert found["book"].paired
    assert found["book"].diff == pytest.approx(-0.1)
    # Without shared seeds: Welch on spreads of 0.5 nats, so nothing is resolved.
    alone = replace(
        groups["nano_linupper"], by_seed={s + 9: r for s, r in groups["nano_linupper"].by_seed.items()}
    )
    apart = {d.task: d for d in against([alone], groups["nano_uniform"])}
    assert not apart["book"].paired
    assert apart["book"].verdict == "unresolved"
    assert apart["book"].ci_low is not None
    assert apart["book"].ci_low < -1.0
