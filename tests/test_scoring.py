"""`reweight eval --suite gpt2_qa ...`: what is kept, what is done again, what fails alone."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from task_models import VOCAB, FolderHub, llama_folder, model_folder, tokenizer_json
from task_sets import add_all
from transformers import AutoModelForCausalLM

from data_prep.manifest import TokenizerInfo
from data_prep.token_store import write_store
from eval.errors import EvaluationError
from eval.records import read_record
from eval.results import read_results
from eval.suites import load_suites

Cli = Callable[..., tuple[int, str, str]]
FOUR = ["logiqa", "logiqa2", "sciq", "piqa"]
OFFLINE = "hub repository allenai/sciq at main: not cached; fetch it"

RECIPE = f"""\
model: {{family: gpt2, layers: 2, heads: 2, width: 16, context: 512, vocab: {VOCAB}}}
data: {{dataset: tiny, tokenizer: tiny}}
train: {{steps: 4, global_batch: 4, sequence: 32, log_every_steps: 1, checkpoint_every_steps: 2}}
optimizer: {{lr: 1e-2, end_lr: 1e-3, warmup_steps: 1}}
reweighting: {{strategy: linupper, r: 0.4, warmup_steps: 1, warmup: uniform}}
evaluation: {{every_steps: 4, samples: 4, batch: 4}}
"""


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hub")
    add_all(root)
    return root


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    from huggingface_hub import constants

    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HOME", str(home))
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", home / "datasets")
        yield


@pytest.fixture
def hub(repositories: Path, caches: None, monkeypatch: pytest.MonkeyPatch) -> FolderHub:
    """In the place of the real one."""
    made = FolderHub(repositories)
    monkeypatch.setattr("reproduce.scoring.hub.ClientHub", lambda: made)
    monkeypatch.setattr("reproduce.scoring.interval.ClientHub", lambda: made, raising=False)
    return made


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return model_folder(tmp_path / "model")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps whose store has a tokenizer; checkpoints at 2 and 4."""
    from reproduce.cli.root import run

    root = tmp_path_factory.mktemp("trained")
    assert run(training(root, root / "run")) == 0
    return root


def training(root: Path, out: Path) -> list[str]:
    """A command line of `reweight train`, and the store it reads."""
    words = tokenizer_json(root / "words.json").read_text(encoding="utf-8")
    info = TokenizerInfo(
        name="tiny",
        sha256=hashlib.sha256(words.encode()).hexdigest(),
        vocab_size=VOCAB,
        end_of_text=VOCAB - 1,
    )
    ids = np.random.default_rng(0).integers(0, VOCAB, 2000).astype(np.uint16)
    split = {"prose": [ids]}
    if not (root / "store").exists():
        write_store(
            root / "store", {"train": split, "validation": split}, tokenizer=info, tokenizer_json=words
        )
    (root / "tiny_linupper.yaml").write_text(RECIPE, encoding="utf-8")
    given = ("--recipe", root / "tiny_linupper.yaml", "--data", root / "store", "--out", out)
    return ["train", *map(str, given)]


def scores(folder: Path) -> dict[tuple[str, str], Any]:
    return {(s.task, s.metric): s for s in read_results(folder / "results.json").scores}


