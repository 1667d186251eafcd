"""`reweight train`: pretrain a model from a recipe."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from reproduce.cli.console import (
    UserPath,
    duration,
    emit_json,
    json_option,
    note,
    print_log_perplexity,
    print_table,
    progress,
    quantity,
)
from reproduce.errors import ExitCode

if TYPE_CHECKING:
    from reproduce.recipe import Recipe


@click.command()
@click.option("--recipe", "name", required=True, metavar="NAME|PATH", help="`reweight recipes` lists them.")
@click.option(
    "--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Change a value; repeatable."
)
@click.option("--data", type=UserPath(file_okay=False), help="Token store.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="Replaces the recipe's seed.")
@click.option("--out", type=UserPath(file_okay=False), help="Run folder.")
@click.option("--nproc", type=click.IntRange(min=1), default=1, show_default=True, help="Processes.")
@click.option("--dry-run", is_flag=True, help="Print what it would cost, write nothing.")
@json_option
def command(
    name: str,
    overrides: tuple[str, ...],
    data: Path | None,
    seed: int | None,
    out: Path | None,
    nproc: int,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Pretrain a model from a recipe.

    Run the same command again to continue after an interruption. The run folder, by default
    runs/RECIPE/seed-SEED, holds recipe.yaml, provenance.json, metrics.jsonl, checkpoints/, model/ and
    results.json.

    \b
    Examples:
      reweight train --recipe gpt2_mini_linupper --dry-run
      reweight train --recipe gpt2_nano_linupper --seed 1
      reweight train --recipe gpt2_nano_linupper --set train.steps=1000 --out runs/longer
    """
    from reproduce.recipe import load_recipe
    from reproduce.training.run_dir import RunDir

    if nproc > 1:
        raise click.UsageError(f"--nproc {nproc}: training runs on one process; leave --nproc out")
    recipe = load_recipe(name, overrides, seed)
    path = out or Path("runs") / recipe.name / f"seed-{recipe.seed}"
    if dry_run:
        return _dry_run(recipe, data, path, as_json)
    folder = RunDir(path)
    if folder.complete:
        folder.check_recipe(recipe)
        note(f"{path} is already complete")
        if as_json:
            emit_json({"run": str(path), "state": "complete", "step": recipe.train.steps})
        return ExitCode.DONE
    return _train(recipe, path, data, as_json)


def _train(recipe: "Recipe", path: Path, data: Path | None, as_json: bool) -> int:
    from reproduce.training.loop import Events, run

    steps = recipe.train.steps
    with progress(f"{recipe.name} seed {recipe.seed}", steps, "steps") as line, _signals() as asked:

        def advance(step: int, logged: dict[str, Any]) -> None:
            line.update(
                step,
                f"step {step}/{steps} loss {logged['loss']:.3f} max weight {logged['max_weight']:.2f}/M "
                f"{quantity(logged['tokens_per_s'])} tokens/s",
            )

        finished = run(recipe, path, data, Events(warn=note, advance=advance, stop=lambda: asked.get("code")))
    state = "complete" if finished.exit_code == ExitCode.DONE else "stopped"
    if as_json:
        scores = finished.scores or {}
        emit_json(
            {
                "run": str(path),
                "state": state,
                "step": finished.step,
                "log_perplexity": {name: score.value for name, score in scores.items()},
            }
        )
    elif finished.scores is not None:
        print_log_perplexity(f"{path}: log-perplexity", finished.scores)
    else:
        note(f"stopped after step {finished.step} of {steps}; run the same command again to continue")
    return finished.exit_code


