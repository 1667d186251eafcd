"""`reweight train --dry-run`: what it says, by hand, and that it refuses only what cannot be planned."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from reproduce.cli.train_plan import dry_run
from reproduce.errors import RecipeError
from reproduce.recipe import load_recipe
from reproduce.recipe.estimate import DEVICES

Cli = Callable[..., tuple[int, str, str]]
Plan = Callable[..., dict]


@pytest.fixture
def plan(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict]:
    """The JSON plan of a recipe on GPUs that are not here."""
    monkeypatch.chdir(tmp_path)

    def call(name: str, *overrides: str, nproc: int | None = None, nodes: int = 1, on: str | None = "h100"):
        recipe = load_recipe(name, overrides)
        path = Path("runs") / recipe.name
        assert dry_run(recipe, None, path, nproc=nproc, nodes=nodes, on=on, as_json=True) == 0
        assert list(tmp_path.iterdir()) == []
        return json.loads(capsys.readouterr().out)

    return call


def test_the_papers_layout_and_one_node_by_hand(plan: Plan) -> None:
    paper, node = (
        plan("llama1b_linupper", nproc=8, nodes=8),
        plan("llama1b_linupper", nproc=8),
    )
    assert (paper["ranks"], paper["samples_a_rank"], paper["micro_batches"]) == (64, 2, 1)
    assert (node["ranks"], node["samples_a_rank"], node["micro_batches"]) == (8, 2, 8)
    # 13.0176e9 FLOPs a token x 104.8576e9 tokens, at 30% of 989 TFLOP/s without compile, on 64.
    hours = 13.01762e9 * 104.8576e9 / (0.3 * 989e12) / 3600
    assert paper["device_hours"] == pytest.approx(hours, rel=1e-4)
    assert paper["seconds"] == pytest.approx(hours * 3600 / 64, rel=1e-4)
    # One node scores 7 of 8 micro-batches first.
    assert node["device_hours"] == pytest.approx(hours * (1 + 7 / 24), rel=1e-4)
    assert node["fits"]
    assert paper["fits"]
    assert sum(n for key, n in paper["memory"].items() if key != "moment") == paper["memory_bytes"]
    assert paper["command"].startswith("torchrun --nnodes 8 ")
    assert "--nproc-per-node 8" in paper["command"]
    assert paper["data"] == "not prepared; reweight prep fineweb --tokenizer DIR/llama2"


def test_compile_is_planned_with_its_share_of_the_peak(plan: Plan) -> None:
    eager, compiled = (
        plan("llama1b_uniform", f"parallel.compile={on}", nproc=8, nodes=8) for on in ("false", "true")
    )
    assert eager["seconds"] / compiled["seconds"] == pytest.approx(0.4 / 0.3)


def test_what_does_not_fit_names_a_change_with_which_it_would(capsys: pytest.CaptureFixture[str]) -> None:
    def table(*overrides: str) -> str:
        recipe = load_recipe("llama7b_linupper", overrides)
        assert dry_run(recipe, None, Path("r"), nproc=8, nodes=1, on="h100", as_json=False) == 0
        return " ".join(capsys.readouterr().out.replace("│", " ").split())

    assert "DOES NOT FIT" not in table()
    # A block keeps 24 x 4096 + 8 x 11008 bytes a row; x 32 blocks x 16,384 rows is 98 GB. Half of it fits.
    assert "DOES NOT FIT; --set train.micro_batch=1 would" in table("parallel.recompute=none")
    assert "DOES NOT FIT" not in table("parallel.recompute=none", "train.micro_batch=1")
    # Whole on every rank, weights, gradients and moments alone are 108 GB.
    assert "DOES NOT FIT; --set parallel.sharding=full would" in table("parallel.sharding=none")


def test_impossible_layouts_are_refused_with_the_remedy(reweight: Cli) -> None:
    base = ("train", "--recipe", "llama1b_linupper", "--dry-run", "--on", "h200", "--json")
    code, out, err = reweight(*base, "--nproc", 8, "--nodes", 32)
    assert (code, out) == (2, "")
    assert "128 samples leave some of 256 ranks without any; start at most 128" in err
    code, _, err = reweight(*base, "--nproc", 6, "--set", "parallel.shard_ranks=4")
    assert code == 2
    assert "groups of 4 do not divide 6 ranks; set it to a divisor, e.g. 3" in err
    with pytest.raises(RecipeError):
        dry_run(load_recipe("demo_uniform"), None, Path("r"), nproc=17, nodes=1, on="a100", as_json=True)


def test_a_store_that_is_missing_too_small_or_another_is_said_not_refused(
    reweight: Cli, recipe_path: Path, store_path: Path, tmp_path: Path
) -> None:
    def data(*arguments: object) -> str:
        code, out, _ = reweight("train", "--recipe", recipe_path, "--dry-run", "--json", *arguments)
        assert code == 0
        return json.loads(out)["data"]

    assert data("--data", store_path) == f"{store_path}, enough for 8 steps"
    small = data("--data", store_path, "--set", "train.steps=5000")
    assert small.startswith("not usable: the run needs more tokens than")
    assert "--set data.repeat=true" in small
    assert "made with tokenizer tiny" in data("--data", store_path, "--set", "data.tokenizer=other")
    assert data("--data", tmp_path / "none") == f"no token store at {tmp_path / 'none'}"


def test_scopes_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    def text(name: str, nproc: int) -> str:
        dry_run(load_recipe(name), None, Path("r"), nproc=nproc, nodes=1, on="h200", as_json=False)
        return " ".join(capsys.readouterr().out.replace("│", " ").split())

    assert "every weight is 1/M" in text("llama_nano_uniform", 1)
    # 4 passes: 3/4 of them forward a second time, a third of a step each.
    assert "all 32 samples of the step (scope global); scored first, +25% FLOPs" in text(
        "llama_nano_linupper", 1
    )
    assert "(scope global) FLOPs" in text("llama_nano_linupper", 4)
    assert "the 8 samples of a pass (scope micro)" in text("gpt2_mini_linupper_as_released", 1)
    assert "the 32 samples of a pass (scope micro)" in text("gpt2_mini_linupper_as_released", 4)
    assert "the range of the step before (scope lagged)" in text("llama_nano_linupper_lagged", 1)


@pytest.mark.parametrize("name", DEVICES)
def test_every_device_of_the_command_line_is_catalogued(plan: Plan, name: str) -> None:
    found = plan("gpt2_mini_linupper", "train.precision=bf16", on=name)
    assert found["device"] == name.upper()
    assert found["device_memory_bytes"] == DEVICES[name].memory_bytes
    assert plan("gpt2_mini_linupper", on=name)["seconds"] > found["seconds"]  # float32 has no tensor cores


def test_it_needs_neither_torch_nor_a_second() -> None:
    import subprocess

    code = (
        "import sys, time; start = time.monotonic()\n"
        "from reproduce.cli.root import run\n"
        "code = run(['train', '--recipe', 'llama7b_linupper', '--dry-run', '--on', 'h100', '--nproc', '8'])\n"
        "assert code == 0 and 'torch' not in sys.modules, code\n"
        "print(time.monotonic() - start, file=sys.stderr)\n"
    )
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert time.monotonic() - start < 30
    assert "GPU-hours" in done.stdout