def test_a_model_folder_gets_scores_and_records(
    reweight: Cli, hub: FolderHub, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "scores"
    code, shown, err = reweight("eval", model, "--suite", "gpt2_qa", "--out", out, "--json")
    assert code == 0, err
    found = scores(out)
    assert list(dict.fromkeys(task for task, _ in found)) == FOUR
    sciq = found["sciq", "acc"]
    assert (sciq.n, sciq.num_fewshot, sciq.task_version, sciq.requests, sciq.truncated) == (
        8,
        5,
        "1.0",
        32,
        0,
    )
    assert (sciq.shots_kept, sciq.context, sciq.batch_size, sciq.limit) == (5.0, 2048, 8, None)
    assert sciq.seeds == {"random": 0, "numpy": 1234, "torch": 1234, "fewshot": 1234}
    assert set(sciq.versions) >= {"lm_eval", "datasets", "transformers", "torch"}
    assert sciq.dataset.startswith("allenai/sciq@")
    assert found["logiqa2", "acc"].dataset.startswith("baber/logiqa2@")
    records = sorted(path.name.split("-")[0] for path in (out / "evaluations" / "model").iterdir())
    assert records == sorted(FOUR)
    (document,) = json.loads(shown)
    assert [(s["task"], s["value"]) for s in document["scores"]] == [
        (s.task, s.value) for s in found.values()
    ]
    assert document["failed"] == []


def test_again_scores_nothing_and_says_so(
    reweight: Cli, hub: FolderHub, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("eval", model, "--suite", "gpt2_qa", "--task", "piqa", "--out", tmp_path / "scores")
    assert reweight(*command)[0] == 0
    before = (tmp_path / "scores" / "results.json").read_bytes()
    asked = len(hub.asked)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", None)
    code, _, err = reweight(*command)
    assert code == 0
    assert "piqa: scored before, kept" in err
    assert len(hub.asked) == asked
    assert (tmp_path / "scores" / "results.json").read_bytes() == before


@pytest.mark.parametrize(
    "change",
    [("--fewshot-seed", "7"), ("--limit", "2"), "model", "record"],
    ids=["seed", "limit", "model", "record"],
)
def test_what_changes_a_score_is_scored_again(
    reweight: Cli, hub: FolderHub, model: Path, tmp_path: Path, change: Any
) -> None:
    out = tmp_path / "scores"
    command = ["eval", model, "--suite", "gpt2_qa", "--task", "piqa", "--task", "sciq", "--out", out]
    assert reweight(*command)[0] == 0
    records = {path.name for path in (out / "evaluations" / "model").iterdir()}
    if change == "model":
        shutil.rmtree(model)
        model_folder(model, seed=5)
    elif change == "record":
        damaged = next((out / "evaluations" / "model").glob("piqa*"))
        damaged.write_text(damaged.read_text()[:-40])
    else:
        command += change
    code, _, err = reweight(*command)
    assert code == 0, err
    assert ("piqa: scored before" in err, "sciq: scored before" in err) == (False, change == "record")
    now = {path.name for path in (out / "evaluations" / "model").iterdir()}
    assert len(now) == (2 if change == "record" else 4)
    assert records <= now
    if change == "record":
        assert "delete the file and run `reweight eval` again" in err


def test_a_limited_score_does_not_replace_a_whole_one(
    reweight: Cli, hub: FolderHub, model: Path, tmp_path: Path
) -> None:
    command = ("eval", model, "--suite", "gpt2_qa", "--task", "sciq", "--out", tmp_path)
    assert reweight(*command, "--limit", 2)[0] == 0
    limited = scores(tmp_path)["sciq", "acc"]
    assert (limited.n, limited.limit) == (2, 2)
    assert reweight(*command)[0] == 0
    whole = scores(tmp_path)["sciq", "acc"]
    assert (whole.n, whole.limit) == (8, None)
    assert reweight(*command, "--limit", 2)[0] == 0
    assert scores(tmp_path)["sciq", "acc"] == whole


def test_a_task_that_fails_fails_alone(reweight: Cli, hub: FolderHub, model: Path, tmp_path: Path) -> None:
    hub.broken["allenai/sciq"] = EvaluationError(OFFLINE, 4)
    command = ("eval", model, "--suite", "gpt2_qa", "--out", tmp_path)
    code, shown, err = reweight(*command)
    assert code == 4
    assert {task for task, _ in scores(tmp_path)} == {"logiqa", "logiqa2", "piqa"}
    assert f"sciq: {OFFLINE}" in err
    assert "sciq" not in shown
    hub.broken.clear()
    code, _, err = reweight(*command)
    assert code == 0
    assert err.count("scored before, kept") == 3
    assert {task for task, _ in scores(tmp_path)} == set(FOUR)


def test_a_disk_that_fills_up_keeps_the_scores_before(
    reweight: Cli, hub: FolderHub, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eval import records

    whole = records.write_text_atomically

    def full(path: Path, text: str) -> None:
        if path.name.startswith("sciq"):
            raise OSError(28, "No space left on device", str(path))
        whole(path, text)

    monkeypatch.setattr(records, "write_text_atomically", full)
    command = ("eval", model, "--suite", "gpt2_qa", "--out", tmp_path)
    code, _, err = reweight(*command)
    assert code == 7
    assert "the record of sciq" in err
    assert "No space left on device" in err
    assert {task for task, _ in scores(tmp_path)} == {"logiqa", "logiqa2"}
    monkeypatch.setattr(records, "write_text_atomically", whole)
    assert reweight(*command)[0] == 0
    assert {task for task, _ in scores(tmp_path)} == set(FOUR)


def test_another_model_s_scores_do_not_stay_beside_new_ones(
    reweight: Cli, hub: FolderHub, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "scores"
    assert (
        reweight("eval", model, "--suite", "gpt2_qa", "--task", "sciq", "--task", "piqa", "--out", out)[0]
        == 0
    )
    shutil.rmtree(model)
    llama_folder(model)
    code, _, err = reweight("eval", model, "--suite", "gpt2_qa", "--task", "piqa", "--out", out)
    assert code == 0
    assert "of another model are left out" in err
    assert {task for task, _ in scores(out)} == {"piqa"}


@pytest.mark.parametrize(
    ("break_it", "code", "text"),
    [
        (lambda f: [p.unlink() for p in f.glob("tokenizer*")], 3, "has no tokenizer; copy"),
        (lambda f: (f / "config.json").unlink(), 3, "neither a run folder"),
        (lambda f: (f / "model.safetensors").unlink(), 3, "no *.safetensors"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), 3, "pickles are not read"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 100), 3, "not a model that can be loaded"),
        (lambda f: (f / "config.json").write_text("{"), 3, "not a model's configuration"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), 3, "no tokenizer that can be loaded"),
        (lambda f: tokenizer_json(f / "tokenizer.json", VOCAB + 30), 3, "largest id 349) and the model 320"),
        (lambda f: tokenizer_json(f / "tokenizer.json", 270), 3, "has 270 tokens"),
    ],
    ids=["tokenizer", "config", "weights", "pickle", "damaged", "json", "empty", "larger", "smaller"],
)
def test_a_folder_that_is_no_model_is_one_line(
    reweight: Cli, hub: FolderHub, model: Path, tmp_path: Path, break_it: Any, code: int, text: str
) -> None:
    break_it(model)
    got, out, err = reweight("eval", model, "--suite", "gpt2_qa", "--task", "piqa", "--out", tmp_path / "o")
    assert (got, out) == (code, ""), err
    assert text in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("--suite", "gpt2"), 2, "gpt2_qa"),
        (("--suite", "gpt2_qa", "--task", "sicq"), 2, "did you mean sciq?"),
        (("--suite", "gpt2_qa", "--limit", "0"), 2, "--limit"),
        (("--suite", "gpt2_qa", "--checkpoint", "all"), 2, "has no checkpoints"),
        (
            ("--suite", "llama_lur", "--irt-file", "x.pkl", "--irt-sha256", "0" * 64, "--limit", "4"),
            2,
            "all 100 items",
        ),
        (("--suite", "llama_lur", "--irt-file", "x.pkl"), 2, "unpinned pickle"),
        (("--suite", "llama_lur", "--irt-file", "x.pkl", "--irt-sha256", "0" * 64), 3, "x.pkl"),
        (("--task", "sciq"), 2, "add --suite"),
        (("--dry-run",), 2, "add --suite"),
    ],
)
def test_bad_options(
    reweight: Cli, hub: FolderHub, model: Path, arguments: tuple[str, ...], code: int, text: str
) -> None:
    got, out, err = reweight("eval", model, *arguments)
    assert (got, out) == (code, "")
    assert text in err
    assert not (model.parent / "evaluations").exists()


