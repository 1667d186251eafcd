"""`reweight bench`: ratios from alternated runs, in one process, against peers."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from reproduce.cli.console import UserPath, emit_json, json_option, print_table, progress
from reproduce.training.bench_ratios import (
    COMPARISONS,
    Clock,
    Ratio,
    Round,
    Speed,
    load_average,
    ratios,
    speeds,
    turns,
)

if TYPE_CHECKING:
    from reproduce.recipe import Recipe


@click.group()
def command() -> None:
    """Measure the cost of reweighting, of domain weights, of preparing data and of scoring tasks.

    Machines are noisy: read the ratios, which come from variants run in turn, not the absolute speeds.

    \b
    Examples:
      reweight bench train
      reweight bench train --variants uniform,trainer --rounds 9
      reweight bench prep --input slimpajama/ --tokenizer VOCAB_DIR
      reweight bench eval my-model --limit 100
      reweight bench domains --rounds 20
    """


class VariantList(click.ParamType[tuple[str, ...]]):
    """Names of comparisons, separated by commas."""

    name = "NAME,..."

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Refuse a name that is none, naming those that are."""
        if isinstance(value, tuple):
            return value
        names = tuple(part.strip() for part in value.split(","))
        for name in names:
            if name not in COMPARISONS:
                self.fail(f"no variant {name!r}; there is {', '.join(COMPARISONS)}", param, ctx)
        return names


@command.command("train")
@click.option("--recipe", "name", default=None, metavar="NAME|PATH", help="Default: the reference shape.")
@click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Change a value.")
@click.option("--variants", "keys", type=VariantList(), default=tuple(COMPARISONS), help="Default: all.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--steps", type=click.IntRange(min=1), default=1, show_default=True, help="Steps of a turn.")
@click.option("--clock", type=click.Choice(["cpu", "wall"]), help="Default: cpu for one thread, else wall.")
@json_option
def train(
    name: str | None,
    overrides: tuple[str, ...],
    keys: tuple[str, ...],
    threads: int,
    rounds: int,
    steps: int,
    clock: Clock | None,
    as_json: bool,
) -> None:
    """Our training step against itself with uniform weights, and against peers, in turn.

    \b
    Variants, each a ratio of the seconds of a step:
      uniform        ours with the recipe's strategy, over ours with uniform weights
      plain          a plain eager loop with the mean loss, over ours
      huggingface    a plain loop with Hugging Face's network and loss, over ours
      trainer        Hugging Face's Trainer, over ours
      released       the released procedure (two losses, three synchronisations), over ours
      accumulation   exact weights over four micro-batches, over one pass without them
      kept           the same with the graphs of two of them kept

    Without --recipe: gpt2_nano_linupper with sequences of 256 and a batch of 16, the shape that the targets
    are for. The CPU clock counts what this process computed, so that neighbours on the machine disturb less;
    the median by the wall clock stands beside it. Ctrl-C ends it with the rounds done so far.

    \b
    Examples:
      reweight bench train
      reweight bench train --variants uniform --rounds 40
      reweight bench train --recipe gpt2_nano_quadratic --variants plain,trainer --rounds 9
    """
    import torch
    from transformers.utils import logging

    from reproduce.recipe import load_recipe
    from reproduce.training.bench import is_reference, measure, one_cpu_thread

    torch.set_num_threads(threads)
    logging.set_verbosity_error()
    recipe = load_recipe(name or REFERENCE_RECIPE, overrides if name else _reference(overrides))
    clock = clock or ("cpu" if one_cpu_thread() else "wall")
    load = [load_average()]
    done: list[Round] = []
    interrupted = False
    with progress("bench train", rounds * len(turns(keys, 0)), "turns") as line:
        try:
            for one in measure(recipe, keys, rounds, steps, line.update):
                done.append(one)
        except KeyboardInterrupt:
            if not done:
                raise
            interrupted = True
    load.append(load_average())
    result = ratios(keys, done, clock, is_reference(recipe))
    speed = speeds(done, recipe.train.tokens_a_step * steps)
    if as_json:
        document = _document(recipe, threads, steps, clock, load)
        emit_json(document | {"ratios": [asdict(r) for r in result], "variants": [asdict(s) for s in speed]})
    else:
        title = (
            f"{recipe.name}: {len(done)} rounds, {steps} step(s) a turn, {threads} thread(s), {clock} clock"
        )
        print_ratios(title, result, speed, load)
    if interrupted:
        raise KeyboardInterrupt


