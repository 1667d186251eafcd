"""The command line as a hostile caller meets it: streams, paths, names, limits, kills, two at a time."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from reproduce.errors import LINE_LIMIT, RecipeError, one_line

Cli = Callable[..., tuple[int, str, str]]
COMMAND = [sys.executable, "-c", "from reproduce.cli import main; main()"]


def shell(script: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line of shell in which `rw` is our command."""
    program = f'rw() {{ "{sys.executable}" -c "from reproduce.cli import main; main()" "$@"; }}; {script}'
    root = str(Path(__file__).resolve().parent.parent)
    return subprocess.run(
        ["bash", "-c", program],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": root, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_a_hostile_text_becomes_one_printable_line_that_keeps_its_end() -> None:
    assert one_line("a\nb\x1b[2J\u202e\udcff") == "a\\nb\\x1b[2J\\u202e\\udcff"
    line = one_line("what " + "x" * 9000 + "; the remedy")
    assert len(line) == LINE_LIMIT
    assert line.startswith("what x")
    assert line.endswith("; the remedy")


def test_a_recipe_error_keeps_one_line_a_problem_and_survives_a_process() -> None:
    import pickle

    error = RecipeError("recipe a\nb: 2 problems", ["one\ntwo", "three"])
    assert str(error) == "recipe a\\nb: 2 problems\n  one\\ntwo\n  three"
    again = pickle.loads(pickle.dumps(error))
    assert (again.lines, str(again)) == (error.lines, str(error))


@pytest.mark.parametrize(
    "path", ["", "x" * 256, "x/" * 2500, "a\udcff"], ids=["empty", "name", "path", "bytes"]
)
@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "--recipe", "gpt2_nano_uniform", "--out"),
        ("train", "--recipe", "gpt2_nano_uniform", "--dry-run", "--data"),
        ("prep", "local", "--tokenizer", "bpe:300", "--input"),
        ("prep", "embedded", "--tokenizer", "bpe:300", "--out"),
        ("prep", "--verify"),
        ("prep", "--repair"),
        ("eval",),
        ("compare",),
        ("compare", "--against"),
        ("report", "--out"),
        ("weights", "--plot", "--out"),
        ("recipes", "cp", "gpt2_nano_uniform"),
        ("demo", "--out"),
        ("bench", "prep", "--input"),
    ],
    ids=" ".join,
)
def test_a_path_that_no_file_system_takes_is_a_usage_error(
    reweight: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], path: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = reweight(*arguments, path)
    assert (code, out) == (2, ""), err
    assert len(err.splitlines()) == 1
    assert len(err) < 1300
    assert list(tmp_path.iterdir()) == []


