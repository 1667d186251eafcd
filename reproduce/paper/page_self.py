"""What the report's page says of the paper's own differences, whatever the runs (own_numbers.py)."""

from dataclasses import dataclass

from reproduce.paper.own_numbers import below_alpha, own_cells, own_claims, own_summaries
from reproduce.paper.own_words import (
    CLAIM_COLUMNS,
    DISAGREE,
    HOW,
    LIST_COLUMNS,
    NATS,
    ONCE,
    SUMMARY_COLUMNS,
    claim_row,
    list_row,
    summary_row,
)
from reproduce.paper.tables import load_tables


@dataclass(frozen=True, kw_only=True)
class PlainTable:
    """A table of texts: its first column names the rows."""

    name: str
    caption: str
    columns: tuple[str, ...]
    words: int
    """Columns of words, the first ones; numbers after them."""
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True)
class SelfJudgement:
    """The paper judged by its own numbers, as text."""

    resolved: int
    """Single tasks' differences that Holm's adjustment over all tables leaves."""
    of: int
    tables: tuple[PlainTable, ...]
    remarks: tuple[str, ...]


def self_judgement() -> SelfJudgement:
    """What `reweight compare --against paper --self` prints, for the page."""
    every = load_tables()
    cells = own_cells(every)
    tasks = [cell for cell in cells if cell.kind == "task" and cell.p is not None and cell.repeats is None]
    return SelfJudgement(
        resolved=sum(cell.verdict == "resolved" for cell in tasks),
        of=len(tasks),
        tables=(
            PlainTable(
                name="The paper's differences from uniform",
                caption="How many differences the test sets resolve: p below 0.05 by itself, after Holm's "
                f"and after Benjamini and Hochberg's adjustment. {ONCE}",
                columns=SUMMARY_COLUMNS,
                words=2,
                rows=tuple(map(summary_row, own_summaries(cells))),
            ),
            PlainTable(
                name="Differences with p below 0.05",
                caption="Those with p < 0.05, in points",
                columns=LIST_COLUMNS,
                words=3,
                rows=tuple(map(list_row, below_alpha(cells))),
            ),
            PlainTable(
                name="Claims about accuracies",
                caption="Claims about accuracies: comparisons that hold in print, and how many of them have "
                "p < 0.05 by themselves",
                columns=CLAIM_COLUMNS,
                words=2,
                rows=tuple(claim_row(claim) for claim in own_claims(every) if claim.judged),
            ),
        ),
        remarks=(HOW, DISAGREE, NATS),
    )
