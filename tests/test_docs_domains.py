"""docs/domains.md says what the code does: commands are parsed, settings and figures are the code's."""

import itertools
import re
import shlex
import statistics
from dataclasses import fields, replace
from pathlib import Path

import pytest
import yaml
from doc_commands import commands, parse

from reproduce.domains.average import average
from reproduce.domains.doge import SCORE_LIMIT
from reproduce.domains.learn import CONVERGED
from reproduce.domains.learner import COLLAPSED
from reproduce.paper.matching import group_runs
from reproduce.paper.runs import find_runs
from reproduce.paper.versus import against
from reproduce.recipe import load_recipe
from reproduce.recipe.schema import DomainsSpec
from reproduce.recipe.weight_set import WeightSet
from reproduce.recipe.weight_sets import read_weight_set, shipped_weight_sets

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "domains.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("text", commands(TEXT))
def test_commands_are_understood(text: str) -> None:
    parse(shlex.split(text)[1:])


def test_recipes_sets_and_settings_are_those_of_the_code() -> None:
    for name in set(re.findall(r"`(gpt2_\w+_proxy)`", TEXT)):
        assert load_recipe(name).domains is not None
    assert all(f"`{name}`" in TEXT for name in shipped_weight_sets())
    known = {field.name for field in fields(DomainsSpec)}
    assert set(re.findall(r"`(?:--set )?domains\.(\w+)", TEXT)) <= known
    default = {field.name: field.default for field in fields(DomainsSpec)}
    assert (default["eta"], default["smoothing"], default["clip_norm"]) == (1.0, 0.001, 5.0)
    assert (SCORE_LIMIT, CONVERGED, COLLAPSED) == (5.0, 0.001, 0.9)
    assert default["scores"] == "released"


def test_the_file_shown_has_the_fields_of_a_set() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", TEXT, flags=re.DOTALL)
    assert set(yaml.safe_load(block)) == {field.name for field in fields(WeightSet)} - {"source"}


RESULTS = ROOT / "docs" / "results"
PAGE = (RESULTS / "domains.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("text", [c for c in commands(PAGE) if "$" not in c and "DIR" not in c])
def test_commands_of_the_results_are_understood(text: str) -> None:
    parse(shlex.split(text)[1:])


def rows(page: str, first: str) -> dict[str, list[str]]:
    """The table whose head begins with these words: first cell -> the others."""
    lines = page[page.index(f"| {first}") :].splitlines()
    table = list(itertools.takewhile(lambda line: line.startswith("|"), lines))
    return {
        cells[0]: cells[1:] for cells in ([c.strip() for c in line.strip("|").split("|")] for line in table)
    }


def test_the_results_are_what_the_recorded_runs_say() -> None:
    groups = {g.info.recipe: g for g in group_runs(find_runs([RESULTS / "domains" / "runs"]))}
    pairs = (
        ("gpt2_nano_doge", "gpt2_nano_uniform"),
        ("gpt2_nano_doremi", "gpt2_nano_uniform"),
        ("gpt2_nano_doge_linupper", "gpt2_nano_doge"),
        ("gpt2_nano_doremi_linupper", "gpt2_nano_doremi"),
    )
    shown = rows(PAGE, "column | uniform")
    for column, (one, other) in enumerate(pairs, start=1):
        for found in against([groups[one]], groups[other]):
            verdict = f"**{found.verdict}**" if found.verdict == "better" else found.verdict
            assert found.ci_low is not None
            assert found.ci_high is not None
            wanted = f"{found.diff:+.3f} [{found.ci_low:+.3f}, {found.ci_high:+.3f}] {verdict}"
            assert shown[found.task][column] == wanted
            assert column > 1 or shown[found.task][0] == f"{found.theirs:.3f}"
    means = rows(PAGE, "mean log-perplexity")
    for name, group in groups.items():
        values = [group.by_seed[seed].results.log_perplexity()["mean"] for seed in (1, 2, 3)]
        assert means[f"`{name}`"] == [f"{value:.4f}" for value in (*values, statistics.fmean(values))]


@pytest.mark.parametrize(("algorithm", "title"), [("doge", "DoGE"), ("doremi", "DoReMi")])
def test_learned_weights_are_those_of_the_files(algorithm: str, title: str) -> None:
    folder = RESULTS / "domains"
    sets = [read_weight_set(folder / f"{algorithm}-seed-{seed}.yaml") for seed in (1, 2, 3)]
    mean = average(sets, f"gpt2_nano_{algorithm}_weights")
    assert read_weight_set(folder / f"gpt2_nano_{algorithm}_weights.yaml") == mean
    shown = rows(PAGE[PAGE.index(f"\n{title}:\n") :], "domain | seed 1")
    for domain, weight in mean.weights.items():
        values = [each.weights[domain] for each in sets]
        wanted = [f"{value:.3f}" for value in (*values, weight, statistics.stdev(values))]
        assert shown[domain][:5] == wanted
    for suffix in ("", "_linupper"):  # the recipes that were trained take this very set
        recipe = load_recipe(str(folder / f"gpt2_nano_{algorithm}{suffix}.yaml"))
        assert recipe.data.domain_weights == mean.weights
        ran = load_recipe(str(folder / "runs" / recipe.name / "seed-1" / "recipe.yaml"))
        assert ran == replace(recipe, seed=1)
