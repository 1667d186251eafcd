"""Runs as a whole: the same twice, the same after any stop, nothing lost, nothing half written."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from data_prep.token_store import TokenStore, write_store
from eval.results import read_results
from reproduce.errors import StorageError
from reproduce.recipe import load_recipe
from reproduce.recipe.estimate import parameter_count
from reproduce.training import checkpoint, checkpoint_tensors
from reproduce.training.loop import Events, run
from tests.conftest import DOMAINS, domain_tokens, tiny_tokenizer

Cli = Callable[..., tuple[int, str, str]]
NOT_REPEATABLE = ("tokens_per_s", "model_flops_per_s", "mfu", "memory_bytes", "seconds")


def train(recipe: Path, out: Path, store: Path, *overrides: str, stop_after: int | None = None) -> int:
    seen: list[int] = []
    events = Events(
        warn=lambda message: None,
        advance=lambda step, line: seen.append(step),
        stop=lambda: 130 if stop_after is not None and seen and seen[-1] >= stop_after else None,
    )
    return run(load_recipe(str(recipe), overrides), out, store, events).exit_code


def metrics(out: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in NOT_REPEATABLE} for line in lines]


def weights(out: Path) -> bytes:
    return (out / "model" / "model.safetensors").read_bytes()


def test_two_runs_are_equal_bit_for_bit_and_another_seed_is_not(
    recipe_path: Path, store_path: Path, tmp_path: Path
) -> None:
    for out, changes in (("a", ()), ("b", ()), ("c", ("seed=43",))):
        assert train(recipe_path, tmp_path / out, store_path, "model.dropout=0.2", *changes) == 0
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    assert weights(tmp_path / "a") != weights(tmp_path / "c")


LLAMA = ("model.family=llama", "model.feed_forward=24", "model.tie_embeddings=false")


@pytest.mark.parametrize(
    ("model", "micro_batch", "stop_after"),
    [
        *[(("model.dropout=0.2",), micro, stop) for micro in ("null", "2") for stop in (1, 3, 4, 7)],
        (("model.dropout=0",), "2", 4),
        (LLAMA, "2", 4),
        (LLAMA, "null", 5),
    ],
    ids=str,
)
def test_stopped_and_continued_equals_uninterrupted(
    recipe_path: Path,
    store_path: Path,
    tmp_path: Path,
    model: tuple[str, ...],
    micro_batch: str,
    stop_after: int,
) -> None:
    settings = (*model, f"train.micro_batch={micro_batch}")
    assert train(recipe_path, tmp_path / "whole", store_path, *settings) == 0
    assert train(recipe_path, tmp_path / "cut", store_path, *settings, stop_after=stop_after) == 130
    status = json.loads((tmp_path / "cut" / "status.json").read_text())
    assert (status["state"], status["exit_code"], status["step"]) == ("interrupted", 130, stop_after)
    assert not (tmp_path / "cut" / "model").exists()
    assert train(recipe_path, tmp_path / "cut", store_path, *settings) == 0
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_metrics_have_the_promised_fields_and_the_unweighted_loss(
    recipe_path: Path, store_path: Path, tmp_path: Path
) -> None:
    train(recipe_path, tmp_path / "r", store_path)
    lines = metrics(tmp_path / "r")
    steps = [line for line in lines if line["kind"] == "train"]
    assert [line["step"] for line in steps] == list(range(1, 9))
    for line in steps:
        assert line.keys() >= {
            "step", "tokens", "loss", "weighted_loss", "lr", "r", "grad_norm", "max_weight", "ess", "entropy",
            "weight_share",
        }  # fmt: skip
        assert line["tokens"] == line["step"] * 6 * 32
        assert sum(line["weight_share"].values()) == pytest.approx(1.0, abs=1e-6)
    # Warm-up is uniform: weighted and plain mean agree; afterwards LinUpper leans to high losses.
    assert all(line["r"] is None and line["ess"] == pytest.approx(6) for line in steps[:2])
    assert all(line["weighted_loss"] > line["loss"] and line["r"] == 0.4 for line in steps[2:])
    evaluations = [line for line in lines if line["kind"] == "eval"]
    assert [line["step"] for line in evaluations] == [0, 4, 8]
    assert set(evaluations[0]["log_perplexity"]) == {*DOMAINS, "mean"}
    assert evaluations[-1]["log_perplexity"]["mean"] < evaluations[0]["log_perplexity"]["mean"]


def test_results_and_model_agree_with_an_independent_evaluation(
    recipe_path: Path, store_path: Path, tmp_path: Path
) -> None:
    train(recipe_path, tmp_path / "r", store_path)
    results = read_results(tmp_path / "r" / "results.json")
    network = AutoModelForCausalLM.from_pretrained(tmp_path / "r" / "model", local_files_only=True).eval()
    store = TokenStore.open(store_path)
    # 9 samples over 3 domains: 3 of the 21 windows of 32, at 0, 7, 14.
    assert store.windows("validation", "code", 32) == 21
    means = {}
    for domain in DOMAINS:
        windows = store.read_windows("validation", domain, np.array([0, 7, 14]), 32)
        tokens = torch.from_numpy(windows).long()
        with torch.no_grad():
            means[domain] = network(input_ids=tokens, labels=tokens).loss.item()
    assert results.log_perplexity() == pytest.approx({**means, "mean": sum(means.values()) / 3}, rel=1e-5)
    assert results.step == 8
    assert {s.n for s in results.scores} == {3, 9}


def test_rerun_is_complete_at_once_without_torch(
    recipe_path: Path, store_path: Path, tmp_path: Path, reweight: Cli
) -> None:
    out = tmp_path / "r"
    assert reweight("train", "--recipe", recipe_path, "--data", store_path, "--out", out)[0] == 0
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    code = (
        "import sys; from reproduce.cli.root import run; "
        f"c = run(['train', '--recipe', {str(recipe_path)!r}, '--data', {str(store_path)!r}, "
        f"'--out', {str(out)!r}]); assert 'torch' not in sys.modules; sys.exit(c)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "already complete" in done.stderr
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before


def test_another_recipe_or_other_data_is_refused(
    recipe_path: Path, store_path: Path, tmp_path: Path, reweight: Cli
) -> None:
    out = tmp_path / "r"
    common = ("train", "--recipe", recipe_path, "--out", out)
    assert train(recipe_path, out, store_path, stop_after=2) == 130
    code, _, err = reweight(*common, "--data", store_path, "--set", "optimizer.lr=2e-2")
    assert code == 5
    assert "optimizer.lr 0.01 there, 0.02 now" in err
    assert err.count("\n") == 1
    other = tmp_path / "other"
    tokens = {split: {d: [domain_tokens(d, 4500, 9)] for d in DOMAINS} for split in ("train", "validation")}
    write_store(other, tokens, tokenizer=tiny_tokenizer())
    code, _, err = reweight(*common, "--data", other)
    assert code == 5
    assert "data_fingerprint" in err
    assert train(recipe_path, out, store_path) == 0


def test_a_damaged_checkpoint_is_passed_over_and_named(
    recipe_path: Path, store_path: Path, tmp_path: Path, reweight: Cli
) -> None:
    out, whole = tmp_path / "r", tmp_path / "whole"
    train(recipe_path, whole, store_path)
    train(recipe_path, out, store_path, stop_after=6)
    newest = out / "checkpoints" / "step-0000006" / "optimizer.safetensors"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    code, _, err = reweight("train", "--recipe", recipe_path, "--data", store_path, "--out", out)
    assert code == 0
    assert "optimizer.safetensors: its bytes are not those that were saved" in err
    assert metrics(out) == metrics(whole)


def test_every_flipped_byte_of_a_checkpoint_is_found(
    recipe_path: Path, store_path: Path, tmp_path: Path
) -> None:
    train(recipe_path, tmp_path / "r", store_path, stop_after=3)
    found = checkpoint.checkpoints(tmp_path / "r" / "checkpoints")[-1]
    assert checkpoint.damage(found) is None
    rng = np.random.default_rng(0)
    for name in (checkpoint.MODEL, checkpoint.OPTIMIZER, checkpoint.MANIFEST):
        path = found.path / name
        original = path.read_bytes()
        for position in rng.integers(0, len(original), 20):
            flipped = bytearray(original)
            flipped[position] ^= 1 << int(rng.integers(0, 8))
            path.write_bytes(flipped)
            harmless = name == checkpoint.MANIFEST and json_equal(original, bytes(flipped))
            assert checkpoint.damage(found) is not None or harmless, (name, position)
        path.write_bytes(original)
    assert checkpoint.damage(found) is None


def json_equal(one: bytes, two: bytes) -> bool:
    """A flip in the manifest's white space changes nothing it says."""
    try:
        return bool(json.loads(one) == json.loads(two))
    except ValueError:
        return False


