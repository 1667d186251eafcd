"""Which figures given runs hold the numbers for, and what those show."""

import re
from pathlib import Path

import pytest
from paper_runs import make_run, mini, paper_scale
from study_samples import sample_study

from reproduce.paper.figure_list import NEEDS, Found, find_figures
from reproduce.paper.found_studies import FoundStudy
from reproduce.paper.run_groups import families, group_by_settings, labels
from reproduce.paper.runs import find_runs
from reproduce.paper.study_output import write_figure
from reproduce.study import Panel, Study


def found(root: Path, *studies: Study, only: tuple[str, ...] = ()) -> tuple[list[Found], list[str]]:
    groups, _ = group_by_settings(find_runs([root]))
    toys = [FoundStudy(path=root / "toy", study=study) for study in studies]
    figures = find_figures(groups, toys, None, only)
    return figures.found, [kind for kind, _ in figures.missing]


def panel(figure: Found, index: int = 0) -> Panel:
    drawn = figure.figure.panels[index]
    assert isinstance(drawn, Panel)
    return drawn


def four_strategies(root: Path, **changes: object) -> None:
    for strategy in ("uniform", "linupper", "quadratic", "extremes"):
        make_run(root, strategy, 1, mini(strategy), metrics=True, **changes)


def test_without_anything_every_figure_says_what_it_needs(tmp_path: Path) -> None:
    figures, missing = found(tmp_path)
    assert figures == []
    assert missing == [kind for kind in NEEDS if kind != "figure1"]
    assert found(tmp_path, only=("ess", "figure3"))[1] == ["figure3", "ess"]


def test_the_docs_list_every_figure() -> None:
    text = (Path(__file__).parents[1] / "docs" / "figures.md").read_text()
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    assert re.findall(r"`([^`]+)`", " ".join(rows)) == list(NEEDS)


def test_reduced_runs_stand_in_and_say_so(tmp_path: Path) -> None:
    four_strategies(tmp_path)
    figures, missing = found(tmp_path)
    assert [each.figure.id for each in figures] == [
        "figure3-reduced", "figure6", "loss", "ess", "entropy", "weight-share", "overhead",
        "weights-by-quantile",
    ]  # fmt: skip
    assert figures[0].figure.title == (
        "Log-perplexity by domain: a reduced-scale stand-in for GPT2-mini (the paper's Figure 3)"
    )
    assert figures[0].figure.caption.startswith("gpt2, 4 layers, 600 steps, 1 seed. Held-out")
    assert [line.label for line in panel(figures[0]).lines] == [
        "extremes",
        "linupper",
        "quadratic",
        "uniform",
    ]
    assert missing == [
        "figure2", "figure4", "figure5", "figure7", "figure8", "domains",
    ]  # fmt: skip


def test_runs_at_the_papers_scale_do_not_stand_in_but_shortened_ones_do(tmp_path: Path) -> None:
    four_strategies(tmp_path / "a", **paper_scale())
    figures, _ = found(tmp_path / "a", only=("figure3",))
    assert [(each.figure.id, each.figure.title) for each in figures] == [
        ("figure3", "Log-perplexity by domain: GPT2-mini (the paper's Figure 3)")
    ]
    four_strategies(tmp_path / "b", **paper_scale(train__steps=600))
    figures, _ = found(tmp_path / "b", only=("figure3",))
    assert [each.figure.id for each in figures] == ["figure3-reduced"]


