"""`reweight bench eval`: scoring tasks, against lm-eval's own command line."""

from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eval.suites import load_suites
from reproduce.cli.bench import command
from reproduce.cli.console import UserPath, emit_json, json_option, note, print_table, progress
from reproduce.errors import ExitCode, UserError
from reproduce.training.bench_ratios import Clock, load_average

if TYPE_CHECKING:
    from reproduce.scoring.bench import Ratio, Round, Work

LIBRARIES = ("lm_eval", "datasets", "transformers", "tokenizers", "torch")


@command.command("eval")
@click.argument("model", type=UserPath(exists=True, file_okay=False))
@click.option("--suite", type=click.Choice(tuple(load_suites())), default="gpt2_qa", show_default=True)
@click.option("--task", "names", multiple=True, metavar="NAME", help="Only this task; repeatable.")
@click.option("--limit", type=click.IntRange(min=2), help="Only the first N items of a task.")
@click.option("--batch-size", type=click.IntRange(1, 4096), default=8, show_default=True, help="Requests.")
@click.option("--rounds", type=click.IntRange(min=1), default=6, show_default=True)
@click.option("--clock", type=click.Choice(["cpu", "wall"]), help="Default: cpu for one thread, else wall.")
@json_option
def evaluation(
    model: Path,
    suite: str,
    names: tuple[str, ...],
    limit: int | None,
    batch_size: int,
    rounds: int,
    clock: Clock | None,
    as_json: bool,
) -> int:
    """`reweight eval` on a Hugging Face model folder, against `lm_eval run` with the same tasks.

    Both are run as whole processes, in turn, start-up included; each once before, to fill the caches of data.
    A round also runs both with a single item of each task, so that scoring can be told from start-up: ratios
    of whole runs hold for the --limit given, those beyond start-up for longer ones too.

    The CPU clock counts what the processes computed, so that neighbours on the machine disturb less; the
    median by the wall clock stands beside it.

    Every number that both print has to be the same to the last digit, or the exit code is 8. Tasks that
    lm_eval cannot load as shipped (logiqa, logiqa2, tiny*) are left out. Ctrl-C ends it with the rounds done
    so far.

    \b
    Examples:
      reweight bench eval my-model --limit 100
      reweight bench eval my-model --suite llama_lur --task arc_easy --task copa --batch-size 16
    """
    from reproduce.cli.eval_needs import require_lm_eval
    from reproduce.scoring.bench import check_model, differences, measure, ratios, runs
    from reproduce.training.bench import one_cpu_thread

    work = _work(model, suite, names, limit, batch_size)
    check_model(model)
    require_lm_eval()
    clock = clock or ("cpu" if one_cpu_thread() else "wall")
    load = [load_average()]
    done: list[Round] = []
    interrupted = False
    with progress("bench eval", runs(rounds), "runs") as line:
        try:
            for one in measure(work, rounds, line.update):
                done.append(one)
        except KeyboardInterrupt:
            if not done:
                raise
            interrupted = True
    load.append(load_average())
    result, wrong = ratios(done, clock), differences(done)
    if as_json:
        emit_json(_document(work, clock, done, result, wrong, load))
    else:
        _print(work, clock, done, result, wrong, load)
    if interrupted:
        raise KeyboardInterrupt
    return ExitCode.OUT_OF_TOLERANCE if wrong else ExitCode.DONE


def _work(model: Path, suite: str, names: tuple[str, ...], limit: int | None, batch_size: int) -> "Work":
    from reproduce.scoring.bench import Work, comparable

    tasks = load_suites()[suite].tasks
    for name in names:
        if name not in (known := [task.name for task in tasks]):
            raise click.UsageError(f"--task {name[:60]}: suite {suite} has {', '.join(known)}")
    chosen, others = comparable(suite, [task for task in tasks if not names or task.name in names])
    if others:
        told = f"lm_eval cannot load {', '.join(task.name for task in others)} as shipped"
        if names:
            raise UserError(f"{told}; leave them out with --task")
        note(f"{told}: left out")
    return Work(
        model=model, suite=suite, tasks=tuple(chosen), limit=limit, batch_size=batch_size, device=_device()
    )


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _document(
    work: "Work",
    clock: Clock,
    done: "Sequence[Round]",
    result: "Sequence[Ratio]",
    wrong: Sequence[str],
    load: Sequence[float | None],
) -> dict[str, Any]:
    return {
        "model": str(work.model),
        "suite": work.suite,
        "tasks": [task.name for task in work.tasks],
        "num_fewshot": work.tasks[0].num_fewshot,
        "limit": work.limit,
        "batch_size": work.batch_size,
        "device": work.device,
        "clock": clock,
        "load_average": {"before": load[0], "after": load[1]},
        "versions": {name: version(name) for name in LIBRARIES},
        "ratios": [asdict(ratio) for ratio in result],
        "rounds": [
            {
                part: {who: run.seconds._asdict() for who, run in runs.items()}
                for part, runs in (("whole", one.whole), ("start", one.start))
            }
            for one in done
        ],
        "numbers_compared": _compared(done),
        "differences": list(wrong),
    }


def _compared(done: "Sequence[Round]") -> int:
    from reproduce.scoring.bench import OURS

    return len(done[0].whole[OURS].numbers)


def _print(
    work: "Work",
    clock: Clock,
    done: "Sequence[Round]",
    result: "Sequence[Ratio]",
    wrong: Sequence[str],
    load: Sequence[float | None],
) -> None:
    from reproduce.scoring.bench import OURS, THEIRS

    seconds = [
        [
            f"{getattr(part[who].seconds, clock):.1f}"
            for part in (one.whole, one.start)
            for who in (OURS, THEIRS)
        ]
        for one in done
    ]
    rows = [
        (number, *row, f"{value:.3f}")
        for number, (row, value) in enumerate(zip(seconds, result[0].values, strict=True), 1)
    ]
    items = "all" if work.limit is None else f"the first {work.limit}"
    names = ", ".join(task.name for task in work.tasks)
    shots = f"{work.tasks[0].num_fewshot} shots, batch {work.batch_size}, {work.device}"
    columns = ("round", OURS, THEIRS, f"{OURS}, one item", f"{THEIRS}, one item", "ratio")
    print_table(f"Seconds by the {clock} clock: {names}; {items} items, {shots}", columns, rows)
    busy = [f"{value:.1f}" for value in load if value is not None]
    print_table(
        f"{OURS} / {THEIRS}, load average {' to '.join(busy) or 'unknown'}",
        ("seconds of a", "median", "95% interval", "all", "wall", "target", ""),
        [_row(ratio) for ratio in result],
    )
    if len(result) < 3:
        note("whole runs were not always longer than those of one item; raise --limit")
    for line in wrong:
        click.echo(f"not equal: {line}")
    if not wrong:
        click.echo(f"all {_compared(done)} numbers are equal in both, to the last digit, in every round")


def _row(ratio: "Ratio") -> tuple[object, ...]:
    return (
        ratio.of,
        f"{ratio.median:.3f}",
        "-" if ratio.ci_low is None else f"{ratio.ci_low:.3f} to {ratio.ci_high:.3f}",
        f"{ratio.low:.2f} to {ratio.high:.2f}",
        "-" if ratio.wall_median is None else f"{ratio.wall_median:.2f}",
        "-" if ratio.at_most is None else f"<= {ratio.at_most:g}",
        ratio.verdict or "-",
    )
