"""`reweight eval --suite ...` and what is wrong around it: one line, the exit code, and nothing lost."""

import builtins
import errno
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
import torch
from task_models import VOCAB, FolderHub, llama_folder, model_folder
from task_sets import Repository, Splits, add_qa, rows, sciq
from test_eval_harness import Member, on_ranks
from test_scoring import training
from transformers import BertConfig, BertForMaskedLM, GPT2LMHeadModel

from data_prep.errors import StorageError
from eval.errors import EvaluationError
from eval.language_model import ScoringModel
from eval.records import Key, Metric, Seeds, TaskRecord
from eval.results import read_results
from reproduce.scoring import models, sole_writer, targets, tasks

Cli = Callable[..., tuple[int, str, str]]
GPT2_QA = ("--suite", "gpt2_qa", "--limit", 2)
SCIQ, PIQA = ("--task", "sciq"), ("--task", "piqa")
SIZES = {"train": 20, "validation": 4, "test": 4}


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hub")
    add_qa(root, SIZES, {"train": 20, "validation": 4})
    return root


@pytest.fixture(scope="module", autouse=True)
def caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    from huggingface_hub import constants

    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HOME", str(home))
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", home / "datasets")
        yield


def serve(root: Path, monkeypatch: pytest.MonkeyPatch) -> FolderHub:
    """Put a folder in the place of the hub."""
    made = FolderHub(root)
    monkeypatch.setattr("reproduce.scoring.hub.ClientHub", lambda: made)
    return made


@pytest.fixture(autouse=True)
def hub(repositories: Path, monkeypatch: pytest.MonkeyPatch) -> FolderHub:
    return serve(repositories, monkeypatch)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("made") / "model")


@pytest.fixture
def model(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "model")


def scored(folder: Path) -> set[str]:
    return {score.task for score in read_results(folder / "results.json").scores}


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


