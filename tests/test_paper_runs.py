"""Run folders: found without following links, read strictly, refused with one line."""

import json
from pathlib import Path

import pytest
from paper_runs import make_recipe, make_run, mini

from eval.results import ResultsError
from reproduce.errors import DataError
from reproduce.paper.runs import RunInfo, find_runs, flatten, recipe_info
from reproduce.paper.text import clean


def test_runs_are_found_at_any_depth_once(tmp_path: Path) -> None:
    first = make_run(tmp_path / "deep" / "er", "uniform", 1, mini("uniform"))
    second = make_run(tmp_path, "linupper", 0, mini("linupper"))
    found = find_runs([tmp_path, first, tmp_path / "deep"])
    assert [run.path for run in found] == [first, second]
    assert [(run.info.recipe, run.seed) for run in found] == [("nano_uniform", 1), ("nano_linupper", 0)]
    assert found[0].info.strategy == "uniform"
    assert found[0].info.steps == 600
    assert found[0].data_fingerprint == "d" * 64
    assert found[0].provenance["command"] == "reweight train --recipe nano_uniform"


def test_links_checkpoints_and_hidden_folders_are_passed_by(tmp_path: Path) -> None:
    outside = make_run(tmp_path / "outside", "uniform", 0, mini("uniform"))
    root = tmp_path / "runs"
    (root / "linked-file").mkdir(parents=True)
    (root / "linked-folder").symlink_to(outside.parent, target_is_directory=True)
    (root / "linked-file" / "results.json").symlink_to(outside / "results.json")
    for name in ("checkpoints", "model", ".hidden"):
        make_run(root / name, "uniform", 0, mini("uniform"))
    assert find_runs([root]) == []


def test_a_missing_folder_is_an_error_and_an_empty_one_is_not(tmp_path: Path) -> None:
    assert find_runs([tmp_path]) == []
    with pytest.raises(DataError, match="no such folder") as caught:
        find_runs([tmp_path / "nowhere"])
    assert caught.value.exit_code == 3


def test_without_recipe_yaml_the_shipped_recipe_is_asked(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "uniform", 0, mini("uniform"))
    (folder / "recipe.yaml").unlink()
    with pytest.raises(DataError, match="no shipped recipe is called 'nano_uniform'"):
        find_runs([tmp_path])
    asked: list[str] = []

    def lookup(name: str) -> RunInfo | None:
        asked.append(name)
        return recipe_info(make_recipe(name, "uniform"), "shipped")

    (run,) = find_runs([tmp_path], lookup)
    assert (run.info.strategy, asked) == ("uniform", ["nano_uniform"])


def test_a_folder_of_two_recipes_is_refused(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "uniform", 0, mini("uniform"))
    text = (folder / "recipe.yaml").read_text().replace("name: nano_uniform", "name: other")
    (folder / "recipe.yaml").write_text(text)
    with pytest.raises(DataError, match="mixes two runs"):
        find_runs([tmp_path])


def test_a_folder_of_two_seeds_is_refused(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "uniform", 77, mini("uniform"))
    assert [run.seed for run in find_runs([tmp_path])] == [77]
    recipe = folder / "recipe.yaml"
    whole = recipe.read_text()
    recipe.write_text(whole.replace("seed: 77", "seed: 1"))
    with pytest.raises(
        DataError, match=r"results\.json is of seed 77, recipe\.yaml of 1; .* `reweight eval`"
    ) as caught:
        find_runs([tmp_path])
    assert str(caught.value).startswith(f"{folder}: ")
    assert "\n" not in str(caught.value)
    # A recipe.yaml that names no seed says nothing against it.
    recipe.write_text(whole.replace("seed: 77\n", ""))
    assert [run.seed for run in find_runs([tmp_path])] == [77]
    recipe.write_text(whole.replace("seed: 77", "seed: '77'"))
    with pytest.raises(DataError, match="seed is '77', expected an integer"):
        find_runs([tmp_path])


