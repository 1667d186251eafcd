"""The command: what it prints where, and with which exit code."""

import json
import subprocess
import sys
from pathlib import Path

import prep_inputs
import pytest

from reproduce.cli.root import run


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    root = prep_inputs.slimpajama(tmp_path / "in")
    folder = prep_inputs.tokenizer_folder(tmp_path / "vocab")
    source = ["--input", str(root), "--tokenizer", str(folder)]
    return ["prep", "slimpajama", *source, "--workers", "1", "--out", str(tmp_path / "store")]


def test_a_table_then_already_complete(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 0
    first = capsys.readouterr().out
    # 120 training documents over three sets in turn; 40 each.
    assert [line.split()[5] for line in first.splitlines() if "train / arxiv" in line] == ["40"]
    assert "4 input files" in first
    assert "\x1b" not in first
    assert run(arguments) == 0
    assert f"already complete: {tmp_path / 'store'}" in capsys.readouterr().out


def test_json_is_one_document_on_stdout(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["already_complete"] is False
    assert document["splits"]["train"]["arxiv"]["documents"] == 40
    assert sum(d["documents"] for d in document["splits"]["validation"].values()) == 20
    assert document["text_bytes"] == sum(d["bytes"] for s in document["splits"].values() for d in s.values())
    assert run([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["already_complete"] is True


def test_verify_names_what_is_wrong_and_repair_mends_it(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    assert run(arguments) == 0
    assert run(["prep", "--verify", str(store)]) == 0
    assert "every shard matches" in capsys.readouterr().out
    shard = store / "train/github/00001.npy"
    data = shard.read_bytes()
    shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    # Both spellings: the store by itself, and the command that made it.
    for command in (["prep", "--verify", str(store)], [*arguments, "--verify"]):
        assert run(command) == 3
        errors = capsys.readouterr().err
        assert f"{shard}: content changed" in errors
        assert errors.splitlines()[-1].endswith(f"`reweight prep --repair {store}`")
    assert run(["prep", "--verify", str(store), "--json"]) == 3
    document = json.loads(capsys.readouterr().out)
    assert (document["ok"], [each["path"] for each in document["problems"]]) == (False, [str(shard)])
    assert run(["prep", "--repair", str(store), "--workers", "1"]) == 0
    assert shard.read_bytes() == data
    assert run(["prep", "--verify", str(store)]) == 0


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        (["prep"], 2, "name a data set: slimpajama"),
        (["prep", "pile"], 2, "no data set 'pile'"),
        (["prep", "local", "--out", "x"], 2, "local needs --input"),
        (["prep", "slimpajama", "--split-map", "validation"], 2, "write OURS=THEIRS"),
        (["prep", "slimpajama", "--limit-tokens", "many"], 2, "write 1000000, 300M or 100B"),
        (["prep", "slimpajama", "--no-such"], 2, "No such option"),
        (["prep", "--verify"], 2, "name the store"),
        (["prep", "--verify", "--repair", "x"], 2, "exclude each other"),
        (["prep", "--verify", "nowhere"], 3, "nowhere: no such token store"),
        (["prep", "--repair", "nowhere"], 3, "does not record how it was made"),
        (
            ["prep", "local", "--input", "nowhere", "--tokenizer", "bpe:300", "--out", "x"],
            3,
            "nowhere: no such",
        ),
        (["prep", "embedded", "--tokenizer", "./nowhere", "--out", "x"], 3, "no such tokenizer"),
        (["prep", "embedded", "--tokenizer", "llama", "--out", "x"], 2, "none of gpt2, bpe:VOCAB"),
    ],
)
def test_bad_usage_is_one_line_and_an_exit_code(
    change: list[str],
    code: int,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(change) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert says in captured.err
    assert len(captured.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_bad_data_and_a_foreign_folder(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 0
    assert run([*arguments, "--limit-tokens", "50"]) == 5
    assert "limit_tokens is None there and 50 here" in capsys.readouterr().err
    path = tmp_path / "in/train/chunk1/example_train_0.jsonl.zst"
    path.write_bytes(path.read_bytes()[:-9])
    other = [*arguments[:-1], str(tmp_path / "other")]
    assert run(other) == 3
    assert str(path) in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_no_network_is_exit_4_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from huggingface_hub import errors

    def offline(*_: object, **__: object) -> str:
        raise errors.OfflineModeIsEnabled("offline")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", offline)
    out = ["--out", str(tmp_path / "x")]
    assert run(["prep", "embedded", *out]) == 4
    assert "--tokenizer PATH works offline" in capsys.readouterr().err
    assert run(["prep", "slimpajama", *out]) == 4
    message = capsys.readouterr().err
    assert "DKYoon/SlimPajama-6B at b5f90f419b7489cdba26fdbc8c022fcb5562f968: offline mode is on" in message
    assert "--input DIR" in message
    assert not (tmp_path / "x").exists()


def test_help_has_runnable_examples_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from reproduce.cli.root import run; run(['prep', '--help']);"
        "heavy = {'torch', 'transformers', 'datasets', 'pyarrow', 'tiktoken', 'numpy', 'tokenizers'};"
        "sys.exit(1 if heavy & set(sys.modules) else 0)"
    )
    root = Path(__file__).resolve().parent.parent
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False
    )
    assert shown.returncode == 0
    assert "reweight prep embedded --tokenizer bpe:2048" in shown.stdout
