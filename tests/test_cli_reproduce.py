"""`reweight reproduce` from an empty folder to a table: what is missing is run, what is there stays."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from reproduce.paper import needs
from reproduce.paper.needs import Needs
from tests.conftest import TINY_RECIPE

Cli = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).resolve().parent.parent

PAPER_LINES = "paper: {table: table1, model: GPT2-mini, scale: reduced}\n"


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two recipes of seconds stand for Table 1, in this process and in the ones that it starts."""
    shipped = tmp_path / "shipped"
    (shipped / "bases").mkdir(parents=True)
    for strategy in ("uniform", "linupper"):
        text = TINY_RECIPE.replace("strategy: linupper", f"strategy: {strategy}") + PAPER_LINES
        (shipped / f"tiny_{strategy}.yaml").write_text(text, encoding="utf-8")
    # Read by every Python that starts with this path: the shipped recipes lie elsewhere.
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import reproduce.recipe.loader as loader\n"
        f"loader.SHIPPED = __import__('pathlib').Path({str(shipped)!r})\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), str(ROOT)]))
    import reproduce.recipe.loader as loader

    monkeypatch.setattr(loader, "SHIPPED", shipped)
    recipes = ("tiny_uniform", "tiny_linupper")
    monkeypatch.setattr(needs, "NANO", {**needs.NANO, "table1": Needs(recipes=recipes)})
    return list(recipes)


def test_a_dry_run_says_what_is_missing_and_what_it_costs(reweight: Cli) -> None:
    code, out, _ = reweight("reproduce", "table1", "--dry-run", "--json")
    document = json.loads(out)
    assert (code, document["missing"], document["complete"], document["scale"]) == (0, 12, 0, "paper")
    assert {(run["state"], run["seed"], run["step"]) for run in document["runs"]} == {("missing", 42, 0)}
    medium = next(run for run in document["runs"] if run["recipe"] == "gpt2_medium_linupper")
    assert medium["run"] == "runs/gpt2_medium_linupper/seed-42"
    # 6 x 294e6 + 12 x 36 x 768 x 512 FLOPs a token, 491.5e6 tokens, float32 at 70% of 67 TFLOP/s.
    hours = 491.52e6 * (6 * 294e6 + 12 * 36 * 768 * 512) / (0.7 * 67e12) / 3600
    assert medium["gpu_hours"] == pytest.approx(hours, rel=0.01)
    assert document["gpu_hours"] == pytest.approx(sum(run["gpu_hours"] for run in document["runs"]))
    assert "reweight prep slimpajama --tokenizer gpt2" in document["data"]
    code, out, _ = reweight("reproduce", "table12", "--dry-run", "--seeds", 2)
    assert code == 0
    assert "left: 14 of 14 runs" in out
    assert "then scored on gpt2_qa" in out
    assert "runs/gpt2_medium_dro_10/seed-43" in out
    assert list(Path().iterdir()) == []


def test_data_that_is_not_there_is_said_before_anything_runs(reweight: Cli) -> None:
    code, out, err = reweight("reproduce", "table1", "--scale", "nano")
    assert (code, out, err.count("\n")) == (3, "", 1)
    assert "no token store at data/slimpajama-bpe4096" in err
    assert "reweight prep slimpajama --tokenizer bpe:4096" in err
    assert list(Path().iterdir()) == []


