"""Parts of the page: what is made again where, weights at a glance, room for figures, doubled runs."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from paper_runs import DOMAINS, make_run, mini, task_scores
from study_samples import LOSSES, WHO_WINS, sample_study

import reproduce.paper.page_room
from reproduce.errors import UserError
from reproduce.paper.again import again_folder
from reproduce.paper.page_figures import READABLE_PX, PageFigure, page_figure
from reproduce.paper.page_room import CERTAIN, VAIN, Room, least_bytes
from reproduce.paper.page_verdicts import judge_runs
from reproduce.paper.report import render
from reproduce.paper.runs import find_runs
from reproduce.recipe.weight_sets import read_weight_set, shipped_weight_sets
from reproduce.study import Figure, Line, Panel


def words(page: str) -> str:
    """The page's text."""
    return re.sub(r"<[^>]*>", "", page)


# Made again


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("runs/nano/seed-1", "again/runs/nano/seed-1"),
        ("/data/runs/nano/seed-1", "again/data/runs/nano/seed-1"),
        ("../runs/./x//y", "again/up/runs/x/y"),
        ("runs/a/../b", "again/runs/b"),
        ("again/runs/b", "again/again/runs/b"),
        (".", "again/run"),
    ],
)
def test_what_is_made_again_lies_elsewhere(folder: str, expected: str) -> None:
    assert again_folder(Path(folder)) == Path(expected)


def test_scores_are_made_again_from_the_run_made_again(tmp_path: Path) -> None:
    # `eval` leaves the scores that a results.json holds already.
    folder = make_run(tmp_path, "uniform", 0, mini("uniform"), scores=task_scores("gpt2_qa", "20 20 20 20"))
    text = words(render(find_runs([tmp_path]), None))
    assert f"\nreweight eval again{folder} --suite gpt2_qa\n" in text


# Weights at a glance


def shown_weights(tmp_path: Path, weights: object) -> tuple[str, str]:
    """The cell of the table of runs, and the text of its details."""
    make_run(tmp_path, "linupper", 0, mini("linupper"), data__domain_weights=weights)
    page = render(find_runs([tmp_path]), None)
    (table,) = re.findall(r'aria-label="Runs">(.*?)</table>', page, flags=re.DOTALL)
    details = re.findall(r"<dt>domain weights</dt><dd>(.*?)</dd>", page)
    (row,) = re.findall(r"<tbody>\s*<tr>(.*?)</tr>", table, flags=re.DOTALL)
    return re.findall(r"<td[^>]*>(.*?)</td>", row)[3], "".join(details)


@pytest.mark.parametrize("name", ["uniform", "natural"])
def test_named_weights_are_shown_by_name(tmp_path: Path, name: str) -> None:
    assert shown_weights(tmp_path, name) == (name, "")


@pytest.mark.parametrize("name", ["doge", "doremi", "doremi_10k"])
def test_written_weights_of_a_published_set_have_its_name(tmp_path: Path, name: str) -> None:
    weights = read_weight_set(shipped_weight_sets()[name]).weights
    # Weights are shares of their sum: twice as much of each is the same set.
    cell, details = shown_weights(tmp_path, {domain: 2 * weight for domain, weight in weights.items()})
    assert cell == f"{name}, as published"
    assert details.startswith("arxiv 0.")
    assert details.count(",") == 6


def test_other_weights_show_the_largest_and_all_in_the_details(tmp_path: Path) -> None:
    # Of 20: 8 are 40%, 5 are 25%, 3 are 15%; the rest 4 x 1 = 5% each.
    weights = dict(zip(DOMAINS, (1, 8, 1, 5, 3, 1, 1), strict=True))
    cell, details = shown_weights(tmp_path, weights)
    assert cell == "book 40%, cc 25%, github 15%, 4 more"
    assert details == (
        "arxiv 0.05, book 0.4, c4 0.05, cc 0.25, github 0.15, stackexchange 0.05, wikipedia 0.05"
    )


def test_odd_weights_are_shown_too(tmp_path: Path) -> None:
    assert shown_weights(tmp_path / "a", dict.fromkeys(DOMAINS, 0.5))[0] == "all 7 alike"
    assert shown_weights(tmp_path / "b", {"c4": 1.0, "<b>": 0.0})[0] == "c4 1e+02%, &lt;b&gt; 0%"
    many = {f"d{i}": 1.0 + i for i in range(500)}
    cell, details = shown_weights(tmp_path / "c", many)
    assert cell.endswith(", 497 more")
    assert details.endswith(", 440 more")


# Room for figures


def test_the_least_bytes_are_no_more_than_it_takes() -> None:
    long = Line(label="a", strategy="uniform", x=tuple(range(500)), y=tuple(0.1 + i % 7 for i in range(500)))
    banded = replace(long, low=long.y, high=long.y)
    short = replace(LOSSES, lines=LOSSES.lines[:1])
    for panels in (
        (LOSSES,),
        (WHO_WINS,),
        (WHO_WINS,) * 4,
        (short,) * 7,
        (replace(short, lines=(long, banded)),),
    ):
        figure = replace(sample_study().figures[0], panels=panels, columns=3)
        taken = page_figure(figure, "f").size
        assert taken / CERTAIN <= least_bytes(figure) <= taken


def test_a_small_figure_is_drawn_after_a_large_one_that_does_not_fit() -> None:
    small = sample_study().figures[0]
    large = replace(small, panels=small.panels * 20)
    room = Room(2 * page_figure(small, "a").size)
    assert room.draw(large, "b") is None
    first = room.draw(small, "c")
    assert first is not None
    assert (room.left, room.taken) == (first.size, first.size)
    assert room.draw(small, "d") is not None
    assert room.draw(small, "e") is None