# ------------------------------------------------------------------------------------------------ the model
def test_a_model_s_own_code_is_neither_run_nor_asked_about(
    reweight: Cli, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library would print a question on stdout, and run the code on `y`."""
    monkeypatch.setattr(builtins, "input", lambda *_: "y")
    change(model / "config.json", model_type="own", auto_map={"AutoConfig": "own.Own"})
    (model / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    code, out, err = reweight("eval", model, *GPT2_QA, *SCIQ, "--out", tmp_path / "o")
    assert (code, out, err.count("\n")) == (3, "", 1)
    assert "asks for code of its own" in err
    assert not (tmp_path / "ran").exists()


def test_a_network_that_reads_ahead_is_refused(reweight: Cli, model: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertForMaskedLM(BertConfig(vocab_size=VOCAB, **shape)).save_pretrained(model)
    code, out, err = reweight("eval", model, *GPT2_QA, *SCIQ, "--out", tmp_path / "o")
    assert (code, out) == (3, "")
    assert "no causal language model (model_type bert)" in err


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("make", [model_folder, llama_folder])
def test_a_causal_network_is_not(tmp_path: Path, make: Callable[[Path], Path], dtype: torch.dtype) -> None:
    network = models.FolderModel(make(tmp_path / "m"), torch.device("cpu")).load().network.to(dtype)
    models.check_causal(network, "m")


def test_tensors_of_other_shapes_are_said_to_be(reweight: Cli, model: Path, tmp_path: Path) -> None:
    change(model / "config.json", n_positions=7)
    code, _, err = reweight("eval", model, *GPT2_QA, *SCIQ, "--out", tmp_path / "o")
    assert code == 3
    assert "other shapes than its config.json states" in err


def test_a_model_larger_than_the_memory(
    reweight: Cli, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Any, device: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(GPT2LMHeadModel, "to", full)
    code, out, err = reweight("eval", model, *GPT2_QA, *SCIQ, "--out", tmp_path / "o")
    assert (code, out, err.count("\n")) == (7, "", 1)
    assert "does not fit into memory" in err


def test_weights_that_cannot_be_read(
    reweight: Cli, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path) -> str:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(models, "sha256_file", refused)
    code, _, err = reweight("eval", model, *GPT2_QA, *SCIQ, "--out", tmp_path / "o")
    assert code == 3
    assert "cannot be read (Permission denied)" in err


# ------------------------------------------------------------------------------------------------ several
def test_a_bad_model_among_others_fails_alone(
    reweight: Cli, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    other, bad = shutil.copytree(model, tmp_path / "other"), shutil.copytree(model, tmp_path / "bad")
    (bad / "model.safetensors").write_bytes(b"")
    code, out, err = reweight("eval", model, bad, "nosuch", other, *GPT2_QA, *SCIQ, "--json")
    assert code == 3
    entries = json.loads(out)
    assert [(entry["model"], len(entry["scores"])) for entry in entries] == [(str(model), 2), (str(other), 2)]
    assert scored(tmp_path / "evaluations" / "other") == {"sciq"}
    assert "failed models: 2" in err
    assert f"{bad}: not a model that can be loaded" in err
    code, out, err = reweight("eval", bad, "nosuch", *GPT2_QA, *SCIQ, "--json")
    assert (code, out) == (3, "")
    assert "nosuch is neither" in err


def test_two_models_of_one_name_do_not_share_a_folder(
    reweight: Cli, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    other = shutil.copytree(model, tmp_path / "x" / "model")
    code, _, err = reweight("eval", model, other, *GPT2_QA, *SCIQ)
    assert code == 2
    assert f"take the place of those of {model}" in err
    assert scored(tmp_path / "evaluations" / "model") == {"sciq"}


def test_a_damaged_checkpoint_among_others_fails_alone(reweight: Cli, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert reweight(*training(tmp_path, run))[0] == 0
    damaged = run / "checkpoints" / "step-0000002" / "model.safetensors"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    code, out, err = reweight("eval", run, *GPT2_QA, *SCIQ, "--checkpoint", "all", "--json")
    assert code == 3
    assert [entry["step"] for entry in json.loads(out)] == [4]
    assert str(damaged) in err
    assert (run / "evaluations" / "gpt2_qa.json").is_file()


# ------------------------------------------------------------------------------------------------ the disk
def test_records_that_cannot_be_written_are_found_out_before_scoring(
    reweight: Cli, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "evaluations").write_text("a file")
    monkeypatch.setattr(tasks, "evaluate_task", None)
    code, out, err = reweight("eval", model, *GPT2_QA, *SCIQ, "--out", tmp_path / "o")
    assert (code, out, err.count("\n")) == (7, "", 1)
    assert "Not a directory; mend that" in err


def test_a_disk_full_at_results_json_keeps_the_record(
    reweight: Cli, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, results: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    command = ("eval", model, *GPT2_QA, *SCIQ, *PIQA, "--out", tmp_path / "o")
    with monkeypatch.context() as patch:
        patch.setattr(targets, "write_results", full)
        code, _, err = reweight(*command)
    assert code == 7
    assert "results.json: cannot be written (No space left on device)" in err
    code, _, err = reweight(*command)
    assert code == 0
    assert "sciq: scored before, kept" in err
    assert scored(tmp_path / "o") == {"sciq", "piqa"}


def record(task: str) -> TaskRecord:
    key = Key(model_sha256="a" * 64, task=task, task_version="1", num_fewshot=0, limit=None, seeds=Seeds())
    return TaskRecord(
        key=key,
        metrics=(Metric(name="acc", value=0.5, stderr=0.1, higher_is_better=True),),
        n=2,
        requests=4,
        truncated=0,
        shots_kept=0.0,
        context=8,
        prompt_sha256="b" * 64,
        dataset="made up",
        dtype="float32",
        batch_size=1,
        device="cpu",
        ranks=1,
        seconds=1.0,
        versions={},
        items={"acc": (0.0, 1.0)},
        gp_irt=None,
        gp_irt_note=None,
    )


def test_two_evaluations_that_end_together_lose_no_score(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each reads results.json, waits, and writes it: without a lock the second would undo the first."""
    (target,) = targets.targets(model, "last", None, tmp_path / "o", torch.device("cpu"))
    read = targets.read_or_put_aside

    def slowly(*arguments: Any) -> Any:
        found = read(*arguments)
        time.sleep(0.2)
        return found

    monkeypatch.setattr(targets, "read_or_put_aside", slowly)
    writers = [
        threading.Thread(target=targets.record_scores, args=(target, "gpt2_qa", (record(task),), print))
        for task in ("sciq", "piqa", "logiqa")
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert scored(tmp_path / "o") == {"sciq", "piqa", "logiqa"}


def test_a_results_json_that_stays_taken_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sole_writer, "PATIENCE_S", 0.1)
    path = tmp_path / "results.json"
    taken = pytest.raises(StorageError, match="another process has been writing it")
    with sole_writer.sole_writer(path), taken, sole_writer.sole_writer(path):
        pass
    with sole_writer.sole_writer(path):
        pass


# ------------------------------------------------------------------------------------------------ the data
def test_an_interrupt_keeps_the_tasks_before(
    reweight: Cli, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ScoringModel._model_call

    def interrupted(self: ScoringModel, *arguments: Any, **more: Any) -> Any:
        if self._own[0].task_name == "piqa":
            raise KeyboardInterrupt
        return whole(self, *arguments, **more)

    command = ("eval", model, *GPT2_QA, *SCIQ, *PIQA, "--out", tmp_path / "o", "--json")
    with monkeypatch.context() as patch:
        patch.setattr(ScoringModel, "_model_call", interrupted)
        code, out, err = reweight(*command)
    assert (code, out) == (130, "")
    assert "Traceback" not in err
    assert scored(tmp_path / "o") == {"sciq"}
    code, out, err = reweight(*command)
    assert code == 0
    assert "sciq: scored before, kept" in err
    assert {score["task"] for score in json.loads(out)[0]["scores"]} == {"sciq", "piqa"}


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"), "--batch-size"),
        (OSError(errno.ENOSPC, "No space left on device", "cache.arrow"), "HF_DATASETS_CACHE"),
    ],
    ids=["memory", "disk"],
)
def test_a_task_without_memory_or_disk_fails_alone(
    reweight: Cli, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, text: str
) -> None:
    whole = ScoringModel._model_call

    def full(self: ScoringModel, *arguments: Any, **more: Any) -> Any:
        if self._own[0].task_name == "sciq":
            raise error
        return whole(self, *arguments, **more)

    monkeypatch.setattr(ScoringModel, "_model_call", full)
    code, _, err = reweight("eval", model, *GPT2_QA, *SCIQ, *PIQA, "--out", tmp_path / "o")
    assert code == 7
    assert text in err
    assert scored(tmp_path / "o") == {"piqa"}


