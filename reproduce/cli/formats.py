"""Tables as documents: --json, --csv and --markdown, of which a command prints at most one on stdout."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import click

from reproduce.cli.console import json_option

F = TypeVar("F", bound=Callable[..., Any])
Format = Literal["text", "json", "csv", "markdown"]
Scalar = str | int | float | bool | None

LEADING = ("=", "+", "-", "@", "\t", "\r")
"""A text cell that begins so is a formula to a spreadsheet, and names in our files are other people's."""


def format_options(function: F) -> F:
    """Add --json, --csv and --markdown: the function gets as_json, as_csv and as_markdown."""
    wrap = click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown on stdout.")
    wrap_csv = click.option("--csv", "as_csv", is_flag=True, help="Print the cells as CSV on stdout.")
    return json_option(wrap_csv(wrap(function)))


def chosen_format(as_json: bool, as_csv: bool, as_markdown: bool) -> Format:
    """The one that was asked for; a usage error for two."""
    flags: dict[Format, bool] = {"json": as_json, "csv": as_csv, "markdown": as_markdown}
    asked = [name for name, flag in flags.items() if flag]
    if len(asked) > 1:
        raise click.UsageError(f"--{asked[0]} and --{asked[1]} exclude each other: one document on stdout")
    return asked[0] if asked else "text"


def emit_csv(columns: Sequence[str], rows: Sequence[Mapping[str, Scalar]]) -> None:
    """Print one CSV document; an empty cell where there is no value, numbers in full."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_csv_cell(row[name]) for name in columns] for row in rows)
    click.echo(out.getvalue(), nl=False)


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, whatever the texts hold; columns of numbers only are aligned to the right."""
    from reproduce.paper.study_markdown import escaped

    right = [all(_is_number(row[j]) for row in rows) for j in range(len(columns))]
    lines = [
        [escaped(name) for name in columns],
        ["--:" if number else "---" for number in right],
        *([escaped(cell) for cell in row] for row in rows),
    ]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _csv_cell(value: Scalar) -> Scalar:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and value.startswith(LEADING):
        return "'" + value
    return value


def _is_number(text: str) -> bool:
    try:
        float(text or 0)
    except ValueError:
        return text == "–"
    return True
