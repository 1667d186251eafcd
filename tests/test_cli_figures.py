"""`reweight figures` as a user meets it."""

import json
from pathlib import Path

import pytest
from paper_runs import make_run, mini

from reproduce.cli.root import run


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_it_writes_three_files_a_figure(capsys: pytest.CaptureFixture[str]) -> None:
    for strategy in ("uniform", "linupper"):
        make_run(Path("runs"), strategy, 0, mini(strategy), metrics=True)
    assert run(["figures", "--only", "figure6, ess", "--only", "figure5"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "figures/figure6.svg  Largest weight of a step (the paper's Figure 6)",
        "figures/ess.svg  Effective sample size",
    ]
    # A slow machine shows progress besides.
    (said,) = (line for line in err.splitlines() if not line.startswith("figures "))
    assert said.startswith("figure5: not drawn, it needs runs that are equal in all but reweighting.r")
    assert len(list(Path("figures").iterdir())) == 6
    assert run(["figures", "--only", "overhead", "--out", "o", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["out"] == "o"
    (figure,) = document["figures"]
    assert (figure["id"], figure["files"]) == (
        "overhead",
        ["o/overhead.svg", "o/overhead.png", "o/overhead.csv"],
    )
    assert document["missing"] == []
    assert document["notes"] == []


def test_a_run_without_a_log_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    make_run(Path("runs"), "uniform", 0, mini("uniform"), metrics=True)
    bare = make_run(Path("runs"), "linupper", 0, mini("linupper"))
    assert run(["figures", "--only", "ess", "--json"]) == 0
    out, err = capsys.readouterr()
    assert f"{bare}: no metrics.jsonl, so no curves\n" in err
    assert json.loads(out)["notes"] == [f"{bare}: no metrics.jsonl, so no curves"]
    (bare / "metrics.jsonl").write_text("")
    assert run(["figures", "--only", "ess"]) == 0
    assert f"{bare}: no whole line in its metrics.jsonl" in capsys.readouterr().err


def test_the_stand_ins_of_reproduce_figure2_can_be_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    for strategy in ("uniform", "linupper"):
        make_run(Path("runs"), strategy, 0, mini(strategy), metrics=True)
    assert run(["figures", "--only", "figure2"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("figures/figure2-reduced.svg  Log-perplexity by domain: a reduced-scale stand-in")


def test_help_says_what_is_logged(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["figures", "--help"]) == 0
    text = capsys.readouterr().out
    assert "weights-by-quantile  weight against the loss's rank in its batch\n" in text
    assert "nothing logs it" not in text


def test_figure_1_needs_no_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["figures"]) == 0
    out, err = capsys.readouterr()
    assert out == "figures/figure1.svg  Strategies (the paper's Figure 1)\n"
    assert "weights-by-quantile: not drawn, it needs runs of another strategy than uniform" in err


def test_nothing_drawn_is_an_error_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    Path("runs").mkdir()
    assert run(["figures", "--only", "weights-by-quantile,figure7"]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1].startswith(
        "reweight: no figure could be drawn; figure7: not drawn, it needs a toy"
    )
    assert not Path("figures").exists()


def test_a_figure_too_large_to_draw_stops_no_other(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(Path("runs"), "linupper", 0, mini("linupper"), metrics=True)
    monkeypatch.setattr("reproduce.paper.study_figures.MAX_PANELS", 1)
    assert run(["figures", "--only", "loss,ess"]) == 0
    out, err = capsys.readouterr()
    assert out == "figures/ess.svg  Effective sample size\n"
    assert "loss: not drawn, figure loss has 2 panels" in err


def test_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["figures", "nowhere"]) == 3
    assert run(["figures", "--only", "figre6"]) == 2
    assert "did you mean 'figure6'?" in capsys.readouterr().err
    assert run(["figures", "--only", ""]) == 2
    Path("file").write_text("")
    assert run(["figures", "--only", "figure1", "--out", "file/x"]) == 7
    folder = make_run(Path("runs"), "linupper", 0, mini("linupper"))
    (folder / "metrics.jsonl").write_text("broken\n")
    capsys.readouterr()
    assert run(["figures", "--json"]) == 3
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "metrics.jsonl:1: not JSON" in err