def test_names_and_launchers_that_do_not_fit(reweight: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = reweight("reproduce", "figur5")
    assert (code, out, err) == (2, "", "reweight: no table or figure 'figur5'; did you mean figure5?\n")
    monkeypatch.setenv("RANK", "0")
    assert reweight("reproduce", "table1", "--dry-run")[0] == 2


def test_the_help_lists_every_table(reweight: Cli) -> None:
    _, out, _ = reweight("reproduce", "--help")
    assert set(needs.PAPER) - {f"figure{n}" for n in range(2, 8)} <= set(re.findall(r"\w+", out))


def test_from_nothing_to_the_table_and_again(
    reweight: Cli, tiny: list[str], store_path: Path, tmp_path: Path
) -> None:
    arguments = ("reproduce", "table1", "--scale", "nano", "--data", store_path, "--out", tmp_path / "runs")
    code, out, err = reweight(*arguments, "--seeds", 2, "--json")
    assert code == 0, err
    document = json.loads(out)
    assert [run["state"] for run in document["runs"]] == ["complete"] * 4
    assert [(run["recipe"], run["seed"]) for run in document["runs"]] == [
        *(("tiny_uniform", 1), ("tiny_linupper", 1), ("tiny_uniform", 2), ("tiny_linupper", 2))
    ]
    cell = next(c for c in document["result"]["cells"] if c["row"] == "GPT2-mini/linupper")
    assert cell["scale"] == "reduced"
    assert (document["missing"], document["gpu_hours"], document["disk_bytes"]) == (0, 0, 0)
    metrics = tmp_path / "runs/tiny_linupper/seed-2/metrics.jsonl"
    before = metrics.stat().st_mtime_ns
    # A third seed: only its runs are trained; the table is printed as compare prints it.
    code, out, err = reweight(*arguments, "--seeds", 3)
    assert (code, metrics.stat().st_mtime_ns) == (0, before)
    assert "1/2 " in err
    paths = [tmp_path / "runs" / name / f"seed-{seed}" for seed in (1, 2, 3) for name in tiny]
    assert out == reweight("compare", "--against", "paper", "--table", "table1", *paths)[1]


def test_a_finished_run_without_its_model_is_kept(
    reweight: Cli, tiny: list[str], store_path: Path, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    arguments = ("reproduce", "table1", "--scale", "nano", "--seeds", 1, "--data", store_path, "--out", runs)
    assert reweight(*arguments)[0] == 0
    folder = runs / "tiny_linupper/seed-1"
    for name in ("model", "checkpoints"):
        shutil.rmtree(folder / name)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".lock"}
    # All that is compared is there: nothing is trained again, and the table comes out.
    code, out, err = reweight(*arguments)
    assert code == 0, err
    assert "1/1" not in err
    assert "GPT2-mini" in out
    # Asked for by name, training refuses to begin at step 0 over the run's metrics and scores.
    train = ("train", "--recipe", "tiny_linupper", "--seed", 1, "--data", store_path, "--out", folder)
    code, out, err = reweight(*train)
    assert (code, out) == (5, "")
    assert "finished run without its model and checkpoints" in err
    # Without scores of the last step it is neither complete nor to be trained.
    results = folder / "results.json"
    results.write_text(results.read_text().replace('"step": 8', '"step": 4'))
    assert "its model and checkpoints are gone" in reweight(*arguments, "--dry-run")[1]
    results.write_bytes(before["results.json"])
    assert {name: (folder / name).read_bytes() for name in ("metrics.jsonl", "results.json")} == {
        name: before[name] for name in ("metrics.jsonl", "results.json")
    }


def test_a_failing_run_stops_with_its_code_and_says_which(
    reweight: Cli, tiny: list[str], store_path: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "runs/tiny_linupper/seed-1"
    assert reweight("train", "--recipe", "tiny_uniform", "--data", store_path, "--out", folder)[0] == 0
    arguments = ("reproduce", "table1", "--scale", "nano", "--data", store_path, "--out", tmp_path / "runs")
    code, out, _ = reweight(*arguments, "--dry-run")
    assert code == 0
    assert "other" in out
    assert "holds another run" in out
    code, out, err = reweight(*arguments, "--seeds", 1)
    assert (code, out) == (5, "")
    assert f"reweight train in {folder} ended with exit code 5" in err


def test_ctrl_c_saves_and_the_same_command_continues(
    reweight: Cli, tiny: list[str], store_path: Path, tmp_path: Path
) -> None:
    shipped = tmp_path / "shipped"
    for name in tiny:
        path = shipped / f"{name}.yaml"
        text = path.read_text().replace("steps: 8", "steps: 400")
        path.write_text(
            text.replace("data: {", "data: {repeat: true, ").replace("every_steps: 4", "every_steps: 400")
        )
    out = tmp_path / "runs"
    words = ["reproduce", "table1", "--scale", "nano", "--data", str(store_path), "--out", str(out)]
    words += ["--seeds", "1"]
    code = (
        "import sys\nfrom reproduce.paper import needs\n"
        "needs.NANO = {'table1': needs.Needs(recipes=('tiny_uniform', 'tiny_linupper'))}\n"
        "from reproduce.cli import main\n"
        f"sys.argv[1:] = {words!r}\nmain()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as process:
        metrics = out / "tiny_uniform/seed-1/metrics.jsonl"
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (metrics.exists() and metrics.read_text().count("\n") > 20):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "stopped; run the same command again to continue" in err
    status = json.loads((out / "tiny_uniform/seed-1/status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("interrupted", 130)
    assert not (out / "tiny_linupper").exists()
    code_, text, _ = reweight(*words, "--dry-run")
    assert code_ == 0
    assert f"step {status['step']} of 400" in text  # stopped with a checkpoint


def test_figures_are_drawn_and_toy_studies_run(reweight: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = reweight("reproduce", "figure1", "--out", "runs of mine")
    assert code == 0
    assert out.startswith("runs of mine/figures/figure1.svg")
    assert {path.suffix for path in Path("runs of mine/figures").iterdir()} == {".svg", ".png", ".csv"}
    code, out, _ = reweight("reproduce", "figure5", "--scale", "nano", "--out", "runs of mine", "--dry-run")
    assert out.splitlines()[-1].startswith("then: reweight figures 'runs of mine/gpt2_nano_uniform' ")
    assert out.splitlines()[-1].endswith(" --only figure5 --out 'runs of mine/figures'")
    code, out, _ = reweight("reproduce", "figure8", "--dry-run")
    assert code == 0
    assert out.splitlines()[-1] == "then: reweight toy dro --out runs/toy/dro"
    from reproduce.cli.children import Children

    asked: list[tuple[object, ...]] = []
    monkeypatch.setattr(Children, "shown", lambda self, *words: asked.append(words) or 0)
    assert reweight("reproduce", "figure7", "--out", "elsewhere")[0] == 0
    assert asked == [("toy", "regression", "--out", "elsewhere/toy/regression")]


def test_suites_are_scored_where_scores_are_missing(
    reweight: Cli, tiny: list[str], store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from eval.results import Score, read_results, write_results
    from eval.suites import load_suites
    from reproduce.cli.children import Children

    taken = Needs(recipes=tuple(tiny), suites=("gpt2_qa",))
    monkeypatch.setattr(needs, "NANO", {"table2": taken})
    run, out = Children.run, tmp_path / "runs"
    scored: list[Path] = []

    def scoring(self: Children, *words: object) -> int:
        if words[0] == "train":
            return run(self, *words)
        folder = Path(str(words[1]))
        scored.append(folder)
        path = folder / "results.json"
        tasks = [task.name for task in load_suites()["gpt2_qa"].tasks]
        new = [Score(suite="gpt2_qa", task=t, metric="acc", value=0.5, stderr=0.1, n=9) for t in tasks]
        results = read_results(path)
        write_results(path, replace(results, scores=(*results.scores, *new)))
        return 0

    monkeypatch.setattr(Children, "run", scoring)
    arguments = ("reproduce", "table2", "--scale", "nano", "--seeds", 1, "--data", store_path, "--out", out)
    assert reweight(*arguments)[0] == 0
    assert scored == [out / name / "seed-1" for name in tiny]
    assert reweight(*arguments)[0] == 0
    assert len(scored) == 2  # what has its scores is not scored again