def few_shots(splits: dict[str, Any]) -> None:
    splits["train"] = splits["train"][:3]


def no_answer(splits: dict[str, Any]) -> None:
    splits["test"] = [{**row, "correct_answer": ""} for row in splits["test"]]


def no_rows(splits: dict[str, Any]) -> None:
    splits["test"] = []


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (few_shots, "sciq: 5 shots take 5 items of the split train, and the data has 3"),
        (no_answer, "or columns have changed, or are empty"),
        (no_rows, "cannot read its data"),
    ],
)
def test_data_that_cannot_be_scored_is_one_line(
    reweight: Cli,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[dict[str, Any]], None],
    text: str,
) -> None:
    splits: dict[str, Any] = dict(rows(sciq, SIZES))
    damage(splits)
    one = Repository(tmp_path / "hub", "allenai/sciq")
    write(one, splits)
    serve(tmp_path / "hub", monkeypatch)
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
    code, out, err = reweight("eval", model, *GPT2_QA, *SCIQ, "--out", tmp_path / "o")
    assert (code, out) == (3, "")
    assert text in err
    # "failed tasks: 1", and the line about it: nothing that a library says besides.
    assert err.count("\n") == 2


def write(repository: Repository, splits: Splits) -> None:
    first = next(iter(splits.values()))[0]
    schema = pa.schema([(name, pa.string()) for name in first])
    repository.config("default", splits, "data", schema=schema)
    repository.card()


