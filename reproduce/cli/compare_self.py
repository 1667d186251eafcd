"""`reweight compare --against paper --self`: the paper judged by its own numbers."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

import click

from reproduce.cli.console import emit_json, note, print_table
from reproduce.cli.formats import Format, emit_csv, markdown_table
from reproduce.errors import ExitCode

if TYPE_CHECKING:
    from reproduce.paper.own_numbers import OwnCell, OwnClaim, OwnSummary
    from reproduce.paper.tables import Table

WIDTH = 100
HOW = (
    "Each difference is a row minus its uniform row. The error is that of drawing the test set's items, as "
    "if the two models had items of their own (unpaired): an upper bound, since they share them. "
    "`disagree ≤` is the percent of items on which the two may disagree at most for 1.96 paired errors; – "
    "where no pairing gives that, and for means. p is two-sided; Holm's is over all tables. One seed a run: "
    "no error here counts what another seed would change."
)
WORDS = {
    "resolved": "resolved",
    "resolved_alone": "alone",
    "not_resolved": "no",
    "cannot_be_judged": "one seed",
}
"""Verdicts as a table's last column shows them."""

CELL_COLUMNS = ("row", "column", "difference", "error", "z", "p", "Holm p", "disagree ≤", "verdict")
NATS_COLUMNS = ("row", "column", "difference", "spread ≤", "verdict")
COUNTS = ("p < 0.05", "Holm", "BH", "Holm, all", "BH, all")
SUMMARY_COLUMNS = ("table", "of", "number", "most |z|", *COUNTS)
CLAIM_COLUMNS = ("claim", "model", "held", "p < 0.05", "against", "sign test p")
NATS = (
    "Log-perplexity cannot be judged: one seed a run and no error given. What can be said of the draw of at "
    "most 20,000 held-out samples: a difference is 1.96 of its errors or more if losses within a domain "
    "spread (standard deviation) by no more nats than `spread ≤`; how far they do the paper does not say."
)


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
        "how": HOW,
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
    print_table(
        "The paper's differences from uniform, by its own test sets",
        SUMMARY_COLUMNS,
        map(_summary, summaries),
    )
    shown = [cell for cell in cells if one_table or cell.verdict in ("resolved", "resolved_alone")]
    accuracies = [cell for cell in shown if cell.spread_at_most is None and cell.stderr is not None]
    if accuracies:
        title = "Each difference" if one_table else "Those with p < 0.05, in points (`--table ID` shows all)"
        rows = [(f"{_short(row)} {column}", *rest) for row, column, *rest in map(accuracy_row, accuracies)]
        print_table(title, ("row and column", *CELL_COLUMNS[2:]), rows)
    nats = [cell for cell in shown if tables[cell.table].unit == "nats"]
    if nats:
        print_table("Each difference, in nats", NATS_COLUMNS, map(nats_row, nats))
    judged = [claim for claim in claims if claim.judged]
    if judged:
        print_table("Claims about accuracies", CLAIM_COLUMNS, map(_claim, judged))
    if accuracies:
        note(textwrap.fill(HOW, WIDTH))
    if any(table.unit == "nats" for table in tables.values()):
        note(textwrap.fill(NATS, WIDTH))
    for remark in dict.fromkeys(cell.note for cell in accuracies if cell.note):
        note(f"note: {remark}")


def markdown(
    tables: "Mapping[str, Table]",
    cells: "Sequence[OwnCell]",
    claims: "Sequence[OwnClaim]",
    summaries: "Sequence[OwnSummary]",
) -> str:
    """The judgement as one Markdown document: a section a table, then the claims."""
    parts = ["# The paper by its own numbers", HOW, NATS, summary_markdown(summaries)]
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
    return markdown_table(CELL_COLUMNS, [accuracy_row(cell) for cell in cells])


def summary_markdown(summaries: "Sequence[OwnSummary]") -> str:
    """What each table holds, one a row."""
    return markdown_table(SUMMARY_COLUMNS, [_summary(summary) for summary in summaries])


def claims_markdown(claims: "Sequence[OwnClaim]") -> str:
    """The claims, one a row."""
    return markdown_table(CLAIM_COLUMNS, [_claim(claim) for claim in claims])


def accuracy_row(cell: "OwnCell") -> tuple[str, ...]:
    """A difference of accuracies under CELL_COLUMNS."""
    assert cell.stderr is not None, cell
    return (
        cell.row,
        cell.column,
        f"{cell.diff:+.2f}",
        f"{cell.stderr:.2f}",
        f"{cell.z:+.2f}",
        _p(cell.p),
        _p(cell.p_holm_all),
        "–" if cell.disagree_at_most is None else f"{cell.disagree_at_most:.1f}",
        WORDS[cell.verdict],
    )


def nats_row(cell: "OwnCell") -> tuple[str, ...]:
    """A difference of log-perplexities under NATS_COLUMNS."""
    spread = "–" if cell.spread_at_most is None else f"{cell.spread_at_most:.2f}"
    rounded = ", within rounding" if cell.within_rounding else ""
    return (cell.row, cell.column, f"{cell.diff:+.2f}", spread, WORDS[cell.verdict] + rounded)


def _short(row: str) -> str:
    """Without what all rows of a table share and a terminal has no room for."""
    return row.removeprefix("GPT2-medium/").removeprefix("Llama ")


def _summary(summary: "OwnSummary") -> tuple[str, ...]:
    if not summary.judged:
        return (summary.table, f"{summary.kind}s", str(summary.differences), *["–"] * 6)
    counts = (summary.alone, summary.holm_table, summary.bh_table, summary.holm_all, summary.bh_all)
    return (
        summary.table,
        f"{summary.kind}s",
        str(summary.differences),
        f"{summary.largest_z:.2f}",
        *map(str, counts),
    )


def _claim(claim: "OwnClaim") -> tuple[str, ...]:
    judged = claim.judged > 0
    return (
        claim.text,
        claim.model,
        f"{claim.held}/{claim.of}",
        str(claim.resolved) if judged else "–",
        str(claim.resolved_against) if judged else "–",
        "–" if claim.sign_p is None else _p(claim.sign_p),
    )


def _p(value: float | None) -> str:
    # Three digits where a call is near: 0.0499 and 0.05 are two verdicts.
    return "–" if value is None else f"{value:.3g}" if value > 0.001 else f"{value:.1e}"
