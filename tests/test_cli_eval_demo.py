"""`reweight eval` agrees with the run's own results; `reweight demo` goes the whole way offline."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from eval.results import Score, read_results, write_results

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run_folder(reweight: Cli, recipe_path: Path, store_path: Path, tmp_path: Path) -> Path:
    out = tmp_path / "run"
    code, _, err = reweight("train", "--recipe", recipe_path, "--data", store_path, "--out", out)
    assert code == 0, err
    return out


def test_eval_repeats_the_run_s_results_and_keeps_other_suites(reweight: Cli, run_folder: Path) -> None:
    before = read_results(run_folder / "results.json")
    other = Score(suite="gpt2_qa", task="sciq", metric="acc", value=0.5, stderr=0.01, n=1000)
    write_results(run_folder / "results.json", replace(before, scores=(*before.scores, other)))
    code, out, _ = reweight("eval", run_folder, "--json")
    assert code == 0
    after = read_results(run_folder / "results.json")
    assert after.log_perplexity() == pytest.approx(before.log_perplexity(), rel=1e-6)
    assert other in after.scores
    assert json.loads(out)[0]["log_perplexity"] == after.log_perplexity()


def test_eval_of_checkpoints_follows_training(reweight: Cli, run_folder: Path) -> None:
    code, out, _ = reweight("eval", run_folder, "--checkpoint", "all", "--json")
    assert code == 0
    entries = json.loads(out)
    assert [entry["step"] for entry in entries] == [6, 8]
    final = read_results(run_folder / "results.json").log_perplexity()
    assert entries[1]["log_perplexity"] == pytest.approx(final, rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("--checkpoint", "5"), 3, "there is 6, 8"),
        (("--checkpoint", "best"), 2, "give last, all or a step"),
        (("--suite", "gpt2_qa"), 2, "gpt2_qa"),
        (("--data", "nowhere"), 3, "nowhere"),
    ],
)
def test_eval_bad_input(
    reweight: Cli, run_folder: Path, arguments: tuple[str, ...], code: int, text: str
) -> None:
    got, out, err = reweight("eval", run_folder, *arguments)
    assert (got, out) == (code, "")
    assert text in err


def test_eval_of_no_run_and_of_an_unfinished_run(reweight: Cli, run_folder: Path, tmp_path: Path) -> None:
    assert reweight("eval", tmp_path / "nothing")[0] == 3
    (run_folder / "model" / "config.json").unlink()
    code, _, err = reweight("eval", run_folder)
    assert code == 3
    assert "no model/ yet" in err


def test_demo_end_to_end(reweight: Cli, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    code, stdout, err = reweight("demo", "--out", out, "--seeds", 2, "--steps", 20, "--json")
    assert code == 0, err
    document = json.loads(stdout)
    verdicts = {(c["row"], c["column"]): c["verdict"] for c in document["cells"]}
    assert verdicts["GPT2-mini/linupper", "mean"].startswith("reduced_scale_")
    page = (out / "report.html").read_text(encoding="utf-8")
    assert document["report"] == str(out / "report.html")
    assert "<svg" in page
    assert "http://" not in page.replace("http://www.w3.org/", "")
    # Again: everything is there, nothing is trained.
    before = (out / "runs" / "demo_uniform" / "seed-1" / "metrics.jsonl").stat().st_mtime_ns
    assert reweight("demo", "--out", out, "--seeds", 2, "--steps", 20)[0] == 0
    assert (out / "runs" / "demo_uniform" / "seed-1" / "metrics.jsonl").stat().st_mtime_ns == before