def test_one_stand_in_is_drawn_once_and_as_any_model_that_is_asked_for(tmp_path: Path) -> None:
    four_strategies(tmp_path)
    figures, missing = found(tmp_path, only=("figure2", "figure4"))
    assert missing == []
    assert [(each.kind, each.figure.id, each.figure.title) for each in figures] == [
        (f"figure{number}", f"figure{number}-reduced",
         f"Log-perplexity by domain: a reduced-scale stand-in for {model} (the paper's Figure {number})")
        for number, model in ((2, "GPT2-medium"), (4, "GPT2-small"))
    ]  # fmt: skip
    assert all(len(panel(each).lines) == 4 for each in figures)
    assert figures[0].figure.caption.endswith("The recipes name GPT2-mini: one stand-in for all.")
    everything, missing = found(tmp_path)
    assert [each.kind for each in everything if each.kind in ("figure2", "figure3", "figure4")] == ["figure3"]
    assert missing[:2] == ["figure2", "figure4"]
    assert "asked for by --only" in NEEDS["figure2"]


def test_runs_at_the_papers_scale_stand_for_their_own_model_alone(tmp_path: Path) -> None:
    four_strategies(tmp_path, **paper_scale())
    assert found(tmp_path, only=("figure2",))[1] == ["figure2"]
    # Beside them, runs that name another table stand for no figure of it.
    make_run(tmp_path / "x", "linupper", 1, mini("linupper"), metrics=True, paper__table="table12")
    assert found(tmp_path, only=("figure2", "figure4"))[1] == ["figure2", "figure4"]


def test_runs_that_cannot_share_axes_have_a_figure_each(tmp_path: Path) -> None:
    four_strategies(tmp_path)
    make_run(tmp_path, "linear", 1, mini("linupper"), eval_set="f" * 64, metrics=True, paper__table=None)
    figures, _ = found(tmp_path, only=("figure6", "ess", "figure3", "domains"))
    assert [each.figure.id for each in figures] == [
        "figure3-reduced", "figure6", "figure6-2", "domains", "ess", "ess-2",
    ]  # fmt: skip
    assert [line.label for line in panel(figures[3]).lines] == ["linear"]


def test_a_run_that_table_1_has_not_is_shown_beside_the_others(tmp_path: Path) -> None:
    four_strategies(tmp_path)
    make_run(tmp_path, "dro_kl", 1, mini("linupper"), metrics=True, paper__table="table12")
    figures, _ = found(tmp_path, only=("figure3", "domains"))
    assert [(each.kind, len(panel(each).lines)) for each in figures] == [("figure3", 4), ("domains", 5)]


def sweep(root: Path, differences: dict[float, tuple[float, ...]], **changes: object) -> None:
    """Uniform runs, and linupper at several r with their mean's differences from uniform, one a seed."""
    for seed in range(3):
        make_run(root, "uniform", seed, {"mean": 3.0 + seed, "c4": 3.0 + seed})
    for r, values in differences.items():
        for seed, difference in enumerate(values):
            tasks = dict.fromkeys(("mean", "c4"), 3.0 + seed + difference)
            make_run(
                root / f"r{r}", "linupper", seed, tasks, name="nano_linupper", reweighting__r=r, **changes
            )


def test_figure_5_pairs_by_seed(tmp_path: Path) -> None:
    sweep(tmp_path, {0.2: (0.5, 0.5, 0.5), 1.0: (-0.1, 0.0, 0.1), 100.0: (0.0, 0.0)})
    (figure,), missing = found(tmp_path, only=("figure5",))
    assert missing == []
    shown = panel(figure)
    (line,) = shown.lines
    assert (line.label, line.x) == ("linupper", (0.2, 1.0, 100.0))
    # The seeds of uniform lie a whole nat apart: only pairs give these.
    assert line.y == pytest.approx((0.5, 0.0, 0.0))
    assert line.low == pytest.approx((0.5, -0.1, 0.0))
    assert line.high == pytest.approx((0.5, 0.1, 0.0))
    assert [(mark.axis, mark.at, mark.label) for mark in shown.marks] == [("y", 0.0, "uniform")]
    assert "2 to 3 seeds a point" in figure.figure.caption


