"""Tables 6 and 7: what the paper prints about its training, against itself, our recipes and our tables."""

from pathlib import Path
from typing import Any

import pytest
import yaml

import reproduce.paper
from reproduce.paper.runs import flatten
from reproduce.paper.tables import load_tables
from reproduce.recipe import load_recipe
from reproduce.recipe.loader import recipe_as_dict

FILE = Path(reproduce.paper.__file__).parent / "settings.yaml"
PRINTED: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
MODELS: dict[str, Any] = PRINTED["models"]


def number(text: str) -> float:
    return float(text.replace(",", "").replace("M", "e6"))


def settings(model: str) -> dict[str, str]:
    return {**MODELS[model]["table6"], **MODELS[model]["table7"]}


@pytest.mark.parametrize("model", MODELS)
def test_documents_are_batch_times_steps(model: str) -> None:
    printed = {key: number(text) for key, text in settings(model).items()}
    assert printed["documents"] == printed["train.global_batch"] * printed["train.steps"]


@pytest.mark.parametrize("model", MODELS)
def test_recipes_follow_what_is_printed_but_where_they_say(model: str) -> None:
    recipe = load_recipe(MODELS[model]["recipe"])
    ours = dict(flatten(recipe_as_dict(recipe), model)) | {"model.feed_forward": recipe.model.inner}
    unlike = {
        path
        for path, text in settings(model).items()
        if "." in path and number(str(ours[path])) != number(text)
    }
    assert unlike == {each["path"] for each in PRINTED["departures"] if each["model"] == model}


def test_a_width_of_786_fits_no_heads() -> None:
    for model in ("GPT2-small", "GPT2-medium"):
        printed = settings(model)
        assert number(printed["model.width"]) % number(printed["model.heads"]) != 0


def test_the_tables_of_results_ask_for_the_printed_scale() -> None:
    departures = {(each["model"], each["path"]) for each in PRINTED["departures"]}
    for table in load_tables().values():
        for model, scale in table.models.items():
            printed = settings(model)
            assert scale.steps == number(printed["train.steps"])
            for path, value in scale.settings.items():
                if path in printed and (model, path) not in departures:
                    assert value == number(printed[path]), (table.id, model, path)
            rows = [
                row for row in table.rows if row.model == model and row.strategy not in ("uniform", "dro_kl")
            ]
            assert {row.r for row in rows} == {number(printed["reweighting.r"])}
