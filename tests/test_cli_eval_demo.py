"""`reweight eval` agrees with the run's own results; `reweight demo` goes the whole way offline."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from data_prep.token_store import write_store
from eval.results import Score, read_results, write_results
from tests.conftest import DOMAINS, domain_tokens, tiny_tokenizer

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
        (("--suite", "gpt2"), 2, "gpt2_qa"),
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


def test_eval_reads_the_held_out_shards_against_their_digests(
    reweight: Cli, run_folder: Path, store_path: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "store"
    shutil.copytree(store_path, copy)
    shard = copy / "validation" / "code" / "00000.npy"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1  # in the tail that no window reads
    shard.write_bytes(content)
    before = (run_folder / "results.json").read_bytes()
    code, out, err = reweight("eval", run_folder, "--data", copy)
    assert (code, out) == (3, "")
    assert "00000.npy: content changed" in err
    assert (run_folder / "results.json").read_bytes() == before


def test_eval_on_a_store_of_another_tokenizer_of_the_same_name(
    reweight: Cli, run_folder: Path, tmp_path: Path
) -> None:
    tokens = {split: {d: [domain_tokens(d, 900, 5)] for d in DOMAINS} for split in ("train", "validation")}
    write_store(tmp_path / "other", tokens, tokenizer=replace(tiny_tokenizer(), sha256="1" * 64))
    code, _, err = reweight("eval", run_folder, "--data", tmp_path / "other")
    assert code == 2
    assert "made with another tokenizer" in err


@pytest.mark.parametrize("content", ['{"schema": 1', "", "[]"])
def test_eval_mends_damaged_results_and_keeps_what_was_there(
    reweight: Cli, run_folder: Path, content: str
) -> None:
    before = read_results(run_folder / "results.json")
    (run_folder / "results.json").write_text(content, encoding="utf-8")
    code, _, err = reweight("eval", run_folder)
    assert code == 0
    assert "moved to results.damaged.json" in err
    assert (run_folder / "results.damaged.json").read_text(encoding="utf-8") == content
    after = read_results(run_folder / "results.json")
    assert after.log_perplexity() == pytest.approx(before.log_perplexity(), rel=1e-6)
    assert (after.recipe, after.seed, after.step) == (before.recipe, before.seed, before.step)


@pytest.mark.parametrize("damage", ["cut", "config", "tensors"])
def test_eval_of_a_damaged_model_is_an_error_not_a_number(
    reweight: Cli, run_folder: Path, damage: str
) -> None:
    from safetensors.torch import load_file, save_file

    file, config = run_folder / "model" / "model.safetensors", run_folder / "model" / "config.json"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "config":
        config.write_text("{}", encoding="utf-8")
    else:
        # The library would fill the gap with random numbers, and go on.
        tensors = load_file(file)
        save_file(dict(list(tensors.items())[1:]), file, metadata={"format": "pt"})
    code, out, err = reweight("eval", run_folder)
    assert (code, out) == (3, "")
    assert "model: " in err.splitlines()[-1]


def test_a_recipe_changed_in_its_run_folder_is_said_by_all_who_read_it(
    reweight: Cli, run_folder: Path, tmp_path: Path
) -> None:
    own = run_folder / "recipe.yaml"
    text = own.read_text(encoding="utf-8")
    # Cut before the section that says which row of the paper it is: still YAML, still a recipe.
    own.write_text(text[: text.index("paper:")], encoding="utf-8")
    for command in (("eval",), ("compare",), ("report", "--out", tmp_path / "r.html")):
        code, out, err = reweight(*command, run_folder)
        assert (code, out) == (3, ""), command
        assert "changed since the run wrote it" in err


@pytest.mark.parametrize("damage", ["deep", "pipe", "bytes", "gone"])
def test_a_report_survives_any_status_and_stops_at_a_damaged_log(
    reweight: Cli, run_folder: Path, tmp_path: Path, damage: str
) -> None:
    page = tmp_path / "r.html"
    for name, code in (("status.json", 0), ("metrics.jsonl", 0 if damage in ("gone", "pipe") else 3)):
        path = run_folder / name
        path.unlink()
        if damage == "pipe":
            os.mkfifo(path)
        elif damage != "gone":
            path.write_bytes(b"[" * 100_000 + b"\n" if damage == "deep" else b"\xff\xfe\n")
        got, _, err = reweight("report", run_folder, "--out", page)
        assert got == code, err
        assert "Traceback" not in err
        assert code == 0 or name in err.splitlines()[-1]
