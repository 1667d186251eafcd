"""What each table and figure takes: every row of the paper has its run, every run its place."""

from dataclasses import replace

import pytest

from eval.results import Results
from eval.suites import load_suites
from reproduce.errors import UserError
from reproduce.paper.matching import Group, matches
from reproduce.paper.needs import FIGURES, NANO, PAPER, needs, what_it_shows
from reproduce.paper.runs import Run, recipe_info
from reproduce.paper.tables import load_tables
from reproduce.recipe import Recipe, load_recipe, shipped_recipes
from reproduce.recipe.loader import recipe_as_dict


def group(name: str) -> Group:
    info = recipe_info(recipe_as_dict(load_recipe(name)), name)
    results = Results(recipe=name, seed=1, step=1, scores=())
    run = Run(path=shipped_recipes()[name], info=info, results=results, provenance={})
    return Group(info=info, by_seed={1: run})


def test_every_table_and_figure_is_there_at_both_scales() -> None:
    ids = [*load_tables(), *FIGURES]
    assert list(FIGURES) == [f"figure{n}" for n in range(1, 9)]
    assert sorted(PAPER) == sorted(NANO) == sorted(ids)
    assert all(what_it_shows(name) for name in ids)


@pytest.mark.parametrize("name", load_tables())
def test_the_runs_of_a_table_are_its_rows(name: str) -> None:
    table, taken = load_tables()[name], needs(name, "paper")
    found = {row.name: [r for r in taken.recipes if matches(group(r), table, row)] for row in table.rows}
    # One recipe a row, and none that is no row.
    assert [len(recipes) for recipes in found.values()] == [1] * len(table.rows)
    assert sorted(r for recipes in found.values() for r in recipes) == sorted(taken.recipes)
    parts = {part.suite for column in table.columns for part in column.parts} - {"perplexity"}
    assert set(taken.suites) == parts
    assert parts <= set(load_suites())


def test_runs_at_reduced_scale_are_small_alike_and_hold_a_uniform_one() -> None:
    assert set(NANO["table1"].recipes) == {
        f"gpt2_nano_{s}" for s in ("uniform", "linupper", "quadratic", "extremes")
    }
    lambdas = [load_recipe(r).reweighting.r for r in NANO["table12"].recipes if "dro" in r]
    printed = [row.r for row in load_tables()["table12"].rows if row.strategy == "dro_kl"]
    assert lambdas == printed
    rs = [load_recipe(r).reweighting.r for r in NANO["figure5"].recipes[1:]]
    assert sorted(rs) == [0.1, 0.4, 2.0, 100.0]
    for name, taken in NANO.items():
        recipes = [load_recipe(r) for r in taken.recipes]
        assert {str(r.data.default_path) for r in recipes} <= {"data/slimpajama-bpe4096"}
        assert all(r.paper.scale == "reduced" and r.train.steps == 600 for r in recipes)
        assert taken.suites == ()
        uniform = {r.data.domain_weights == "uniform" or name == "table3" for r in recipes}
        assert uniform <= {True}
        if name.startswith(("table", "llama")):
            assert any(r.reweighting.strategy == "uniform" for r in recipes)
            # What differs between the runs of a table is what it is about.
            assert len({repr(bare(r)) for r in recipes}) == 1


def bare(recipe: Recipe) -> object:
    weights = replace(recipe.reweighting, strategy="uniform", r=1.0)
    data = replace(recipe.data, domain_weights="uniform")
    return replace(recipe, name="x", reweighting=weights, data=data, paper=load_recipe("demo_uniform").paper)


def test_no_recipe_takes_a_folder_of_another() -> None:
    for taken in (*PAPER.values(), *NANO.values()):
        assert len(set(taken.recipes)) == len(taken.recipes)
        assert set(taken.recipes) <= set(shipped_recipes())
        assert not (taken.study and taken.recipes)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("figur5", "did you mean figure5"),
        ("Table 1", "did you mean table1"),
        ("table4", "did you mean table"),
        ("llama1b", "did you mean llama1b_"),
        ("\x1bzz", "there is table1, table2"),
    ],
)
def test_an_unknown_name_gets_the_nearest(name: str, hint: str) -> None:
    for scale in ("paper", "nano"):
        with pytest.raises(UserError, match=hint):
            needs(name, scale)  # type: ignore[arg-type]
