"""The command line as a whole: quick, torch-free help; one line and the right code for every mistake."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from reproduce.cli.console import duration, quantity
from reproduce.cli.root import COMMANDS
from reproduce.errors import ExitCode

Cli = Callable[..., tuple[int, str, str]]


def fresh(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], *[[name, "--help"] for name in COMMANDS], ["recipes"], ["trian"]],
    ids=lambda a: " ".join(a),
)
def test_help_and_usage_errors_import_no_torch(arguments: list[str]) -> None:
    done = fresh(
        f"import sys; from reproduce.cli.root import run; run({arguments!r}); "
        "heavy = {'torch', 'transformers', 'datasets', 'matplotlib', 'pyarrow'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    assert done.returncode == 0, done.stderr


def test_every_command_s_help_has_examples(reweight: Cli) -> None:
    for name in COMMANDS:
        code, out, _ = reweight(name, "--help")
        assert code == 0
        assert f"  reweight {name}" in out, name


def test_every_command_in_the_table_exists_and_the_table_is_complete() -> None:
    modules = {p.stem for p in (Path(__file__).parent.parent / "reproduce" / "cli").glob("*.py")}
    helpers = {
        "__init__", "__main__", "root", "console", "curves", "compare_print", "machine", "train_plan",
        "prep_run", "prep_stat", "bench_read", "bench_eval", "eval_needs", "eval_perplexity", "eval_plan",
        "eval_tasks", "study_print", "toy_docs", "toy_options", "toy_run", "signals", "domains_show",
        "domains_run", "domains_plan", "bench_domains", "compare_documents", "compare_runs", "compare_self",
        "formats", "paired_print", "children", "reproduce_plan",
    }  # fmt: skip
    assert modules - helpers == set(COMMANDS)


def test_typos_get_the_nearest_name(reweight: Cli) -> None:
    code, out, err = reweight("trian")
    assert (code, out) == (2, "")
    assert "No such command 'trian'. Did you mean 'train'?" in err
    code, _, err = reweight("train", "--recipe", "gpt2_mini_linuper")
    assert code == 2
    assert "did you mean 'gpt2_mini_linupper'?" in err


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (OSError(28, "No space left on device", "runs/x"), 7, "cannot write 'runs/x': No space left"),
        (PermissionError(13, "Permission denied", "/x"), 7, "Permission denied"),
        (MemoryError(), 7, "out of memory"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (RuntimeError("odd"), 1, "this is a bug"),
        (ValueError("\x1b[2Jboo"), 1, "this is a bug"),
    ],
)
def test_errors_become_one_line_and_a_code(
    reweight: Cli, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, text: str
) -> None:
    import reproduce.recipe

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(reproduce.recipe, "load_recipe", fail)
    got, out, err = reweight("recipes", "show", "gpt2_mini_linupper")
    assert (got, out) == (code, "")
    assert text in err
    if code != 1:
        assert err.strip().count("\n") == 0


def test_control_codes_in_names_do_not_reach_the_terminal(reweight: Cli) -> None:
    _, _, err = reweight("train", "--recipe", "\x1b[2Jevil\x07")
    assert "\x1b" not in err
    assert "\x07" not in err


def test_exit_codes_are_those_of_the_interface() -> None:
    assert {code.value for code in ExitCode} == {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 75, 130}


def test_recipes_list_show_validate_cp(reweight: Cli, tmp_path: Path, recipe_path: Path) -> None:
    code, out, _ = reweight("recipes", "list")
    assert code == 0
    assert "gpt2_medium_doge_linupper" in out
    code, out, _ = reweight("recipes", "show", "gpt2_nano_linupper", "--set", "train.steps=1000")
    assert "steps: 1000" in out
    code, out, _ = reweight("recipes", "validate", recipe_path)
    assert (code, out) == (0, "1 valid\n")
    own = tmp_path / "own.yaml"
    assert reweight("recipes", "cp", "gpt2_nano_linupper", own)[0] == 0
    assert reweight("recipes", "validate", own)[0] == 0
    assert reweight("recipes", "cp", "gpt2_nano_linupper", own)[0] == 2
    own.write_text("model: 3\n", encoding="utf-8")
    code, _, err = reweight("recipes", "validate", recipe_path, own)
    assert code == 2
    assert "expected a section with keys" in err


def test_dry_run_needs_no_data_and_writes_nothing(
    reweight: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import json

    monkeypatch.chdir(tmp_path)
    start = time.monotonic()
    code, out, _ = reweight("train", "--recipe", "gpt2_medium_linupper", "--dry-run", "--json")
    assert time.monotonic() - start < 5
    assert code == 0
    cost = json.loads(out)
    assert (cost["tokens"], cost["steps"]) == (491_520_000, 20_000)
    assert cost["parameters"] == pytest.approx(294e6, rel=0.003)
    assert cost["seconds"] > 0
    assert "reweight prep slimpajama" in cost["data"]
    assert list(tmp_path.iterdir()) == []


def test_plain_words_for_numbers() -> None:
    assert [duration(s) for s in (42, 190, 18120, 300_000)] == ["42s", "3m10s", "5h02m", "3.5d"]
    assert [quantity(n) for n in (950, 12_300, 328e6, 105e9)] == ["950", "12.3k", "328M", "105B"]