def test_only_the_newest_checkpoints_are_kept_and_no_temporaries(
    recipe_path: Path, store_path: Path, tmp_path: Path
) -> None:
    train(recipe_path, tmp_path / "r", store_path, "train.checkpoint_every_steps=1")
    assert sorted(p.name for p in (tmp_path / "r" / "checkpoints").iterdir()) == [
        "step-0000007",
        "step-0000008",
    ]


@pytest.mark.parametrize("failing", ["safetensors", "rename"])
def test_a_failing_disk_keeps_the_last_checkpoint(
    recipe_path: Path, store_path: Path, tmp_path: Path, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "r"
    train(recipe_path, out, store_path, stop_after=3)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    target = {
        "safetensors": (checkpoint_tensors, "save_file"),
        "rename": (Path, "rename"),
    }[failing]
    with monkeypatch.context() as patch:
        patch.setattr(*target, full)
        # The save of step 6 is a warning, that of step 8, the last, an error.
        with pytest.raises(StorageError, match="No space left"):
            train(recipe_path, out, store_path)
    assert [p.name for p in (out / "checkpoints").iterdir()] == ["step-0000003"]
    assert json.loads((out / "status.json").read_text())["exit_code"] == 7
    train(recipe_path, tmp_path / "whole", store_path)
    assert train(recipe_path, out, store_path) == 0
    assert metrics(out) == metrics(tmp_path / "whole")


def test_non_finite_loss_stops_with_a_crash_record(
    recipe_path: Path, store_path: Path, tmp_path: Path, reweight: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reproduce.training.model import LanguageModel

    forward = LanguageModel.forward

    def poisoned(self: LanguageModel, tokens: torch.Tensor) -> torch.Tensor:
        losses = forward(self, tokens)
        if self.training and len(losses) == 6 and poison["after"] == 0:
            losses = losses * torch.tensor([1, 1, float("nan"), 1, 1, 1])
        poison["after"] -= int(self.training)
        return losses

    poison = {"after": 4}
    monkeypatch.setattr(LanguageModel, "forward", poisoned)
    out = tmp_path / "r"
    code, _, err = reweight("train", "--recipe", recipe_path, "--data", store_path, "--out", out)
    assert code == 6
    assert "not finite at step 5" in err
    crash = json.loads((out / "crash" / "step-0000005.json").read_text())
    assert [s["loss"] == "nan" for s in crash["samples"]] == [False, False, True, False, False, False]
    assert crash["samples"][2]["domain"] in DOMAINS
    assert json.loads((out / "status.json").read_text())["exit_code"] == 6


def test_an_interrupt_without_a_handler_is_recorded(
    recipe_path: Path, store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the demo's worker processes, where Ctrl-C raises in the middle of a step."""

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("reproduce.training.loop.train_step", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(recipe_path, tmp_path / "r", store_path)
    status = json.loads((tmp_path / "r" / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("failed", 130)
    assert train(recipe_path, tmp_path / "r", store_path) == 0


def test_a_store_that_does_not_fit_is_refused(
    recipe_path: Path, store_path: Path, tmp_path: Path, reweight: Cli
) -> None:
    base = ("train", "--recipe", recipe_path, "--out", tmp_path / "r")
    code, _, err = reweight(*base, "--data", store_path, "--set", "model.vocab=65")
    assert (code, "vocabulary of 64" in err) == (2, True)
    code, _, err = reweight(*base, "--data", store_path, "--set", "data.tokenizer=other")
    assert (code, "was made with tokenizer tiny" in err) == (2, True)
    code, _, err = reweight(*base, "--data", tmp_path / "nowhere")
    assert (code, "reweight prep" in err) == (3, True)
    code, _, err = reweight(*base, "--data", store_path, "--set", "train.steps=4000")
    assert (code, "data.repeat=true" in err) == (2, True)
    assert not (tmp_path / "r" / "recipe.yaml").exists()


def test_one_changed_byte_in_a_shard_stops_training(
    recipe_path: Path, store_path: Path, tmp_path: Path, reweight: Cli
) -> None:
    copy = tmp_path / "store"
    shutil.copytree(store_path, copy)
    shard = copy / "train" / "prose" / "00001.npy"
    content = bytearray(shard.read_bytes())
    content[-7] ^= 4
    shard.write_bytes(content)
    code, _, err = reweight("train", "--recipe", recipe_path, "--data", copy, "--out", tmp_path / "r")
    assert code == 3
    assert "00001.npy" in err
    assert json.loads((tmp_path / "r" / "status.json").read_text())["exit_code"] == 3


def test_a_second_process_in_the_folder_is_told_who_holds_it(
    recipe_path: Path, store_path: Path, tmp_path: Path, reweight: Cli
) -> None:
    from reproduce.training.run_dir import RunDir

    out = tmp_path / "r"
    with RunDir(out):
        code, _, err = reweight("train", "--recipe", recipe_path, "--data", store_path, "--out", out)
    assert code == 7
    assert "in use by process" in err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_saves_and_the_same_command_continues(
    recipe_path: Path, store_path: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    out = tmp_path / "r"
    command = [
        sys.executable, "-c", "from reproduce.cli import main; main()", "train", "--recipe", str(recipe_path),
        "--data", str(store_path), "--out", str(out), "--set", "train.steps=4000",
        "--set", "data.repeat=true", "--set", "evaluation.every_steps=4000",
        "--set", "train.checkpoint_every_steps=4000",
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    _wait_for_step(out, 3)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    status = json.loads((out / "status.json").read_text())
    assert status["exit_code"] == code
    # No step is lost: the last logged step is the one in the checkpoint.
    last = [line["step"] for line in metrics(out) if line["kind"] == "train"][-1]
    assert status["step"] == last
    assert checkpoint.checkpoints(out / "checkpoints")[-1].step == last


def _wait_for_step(out: Path, step: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        path = out / "metrics.jsonl"
        if path.exists() and len(path.read_text().splitlines()) > step:
            return
        time.sleep(0.05)
    raise AssertionError("the run did not get under way")


def test_training_runs_without_the_data_and_eval_packages(
    recipe_path: Path, store_path: Path, tmp_path: Path
) -> None:
    code = (
        # None in sys.modules makes an import fail as it does where the package is not installed.
        "import sys; absent = ('datasets', 'lm_eval', 'pyarrow', 'tiktoken', 'zstandard', 'matplotlib'); "
        "sys.modules.update(dict.fromkeys(absent)); from reproduce.cli.root import run; "
        f"sys.exit(run(['train', '--recipe', {str(recipe_path)!r}, '--data', {str(store_path)!r}, "
        f"'--out', {str(tmp_path / 'r')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_only_a_whole_run_counts_as_complete(
    recipe_path: Path, store_path: Path, tmp_path: Path, reweight: Cli
) -> None:
    out, whole = tmp_path / "r", tmp_path / "whole"
    train(recipe_path, whole, store_path)
    train(recipe_path, out, store_path, stop_after=3)
    (out / "status.json").write_text('{"state": "complete", "step": []}', encoding="utf-8")
    code, _, err = reweight("train", "--recipe", recipe_path, "--data", store_path, "--out", out)
    assert code == 0
    assert "already complete" not in err
    assert metrics(out) == metrics(whole)


def test_killed_between_the_last_checkpoint_and_the_model(
    recipe_path: Path, store_path: Path, tmp_path: Path
) -> None:
    out, whole = tmp_path / "r", tmp_path / "whole"
    for each in (out, whole):
        train(recipe_path, each, store_path)
    shutil.rmtree(out / "model")
    (out / "results.json").unlink()
    (out / "status.json.99.tmp").write_text("half", encoding="utf-8")
    (out / ".results.json.abc").write_text("half", encoding="utf-8")
    assert train(recipe_path, out, store_path) == 0
    # The last evaluation is in the metrics once, and the leavings of the kill are gone.
    assert metrics(out) == metrics(whole)
    assert weights(out) == weights(whole)
    assert {p.name for p in out.iterdir()} == {p.name for p in whole.iterdir()}


@pytest.mark.parametrize("name", ["recipe.yaml", "provenance.json", "metrics.jsonl"])
@pytest.mark.parametrize("damage", ["cut", "deep", "pipe", "folder"])
def test_a_damaged_run_folder_is_never_continued(
    recipe_path: Path, store_path: Path, tmp_path: Path, reweight: Cli, name: str, damage: str
) -> None:
    out = tmp_path / "r"
    train(recipe_path, out, store_path, stop_after=3)
    path = out / name
    content = path.read_bytes()
    path.unlink()
    if damage == "pipe":
        os.mkfifo(path)
    elif damage == "folder":
        path.mkdir()
    else:
        # The first half of a YAML file is a YAML file; of a log, cut at a line's end, a log.
        half = content[: content.rindex(b"\n", 0, len(content) // 2) + 1] + b"x"
        path.write_bytes(half if damage == "cut" else b"[" * 100_000 + b"\n")
    code, out_text, err = reweight("train", "--recipe", recipe_path, "--data", store_path, "--out", out)
    if (name, damage) == ("metrics.jsonl", "cut"):
        assert code == 0  # as a kill leaves it
        return
    assert (code, out_text) == (5, ""), err
    assert name in err.splitlines()[-1]
    assert "choose another --out" in err.splitlines()[-1]


def test_a_full_disk_still_gets_the_failure_into_status_json(
    recipe_path: Path, store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "r"
    train(recipe_path, out, store_path, stop_after=3)
    replace = Path.replace

    def full(path: Path, target: Path) -> Path:
        if path.name.startswith("status.json"):
            raise OSError(28, "No space left on device")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match=r"No space left on device.*status.json'"):
        train(recipe_path, out, store_path)
    status = json.loads((out / "status.json").read_text())
    assert (status["state"], status["exit_code"], status["step"]) == ("failed", 7, 3)
    assert [p.name for p in out.glob("*.tmp")] == []


def test_a_second_signal_is_recorded(recipe_path: Path, store_path: Path, tmp_path: Path) -> None:
    def twice() -> None:
        raise SystemExit(130)

    events = Events(warn=lambda m: None, advance=lambda s, line: None, stop=twice)
    with pytest.raises(SystemExit):
        run(load_recipe(str(recipe_path)), tmp_path / "r", store_path, events)
    status = json.loads((tmp_path / "r" / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("failed", 130)


def test_another_number_of_threads_is_said_on_resume(
    recipe_path: Path, store_path: Path, tmp_path: Path
) -> None:
    out = tmp_path / "r"
    train(recipe_path, out, store_path, stop_after=3)
    path = out / "provenance.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps({**facts, "threads": facts["threads"] + 1}), encoding="utf-8")
    said: list[str] = []
    run(
        load_recipe(str(recipe_path)), out, store_path, Events(warn=said.append, advance=lambda s, line: None)
    )
    assert len(said) == 1
    assert f"begun with threads {facts['threads'] + 1}" in said[0]


def test_fields_that_do_not_decide_the_result_may_change_on_resume(
    recipe_path: Path, store_path: Path, tmp_path: Path
) -> None:
    out = tmp_path / "r"
    assert train(recipe_path, out, store_path, stop_after=3) == 130
    changes = ("train.micro_batch=2", "train.log_every_steps=2", "train.keep_checkpoints=5")
    assert train(recipe_path, out, store_path, *changes, "parallel.check_replicas_every_steps=3") == 0
    assert train(recipe_path, tmp_path / "whole", store_path) == 0
    whole = {line["step"]: line["loss"] for line in metrics(tmp_path / "whole") if line["kind"] == "train"}
    cut = {line["step"]: line["loss"] for line in metrics(out) if line["kind"] == "train"}
    assert list(cut) == [1, 2, 3, 4, 6, 8]
    # Micro-batches give the same gradient to rounding.
    assert cut == pytest.approx({step: whole[step] for step in cut}, abs=1e-5)


def test_a_drift_is_refused_by_name_and_allowed_on_record(
    recipe_path: Path, store_path: Path, tmp_path: Path, reweight: Cli
) -> None:
    out = tmp_path / "r"
    assert train(recipe_path, out, store_path, stop_after=3) == 130
    command = ("train", "--recipe", recipe_path, "--data", store_path, "--out", out)
    change = ("--set", "optimizer.lr=2e-2")
    code, _, err = reweight(*command, *change, "--allow-drift", "optimizer.end_lr")
    assert (code, "--allow-drift FIELD" in err) == (5, True)
    code, _, err = reweight(*command, *change, "--allow-drift", "optimizer.lr")
    assert code == 0, err
    facts = json.loads((out / "provenance.json").read_text())
    assert facts["drift"] == [{"field": "optimizer.lr", "old": 0.01, "new": 0.02}]
    assert load_recipe(str(out / "recipe.yaml")).optimizer.lr == 0.02
    # From now on the changed recipe is the folder's.
    assert reweight(*command, *change)[0] == 0
    assert reweight(*command)[0] == 5


def test_strict_resume_refuses_an_older_checkpoint(
    recipe_path: Path, store_path: Path, tmp_path: Path, reweight: Cli
) -> None:
    out = tmp_path / "r"
    assert train(recipe_path, out, store_path, stop_after=7) == 130
    newest = checkpoint.checkpoints(out / "checkpoints")[-1]
    file = next(newest.path.glob("model*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    command = ("train", "--recipe", recipe_path, "--data", store_path, "--out", out)
    code, _, err = reweight(*command, "--strict-resume")
    assert (code, file.name in err) == (5, True)
    assert checkpoint.checkpoints(out / "checkpoints")[-1].step == newest.step
    assert reweight(*command)[0] == 0


def test_a_disk_that_cannot_hold_the_run_is_refused_with_the_sum(
    recipe_path: Path, store_path: Path, tmp_path: Path, reweight: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = parameter_count(load_recipe(str(recipe_path)).model)
    # Two checkpoints kept and one being written, 12 bytes a parameter each; the model, 4; 11 lines of 1,000.
    need = (3 * 12 + 4) * parameters + 10_000
    command = ("train", "--recipe", recipe_path, "--data", store_path, "--out", tmp_path / "r")
    for free, expected in ((need - 20_000, 7), (need + 20_000, 0)):
        monkeypatch.setattr(
            shutil, "disk_usage", lambda path, free=free: shutil._ntuple_diskusage(0, 0, free)
        )
        code, _, err = reweight(*command)
        assert code == expected, err
        assert ("the run needs 0.00 GB" in err) == (code == 7)