def test_a_shipped_recipe_s_seed_is_not_the_run_s(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "uniform", 3, mini("uniform"))
    (folder / "recipe.yaml").unlink()
    (run,) = find_runs([tmp_path], lambda name: recipe_info(make_recipe(name, "uniform"), "shipped"))
    assert run.seed == 3


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"reweighting: {{strategy: uniform, r: {'9' * 400}}}", r"reweighting\.r is an integer of 1329 bits"),
        (
            f"reweighting: {{strategy: uniform, r: -0x{'f' * 5000}}}",
            r"reweighting\.r is an integer of 20000 bits",
        ),
        (f"train: {{steps: 0x{'f' * 5000}}}", r"train\.steps is an integer of 20000 bits"),
        (f"? 0x{'f' * 5000}\n: 1", "a name in it is not written by this project"),
        (f"reweighting: {{strategy: uniform, r: {'9' * 5000}}}", "not valid YAML"),
    ],
)
def test_integers_past_a_float_are_one_line(tmp_path: Path, line: str, said: str) -> None:
    folder = make_run(tmp_path, "uniform", 0, mini("uniform"))
    (folder / "recipe.yaml").write_text(f"name: nano_uniform\n{line}\n")
    with pytest.raises(DataError, match=said) as caught:
        find_runs([tmp_path])
    assert str(caught.value).startswith(str(folder / "recipe.yaml"))
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("file", "content", "error", "said"),
    [
        ("recipe.yaml", b"a: [", DataError, "not valid YAML"),
        ("recipe.yaml", b"- 1", DataError, "holds no mapping"),
        ("recipe.yaml", b"\xff", DataError, "not UTF-8"),
        ("recipe.yaml", b"name: x", DataError, "reweighting.strategy is missing"),
        ("recipe.yaml", b"!!python/object/apply:os.system ['true']", DataError, "not valid YAML"),
        ("provenance.json", b'{"a"', DataError, "not complete JSON"),
        ("provenance.json", b"[]", DataError, "holds no mapping"),
        ("results.json", b'{"schema": 1', ResultsError, "not complete JSON"),
    ],
)
def test_broken_files_are_one_line(
    tmp_path: Path, file: str, content: bytes, error: type[Exception], said: str
) -> None:
    folder = make_run(tmp_path, "uniform", 0, mini("uniform"))
    (folder / file).write_bytes(content)
    with pytest.raises(error, match=said) as caught:
        find_runs([tmp_path])
    assert str(folder / file) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3  # type: ignore[attr-defined]


def test_aliases_that_multiply_are_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    folder = make_run(tmp_path, "uniform", 0, mini("uniform"))
    (folder / "recipe.yaml").write_text("\n".join(lines))
    with pytest.raises(DataError, match="more than 2000 values"):
        find_runs([tmp_path])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"reweighting__r": "0.4"}, r"reweighting\.r is '0\.4'"),
        ({"reweighting__r": True}, r"reweighting\.r is True"),
        ({"reweighting__r": float("nan")}, r"reweighting\.r is nan"),
        ({"train__steps": 1.5}, r"train\.steps is 1\.5"),
        ({"paper__model": 3}, r"paper\.model is 3"),
        ({"data__domain_weights": 3}, r"data\.domain_weights is 3"),
    ],
)
def test_a_wrong_type_names_its_path(changes: dict[str, object], said: str) -> None:
    with pytest.raises(DataError, match=said):
        recipe_info(make_recipe("x", "linupper", **changes), "recipe.yaml")


def test_scale_is_reduced_unless_the_recipe_says_paper() -> None:
    recipe = make_recipe("x", "uniform")
    del recipe["paper"]
    info = recipe_info(recipe, "x")
    assert (info.scale, info.table, info.model) == ("reduced", None, None)
    weights = {"arxiv": 0.25, "c4": 0.75}
    assert (
        recipe_info(make_recipe("x", "uniform", data__domain_weights=weights), "x").domain_weights == weights
    )


def test_flatten_keeps_order_and_depth() -> None:
    assert flatten({"b": {"x": 1, "y": [True, None]}, "a": "s"}, "w") == {
        "b.x": 1,
        "b.y.0": True,
        "b.y.1": None,
        "a": "s",
    }


def test_many_restarts_do_not_break_reading(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "uniform", 0, mini("uniform"))
    facts = json.loads((folder / "provenance.json").read_text())
    facts["restarts"] = [dict(facts)] * 500
    (folder / "provenance.json").write_text(json.dumps(facts))
    (run,) = find_runs([tmp_path])
    assert run.provenance["restarts"] == 500


def test_clean_makes_strings_fit_to_show() -> None:
    assert clean("a\x1b[31m\nb") == "a\\x1b[31m\\x0ab"
    assert clean("é✓") == "é✓"
    assert clean("x" * 200, 10) == "x" * 9 + "…"