def test_one_item_has_no_standard_error(
    reweight: Cli, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(Repository(tmp_path / "hub", "allenai/sciq"), rows(sciq, {**SIZES, "test": 1}))
    serve(tmp_path / "hub", monkeypatch)
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
    code, _, err = reweight("eval", model, *GPT2_QA, *SCIQ, "--out", tmp_path / "o")
    assert code == 0, err
    (acc,) = (s for s in read_results(tmp_path / "o" / "results.json").scores if s.metric == "acc")
    assert (acc.n, acc.stderr) == (1, None)


def test_ranks_that_see_other_data_fail_together(made: Path) -> None:
    """One that cannot load a task must not go on to the next while the others wait for it in this one."""
    loaded = models.FolderModel(made, torch.device("cpu")).load()

    def work(member: Member) -> str:
        scoring = ScoringModel(loaded.network, loaded.tokenizer, batch_size=1, ranks=member)

        def load() -> str:
            if member.rank == 1:
                raise ValueError("a damaged file")
            return "loaded"

        return scoring.together(load)

    first, second, third = on_ranks(3, work)
    assert isinstance(second, ValueError)
    for other in (first, third):
        assert isinstance(other, EvaluationError)
        assert "rank 1: ValueError: a damaged file" in str(other)


# ------------------------------------------------------------------------------------------------ options
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("eval", "m", "--suite", "gpt2_qa", "--limit", 10**30), "--limit"),
        (("train", "--recipe", "gpt2_nano_linupper", "--eval-limit", 2), "--eval-limit is about tasks"),
        (("train", "--recipe", "gpt2_nano_linupper", "--eval-every", 2000), "--eval-every is about tasks"),
    ],
)
def test_bad_options(reweight: Cli, arguments: tuple[object, ...], text: str) -> None:
    code, out, err = reweight(*arguments)
    assert (code, out) == (2, "")
    assert text in err


@pytest.mark.parametrize("package", ["lm_eval", "datasets"])
def test_without_lm_eval(
    reweight: Cli, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    from reproduce.cli import eval_needs

    find = eval_needs.find_spec
    monkeypatch.setattr(eval_needs, "find_spec", lambda name: None if name == package else find(name))
    given = training(tmp_path, tmp_path / "run")
    for command in (
        ("eval", model, *GPT2_QA),
        ("eval", model, *GPT2_QA, "--dry-run"),
        (*given, "--eval-suite", "gpt2_qa"),
    ):
        code, out, err = reweight(*command)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert f"{package} is not installed" in err


@pytest.mark.parametrize("address", ["http://hub:99999999", "http://[::1"])
def test_an_endpoint_that_is_no_address(
    reweight: Cli, model: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", address)
    code, out, err = reweight("eval", model, *GPT2_QA)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "HF_ENDPOINT is not an address" in err


def test_a_name_s_control_characters_stay_off_the_terminal(reweight: Cli, made: Path, tmp_path: Path) -> None:
    odd = shutil.copytree(made, tmp_path / "a\nb\a\x1b[2J")
    code, out, err = reweight("eval", odd, *GPT2_QA, *SCIQ, "--out", tmp_path / "o")
    assert code == 0
    assert not {"\a", "\x1b"} & set(out + err)
    assert err.count("\n") == 1
    assert "a\\nb\\x07\\x1b[2J sciq: 2 items" in err
    assert replace(read_results(tmp_path / "o" / "results.json"), scores=()).recipe == odd.name
