"""How `reweight compare --against RUN` shows differences window by window and item by item."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import click

from reproduce.cli.compare_documents import interval
from reproduce.cli.console import note, print_table
from reproduce.cli.formats import markdown_table
from reproduce.paper.text import clean

if TYPE_CHECKING:
    from reproduce.paper.paired import Paired, PairedRow

EXPLAINED = (
    "over samples: these very models, on other text or other items of the same kind, which are taken as\n"
    "independent. over seeds: the method, trained again from other seeds; one seed has no such interval."
)
COLUMNS = ("recipe", "score", "metric", "n", "seeds", "difference", "over samples", "z or p", "over seeds")
NEIGHBOURS = 0.1
"""Windows in a row more alike than this, and than chance would have it, are said to be."""


def note_unpaired(found: "Iterable[Paired]") -> None:
    """Say, beside a table or a document, what could not be paired."""
    for remark in dict.fromkeys(remark for each in found for remark in each.notes):
        note(f"note: not paired: {clean(remark, 300)}")


def print_paired(found: "Iterable[Paired]") -> None:
    """Print one table a group, and what its intervals mean."""
    rows = [row for each in found for row in each.rows]
    for (recipe, reference), of_group in groupby(rows, key=lambda row: (row.recipe, row.reference)):
        _print_group(clean(recipe, 40), clean(reference, 40), list(of_group))
    if rows:
        click.echo(EXPLAINED)
    _note_neighbours(rows)


def print_paired_markdown(found: "Iterable[Paired]") -> None:
    """Print one table of all groups, below the one of means, and what it means; nothing without pairs."""
    from reproduce.paper.study_markdown import escaped

    rows = [row for each in found for row in each.rows]
    if rows:
        title = f"Pair by pair, minus {escaped(clean(rows[0].reference, 60))}; intervals are 95%."
        table = markdown_table(COLUMNS, [_markdown_row(row) for row in rows])
        click.echo("\n" + "\n\n".join((title, table, EXPLAINED)))
    _note_neighbours(rows)


def _note_neighbours(rows: "Sequence[PairedRow]") -> None:
    close = [row for row in rows if (row.neighbours or 0.0) > max(NEIGHBOURS, 3 / row.n**0.5)]
    if close:
        listed = ", ".join(dict.fromkeys(clean(row.task, 24) for row in close))
        note(f"note: neighbouring windows are alike on {listed}: intervals over samples are too narrow there")


def _print_group(recipe: str, reference: str, rows: "Sequence[PairedRow]") -> None:
    seeds = rows[0].n_seeds  # of a group all rows are over the seeds that both have
    print_table(
        f"{recipe} minus {reference}, pair by pair, {seeds} seeds [95%]",
        ("score", "n", "difference", "over samples", "z or p", "over seeds"),
        [
            (
                clean(row.task, 24),
                f"{row.n:,}",
                f"{row.diff:+.4f}",
                interval(row.samples_low, row.samples_high),
                _strength(row),
                interval(row.seeds_low, row.seeds_high),
            )
            for row in rows
        ],
    )


def _markdown_row(row: "PairedRow") -> Sequence[str]:
    return (
        clean(row.recipe, 60),
        clean(f"{row.suite}/{row.task}", 80),
        clean(row.metric, 40),
        str(row.n),
        str(row.n_seeds),
        f"{row.diff:+.4f}",
        interval(row.samples_low, row.samples_high),
        _strength(row),
        interval(row.seeds_low, row.seeds_high),
    )


def _strength(row: "PairedRow") -> str:
    if row.z is not None:
        return f"z {row.z:+.1f}"
    return "–" if row.p is None else f"p {row.p:.2g}"
