"""`reweight compare` as a user meets it: one document, exit codes, tables that fit."""

import json
from pathlib import Path

import pytest
from paper_runs import make_run, mini, paper_scale, three_seeds
from study_samples import renamed, sample_study

from reproduce.cli.root import run
from reproduce.study_file import write_study

CELL_KEYS = {"table", "row", "column", "paper", "ours", "diff", "ci_low", "ci_high", "verdict"}
VERDICTS = {
    "reproduced",
    "differs",
    "not_run",
    "reduced_scale_same_sign",
    "reduced_scale_opposite_sign",
    "reduced_scale_unresolved",
}


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_no_runs_is_all_not_run_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", "--against", "paper", "--json"]) == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert document["against"] == "paper"
    assert len(document["cells"]) == 267
    assert {cell["verdict"] for cell in document["cells"]} == {"not_run"}
    assert (document["runs"], document["extra"], document["studies"]) == ([], [], [])
    assert "no runs in ./runs" in err


def test_json_has_the_promised_fields(capsys: pytest.CaptureFixture[str]) -> None:
    base = mini("uniform")
    three_seeds(Path("runs"), "uniform", base, {})
    three_seeds(Path("runs"), "linupper", base, {"book": -0.1})
    assert run(["compare", "--json", "--table", "table1"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert len(document["cells"]) == 96
    assert all(set(cell) >= CELL_KEYS for cell in document["cells"])
    assert {cell["verdict"] for cell in document["cells"]} <= VERDICTS
    book = next(c for c in document["cells"] if (c["row"], c["column"]) == ("GPT2-mini/linupper", "book"))
    assert book["verdict"] == "reduced_scale_same_sign"
    assert book["paper"] == 4.16
    assert book["diff"] == pytest.approx(4.11 - 4.16)
    assert [r["seed"] for r in document["runs"]] == [0, 1, 2, 0, 1, 2]
    assert document["runs"][0]["rows"] == ["table1:GPT2-mini/linupper"]
    assert {claim["model"] for claim in document["claims"]} == {"GPT2-mini", "GPT2-small", "GPT2-medium"}


def test_the_table_fits_100_columns_and_has_no_control_codes(capsys: pytest.CaptureFixture[str]) -> None:
    base = mini("uniform")
    for strategy in ("uniform", "linupper", "quadratic", "extremes"):
        three_seeds(Path("runs"), strategy, base, {} if strategy == "uniform" else {"book": -0.1})
    assert run(["compare", "--table", "table1"]) == 0
    out, _ = capsys.readouterr()
    assert max(len(line) for line in out.splitlines()) <= 100
    assert "\x1b" not in out
    for words in ("-0.100 ●", "(-0.05)", "judged by sign only", "● same sign", "wikipedia", "GPT2-medium"):
        assert words in out


def test_strict_exits_8_on_a_cell_outside(capsys: pytest.CaptureFixture[str]) -> None:
    base = mini("uniform")
    three_seeds(Path("runs"), "uniform", base, {})
    three_seeds(Path("runs"), "linupper", base, {"book": 0.1})  # the paper has 0.05 below
    assert run(["compare"]) == 0
    assert run(["compare", "--strict"]) == 8
    capsys.readouterr()
    assert run(["compare", "--strict", "--table", "table2"]) == 8  # a check that judged nothing
    assert "--strict: no cell was judged" in capsys.readouterr().err
    make_run(Path("other"), "quadratic", 0, mini("quadratic", 0.1), **paper_scale())
    assert run(["compare", "--strict", "other"]) == 8
    make_run(Path("good"), "quadratic", 0, mini("quadratic", 0.01), **paper_scale())
    assert run(["compare", "--strict", "good"]) == 0


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("reweight: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err


def test_bad_input_ends_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", "nowhere"]) == 3
    assert "nowhere" in one_line(capsys)
    assert run(["compare", "--table", "table99"]) == 2
    assert "table12" in one_line(capsys)
    folder = make_run(Path("runs"), "uniform", 0, mini("uniform"))
    (folder / "results.json").write_text('{"schema": 1, "recipe": "x", "sc')
    assert run(["compare"]) == 3
    assert "results.json" in one_line(capsys)
    (folder / "results.json").write_text('{"schema": 7}')
    assert run(["compare", "--json"]) == 3
    assert "schema 7" in one_line(capsys)


def test_mixed_runs_are_refused_with_the_differences(capsys: pytest.CaptureFixture[str]) -> None:
    make_run(Path("runs"), "uniform", 0, mini("uniform"))
    make_run(Path("runs"), "linupper", 0, mini("linupper"), eval_set="f" * 64, fingerprint="0" * 64)
    assert run(["compare"]) == 2
    said = one_line(capsys)
    assert "evaluation set" in said
    assert "training data" in said


def test_a_run_without_recipe_yaml_uses_the_shipped_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    name = "gpt2_mini_linupper"
    folder = make_run(Path("runs"), "linupper", 0, mini("linupper"), name=name, **paper_scale())
    (folder / "recipe.yaml").unlink()
    assert run(["compare", "--json", "--table", "table1"]) == 0
    cells = json.loads(capsys.readouterr().out)["cells"]
    row = [cell for cell in cells if cell["row"] == "GPT2-mini/linupper"]
    assert {cell["verdict"] for cell in row} == {"reproduced"}


def test_a_run_without_results_is_named_not_dropped_in_silence(capsys: pytest.CaptureFixture[str]) -> None:
    make_run(Path("runs"), "uniform", 0, mini("uniform"))
    folder = make_run(Path("runs"), "linupper", 0, mini("linupper"))
    (folder / "results.json").unlink()
    assert run(["compare", "--json"]) == 0
    out, err = capsys.readouterr()
    assert [entry["recipe"] for entry in json.loads(out)["runs"]] == ["nano_uniform"]
    assert "left out, no results.json yet: runs/nano_linupper/seed-0" in err


def test_against_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    base = mini("uniform")
    three_seeds(Path("runs"), "uniform", base, {})
    three_seeds(Path("runs"), "linupper", base, {"book": -0.1})
    assert run(["compare", "--against", "runs/nano_uniform", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["against"] == "runs/nano_uniform"
    book = next(cell for cell in document["cells"] if cell["task"] == "book")
    assert (book["recipe"], book["verdict"], book["paired"]) == ("nano_linupper", "better", True)
    assert book["diff"] == pytest.approx(-0.1)
    assert run(["compare", "--against", "runs/nano_uniform"]) == 0
    assert "perplexity/book" in capsys.readouterr().out
    assert run(["compare", "--against", "runs"]) == 2
    assert "seeds of one recipe" in one_line(capsys)
    assert run(["compare", "--against", "runs/nano_uniform", "runs/nano_uniform"]) == 2
    assert "nothing to compare" in one_line(capsys)
    assert run(["compare", "--against", "runs/nano_uniform", "--table", "table1"]) == 2


def test_a_hostile_name_reaches_the_terminal_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(Path("runs"), "uniform", 0, mini("uniform"), paper__table=None)
    for file in ("recipe.yaml", "results.json"):
        text = (folder / file).read_text()
        (folder / file).write_text(
            text.replace("name: nano_uniform", 'name: "\\e[31m[bold]x"').replace(
                '"recipe": "nano_uniform"', '"recipe": "\\u001b[31m[bold]x"'
            )
        )
    assert run(["compare"]) == 0
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
    assert "[bold]x" in out
    assert run(["compare", "--json"]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_toy_studies_bring_their_verdicts(capsys: pytest.CaptureFixture[str]) -> None:
    write_study(Path("runs/toy/regression"), sample_study())
    write_study(Path("runs/toy/again"), sample_study())
    assert run(["compare"]) == 0
    out, err = capsys.readouterr()
    assert "toy studies but no runs in runs: the paper's tables stay empty" in err
    assert "nothing of ours" not in err
    assert "left out" not in err
    assert out.count("Toy studies\n") == 1
    assert out.index("(runs/toy/again)") < out.index("(runs/toy/regression)")
    assert out.count("✗ does not hold") == 2
    assert max(map(len, out[out.index("Toy studies") :].splitlines())) <= 100
    assert run(["compare", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [entry["path"] for entry in document["studies"]] == ["runs/toy/again", "runs/toy/regression"]
    entry = document["studies"][0]
    assert set(entry) == {"study", "path", "command", "findings"}
    assert (entry["study"], entry["command"]) == ("regression", "reweight toy regression --seeds 8")
    assert [finding["outcome"] for finding in entry["findings"]] == [
        "only_where",
        "holds",
        "does_not",
        "unresolved",
    ]
    assert entry["findings"][1] == {
        "claim": "DRO-KL diverges at the learning rate of the others",
        "source": "Figure 8",
        "outcome": "holds",
        "where": "",
        "evidence": "8 of 8 runs",
        "seeds": 8,
    }


def test_one_table_of_the_paper_is_shown_without_studies(capsys: pytest.CaptureFixture[str]) -> None:
    make_run(Path("runs"), "uniform", 0, mini("uniform"))
    folder = write_study(Path("runs/toy"), sample_study()).parent
    assert run(["compare"]) == 0
    assert "Toy studies" in capsys.readouterr().out
    assert run(["compare", "--table", "table1"]) == 0
    assert "Toy studies" not in capsys.readouterr().out
    (folder / "recipe.yaml").write_text("name: x")  # beside a study.json it is no run without results
    (folder / "study.json").write_text('{"schema": 1}')
    assert run(["compare", "--table", "table1"]) == 0
    assert "left out" not in capsys.readouterr().err
    assert run(["compare"]) == 3
    assert "runs/toy/study.json" in one_line(capsys)
    # Against a run, studies play no part.
    make_run(Path("runs"), "linupper", 0, mini("linupper"))
    assert run(["compare", "--against", "runs/nano_uniform", "runs"]) == 0


@pytest.mark.parametrize(
    "content", ['{"schema": 1, "study": "dro"', "[" * 100_000, '{"schema": 1, "x": NaN}', "é"]
)
def test_a_broken_study_is_one_line(content: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("runs/toy").mkdir(parents=True)
    Path("runs/toy/study.json").write_text(content, encoding="latin-1")
    assert run(["compare", "--json"]) == 3
    assert "runs/toy/study.json" in one_line(capsys)


def test_a_hostile_study_reaches_the_terminal_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    write_study(Path("runs/toy"), renamed(sample_study(), "\x1b[31m[bold]x; rm -rf ~"))
    for arguments in (["compare"], ["compare", "--json"]):
        assert run(arguments) == 0
        out, err = capsys.readouterr()
        assert "\x1b" not in out + err
        assert "u001b" not in out
        assert "[bold]x" in out
    assert run(["compare"]) == 0
    assert "again: reweight toy regression '\\x1b[31m[bold]x;' rm -rf '~' --out" in capsys.readouterr().out


def test_help_has_runnable_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", "--help"]) == 0
    assert "reweight compare --against paper" in capsys.readouterr().out


FORMS = ([], ["--json"], ["--csv"], ["--markdown"])


def broken(kind: str) -> Path:
    """A run folder under runs/ that something has happened to."""
    folder = make_run(Path("runs"), "linupper", 0, mini("linupper"))
    results = folder / "results.json"
    text = results.read_text()
    if kind == "NaN":
        results.write_text(text.replace('"value": 2.49', '"value": NaN'))
    elif kind == "infinite":
        results.write_text(text.replace('"value": 2.49', '"value": 1e999'))
    elif kind == "half-written":
        results.write_text(text[: len(text) // 2])
    elif kind == "empty":
        results.write_text("")
    elif kind == "other schema":
        results.write_text(text.replace('"schema": 1', '"schema": 2'))
    else:
        assert kind == "unknown recipe"
        (folder / "recipe.yaml").unlink()
    assert kind == "unknown recipe" or results.read_text() != text
    return folder


@pytest.mark.parametrize("form", FORMS, ids=lambda words: " ".join(words) or "text")
@pytest.mark.parametrize(
    "kind", ["NaN", "infinite", "half-written", "empty", "other schema", "unknown recipe"]
)
def test_a_broken_run_is_one_line_in_every_form(
    kind: str, form: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(Path("runs"), "uniform", 0, mini("uniform"))
    folder = broken(kind)
    for against in ([], ["--against", "runs/nano_uniform"]):
        assert run(["compare", *against, *form]) == 3
        assert str(folder) in one_line(capsys)


@pytest.mark.parametrize("form", FORMS, ids=lambda words: " ".join(words) or "text")
def test_zero_runs_and_one_seed_in_every_form(form: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", *form]) == 0
    out, err = capsys.readouterr()
    assert "no runs in ./runs" in err
    assert "not_run" in out
    Path("empty").mkdir()
    assert run(["compare", "--against", "empty", *form]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "--against empty holds no run" in err
    make_run(Path("runs"), "uniform", 0, mini("uniform"))
    make_run(Path("runs"), "linupper", 0, mini("linupper"))
    assert run(["compare", *form]) == 0
    out, err = capsys.readouterr()
    assert "one seed: no interval" in (out + err)
    assert run(["compare", "--against", "runs/nano_uniform", *form]) == 0
    out, err = capsys.readouterr()
    assert "one seed on a side: no interval" in (out + err)


def test_strict_exits_8_after_the_whole_document(capsys: pytest.CaptureFixture[str]) -> None:
    make_run(Path("runs"), "quadratic", 0, mini("quadratic", 0.1), **paper_scale())
    for form in FORMS:
        assert run(["compare", "--strict", "--table", "table1", *form]) == 8
        assert "differs" in capsys.readouterr().out
    assert run(["compare", "--strict", "--json"]) == 8
    assert json.loads(capsys.readouterr().out)["cells"]


def test_reduced_scale_is_reproduced_in_no_cell_and_no_claim(capsys: pytest.CaptureFixture[str]) -> None:
    for strategy in ("uniform", "linupper", "quadratic", "extremes"):
        three_seeds(Path("runs"), strategy, mini(strategy), {})
    assert run(["compare", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    verdicts = {entry["verdict"] for entry in document["cells"] + document["claims"]}
    assert "reproduced" not in verdicts
    assert "reduced_scale_same_sign" in verdicts