def test_a_dry_run_says_what_it_would_take_and_fetches_nothing(
    reweight: Cli, hub: FolderHub, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.broken["allenai/sciq"] = EvaluationError(OFFLINE, 4)
    fetched: list[str] = []
    download = hub.download

    def watched(repository: str, commit: str, file: Any) -> Path:
        fetched.append(file.path)
        return download(repository, commit, file)

    monkeypatch.setattr(hub, "download", watched)
    code, out, err = reweight(
        "eval", model, "--suite", "gpt2_qa", "--out", tmp_path / "o", "--dry-run", "--json"
    )
    assert code == 4, err
    (plan,) = json.loads(out)
    tasks = {each["task"]: each for each in plan["tasks"]}
    assert set(fetched) <= {"README.md"}
    assert not (tmp_path / "o").exists()
    assert tasks["sciq"]["problem"] == f"sciq: {OFFLINE}"
    # PiQA has 1838 items of two choices; a prompt of six times 42 tokens, by the estimate of suites.yaml.
    assert (tasks["piqa"]["requests"], tasks["piqa"]["tokens"]) == (3676, 3676 * 6 * 42)
    data = hub.root / "datasets" / "baber" / "piqa" / "data"
    assert tasks["piqa"]["missing_bytes"] == sum(path.stat().st_size for path in data.iterdir())
    assert plan["seconds"] > 0


def test_checkpoints_are_scored_as_the_model_and_drawn(
    reweight: Cli, hub: FolderHub, trained: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(trained / "run", tmp_path / "run")
    command = ("eval", run, "--suite", "gpt2_qa", "--task", "sciq", "--task", "piqa")
    code, out, err = reweight(*command, "--checkpoint", "all", "--json")
    assert code == 0, err
    by_step = {each["step"]: each["scores"] for each in json.loads(out)}
    assert list(by_step) == [2, 4]
    drawn = json.loads((run / "evaluations" / "gpt2_qa.json").read_text())
    assert {path.suffix for path in (run / "evaluations").iterdir() if path.is_file()} == {
        ".json",
        ".csv",
        ".png",
        ".svg",
    }
    assert "sciq" in json.dumps(drawn)
    before = read_results(run / "results.json")
    assert not [s for s in before.scores if s.suite == "gpt2_qa"]
    assert reweight(*command)[0] == 0
    after = read_results(run / "results.json")
    assert after.log_perplexity() == before.log_perplexity()
    final = {(s.task, s.metric): s.value for s in after.scores if s.suite == "gpt2_qa"}
    assert final == {(s["task"], s["metric"]): s["value"] for s in by_step[4]}
    assert by_step[2] != by_step[4]


def test_training_scores_at_its_interval_and_is_none_the_worse(
    reweight: Cli, hub: FolderHub, trained: Path, tmp_path: Path
) -> None:
    hub.broken["allenai/sciq"] = EvaluationError(OFFLINE, 4)
    scored = tmp_path / "scored"
    asked = ("--eval-suite", "gpt2_qa", "--eval-every", 2, "--eval-limit", 3)
    code, _, err = reweight(*training(trained, scored), *asked)
    assert code == 0, err
    assert f"will be tried again: sciq: {OFFLINE}" in err
    lines = [json.loads(line) for line in (scored / "metrics.jsonl").read_text().splitlines()]
    tasks = [line for line in lines if line["kind"] == "tasks"]
    assert [(line["step"], line["failed"], set(line["scores"])) for line in tasks] == [
        (2, ["sciq"], {"logiqa", "logiqa2", "piqa"}),
        (4, ["sciq"], {"logiqa", "logiqa2", "piqa"}),
    ]
    plain = [json.loads(line) for line in (trained / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [(each["step"], each.get("loss"), each.get("log_perplexity")) for each in plain]
    assert [
        (e["step"], e.get("loss"), e.get("log_perplexity")) for e in lines if e["kind"] != "tasks"
    ] == losses
    # The same weights as the checkpoint's: `reweight eval` has nothing left to do but what failed.
    hub.broken.clear()
    command = ("eval", scored, "--suite", "gpt2_qa", "--checkpoint", "all", "--limit", 3)
    code, _, err = reweight(*command)
    assert code == 0
    assert err.count("scored before, kept") == 6


def test_training_without_a_tokenizer_is_refused_before_the_first_step(
    reweight: Cli, hub: FolderHub, recipe_path: Path, store_path: Path, tmp_path: Path
) -> None:
    given = (
        "--recipe",
        recipe_path,
        "--data",
        store_path,
        "--out",
        tmp_path / "r",
        "--eval-suite",
        "gpt2_qa",
    )
    code, _, err = reweight("train", *given)
    assert code == 3
    assert "has no tokenizer.json" in err


def test_tiny_tasks_report_their_mean_and_why_there_is_no_estimate(
    reweight: Cli, hub: FolderHub, model: Path, tmp_path: Path
) -> None:
    given = ("--suite", "llama_lur", "--task", "tinyWinogrande", "--out", tmp_path / "o")
    code, _, err = reweight("eval", model, *given)
    assert code == 0
    assert "gp-IRT, which the paper prints, is not available" in err
    (path,) = (tmp_path / "o" / "evaluations" / "model").iterdir()
    record = read_record(path)
    assert (record.n, record.gp_irt) == (100, None)
    mean = next(metric for metric in record.metrics if metric.name == "acc_norm")
    assert mean.value == pytest.approx(sum(record.items["acc_norm"]) / 100)
    assert ("tinyWinogrande", "gp_irt") not in scores(tmp_path / "o")


def test_suites_are_the_commands_choices() -> None:
    from reproduce.cli.eval import SUITES

    assert list(SUITES) == ["perplexity", *load_suites()]
    assert torch.get_num_threads() == 1
