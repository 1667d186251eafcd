"""docs/domains.md says what the code does: commands are parsed, settings and figures are the code's."""

import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from doc_commands import commands, parse

from reproduce.domains.doge import SCORE_LIMIT
from reproduce.domains.learn import CONVERGED
from reproduce.domains.learner import COLLAPSED
from reproduce.recipe import load_recipe
from reproduce.recipe.schema import DomainsSpec
from reproduce.recipe.weight_set import WeightSet
from reproduce.recipe.weight_sets import shipped_weight_sets

TEXT = (Path(__file__).resolve().parent.parent / "docs" / "domains.md").read_text(encoding="utf-8")


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