def test_few_figures_are_drawn_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    small = sample_study().figures[0]
    size = page_figure(small, "a").size
    drawn: list[str] = []

    def counted(figure: Figure, prefix: str, *, dots: bool = False) -> PageFigure:
        drawn.append(prefix)
        return page_figure(figure, prefix, dots=dots)

    monkeypatch.setattr(reproduce.paper.page_room, "page_figure", counted)
    room = Room(size - 1)  # its points could fit, and it does not
    assert [room.draw(small, str(i)) for i in range(20)] == [None] * 20
    assert len(drawn) == VAIN
    # What fits for certain is drawn still.
    assert room.draw(replace(small, panels=()), "z") is not None
    assert Room(least_bytes(small) - 1).draw(small, "y") is None
    assert drawn[VAIN:] == ["z"]


def test_what_cannot_be_drawn_takes_no_room() -> None:
    panels = (Panel(title="", x_label="", y_label="", lines=LOSSES.lines * 20),)
    room = Room(10**9)
    assert room.draw(replace(sample_study().figures[0], panels=panels), "f") is None
    assert room.left == 10**9


def test_a_figure_is_wide_enough_for_its_smallest_text() -> None:
    loss, grid = (page_figure(figure, "f") for figure in sample_study().figures)
    # A mark's label has 6.5 points, a map's cell 7, on 7.2 x 72 = 518.4 points:
    # 9 x 518.4 / 6.5 = 717.8, 9 x 518.4 / 7 = 666.5.
    assert (loss.least_width, grid.least_width) == (718, 667)
    # Names from files are no sizes.
    named = replace(LOSSES, title='<text style="font-size: 0.1px"> font-size: 0.1px')
    assert page_figure(replace(sample_study().figures[0], panels=(named,)), "f").least_width == 718
    assert READABLE_PX == 9


# Runs that are there twice


def test_two_recipes_for_one_row_leave_the_rest_of_the_page(tmp_path: Path) -> None:
    for name in ("nano_uniform", "other_uniform"):
        make_run(tmp_path, "uniform", 0, mini("uniform"), name=name, metrics=True)
    make_run(tmp_path, "linupper", 0, mini("linupper"), metrics=True)
    page = render(find_runs([tmp_path]), None)
    text = words(page)
    assert "No verdicts on this page." in text
    assert (
        f"two recipes stand for GPT2-mini/uniform: nano_uniform ({tmp_path}/nano_uniform/seed-0) and" in text
    )
    assert "name the runs to compare." in text
    # Nothing that a choice between the two would change.
    for absent in (
        "Verdicts for table1",
        "Ours only",
        "Not run:",
        'aria-label="Claims"',
        "not run at this scale",
    ):
        assert absent not in page
    for title in (
        "Loss and log-perplexity",
        "Entropy of the weights",
        "Weight against the quantile of the loss",
    ):
        assert f'<figure aria-label="{title}">' in page
    assert "other_uniform, seed 0: losses" in text
    assert page.count("<summary>other_uniform, seed 0") == 1
    assert "reweighting.strategy" in text


def test_a_copied_folder_leaves_the_rest_of_the_page(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", "uniform", 0, mini("uniform"), metrics=True)
    shutil.copytree(folder, tmp_path / "b" / "seed-0")
    text = words(render(find_runs([tmp_path]), None))
    assert "No verdicts on this page." in text
    assert f"two runs of nano_uniform with seed 0: {folder} and {tmp_path}/b/seed-0" in text
    assert f"not on this page: {tmp_path}/b/seed-0: the same recipe and seed as {folder}" in text
    assert text.count("nano_uniform, seed 0: losses") == 1


def test_seeds_trained_differently_leave_the_rest_of_the_page(tmp_path: Path) -> None:
    make_run(tmp_path, "uniform", 0, mini("uniform"), metrics=True)
    make_run(tmp_path, "uniform", 1, mini("uniform"), optimizer__lr=2e-3, metrics=True)
    page = render(find_runs([tmp_path]), None)
    assert "were trained with different settings (optimizer.lr)" in words(page)
    assert set(re.findall(r'data-label="([^"]*)"', page)) == {"nano_uniform", "nano_uniform (2)"}


def test_nothing_is_left_out_where_all_is_clear(tmp_path: Path) -> None:
    make_run(tmp_path, "uniform", 0, mini("uniform"))
    runs = find_runs([tmp_path])
    _, verdicts = judge_runs(runs)
    assert verdicts.refusal == ""
    assert [table.id for table in verdicts.tables] == ["table1"]
    assert "No verdicts" not in render(runs, None)


def test_incomparable_runs_are_refused_also_where_a_recipe_is_there_twice(tmp_path: Path) -> None:
    make_run(tmp_path, "uniform", 0, mini("uniform"))
    make_run(tmp_path, "uniform", 0, mini("uniform"), name="other_uniform")
    make_run(tmp_path, "linupper", 0, mini("linupper"), eval_set="f" * 64)
    with pytest.raises(UserError, match="evaluation set"):
        judge_runs(find_runs([tmp_path]))


def test_a_hostile_name_in_the_reason_is_text(tmp_path: Path) -> None:
    for name in ("nano_uniform", "<script>x"):
        make_run(tmp_path / str(len(name)), "uniform", 0, mini("uniform"), name=name)
    page = render(find_runs([tmp_path]), None)
    assert "two recipes stand for GPT2-mini/uniform: &lt;script&gt;x" in page
    assert page.count("<script>") == 1
