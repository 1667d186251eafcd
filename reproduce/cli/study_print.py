"""How a study is printed: its tables, then its verdicts, within 100 columns."""

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from reproduce.cli.console import print_rich, print_table
from reproduce.paper.study_words import repeat_command, shown, verdict
from reproduce.paper.text import clean
from reproduce.study import Scalar, Study, Table

if TYPE_CHECKING:
    from reproduce.paper.found_studies import FoundStudy

WIDTH = 100
WORDS = 24
"""Characters that a column of words asks for at most; longer ones are broken into lines."""

CELL_LIMIT = 200
SENTENCE_LIMIT = 1000

PRINTED_ROWS = 100
"""A longer table is for its CSV file: printed, it would push the verdicts' context out of every terminal."""


def print_study(study: Study) -> None:
    """Print a study on stdout: every table that is short enough, and the verdicts last."""
    for table in study.tables:
        if len(table.rows) > PRINTED_ROWS:
            title = clean(table.title, CELL_LIMIT)
            click.echo(f"{title}: {len(table.rows):,} rows, in {clean(table.id, CELL_LIMIT)}.csv")
        else:
            _print_table(table)
    print_verdicts(study)


def print_found(found: "Sequence[FoundStudy]") -> None:
    """Print the verdicts of studies that lie in folders, each with what repeats it."""
    click.echo("Toy studies")
    for each in found:
        print_verdicts(each.study, each.path)


def print_verdicts(study: Study, folder: Path | None = None) -> None:
    """Print the table of verdicts, and below it, where a folder is named, the command that repeats it."""
    from rich.table import Table as Grid
    from rich.text import Text

    title = clean(study.title, CELL_LIMIT) + ("" if folder is None else f" ({clean(folder, CELL_LIMIT)})")
    grid = Grid(title=Text(f"Verdicts: {title}"), title_justify="left", width=WIDTH, show_lines=True)
    grid.add_column("claim", ratio=5)
    grid.add_column("verdict", no_wrap=True)
    grid.add_column("where", ratio=3)
    grid.add_column("evidence", ratio=5)
    grid.add_column("seeds", justify="right", no_wrap=True)
    for finding in study.findings:
        cells = (
            f"{clean(finding.claim, SENTENCE_LIMIT)} ({clean(finding.source, CELL_LIMIT)})",
            verdict(finding.outcome),
            clean(finding.where, SENTENCE_LIMIT) or "–",
            clean(finding.evidence, SENTENCE_LIMIT),
            shown(finding.seeds),
        )
        grid.add_row(*map(Text, cells))
    print_rich(grid)
    command = None if folder is None else repeat_command(study, folder)
    if command is not None:
        click.echo(f"again: {command}")


def _print_table(table: Table) -> None:
    title = clean(table.title, CELL_LIMIT)
    cells = [[shown(row[j], CELL_LIMIT) for row in table.rows] for j in range(len(table.columns))]
    least = [_width(name, [row[j] for row in table.rows]) for j, name in enumerate(table.columns)]
    for part, columns in enumerate(_that_fit(least)):
        click.echo(f"{title}, continued" if part else title)  # rich would fold it into the table's width
        widths = _stretched(
            [least[j] for j in columns], [max(map(len, cells[j]), default=0) for j in columns]
        )
        widths = _stretched(widths, [len(table.columns[j]) for j in columns])
        # Folded here: rich would take the room for a long head from other columns' numbers.
        heads = [
            _folded(clean(table.columns[j], CELL_LIMIT), w) for j, w in zip(columns, widths, strict=True)
        ]
        folded = [[_folded(c, w) for c in cells[j]] for j, w in zip(columns, widths, strict=True)]
        print_table("", heads, zip(*folded, strict=True))


def _that_fit(widths: Sequence[int]) -> Iterator[list[int]]:
    """Columns side by side as far as they go; the first one, which names the row, is in every part."""
    part: list[int] = []
    for j in range(len(widths)):
        if len(part) > 1 and _across(widths[k] for k in (*part, j)) > WIDTH:
            yield part
            part = [0]
        part.append(j)
    yield part


def _stretched(widths: Sequence[int], wanted: Sequence[int]) -> list[int]:
    """The widths, with the room that is left given to columns that want it, from the left."""
    given = list(widths)
    for j, wish in enumerate(wanted):
        given[j] += max(0, min(wish - given[j], WIDTH - _across(given)))
    return given


def _across(widths: Iterable[int]) -> int:
    """Characters of a line of the table, frame included."""
    return 1 + sum(width + 3 for width in widths)


def _folded(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, width)) or text


def _width(name: str, cells: Sequence[Scalar]) -> int:
    """Characters that a column needs: numbers are never broken, words are."""
    numbers = [len(shown(cell)) for cell in cells if not isinstance(cell, str)]
    texts = [min(len(text), WORDS) for text in cells if isinstance(text, str)]
    words = [min(len(word), WORDS) for word in name.split()]
    return max([1, *numbers, *texts, *words])