def test_figure_5_is_titled_by_a_recipe_that_names_its_model(tmp_path: Path) -> None:
    sweep(tmp_path, {0.4: (0.1, 0.2), 1.0: (0.0, 0.1)})
    for r in (0.5, 5.0):
        tasks = {"mean": 3.1, "c4": 3.1}
        make_run(
            tmp_path / f"dro{r}", "dro_kl", 0, tasks, name="nano_dro", reweighting__r=r,
            paper={"table": None, "model": None, "scale": "reduced"},
        )  # fmt: skip
    (figure,), _ = found(tmp_path, only=("figure5",))
    assert (len(panel(figure).lines), panel(figure).title) == (2, "GPT2-mini, reduced scale")


def test_figure_5_needs_two_r_equal_in_the_rest_and_a_partner(tmp_path: Path) -> None:
    sweep(tmp_path / "one", {1.0: (0.1, 0.1, 0.1)})
    assert found(tmp_path / "one", only=("figure5",))[1] == ["figure5"]
    sweep(tmp_path / "other", {0.4: (0.1,), 1.0: (0.1,)}, optimizer__lr=0.5)
    assert found(tmp_path / "other", only=("figure5",))[1] == ["figure5"]
    # A longer warm-up of the weights is another method, though uniform has no use for it.
    sweep(tmp_path / "more", {0.4: (0.1,)})
    make_run(
        tmp_path / "more" / "x", "linupper", 0, {"mean": 3.0, "c4": 3.0}, name="nano_linupper",
        reweighting__r=2.0, reweighting__warmup_steps=9,
    )  # fmt: skip
    assert found(tmp_path / "more", only=("figure5",))[1] == ["figure5"]


def test_toy_studies_bring_their_own_figures(tmp_path: Path) -> None:
    figures, missing = found(
        tmp_path, sample_study("regression"), sample_study("regression"), sample_study("sweep")
    )
    assert [(each.kind, each.figure.id) for each in figures] == [
        ("figure7", "loss"), ("figure7", "map"), ("figure7", "loss-2"), ("figure7", "map-2"),
    ]  # fmt: skip
    assert "figure8" in missing


def test_lines_are_named_by_what_tells_them_apart(tmp_path: Path) -> None:
    for r in (0.4, 2.0):
        make_run(tmp_path / str(r), "linupper", 0, mini("linupper"), name="a", reweighting__r=r)
    make_run(tmp_path, "uniform", 0, mini("uniform"))
    groups, _ = group_by_settings(find_runs([tmp_path]))
    assert labels(groups) == ["linupper, r = 0.4", "linupper, r = 2", "uniform"]
    make_run(tmp_path, "linupper", 0, mini("linupper"), name="b", optimizer__lr=1.0)
    groups, _ = group_by_settings(find_runs([tmp_path]))
    assert labels(groups) == ["a", "a (2)", "b", "uniform"]


def test_the_same_seed_twice_is_left_out_and_said(tmp_path: Path) -> None:
    make_run(tmp_path / "a", "linupper", 0, mini("linupper"), metrics=True)
    make_run(tmp_path / "b", "linupper", 0, mini("linupper"), metrics=True)
    groups, left_out = group_by_settings(find_runs([tmp_path]))
    assert len(groups) == 1
    assert left_out == [
        f"{tmp_path}/b/nano_linupper/seed-0: the same recipe and seed as {tmp_path}/a/nano_linupper/seed-0"
    ]
    (family,) = families(groups)
    assert len(family.lines) == 1


def test_the_same_runs_give_the_same_files(tmp_path: Path) -> None:
    four_strategies(tmp_path / "runs")
    figures, _ = found(tmp_path / "runs", only=("overhead", "figure6"))
    for name in ("a", "b"):
        for each in figures:
            write_figure(tmp_path / name, each.figure, dots=each.measured)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == [
        f"{stem}.{ending}" for stem in ("figure6", "overhead") for ending in ("csv", "png", "svg")
    ]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    first = (tmp_path / "a" / "figure6.csv").read_text().splitlines()
    assert first[0] == "panel,title,line,strategy,x,y"
    assert "1,,bound 2/M,,2.0," in first