@contextmanager
def _signals() -> Iterator[dict[str, int]]:
    """Turn the first SIGINT or SIGTERM into a request to stop after the step; the second acts at once."""
    asked: dict[str, int] = {}
    codes = {signal.SIGINT: ExitCode.INTERRUPTED, signal.SIGTERM: ExitCode.PREEMPTED}

    def handler(number: int, frame: FrameType | None) -> None:
        if asked:
            # The newest complete checkpoint is untouched; there is nothing to save twice.
            sys.exit(int(codes[signal.Signals(number)]))
        asked["code"] = int(codes[signal.Signals(number)])
        note("stopping after this step; once more to stop at once")

    before = {number: signal.signal(number, handler) for number in codes}
    try:
        yield asked
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _dry_run(recipe: "Recipe", data: Path | None, path: Path, as_json: bool) -> int:
    from reproduce.recipe.estimate import SHARE_OF_PEAK, estimate, measure_flops

    device, precision, peak = _device(recipe)
    cost = estimate(recipe, precision)
    sustained = (peak or measure_flops()) * SHARE_OF_PEAK["gpu" if peak else "cpu"]
    seconds = cost.flops / sustained
    store = _store_state(recipe, data)
    document = {
        "recipe": recipe.name,
        "seed": recipe.seed,
        "run": str(path),
        "parameters": cost.parameters,
        "tokens": cost.tokens,
        "steps": cost.steps,
        "global_batch": recipe.train.global_batch,
        "micro_batches": recipe.micro_batches(),
        "flops": cost.flops,
        "memory_bytes": cost.memory_bytes,
        "disk_bytes": cost.disk_bytes,
        "device": device,
        "precision": precision,
        "seconds": seconds,
        "data": store,
        "command": f"reweight train --recipe {recipe.name} --seed {recipe.seed} --out {path}",
    }
    if as_json:
        emit_json(document)
        return ExitCode.DONE
    rows = [
        ("parameters", f"{cost.parameters:,}"),
        ("tokens", f"{cost.tokens:,} ({cost.steps:,} steps of {recipe.train.tokens_a_step:,})"),
        ("strategy", f"{recipe.reweighting.strategy}, r = {recipe.reweighting.r:g}"),
        ("FLOPs", f"{cost.flops:.3g}"),
        ("memory", f"{cost.memory_bytes / 1e9:.2f} GB a process, {precision}"),
        ("disk", f"{cost.disk_bytes / 1e9:.2f} GB"),
        ("time here", f"about {duration(seconds)} on {device} at {sustained / 1e12:.3g} TFLOP/s"),
        ("data", store),
        ("run folder", str(path)),
    ]
    print_table(f"{recipe.name}, seed {recipe.seed}: nothing is written", ("", "estimate"), rows)
    return ExitCode.DONE


def _device(recipe: "Recipe") -> tuple[str, str, float | None]:
    """Device, precision, and a GPU's peak FLOP/s; torch is asked only where there is a GPU driver."""
    wanted = recipe.train.precision
    if Path("/proc/driver/nvidia").exists():
        import torch

        if torch.cuda.is_available():
            precision = "fp32" if wanted == "fp32" else "bf16"
            return torch.cuda.get_device_name(), precision, _gpu_flops(precision)
    return "this CPU", "bf16" if wanted == "bf16" else "fp32", None


def _gpu_flops(precision: str) -> float:
    import torch

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    size = 4096
    left = torch.ones(size, size, device="cuda", dtype=dtype)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    for _ in range(3):
        left @ left
    start.record()
    for _ in range(10):
        left @ left
    end.record()
    end.synchronize()
    milliseconds: float = start.elapsed_time(end)
    return 10 * 2.0 * size**3 / (milliseconds / 1e3)


def _store_state(recipe: "Recipe", data: Path | None) -> str:
    """Whether the data is there and fits; a store that does not fit is an error here too."""
    from reproduce.training.data import open_store, training_batches

    path = data or recipe.data.default_path
    if data is None and not path.exists():
        return f"not prepared; reweight prep {recipe.data.dataset} --tokenizer {recipe.data.tokenizer}"
    training_batches(open_store(recipe, data), recipe)
    return f"{path}, enough for {recipe.train.steps:,} steps"