REFERENCE_RECIPE = "gpt2_nano_linupper"
REFERENCE_SHAPE = ("model.context=256", "train.sequence=256", "train.global_batch=16")


def _reference(overrides: tuple[str, ...]) -> tuple[str, ...]:
    """The reference shape's overrides, but for keys that the user sets."""
    own = {override.partition("=")[0].strip() for override in overrides}
    return (*[o for o in REFERENCE_SHAPE if o.partition("=")[0] not in own], *overrides)


def _document(
    recipe: "Recipe", threads: int, steps: int, clock: Clock, load: Sequence[float | None]
) -> dict[str, Any]:
    from reproduce.recipe.loader import recipe_as_dict
    from reproduce.training.provenance import versions

    sections = recipe_as_dict(recipe)
    return {
        "recipe": recipe.name,
        "model": sections["model"],
        "train": sections["train"],
        "reweighting": sections["reweighting"],
        "threads": threads,
        "steps_a_turn": steps,
        "clock": clock,
        "load_average": {"before": load[0], "after": load[1]},
        "versions": versions(),
    }


def print_ratios(
    title: str, result: Sequence[Ratio], speed: Sequence[Speed], load: Sequence[float | None]
) -> None:
    """Print ratios with intervals and targets, then each variant's speed."""
    rows = [
        (
            f"{r.of} / {r.over}",
            f"{r.median:.3f}",
            "-" if r.ci_low is None else f"{r.ci_low:.3f} to {r.ci_high:.3f}",
            f"{r.low:.2f} to {r.high:.2f}",
            f"{r.wall_median:.2f}",
            _target(r),
            r.verdict or "-",
        )
        for r in result
    ]
    columns = ("seconds of a step", "median", "95% interval", "all", "wall", "target", "")
    print_table(title, columns, rows)
    busy = [f"{value:.1f}" for value in load if value is not None]
    print_table(
        f"Speed by the wall clock, load average {' to '.join(busy) or 'unknown'}",
        ("variant", "tokens/s", "best turn"),
        [(s.variant, f"{s.tokens_per_s:,.0f}", f"{s.best_tokens_per_s:,.0f}") for s in speed],
    )


def _target(ratio: Ratio) -> str:
    low, high = ratio.at_least, ratio.at_most
    if low is not None and high is not None:
        return f"{low:g} to {high:g}"
    if low is not None:
        return f">= {low:g}"
    return "-" if high is None else f"<= {high:.4g}"


@command.command("prep")
@click.option("--input", "inputs", multiple=True, required=True, type=UserPath(exists=True))
@click.option("--tokenizer", default="gpt2", show_default=True, help="As `reweight prep` takes it.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes  [default: one a core]")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option(
    "--repeat",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Copies of the input that every way prepares; starting processes weighs less with more.",
)
@json_option
def prep(
    inputs: tuple[Path, ...], tokenizer: str, workers: int | None, rounds: int, repeat: int, as_json: bool
) -> None:
    """Preparing SlimPajama-layout files, against the released code's procedure and `datasets.map`.

    Every way starts from nothing, reads, decompresses, tokenizes and writes; the last line tells how fast
    the encoder alone is on one core, and how much of that a worker reaches.
    """
    from data_prep.bench import compare_preparations

    with progress("bench prep", rounds, "rounds") as line:
        result = compare_preparations(inputs, tokenizer, workers, rounds, line.update, repeat)
    if as_json:
        settings = {"workers": workers, "rounds": rounds, "repeat": repeat}
        document = asdict(result)
        emit_json(settings | {"variants": document.pop("ways")} | document)
        return
    rows = [
        (
            t.name,
            f"{t.documents:,}",
            f"{t.tokens:,}",
            f"{t.megabytes_per_s:.2f}",
            f"{t.ratio:.2f}",
            f"{t.low:.2f} to {t.high:.2f}",
        )
        for t in result.ways
    ]
    columns = ("way", "documents", "tokens", "MB/s", "time over ours", "all")
    shown = "default" if workers is None else workers
    print_table(f"{rounds} rounds, workers: {shown}, input {repeat} time(s)", columns, rows)
    click.echo(
        f"{result.engine} alone: {result.encoder_megabytes_per_s:.1f} MB/s on one core; "
        f"a worker of the whole preparation reaches {result.share_of_encoder:.0%} of it"
    )


from reproduce.cli import bench_domains as bench_domains  # noqa: E402 (registers `bench domains`)
from reproduce.cli import bench_eval as bench_eval  # noqa: E402 (registers `bench eval`)
from reproduce.cli import bench_read as bench_read  # noqa: E402 (registers `bench read`)
