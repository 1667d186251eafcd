"""How the paper's judgement by its own numbers (own_numbers.py) reads: columns, rows, verdicts in words."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reproduce.paper.own_numbers import OwnCell, OwnClaim, OwnSummary

HOW = (
    "Each difference is a row minus its uniform row. The error is that of drawing the test set's items, as "
    "if the two models had items of their own (unpaired). They share them, so it is an upper bound as long "
    "as they tend to be right on the same ones; whatever they do, it lies between `stderr_paired_low` and "
    "`stderr_paired_high` of --json. A mean's error takes its tasks as independent, and is somewhat too "
    "small where they share items. p is two-sided; Holm's is over all tables. One seed a run: no error here "
    "counts what another seed would change."
)
DISAGREE = (
    "`disagree ≤` is the percent of items on which the two may disagree at most for 1.96 paired errors; – "
    "where no pairing gives that, and for means."
)
ONCE = "What an earlier table prints already is listed and counted there only; – where nothing else is left."
WORDS = {
    "resolved": "resolved",
    "resolved_alone": "alone",
    "not_resolved": "no",
    "cannot_be_judged": "one seed",
}
"""Verdicts as a table's last column shows them."""

CELL_COLUMNS = ("row", "column", "difference", "error", "z", "p", "Holm p", "disagree ≤", "verdict")
LIST_COLUMNS = ("table", *CELL_COLUMNS)
NATS_COLUMNS = ("row", "column", "difference", "spread ≤", "verdict")
COUNTS = ("p < 0.05", "Holm", "BH", "Holm, all", "BH, all")
SUMMARY_COLUMNS = ("table", "of", "number", "most |z|", *COUNTS)
CLAIM_COLUMNS = ("claim", "model", "held", "p < 0.05", "against", "sign test p")
NATS = (
    "Log-perplexity cannot be judged: one seed a run and no error given. What can be said of the draw of at "
    "most 20,000 held-out samples: a difference is 1.96 of its errors or more if losses within a domain "
    "spread (standard deviation) by no more nats than `spread ≤`; how far they do the paper does not say."
)


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


def list_row(cell: "OwnCell") -> tuple[str, ...]:
    """A difference among those of several tables, under LIST_COLUMNS."""
    return (cell.table, *accuracy_row(cell))


def nats_row(cell: "OwnCell") -> tuple[str, ...]:
    """A difference of log-perplexities under NATS_COLUMNS."""
    spread = "–" if cell.spread_at_most is None else f"{cell.spread_at_most:.2f}"
    rounded = ", within rounding" if cell.within_rounding else ""
    return (cell.row, cell.column, f"{cell.diff:+.2f}", spread, WORDS[cell.verdict] + rounded)


def summary_row(summary: "OwnSummary") -> tuple[str, ...]:
    """What a table holds of a kind, under SUMMARY_COLUMNS."""
    if not summary.judged:
        number = str(summary.differences) if summary.differences else "–"
        return (summary.table, f"{summary.kind}s", number, *["–"] * 6)
    counts = (summary.alone, summary.holm_table, summary.bh_table, summary.holm_all, summary.bh_all)
    return (
        summary.table,
        f"{summary.kind}s",
        str(summary.differences),
        f"{summary.largest_z:.2f}",
        *map(str, counts),
    )


def claim_row(claim: "OwnClaim") -> tuple[str, ...]:
    """A claim about a model, under CLAIM_COLUMNS."""
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
