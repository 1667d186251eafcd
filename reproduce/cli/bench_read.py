"""`reweight bench read`: batches from a store that is not in the system's cache."""

import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from reproduce.cli.bench import command
from reproduce.cli.console import UserPath, emit_json, json_option, print_table, progress, quantity

if TYPE_CHECKING:
    from data_prep.bench_read import Memory, Order, ReadTiming

SMALLEST_STORE = 1 << 20


class Size(click.ParamType[int]):
    """Bytes with a unit: 500M, 20G."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Powers of ten, as disks are sold."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)([MGT])B?", value)
        if match is None:
            self.fail(f"{value!r} is not a size; write 500M or 20G", param, ctx)
        size = int(float(match[1]) * {"M": 10**6, "G": 10**9, "T": 10**12}[match[2]])
        if size < SMALLEST_STORE:
            self.fail(f"{value!r} is too small for a measurement; 2M is the least", param, ctx)
        return size


@command.command("read")
@click.option("--data", type=UserPath(exists=True), metavar="DIR", help="Read this store; makes none.")
@click.option("--split", default="train", show_default=True)
@click.option("--size", type=Size(), default="20G", show_default=True, help="Of the store that is made.")
@click.option(
    "--sequence",
    "sequences",
    multiple=True,
    type=click.IntRange(min=1),
    default=(512, 1024, 2048),
    show_default=True,
    help="Tokens of a window.",
)
@click.option(
    "--global-batch",
    "batches",
    multiple=True,
    type=click.IntRange(min=1),
    default=(512,),
    show_default=True,
    help="Windows of a batch.",
)
@click.option(
    "--order", "orders", multiple=True, type=click.Choice(["shuffled", "file"]), help="Default: both."
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.1),
    default=5.0,
    show_default=True,
    help="Of each measurement, and of its bare reads.",
)
@json_option
def read(
    data: Path | None,
    split: str,
    size: int,
    sequences: tuple[int, ...],
    batches: tuple[int, ...],
    orders: "tuple[Order, ...]",
    seconds: float,
    as_json: bool,
) -> None:
    """Batches of a cold store: tokens/s and memory, beside bare reads of the same sizes.

    Without --data, a store of random ids is made in a temporary folder below the current one, and deleted.
    Before each measurement the system is asked to forget the store; how much it still keeps is measured, and
    shown as `cached`. Options may be given more than once; all combinations are measured.

    \b
    Examples:
      reweight bench read
      reweight bench read --data data/slimpajama-gpt2 --sequence 512 --order shuffled
      reweight bench read --size 2G --global-batch 32 --global-batch 512 --json
    """
    chosen: Sequence[Order] = orders or ("shuffled", "file")
    settings = [(order, sequence, batch) for order in chosen for sequence in sequences for batch in batches]
    if data is not None:
        timings = _measure(data, split, settings, seconds)
    else:
        split = "train"
        _check_space(size)
        with tempfile.TemporaryDirectory(prefix="bench-read-", dir=".") as folder:
            timings = _make_and_measure(Path(folder), size, settings, seconds)
    from data_prep.bench_read import process_memory

    memory = process_memory()
    if as_json:
        emit_json(_document(timings, memory, split, data, size))
    else:
        _print(timings, memory)


def _check_space(size: int) -> None:
    from data_prep.errors import StorageError

    free = shutil.disk_usage(".").free
    if free < 1.05 * size:
        raise StorageError(
            f"a store of {size / 1e9:.1f} GB does not fit on this disk, which has {free / 1e9:.1f} GB free; "
            "choose a smaller --size, or another current folder"
        )


def _make_and_measure(
    folder: Path, size: int, settings: "Sequence[tuple[Order, int, int]]", seconds: float
) -> "list[ReadTiming]":
    from data_prep.bench_read import make_store

    with progress("making a store", size / 1e6, "MB") as line:
        make_store(folder, size, lambda done: line.update(done / 1e6))
    return _measure(folder, "train", settings, seconds)


def _measure(
    path: Path, split: str, settings: "Sequence[tuple[Order, int, int]]", seconds: float
) -> "list[ReadTiming]":
    from data_prep.bench_read import measure_reading

    timings = []
    with progress("bench read", len(settings), "measurements") as line:
        for order, sequence, batch in settings:
            timings.append(
                measure_reading(
                    path, split, order=order, sequence=sequence, global_batch=batch, seconds=seconds
                )
            )
            line.update(len(timings))
    return timings


def _document(
    timings: "Sequence[ReadTiming]", memory: "Memory", split: str, data: Path | None, size: int
) -> dict[str, Any]:
    return {
        "data": None if data is None else str(data),
        "made_bytes": size if data is None else None,
        "split": split,
        "memory": asdict(memory),
        "reads": [asdict(t) | {"tokens_per_s": t.tokens_per_s} for t in timings],
    }


def _print(timings: "Sequence[ReadTiming]", memory: "Memory") -> None:
    rows = [
        (
            f"{t.order}, {t.sequence} tokens, batch {t.global_batch}",
            quantity(t.tokens_per_s),
            "-" if t.bare_tokens_per_s is None else quantity(t.bare_tokens_per_s),
            "-" if t.bare_tokens_per_s is None else f"{t.tokens_per_s / t.bare_tokens_per_s:.2f}",
            "unknown" if t.cached_before is None else f"{100 * t.cached_before:.0f}%",
        )
        for t in timings
    ]
    print_table(
        f"Reading; this process held at most {memory.peak / 1e6:.0f} MB of memory",
        ("windows", "tokens/s", "bare reads", "ratio", "cached"),
        rows,
    )
