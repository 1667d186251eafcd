"""`reweight report` as a user meets it."""

import html
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from paper_runs import make_run, mini
from study_samples import sample_study

from reproduce.cli.curves import figure_one
from reproduce.cli.root import run
from reproduce.study_file import write_study


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_it_writes_the_page_and_prints_its_path(capsys: pytest.CaptureFixture[str]) -> None:
    make_run(Path("runs"), "linupper", 0, mini("linupper"), metrics=True)
    assert run(["report", "--out", "pages/r.html"]) == 0
    assert capsys.readouterr().out == "pages/r.html\n"
    page = Path("pages/r.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert "nano_linupper" in page
    assert page.count("<svg") == 8
    assert run(["report", "runs/nano_linupper", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["report"] == "report.html"
    assert document["bytes"] == Path("report.html").stat().st_size
    assert document["runs"] == ["runs/nano_linupper/seed-0"]
    assert document["studies"] == []
    assert document["not_judged"] is None


def test_without_runs_it_still_writes_a_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["report"]) == 0
    assert "no runs in ./runs" in capsys.readouterr().err
    assert "No runs" in Path("report.html").read_text()


def test_toy_studies_are_picked_up(capsys: pytest.CaptureFixture[str]) -> None:
    write_study(Path("runs/toy/dro"), sample_study("dro"))
    assert run(["report"]) == 0
    out, err = capsys.readouterr()
    assert out == "report.html\n"
    assert "0 runs, 1 toy studies" in err
    assert "no runs in ./runs: nothing" not in err
    page = Path("report.html").read_text()
    assert '<h2 id="studies">' in page
    assert "reweight toy dro --seeds 8 --out again/runs/toy/dro" in page
    Path("runs/toy/dro/study.json").write_text('{"schema": 1}')
    Path("report.html").write_text("old")
    assert run(["report", "--json"]) == 3
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "runs/toy/dro/study.json" in err
    assert Path("report.html").read_text() == "old"


def test_a_copied_run_costs_the_verdicts_not_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    make_run(Path("runs"), "uniform", 0, mini("uniform"), metrics=True)
    make_run(Path("runs"), "uniform", 0, mini("uniform"), name="a_copy", metrics=True)
    assert run(["report", "--json"]) == 0
    out, err = capsys.readouterr()
    reason = "two recipes stand for GPT2-mini/uniform: a_copy (runs/a_copy/seed-0) and nano_uniform"
    assert f"no verdicts on the page: {reason}" in err
    assert json.loads(out)["not_judged"].startswith(reason)
    assert reason in Path("report.html").read_text()
    # A verdict needs the choice.
    assert run(["compare", "--against", "paper"]) == 2
    assert reason in capsys.readouterr().err


def test_what_the_page_names_trains_again(
    store_path: Path, recipe_path: Path, no_sync: None, capfd: pytest.CaptureFixture[str]
) -> None:
    train = ["train", "--recipe", str(recipe_path), "--data", str(store_path), "--seed", "3"]
    assert run([*train, "--set", "train.steps=6"]) == 0
    (folder,) = [path.parent for path in Path("runs").rglob("results.json")]
    before = (folder / "results.json").read_bytes()
    assert run(["report"]) == 0
    page = html.unescape(Path("report.html").read_text())
    (command,) = set(re.findall(r"^reweight (train .*)$", page, flags=re.MULTILINE))
    capfd.readouterr()
    assert run(shlex.split(command)) == 0
    assert "already complete" not in capfd.readouterr().err
    # The override of the steps is in the run's recipe.yaml: the same training, bit for bit.
    assert (Path("again") / folder / "results.json").read_bytes() == before
    assert run(["report", "again"]) == 0


def test_what_the_page_names_makes_a_study_again(capfd: pytest.CaptureFixture[str]) -> None:
    toy = "toy regression --strategy uniform,linupper --steps 5 --seeds 2 --samples 40 --test-samples 10"
    assert run(toy.split()) == 0
    assert run(["report"]) == 0
    shown = re.findall(r">?reweight (toy regression [^<\n]*)", Path("report.html").read_text())
    assert len(shown) == 2  # beside the study, and among the commands at the end
    (command,) = set(map(html.unescape, shown))
    capfd.readouterr()
    assert run(shlex.split(command)) == 0
    assert "already complete" not in capfd.readouterr().err
    assert Path("again/runs/toy/regression/study.json").exists()


def test_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["report", "nowhere"]) == 3
    assert not Path("report.html").exists()
    Path("file").write_text("")
    capsys.readouterr()
    assert run(["report", "--out", "file/x.html"]) == 7
    assert "cannot write file/x.html" in capsys.readouterr().err
    assert run(["report", "--out", "."]) == 2


def test_figure_1_is_the_method() -> None:
    curves = figure_one(0.4)
    h, score = curves.scores["linupper"]
    assert np.allclose(score, np.minimum(h + 1, 1))
    assert np.allclose(curves.scores["quadratic"][1], 1 - h**2)
    assert np.allclose(curves.scores["extremes"][1], np.abs(h))
    for name, (grid, weight) in curves.weights.items():
        assert weight.mean() == pytest.approx(1.0, rel=1e-5), name
        # Eq. 4: log-weights differ by differences of the score over r.
        expected = (curves.scores[name][1][-1] - curves.scores[name][1][0]) / 0.4
        assert np.log(weight[-1] / weight[0]) == pytest.approx(expected, abs=1e-4), name
        assert grid[0] == -1.0
        assert grid[-1] == 1.0
