"""`reweight compare --against paper --self`: the paper judged by its own numbers."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

import click

from reproduce.cli.console import emit_json, note, print_table
from reproduce.cli.formats import Format, emit_csv, markdown_table
from reproduce.errors import ExitCode
from reproduce.paper.own_words import (
    CELL_COLUMNS,
    CLAIM_COLUMNS,
    DISAGREE,
    HOW,
    LIST_COLUMNS,
    NATS,
    NATS_COLUMNS,
    ONCE,
    SUMMARY_COLUMNS,
    accuracy_row,
    claim_row,
    list_row,
    nats_row,
    summary_row,
)

if TYPE_CHECKING:
    from reproduce.paper.own_numbers import OwnCell, OwnClaim, OwnSummary
    from reproduce.paper.tables import Table

WIDTH = 100


def judge_paper(tables: "Mapping[str, Table]", form: Format, *, one_table: bool) -> int:
    """Print the judgement of the given tables, all of it where it is one."""
    from reproduce.paper.own_numbers import OwnCell, own_cells, own_claims, own_summaries

    cells, claims = own_cells(tables), own_claims(tables)
    summaries = own_summaries(cells)
    if form == "json":
        emit_json(_document(cells, claims, summaries))
    elif form == "csv":
        emit_csv([field.name for field in fields(OwnCell)], [asdict(cell) for cell in cells])
    elif form == "markdown":
        click.echo(markdown(tables, cells, claims, summaries))
    else:
        _print(tables, cells, claims, summaries, one_table=one_table)
    return ExitCode.DONE


def _document(
    cells: "Sequence[OwnCell]", claims: "Sequence[OwnClaim]", summaries: "Sequence[OwnSummary]"
) -> dict[str, Any]:
    from reproduce.paper.multiple_tests import ALPHA

    return {
        "against": "paper",
        "self": True,
        "alpha": ALPHA,
        "how": f"{HOW} {DISAGREE}",
        "cells": [asdict(cell) for cell in cells],
        "claims": [asdict(claim) for claim in claims],
        "summary": [asdict(summary) for summary in summaries],
    }


def _print(
    tables: "Mapping[str, Table]",
    cells: "Sequence[OwnCell]",
    claims: "Sequence[OwnClaim]",
    summaries: "Sequence[OwnSummary]",
    *,
    one_table: bool,
) -> None:
    from reproduce.paper.own_numbers import below_alpha

    print_table(
        "The paper's differences from uniform, by its own test sets",
        SUMMARY_COLUMNS,
        map(summary_row, summaries),
    )
    accuracies = [cell for cell in cells if cell.stderr is not None] if one_table else below_alpha(cells)
    if one_table and accuracies:
        rows = [(f"{_short(row)} {column}", *rest) for row, column, *rest in map(accuracy_row, accuracies)]
        print_table("Each difference", ("row and column", *CELL_COLUMNS[2:]), rows)
    elif accuracies:
        _print_list(accuracies)
    nats = [cell for cell in cells if one_table and tables[cell.table].unit == "nats"]
    if nats:
        print_table("Each difference, in nats", NATS_COLUMNS, map(nats_row, nats))
    judged = [claim for claim in claims if claim.judged]
    if judged:
        print_table("Claims about accuracies", CLAIM_COLUMNS, map(claim_row, judged))
    if any(summary.repeats for summary in summaries):
        note(textwrap.fill(ONCE, WIDTH))
    if accuracies:
        # The list of several tables has no column `disagree ≤`.
        note(textwrap.fill(f"{HOW} {DISAGREE}" if one_table else HOW, WIDTH))
    if any(table.unit == "nats" for table in tables.values()):
        note(textwrap.fill(NATS, WIDTH))
    for remark in dict.fromkeys(cell.note for cell in accuracies if cell.note):
        note(textwrap.fill(f"note: {remark}", WIDTH))
    if one_table:
        _note_repeats(accuracies)


def _print_list(cells: "Sequence[OwnCell]") -> None:
    """Differences of several tables: the id stands for the model, and leaves no room for `disagree ≤`."""
    left_out = CELL_COLUMNS.index("disagree ≤")
    columns = ("table, row, column", *CELL_COLUMNS[2:left_out], *CELL_COLUMNS[left_out + 1 :])
    rows = [
        (
            f"{cell.table} {cell.row.partition('/')[2]} {cell.column}",
            *shown[2:left_out],
            *shown[left_out + 1 :],
        )
        for cell in cells
        for shown in [accuracy_row(cell)]
    ]
    print_table("Those with p < 0.05, in points (`--table ID` shows all)", columns, rows)


def _note_repeats(cells: "Sequence[OwnCell]") -> None:
    """Say which differences of a table an earlier one prints, and counts."""
    repeated = [cell for cell in cells if cell.repeats is not None]
    for row, first in dict.fromkeys((cell.row, cell.repeats) for cell in repeated):
        columns = [cell.column for cell in repeated if (cell.row, cell.repeats) == (row, first)]
        note(
            textwrap.fill(
                f"note: {_short(row)} {', '.join(columns)}: as in {first}, and counted there", WIDTH
            )
        )


def markdown(
    tables: "Mapping[str, Table]",
    cells: "Sequence[OwnCell]",
    claims: "Sequence[OwnClaim]",
    summaries: "Sequence[OwnSummary]",
) -> str:
    """The judgement as one Markdown document: those with p < 0.05, a section a table, the claims."""
    from reproduce.paper.own_numbers import below_alpha

    parts = ["# The paper by its own numbers", f"{HOW} {DISAGREE}", NATS, summary_markdown(summaries)]
    if any(summary.repeats for summary in summaries):
        parts.append(ONCE)
    listed = below_alpha(cells) if len(tables) > 1 else []
    if listed:
        parts += ["## p below 0.05", markdown_table(LIST_COLUMNS, [list_row(cell) for cell in listed])]
    for table in tables.values():
        mine = [cell for cell in cells if cell.table == table.id]
        parts += [f"## {table.id}", f"{table.caption} In {table.unit}.", cells_markdown(mine)]
    if claims:
        parts += ["## Claims", claims_markdown(claims)]
    return "\n\n".join(parts)


def cells_markdown(cells: "Sequence[OwnCell]") -> str:
    """The differences of one table, one a row."""
    if all(cell.stderr is None for cell in cells):
        return markdown_table(NATS_COLUMNS, [nats_row(cell) for cell in cells])
    rows = [(*accuracy_row(cell), f", as in {cell.repeats}" if cell.repeats else "") for cell in cells]
    return markdown_table(CELL_COLUMNS, [(*rest, verdict + repeated) for *rest, verdict, repeated in rows])


def summary_markdown(summaries: "Sequence[OwnSummary]") -> str:
    """What each table holds, one a row."""
    return markdown_table(SUMMARY_COLUMNS, [summary_row(summary) for summary in summaries])


def claims_markdown(claims: "Sequence[OwnClaim]") -> str:
    """The claims, one a row."""
    return markdown_table(CLAIM_COLUMNS, [claim_row(claim) for claim in claims])


def _short(row: str) -> str:
    """Without what all rows of a table share and a terminal has no room for."""
    return row.removeprefix("GPT2-medium/").removeprefix("Llama ")
