"""`reweight bench domains`: what is timed does what it is called; ratios are of pairs in one round."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from reproduce.domains.bench import BACKWARDS, COMPARISONS, DOGE, measure
from reproduce.domains.bench import _Variants as Variants
from reproduce.errors import RecipeError
from reproduce.recipe import load_recipe
from reproduce.training.mesh import make_mesh

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def proxy(recipe_path: Path) -> Path:
    recipe_path.write_text(recipe_path.read_text().replace("strategy: linupper", "strategy: uniform"))
    return recipe_path


def test_every_pair_is_timed_in_every_round_and_printed(reweight: Cli, proxy: Path) -> None:
    code, out, _ = reweight("bench", "domains", "--recipe", proxy, "--domains", 3, "--rounds", 2, "--json")
    assert code == 0
    document = json.loads(out)
    assert [ratio["key"] for ratio in document["ratios"]] == list(COMPARISONS)
    assert all(len(ratio["values"]) == 2 and ratio["median"] > 0 for ratio in document["ratios"])
    assert [ratio["at_most"] for ratio in document["ratios"]] == [1.6, None, 1.3]
    assert {v["variant"] for v in document["variants"]} == {
        name for pair in COMPARISONS.values() for name in (pair.of, pair.over)
    }
    assert all(len(turns) == 2 for v in document["variants"] for turns in v["seconds"])
    code, out, _ = reweight("bench", "domains", "--recipe", proxy, "--domains", 3, "--rounds", 1)
    assert (code, "DoReMi's step / plain step" in out) == (0, True)


def test_the_passes_doge_is_held_against_are_its_own(proxy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both run the model on the same samples, a domain at a time: 6 samples, 3 domains, 2 each."""
    recipe = load_recipe(str(proxy))
    variants = Variants(recipe, 3, make_mesh("fp32"))
    seen: dict[str, list[list[list[int]]]] = {}
    made = variants._model

    def watched() -> object:
        model = made()
        calls: list[list[list[int]]] = []
        model.register_forward_pre_hook(lambda module, given: calls.append(given[0].tolist()))
        seen[str(len(seen))] = calls
        return model

    monkeypatch.setattr(variants, "_model", watched)
    every = variants.all()
    order = ["reference", *every]
    for name in (DOGE, BACKWARDS):
        every[name](1)
        calls = seen[str(order.index(name))]
        tokens = variants._tokens_BT
        wanted = [tokens[torch.from_numpy(np.arange(k, 6, 3))].tolist() for k in range(3)]
        assert calls == wanted, name


def test_a_batch_must_have_a_sample_of_each_domain(proxy: Path) -> None:
    with pytest.raises(RecipeError, match="without any"):
        next(measure(load_recipe(str(proxy)), 7, 1, lambda done, name: None))
