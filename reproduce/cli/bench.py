"""`reweight bench`: ratios from alternated runs, in one process, against peers."""

from dataclasses import asdict
from pathlib import Path

import click

from reproduce.cli.console import UserPath, emit_json, json_option, print_table, progress, quantity


@click.group()
def command() -> None:
    """Measure the cost of reweighting, and of preparing data.

    Machines are noisy: read the ratios, which come from variants run in turn, not the absolute speeds.

    \b
    Examples:
      reweight bench train
      reweight bench train --recipe gpt2_nano_quadratic --threads 1 --rounds 9
      reweight bench prep --input slimpajama/ --tokenizer VOCAB_DIR
    """


@command.command("train")
@click.option("--recipe", "name", default="gpt2_nano_linupper", show_default=True, metavar="NAME|PATH")
@click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Change a value.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=7, show_default=True)
@click.option("--steps", type=click.IntRange(min=1), default=3, show_default=True, help="Steps a round.")
@json_option
def train(
    name: str, overrides: tuple[str, ...], threads: int, rounds: int, steps: int, as_json: bool
) -> None:
    """Our training step, uniform and reweighted, against a plain loop around the same network."""
    import torch

    from reproduce.recipe import load_recipe
    from reproduce.training.bench import compare_steps

    torch.set_num_threads(threads)
    recipe = load_recipe(name, overrides)
    with progress("bench train", rounds, "rounds") as line:
        timings = compare_steps(recipe, rounds, steps, line.update)
    if as_json:
        emit_json({"recipe": recipe.name, "threads": threads, "variants": [asdict(t) for t in timings]})
        return
    rows = [
        (t.name, f"{quantity(t.tokens_per_s)}", f"{t.ratio:.3f}", f"{t.low:.3f} to {t.high:.3f}")
        for t in timings
    ]
    print_table(
        f"{recipe.name}: {rounds} rounds of {steps} steps, {threads} thread(s)",
        ("variant", "tokens/s", "speed over plain", "rounds"),
        rows,
    )


@command.command("prep")
@click.option("--input", "inputs", multiple=True, required=True, type=UserPath(exists=True))
@click.option("--tokenizer", default="gpt2", show_default=True, help="gpt2, or a folder with the vocabulary.")
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@json_option
def prep(inputs: tuple[Path, ...], tokenizer: str, workers: int, rounds: int, as_json: bool) -> None:
    """Preparing SlimPajama-layout files, against `datasets.map` with the same vocabulary."""
    from data_prep.bench import compare_preparations

    with progress("bench prep", rounds, "rounds") as line:
        timings = compare_preparations(inputs, tokenizer, workers, rounds, line.update)
    if as_json:
        emit_json({"workers": workers, "rounds": rounds, "variants": [asdict(t) for t in timings]})
        return
    rows = [
        (t.name, f"{t.documents:,}", f"{t.tokens:,}", f"{t.megabytes_per_s:.2f}", f"{t.ratio:.2f}")
        for t in timings
    ]
    print_table(
        f"{rounds} rounds, {workers} workers",
        ("way", "documents", "tokens", "MB/s", "time over ours"),
        rows,
    )