def test_an_unusable_place_for_a_file_is_code_7_and_never_replaces_a_device(
    reweight: Cli, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for command in (("recipes", "cp", "gpt2_nano_uniform"), ("weights", "--plot", "--out")):
        code, out, err = reweight(*command, tmp_path / "no" / "file")
        assert (code, out) == (7, "")
        assert "cannot use" in err
        assert "check the path" in err
    code, _, err = reweight("weights", "--plot", "--out", pipe)
    assert code == 7
    assert "no ordinary file" in err
    assert pipe.is_fifo()


def test_out_that_is_no_folder(reweight: Cli, recipe_path: Path, store_path: Path) -> None:
    base = ("train", "--recipe", recipe_path, "--data", store_path, "--out")
    assert reweight(*base, recipe_path)[0] == 2
    code, _, err = reweight(*base, "/dev/null")
    assert code == 7
    assert "is not a folder; choose another --out" in err
    code, _, err = reweight(*base, recipe_path / "below")
    assert code == 7


@pytest.mark.parametrize("value", ["nan", "inf", "0", "-1", "1e-320", "1e300"])
@pytest.mark.parametrize("option", ["--r", "--delta"])
def test_weights_with_an_impossible_setting_is_a_usage_error(reweight: Cli, option: str, value: str) -> None:
    code, out, err = reweight("weights", option, value, "1", "2", "--json")
    assert (code, out) == (2, "")
    assert f"{option} " in err
    code, out, _ = reweight("weights", option, "1e-6", "1", "2", "--json")
    assert code == 0
    assert sum(json.loads(out)["weights"]) == pytest.approx(1.0)


def test_streams_that_are_closed_full_or_gone(tmp_path: Path) -> None:
    done = shell("rw; echo $?", tmp_path)
    assert done.stdout == "2\n"
    assert "Quick start:" in done.stderr
    # A command does its work and says how it went even where nothing can be printed.
    for script in ("rw nope 2>&-", "rw nope 2>/dev/full", "rw weights - <&-", "rw nope >&- 2>&- <&-"):
        assert shell(script, tmp_path).returncode == 2, script
    assert shell("rw recipes list >&-", tmp_path).returncode == 0
    assert shell("rw recipes show gpt2_nano_uniform --json >/dev/full", tmp_path).returncode == 7
    # With descriptor 1 closed, the next file opened would become standard output.
    assert shell("rw recipes cp gpt2_nano_uniform own.yaml >&- 2>&- <&-", tmp_path).returncode == 0
    assert shell("rw recipes validate own.yaml", tmp_path).stdout == "1 valid\n"
    done = shell("(rw recipes list; echo $? > code) | true", tmp_path)
    assert (done.stderr, (tmp_path / "code").read_text()) == ("", "0\n")


def test_no_control_codes_off_a_terminal_and_json_in_any_encoding(tmp_path: Path) -> None:
    assert "\x1b" not in shell("rw recipes list", tmp_path, FORCE_COLOR="1").stdout
    for script in ("rw recipes list", "rw recipes show gpt2_nano_uniform --json"):
        done = shell(script, tmp_path, PYTHONIOENCODING="ascii")
        assert (done.returncode, done.stderr) == (0, "")


def test_a_reader_that_leaves_does_not_stop_a_run(
    recipe_path: Path, store_path: Path, tmp_path: Path
) -> None:
    done = shell(
        f"(rw train --recipe {recipe_path} --data {store_path} --out r; echo $? > code) 2>&1 | true", tmp_path
    )
    assert done.returncode == 0
    assert json.loads((tmp_path / "r" / "status.json").read_text())["state"] == "complete"
    assert (tmp_path / "code").read_text() == "0\n"


@pytest.mark.parametrize("world", ["2", "two"])
def test_ranks_that_are_announced_but_not_told_apart_are_refused(
    reweight: Cli,
    recipe_path: Path,
    store_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    world: str,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", world)
    out = tmp_path / "r"
    code, _, err = reweight("train", "--recipe", recipe_path, "--data", store_path, "--out", out)
    assert code == 2
    assert "RANK is not set" in err or f"WORLD_SIZE={world}" in err
    assert not out.exists()


def test_a_model_larger_than_the_machine_is_refused_at_once(
    reweight: Cli, recipe_path: Path, store_path: Path, tmp_path: Path
) -> None:
    wide = ("--set", "model.width=1000000", "--set", "model.layers=100000")
    out = tmp_path / "r"
    code, _, err = reweight("train", "--recipe", recipe_path, "--data", store_path, "--out", out, *wide)
    assert code == 7
    assert "GB; choose a smaller model" in err
    assert not out.exists()


def test_a_failed_allocation_is_code_7_with_the_remedy(
    reweight: Cli, recipe_path: Path, store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reproduce.training import loop

    def exhausted(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(loop, "train_step", exhausted)
    out = tmp_path / "r"
    code, _, err = reweight("train", "--recipe", recipe_path, "--data", store_path, "--out", out)
    assert code == 7
    assert "lower train.micro_batch" in err
    assert json.loads((out / "status.json").read_text())["exit_code"] == 7


def rows(out: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "tokens_per_s"} for line in lines]


def wait_for_lines(process: subprocess.Popen[bytes], path: Path, count: int) -> None:
    while process.poll() is None and (not path.exists() or path.read_bytes().count(b"\n") < count):
        time.sleep(0.002)
