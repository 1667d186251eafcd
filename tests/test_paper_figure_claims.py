"""Claims about figures: the rules over several r on hand-made runs, and what studies' findings add up to."""

from dataclasses import replace
from pathlib import Path

import pytest
from paper_runs import make_run, mini
from study_samples import sample_study

from reproduce.paper.figure_claims import FigureResult, figure_results, load_figure_claims
from reproduce.paper.found_studies import FoundStudy
from reproduce.paper.matching import group_runs
from reproduce.paper.runs import find_runs
from reproduce.study import Finding, Outcome


def judged(root: Path) -> dict[str, FigureResult]:
    return {result.id: result for result in figure_results(group_runs(find_runs([root])), [])}


def seeds_at(root: Path, r: float, shift: float, seeds: int = 3) -> None:
    """LinUpper at r, `shift` from uniform in every domain, with a wobble of 0.001 between seeds."""
    for seed in range(seeds):
        values = mini("uniform", shift + 0.5 * seed + 0.001 * (seed - 1))
        make_run(root / f"r{r:g}", "linupper", seed, values, reweighting__r=r)


def uniform(root: Path, seeds: int = 3) -> None:
    for seed in range(seeds):
        make_run(root, "uniform", seed, mini("uniform", 0.5 * seed))


def test_every_figure_that_the_paper_argues_with_is_there() -> None:
    claims = load_figure_claims()
    assert [claim.source.split(", ")[-1] for claim in claims] == [
        "Figure 5",
        "Figure 5",
        "Figure 6",
        "B.2",
        "B.3",
    ]
    assert {claim.study for claim in claims} == {None, "bounds", "regression", "dro"}


def test_the_sources_are_those_of_the_studies() -> None:
    pytest.importorskip("torch")
    from reproduce.studies import cap_findings, dro_verdicts, verdicts

    sources = {claim.study: claim.source for claim in load_figure_claims() if claim.study}
    assert sources["regression"] == verdicts.FIGURE_7
    assert sources["dro"] == dro_verdicts.FIGURE_8
    assert f'source="{sources["bounds"]}"' in Path(cap_findings.__file__).read_text(encoding="utf-8")


def test_large_and_small_r(tmp_path: Path) -> None:
    uniform(tmp_path)
    seeds_at(tmp_path, 0.1, 0.3)
    seeds_at(tmp_path, 0.4, 0.1)
    seeds_at(tmp_path, 100.0, 0.0)
    found = judged(tmp_path)
    near, worse = found["large_r_approaches_uniform"], found["small_r_hurts"]
    # |0.299|, |0.300|, |0.301| against |-0.001|, 0, |0.001|: 0.298, 0.300, 0.300.
    assert near.outcome == "holds"
    assert "distance from uniform +0.300 nats at r = 0.1, +0.001 at 100, seeds: 3" in near.evidence
    # 0.3 - 0.1 in every seed.
    assert worse.outcome == "holds"
    assert "difference +0.200 [+0.200, +0.200]" in worse.evidence
    assert near.judged_by == "rule:large_r_near_uniform"


def test_the_rules_can_fail_and_stay_open(tmp_path: Path) -> None:
    uniform(tmp_path)
    seeds_at(tmp_path, 0.1, 0.0)
    seeds_at(tmp_path, 0.4, 0.1)
    seeds_at(tmp_path, 100.0, 0.3)
    found = judged(tmp_path)
    assert found["large_r_approaches_uniform"].outcome == "does_not"
    assert found["small_r_hurts"].outcome == "does_not"
    one = tmp_path / "one"
    uniform(one, seeds=1)
    seeds_at(one, 0.4, 0.1, seeds=1)
    seeds_at(one, 100.0, 0.0, seeds=1)
    found = judged(one)
    assert found["large_r_approaches_uniform"].outcome == "unresolved"
    assert "no interval" in found["large_r_approaches_uniform"].evidence
    # 0.4 is the paper's own r, not one below it.
    assert found["small_r_hurts"].outcome == "not_run"


def test_runs_that_differ_in_more_than_r_are_no_series(tmp_path: Path) -> None:
    uniform(tmp_path)
    seeds_at(tmp_path, 0.4, 0.1)
    make_run(tmp_path / "x", "linupper", 0, mini("uniform"), reweighting__r=100.0, optimizer__lr=2e-3)
    assert judged(tmp_path)["large_r_approaches_uniform"].outcome == "not_run"
    assert judged(tmp_path / "x")["large_r_approaches_uniform"].outcome == "not_run"


@pytest.mark.parametrize(
    ("outcomes", "together"),
    [
        (["holds", "holds"], "holds"),
        (["holds", "does_not"], "only_where"),
        (["only_where", "does_not"], "only_where"),
        (["does_not", "does_not"], "does_not"),
        (["does_not", "unresolved"], "does_not"),
        (["unresolved"], "unresolved"),
        (["holds", "unresolved"], "only_where"),
        ([], "not_run"),
    ],
)
def test_findings_of_a_study_add_up(outcomes: list[Outcome], together: str) -> None:
    findings = tuple(
        Finding(claim=f"c{i}", source="Figure 8, B.3", outcome=outcome, where="", evidence="", seeds=3)
        for i, outcome in enumerate(outcomes)
    )
    other = Finding(claim="x", source="ours", outcome="does_not", where="", evidence="", seeds=3)
    study = replace(sample_study("dro"), findings=(*findings, other))
    found = {r.id: r for r in figure_results([], [FoundStudy(path=Path("toy"), study=study)])}
    assert found["dro_diverges"].outcome == together
    assert found["linupper_fastest_on_regression"].outcome == "not_run"
