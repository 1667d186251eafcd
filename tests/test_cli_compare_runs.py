"""`reweight compare --against RUN`: what may differ, what is refused, and the documents that it prints."""

import csv
import io
import json
import math
from pathlib import Path

import pytest
import yaml
from paper_runs import make_run, mini, three_seeds

from reproduce.cli.root import run
from reproduce.paper.differences import differences
from reproduce.paper.matching import group_runs
from reproduce.paper.runs import find_runs
from reproduce.recipe.neutral import default_settings

BASE = "runs/nano_uniform"


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def two_recipes(**changes: object) -> None:
    three_seeds(Path("runs"), "uniform", mini("uniform"), {})
    for seed in range(3):
        values = mini("uniform", 0.5 * (seed - 1) - 0.1)
        make_run(Path("runs"), "linupper", seed, values, **changes)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert run(["compare", "--against", BASE, *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("reweight: ")
    assert "Traceback" not in err
    return err


def test_the_method_may_differ_and_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    two_recipes(reweighting__r=1.0)
    assert run(["compare", "--against", BASE, "--json"]) == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert document["factors"] == ["reweighting"]
    assert [(d["path"], d["ours"], d["theirs"], d["declared"]) for d in document["differences"]] == [
        ("reweighting.strategy", "linupper", "uniform", True),
        ("reweighting.r", 1.0, 0.4, True),
    ]
    assert "nano_linupper has reweighting.strategy linupper, there uniform" in err
    assert {cell["verdict"] for cell in document["cells"]} == {"better"}


def test_more_than_the_factor_is_refused_with_every_difference(capsys: pytest.CaptureFixture[str]) -> None:
    two_recipes(optimizer__lr=2e-3, train__steps=700, fingerprint="f" * 64)
    said = refused(capsys)
    assert "nano_linupper: optimizer.lr 0.002, there 0.001" in said
    assert "nano_linupper: train.steps 700, there 600" in said
    assert "nano_linupper: identity.data_fingerprint ffffffffffff…, there dddddddddddd…" in said
    assert "nano_linupper: results.step 700, there 600" in said
    assert "reweighting" not in said  # that is what was to differ
    assert "--any-difference" in said
    assert run(["compare", "--against", BASE, "--any-difference", "--json"]) == 0
    out, err = capsys.readouterr()
    undeclared = {d["path"] for d in json.loads(out)["differences"] if not d["declared"]}
    assert undeclared == {"optimizer.lr", "train.steps", "identity.data_fingerprint", "results.step"}
    assert "optimizer.lr 0.002, there 0.001, which is no declared factor" in err


def test_another_factor_can_be_declared_and_then_the_method_is_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    weights = {"arxiv": 0.25, "book": 0.75}
    make_run(Path("runs"), "uniform", 0, mini("uniform"))
    make_run(Path("runs"), "uniform", 0, mini("uniform"), name="weighted", data__domain_weights=weights)
    said = refused(capsys, "runs/weighted")
    assert "data.domain_weights.arxiv 0.25, there null" in said
    assert run(["compare", "--against", BASE, "runs/weighted", "--factor", "data.domain_weights"]) == 0
    capsys.readouterr()
    make_run(Path("runs"), "linupper", 0, mini("linupper"), data__domain_weights=weights)
    said = refused(capsys, "runs/nano_linupper", "--factor", "data.domain_weights")
    assert "reweighting.strategy linupper, there uniform" in said
    both = ["--factor", "data.domain_weights", "--factor", "reweighting.strategy"]
    assert run(["compare", "--against", BASE, "runs/nano_linupper", *both]) == 0
    capsys.readouterr()
    # A prefix of a path is whole names: data.domain is not data.domain_weights.
    refused(capsys, "runs/weighted", "--factor", "data.domain")


def test_steps_and_data_are_covered_by_their_settings(capsys: pytest.CaptureFixture[str]) -> None:
    make_run(Path("runs"), "uniform", 0, mini("uniform"))
    make_run(Path("runs"), "uniform", 0, mini("uniform"), name="longer", train__steps=1200)
    assert "results.step 1200, there 600" in refused(capsys, "runs/longer")
    assert run(["compare", "--against", BASE, "runs/longer", "--factor", "train.steps"]) == 0
    other = {"data__dataset": "fineweb", "fingerprint": "f" * 64}
    make_run(Path("runs"), "uniform", 0, mini("uniform"), name="elsewhere", **other)  # type: ignore[arg-type]
    assert run(["compare", "--against", BASE, "runs/elsewhere", "--factor", "data"]) == 0
    assert run(["compare", "--against", BASE, "runs/elsewhere", "--factor", "data.dataset"]) == 0


def test_what_changes_no_result_may_differ(capsys: pytest.CaptureFixture[str]) -> None:
    make_run(Path("runs"), "uniform", 0, mini("uniform"))
    changes = {
        "parallel": {"compile": True, "sharding": "full"},
        "train__log_every_steps": 1,
        "train__micro_batch": 4,
        "evaluation__every_steps": 100,
        "paper__table": None,
    }
    make_run(Path("runs"), "uniform", 0, mini("uniform"), name="other", **changes)  # type: ignore[arg-type]
    assert run(["compare", "--against", BASE, "runs/other", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["differences"] == []
    # With weights within a micro-batch, its size is part of the method's result.
    micro = changes | {"reweighting__scope": "micro"}
    make_run(Path("runs"), "linupper", 0, mini("uniform"), name="micro", **micro)  # type: ignore[arg-type]
    assert "train.micro_batch 4, there null" in refused(capsys, "runs/micro")


def test_an_older_recipe_means_the_default_of_what_it_lacks() -> None:
    make_run(Path("runs"), "uniform", 0, mini("uniform"))
    folder = make_run(Path("runs"), "uniform", 1, mini("uniform"))
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe["train"] |= {"clip_norm": 1.0, "nonfinite": "halt"}
    recipe["compatibility"] = {"bf16_losses": False, "first_node_weights": None}
    recipe["domains"] = None
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    # Two seeds of one recipe, one written before those settings were there.
    assert len(group_runs(find_runs([Path("runs")]))) == 1
    recipe["train"]["clip_norm"] = 0.5
    recipe["name"] = "newer"
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    results = (folder / "results.json").read_text()
    (folder / "results.json").write_text(results.replace("nano_uniform", "newer"))
    older, newer = group_runs(find_runs([Path("runs")]))
    found = differences(newer, older, ["reweighting"])
    assert [(d.path, d.ours, d.theirs) for d in found] == [("train.clip_norm", 0.5, 1.0)]
    assert default_settings()["train.clip_norm"] == 1.0


def test_other_held_out_text_has_no_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    two_recipes(eval_set="f" * 64)
    assert "identity.eval_set_sha256" in refused(capsys)
    assert run(["compare", "--against", BASE, "--any-difference", "--json"]) == 0
    cells = json.loads(capsys.readouterr().out)["cells"]
    assert {cell["verdict"] for cell in cells} == {"unresolved"}
    assert all("measured on different text" in cell["note"] for cell in cells)


@pytest.mark.parametrize("both", [False, True])
def test_held_out_text_that_is_not_recorded_has_no_verdict(
    both: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    two_recipes(eval_set=None)
    if both:
        for path in Path(BASE).glob("*/results.json"):
            path.write_text(path.read_text().replace(f'"{"e" * 64}"', "null"))
    where = f"{BASE}/seed-0" if both else "runs/nano_linupper/seed-0"
    assert run(["compare", "--against", BASE, "--json"]) == 0
    cells = json.loads(capsys.readouterr().out)["cells"]
    assert len(cells) == 8
    assert {cell["verdict"] for cell in cells} == {"unresolved"}
    said = f"{where} does not record the text it was measured on, which `reweight eval` does: no verdict"
    assert {cell["note"] for cell in cells} == {said}
    assert run(["compare", "--against", BASE]) == 0
    assert said in capsys.readouterr().err


def test_a_run_on_another_seed_and_one_seed_alone(capsys: pytest.CaptureFixture[str]) -> None:
    make_run(Path("runs"), "uniform", 0, mini("uniform"))
    make_run(Path("runs"), "linupper", 7, mini("linupper"))
    assert run(["compare", "--against", BASE, "--json"]) == 0
    cells = json.loads(capsys.readouterr().out)["cells"]
    assert {(c["verdict"], c["ci_low"], c["paired"]) for c in cells} == {("unresolved", None, False)}
    assert "one seed on a side: no interval" in cells[0]["note"]


def test_csv_and_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    two_recipes()
    assert run(["compare", "--against", BASE, "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == 8
    assert {row["verdict"] for row in rows} == {"better"}
    assert math.isclose(float(rows[0]["diff"]), -0.1, abs_tol=1e-9)
    assert run(["compare", "--against", BASE, "--markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 8
    assert lines[0].startswith("| recipe | score | metric |")
    assert run(["compare", "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == 267
    book = next(
        r for r in rows if (r["table"], r["row"], r["column"]) == ("table1", "GPT2-mini/linupper", "book")
    )
    assert (book["verdict"], book["paper"], book["n_seeds"]) == ("reduced_scale_same_sign", "4.16", "3")
    assert next(r for r in rows if r["table"] == "table2")["ours"] == ""
    assert run(["compare", "--markdown"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("# Ours beside the paper\n")
    assert "| GPT2-mini/linupper | book | 4.16 | 4.1100 | -0.05 | -0.1000 |" in text
    assert "table2: 20 cells not_run." in text
    assert "## Claims" in text


def test_a_hostile_name_stays_text_in_every_document(capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(Path("runs"), "uniform", 0, mini("uniform"), paper__table=None)
    hostile = "=cmd|<script>\x1b[31m"
    for file in ("recipe.yaml", "results.json"):
        text = (folder / file).read_text()
        written = json.dumps(hostile)
        text = text.replace("name: nano_uniform", f"name: {written}").replace('"nano_uniform"', written)
        (folder / file).write_text(text)
    make_run(Path("runs"), "linupper", 0, mini("linupper"))
    other = ["--against", "runs/nano_linupper", "runs/nano_uniform"]
    assert run(["compare", *other, "--csv"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "'=cmd|<script>" in out
    for words in ([*other, "--markdown"], ["--markdown", "--table", "table1"]):
        assert run(["compare", *words]) == 0
        out, err = capsys.readouterr()
        assert "\x1b" not in out + err
        assert "<script>" not in out


@pytest.mark.parametrize(
    "words",
    [
        ["--factor", "optimizer"],
        ["--any-difference"],
        ["--against", BASE, "--strict"],
        ["--csv", "--markdown"],
    ],
)
def test_options_that_do_not_go_together(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
